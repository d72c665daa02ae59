//! The sandbox: namespaces of its own with the daemons in them, and a LAN host beside.
//!
//! ```text
//! outer ── unshare mount, net, pid, ipc, uts
//!   └─ init (PID 1 of the sandbox) ── netd, runtimed, COMMAND
//!
//! lan1 (the LAN and the internet)          the engine's host
//!   eth0 10.200.1.2, fd00:200:1::2 ─────── eth-lan 10.200.1.1, fd00:200:1::1
//! ```
//!
//! No interface leads to the machine, and everything dies with `init`; only control
//! groups live outside, and `outer` removes them. An audit tells what COMMAND left.

mod audit;
mod cgroup;
mod daemon;
mod events;
mod init;
mod outer;
mod world;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;

/// The audit found something (`EX_SOFTWARE`).
const EXIT_LEAK: u8 = 70;
/// The sandbox could not be made (`EX_OSERR`).
const EXIT_SETUP: u8 = 71;

/// The network namespace of the LAN host.
pub(crate) const LAN_NETNS: &str = "/run/netns/lan1";

/// Runs a command in a sandbox with the daemons, then audits what is left.
#[derive(Debug, Parser)]
#[command(name = "linkspan-sandbox", version)]
struct Arguments {
    /// Start no daemons
    #[arg(long)]
    bare: bool,
    /// Where the binaries are [default: beside this one]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// An image archive to load first
    #[arg(long, value_name = "ARCHIVE", conflicts_with = "bare")]
    image: Vec<PathBuf>,
    /// Run COMMAND on the LAN host
    #[arg(long)]
    lan: bool,
    /// Show the logs of the daemons when COMMAND fails
    #[arg(long)]
    show_logs: bool,
    /// Where the logs of the daemons are kept
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Set by the outer process: this one is PID 1, and this is its control group
    #[arg(long, value_name = "CGROUP", hide = true)]
    init: Option<String>,
    /// What to run
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The program `linkspan-sandbox`.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.command.iter().any(|word| word == "--list") {
        // A test runner asks for names; that needs neither root nor a sandbox.
        let error = Command::new(&arguments.command[0])
            .args(&arguments.command[1..])
            .exec();
        say(&format!("run {:?}: {error}", arguments.command[0]));
        return ExitCode::from(EXIT_SETUP);
    }
    if !nix::unistd::geteuid().is_root() {
        say("the sandbox makes namespaces and needs root rights; run it as root");
        return ExitCode::from(EXIT_SETUP);
    }
    let outcome = match arguments.init.clone() {
        Some(cgroup) => init::run(&arguments, &cgroup),
        None => outer::run(),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::from(EXIT_SETUP)
        }
    }
}

fn say(sentence: &str) {
    // There is nowhere left to report that standard error is closed.
    drop(writeln!(io::stderr(), "linkspan-sandbox: {sentence}"));
}
