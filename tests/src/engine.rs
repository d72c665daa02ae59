//! Runs commands, `linkspan` above all, and says what is expected of them.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use crate::skip::sandbox_required;

/// What a command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command as a person would type it.
    pub command: String,
    /// The exit status, as a shell gives it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output without its last newline; the command must have succeeded.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:#?}");
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// Standard error without its last newline; the command must have failed.
    #[must_use]
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.status, 0, "{self:#?}");
        self.stderr.trim_end_matches('\n').to_owned()
    }

    /// Standard error; the command must have ended with this status.
    #[must_use]
    #[track_caller]
    pub fn fails_with(self, status: i32) -> String {
        assert_eq!(self.status, status, "{self:#?}");
        self.stderr.trim_end_matches('\n').to_owned()
    }
}

/// A command that goes on, and is killed when the test drops it.
#[derive(Debug)]
pub struct Running {
    /// The process, for its pipes and its status.
    pub child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs `linkspan` to its end, with nothing on standard input.
#[track_caller]
pub fn linkspan(arguments: &[&str]) -> Output {
    run(linkspan_command(arguments).stdin(Stdio::null()), None)
}

/// The command `linkspan`, for a test that needs its pipes.
#[must_use]
#[track_caller]
pub fn linkspan_command(arguments: &[&str]) -> Command {
    sandbox_required();
    let mut command = Command::new("linkspan");
    command.args(arguments);
    command
}

/// Starts a command with all three pipes, and goes on.
#[track_caller]
pub fn start(command: &mut Command) -> Running {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Running {
        child: child.expect("start the command"),
    }
}

/// Runs a command to its end, with this on standard input.
#[track_caller]
pub(crate) fn run(command: &mut Command, input: Option<&[u8]>) -> Output {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    let shown = words.join(" ");
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect(&shown);
    if let (Some(bytes), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command that does not read all of it says why on standard error.
        drop(stdin.write_all(bytes));
    }
    let output = child.wait_with_output().expect(&shown);
    Output {
        command: shown,
        status: shell_status(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn shell_status(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let by_signal = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(by_signal).unwrap_or(i32::MAX)
}
