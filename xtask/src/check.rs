//! Every check of the code itself; all are run, and all failures are told.

use std::process::{Command, ExitCode};

use crate::tools::say;
use crate::{codegen, tidy, workspace};

type Check = (&'static str, fn() -> anyhow::Result<()>);

const CHECKS: &[Check] = &[
    ("format", || {
        workspace::run(workspace::cargo().args(["fmt", "--all", "--check"]))
    }),
    ("clippy", clippy),
    ("codegen", || codegen::run(true).map(drop)),
    ("tidy", tidy::run),
    ("docs", docs),
    ("buf", || optional("buf", &["lint"])),
    ("typos", || optional("typos", &[])),
    ("taplo", || optional("taplo", &["format", "--check"])),
];

/// Runs every check.
pub(crate) fn run() -> ExitCode {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        say(&format!("check {name}"));
        if let Err(error) = check() {
            say(&format!("{name} failed: {error:#}"));
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("failed: {}", failed.join(", ")));
    ExitCode::FAILURE
}

fn clippy() -> anyhow::Result<()> {
    let mut command = workspace::cargo();
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    workspace::run(&mut command)
}

fn docs() -> anyhow::Result<()> {
    let mut command = workspace::cargo();
    command.args(["doc", "--workspace", "--no-deps"]);
    workspace::run(command.env("RUSTDOCFLAGS", "-D warnings"))
}

/// A tool that not everyone has; its absence is told and fails nothing.
fn optional(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let Some(path) = workspace::find(program) else {
        say(&format!("skipped: {program} is not on PATH"));
        return Ok(());
    };
    let mut command = Command::new(path);
    workspace::run(command.args(arguments).current_dir(workspace::root()))
}
