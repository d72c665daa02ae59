//! Runs every test: those of one crate in a bare sandbox, the end-to-end ones each in a
//! sandbox of its own.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

use crate::tools::{self, say};
use crate::{sandbox, workspace};

/// How many tests ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

/// Runs the tests whose names contain the filter.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<ExitCode> {
    let (binaries, images) = sandbox::prepare()?;
    ensure_nextest()?;
    let skips = workspace::target().join("skips.txt");
    fs::write(&skips, "")?;

    let sandbox = binaries.join("linkspan-sandbox");
    // Compiled outside: the sandbox has no network to fetch a crate from.
    workspace::run(nextest(&[], None).arg("--no-run"))?;
    let mut inner = Command::new(&sandbox);
    inner.args(["--bare", "--"]);
    let crates = nextest(&["--offline", "-E", "not package(e2e)"], filter);
    inner.arg(crates.get_program()).args(crates.get_args());
    let (mut total, mut passed) = tests(inner.current_dir(workspace::root()), &skips)?;

    // A path with a space would be two words here, and nextest knows no quotes.
    let runner = format!("{} --show-logs --", sandbox.display());
    let variable = workspace::triple()?.to_uppercase().replace(['-', '.'], "_");
    let mut end_to_end = nextest(&["-E", "package(e2e)"], filter);
    end_to_end
        .env(format!("CARGO_TARGET_{variable}_RUNNER"), runner)
        .env("LINKSPAN_TEST_IMAGES", &images.directory)
        .env("PATH", path_with(tools::ensure_grpcurl()));
    let (counts, ended_well) = tests(&mut end_to_end, &skips)?;
    total.passed += counts.passed;
    total.failed += counts.failed;
    passed &= ended_well;
    Ok(report(total, passed, &skips))
}

#[expect(clippy::print_stdout, reason = "the last line is for programs")]
fn report(total: Counts, passed: bool, skips: &Path) -> ExitCode {
    let skips = fs::read_to_string(skips).unwrap_or_default();
    let skipped = skips.lines().count();
    skips.lines().for_each(say);
    // A test that skips itself has passed for its runner.
    let really_passed = total.passed.saturating_sub(skipped);
    println!(
        "{really_passed} passed, {} failed, {skipped} skipped",
        total.failed
    );
    if passed && total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// All crates are always built, since another selection would build other features.
fn nextest(selection: &[&str], filter: Option<&str>) -> Command {
    let mut command = workspace::cargo();
    command
        .args([
            "nextest",
            "run",
            "--release",
            "--workspace",
            "--no-tests=pass",
        ])
        .args(selection)
        .args(filter);
    command
}

/// The search path, with a directory more at its end.
fn path_with(directory: Option<PathBuf>) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(directory);
    // Only a directory with a colon in its name cannot be joined.
    env::join_paths(directories).unwrap_or(path)
}

fn ensure_nextest() -> anyhow::Result<()> {
    if workspace::output(workspace::cargo().args(["nextest", "--version"])).is_ok() {
        return Ok(());
    }
    say("installing cargo-nextest");
    // Not static, and outside of the workspace's own settings.
    let mut install = workspace::cargo();
    install.args(["install", "cargo-nextest", "--locked"]);
    workspace::run(install.current_dir("/"))
}

/// Runs nextest, shows what it says, and reads the summary.
#[expect(clippy::print_stderr, reason = "it passes on what the runner says")]
fn tests(command: &mut Command, skips: &Path) -> anyhow::Result<(Counts, bool)> {
    let mut child = command
        .env("LINKSPAN_SKIPS", skips)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run the tests")?;
    let mut counts = Counts::default();
    let stderr = child.stderr.take().context("read from the tests")?;
    for line in BufReader::new(stderr).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        eprintln!("{line}");
        if let Some(found) = summary(&line) {
            counts = found;
        }
    }
    Ok((counts, child.wait()?.success()))
}

/// Reads `Summary [ 0.1s] 3 tests run: 2 passed (1 slow), 1 failed, 4 skipped`.
fn summary(line: &str) -> Option<Counts> {
    let (_, outcome) = line
        .trim()
        .strip_prefix("Summary [")?
        .split_once(" run: ")?;
    let mut counts = Counts::default();
    for part in outcome.split(", ") {
        let mut words = part.split(' ');
        let count: usize = words.next()?.parse().ok()?;
        match words.next()? {
            "passed" => counts.passed += count,
            "skipped" => {}
            // Failed, timed out or ended by a signal.
            _ => counts.failed += count,
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::{Counts, summary};

    #[test]
    fn a_summary_is_read() {
        let line = "     Summary [   0.012s] 4 tests run: 2 passed (1 slow), 1 failed, 1 timed out, 9 skipped";
        let counts = Counts {
            passed: 2,
            failed: 2,
        };
        assert_eq!(summary(line), Some(counts));
        assert_eq!(summary("PASS summary"), None);
    }
}
