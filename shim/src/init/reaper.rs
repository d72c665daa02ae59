//! The small first process of a container that asked for one: starts the command as its
//! child, hands signals on, reaps whatever is left to it, and ends as the command ends.

use linkspan_sys::clone::{CloneOptions, Cloned, clone3};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::io::Errno;

use crate::failure::Failure;

/// Which side of the fork this is.
#[derive(Debug)]
pub(crate) enum Side {
    /// The command to be.
    Command,
    /// The reaper; call [`run`] with the command.
    Reaper(Pid),
}

/// Forks. The command keeps an unblocked signal mask, the reaper takes signals one by one.
pub(crate) fn fork() -> Result<Side, Failure> {
    let failed = |message: String| Failure {
        message: format!("fork the command: {message}"),
        ..Failure::system("fork the command", Errno::AGAIN)
    };
    match clone3(CloneOptions::default()).map_err(|error| failed(error.to_string()))? {
        Cloned::Child => Ok(Side::Command),
        Cloned::Parent { pid, .. } => Ok(Side::Reaper(Pid::from_raw(pid.as_raw_nonzero().get()))),
    }
}

/// Waits for the command and returns its exit code. SIGKILL of the whole container needs
/// no help; every other signal that the first process gets is meant for the command.
pub(crate) fn run(command: Pid) -> i32 {
    let all = SigSet::all();
    if all.thread_block().is_err() {
        return 255;
    }
    loop {
        if let Some(code) = reap(command) {
            return code;
        }
        match all.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => {
                // Gone already: the next round reaps it.
                let _gone = kill(command, signal);
            }
        }
    }
}

fn reap(command: Pid) -> Option<i32> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => return Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                return Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) => return None,
            Ok(_) => {}
            Err(_no_children) => return Some(255),
        }
    }
}
