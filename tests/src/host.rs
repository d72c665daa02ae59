//! The two hosts of the sandbox: the engine's, and the one on its LAN.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::engine::{Output, run};
use crate::sandbox::LAN_NETNS;
use crate::skip::sandbox_required;

/// The engine's host on the LAN.
pub const HOST_V4: &str = "10.200.1.1";
/// The engine's host on the LAN.
pub const HOST_V6: &str = "fd00:200:1::1";
/// The LAN host.
pub const LAN_V4: &str = "10.200.1.2";
/// The LAN host.
pub const LAN_V6: &str = "fd00:200:1::2";

/// Runs a command on the engine's host.
#[track_caller]
pub fn host(words: &[&str]) -> Output {
    sandbox_required();
    let mut command = Command::new(words[0]);
    run(command.args(&words[1..]).stdin(Stdio::null()), None)
}

/// Runs a command on the LAN host.
#[track_caller]
pub fn lan(words: &[&str]) -> Output {
    run(lan_command(words).stdin(Stdio::null()), None)
}

/// A command on the LAN host, for a test that needs its pipes.
#[must_use]
#[track_caller]
pub fn lan_command(words: &[&str]) -> Command {
    sandbox_required();
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={LAN_NETNS}"))
        .arg("--")
        .args(words);
    command
}

/// The process of a daemon, `linkspan-netd` or `linkspan-runtimed`, if it runs.
#[must_use]
pub fn daemon_pid(name: &str) -> Option<i32> {
    let entries = fs::read_dir("/proc").expect("list the processes");
    entries.flatten().find_map(|entry| {
        let process: i32 = entry.file_name().to_string_lossy().parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let program = command.split(|byte| *byte == 0).next()?;
        let path = String::from_utf8_lossy(program);
        (path.rsplit('/').next() == Some(name)).then_some(process)
    })
}

/// Kills a daemon; the sandbox starts it again.
#[track_caller]
pub fn kill_daemon(name: &str) {
    sandbox_required();
    let process = daemon_pid(name).expect(name);
    kill(Pid::from_raw(process), Signal::SIGKILL).expect(name);
}
