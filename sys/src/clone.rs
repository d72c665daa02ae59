//! `clone3(2)`, for processes of one thread.
//!
//! A child made without `CLONE_VM` has a copy of its parent's memory as it was at that
//! moment. In a process of one thread that copy is consistent: no other thread can have
//! held the allocator's or the C library's locks. So the call is refused in any other
//! process, and that makes it safe.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

use crate::SyscallError;

/// Of the kernel's `linux/sched.h`; the libc crate's constant is too narrow for its value.
const CLONE_INTO_CGROUP: i64 = 0x2_0000_0000;

/// What the new process gets of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneOptions<'fd> {
    /// New namespaces: `libc::CLONE_NEWNS` and the like, and nothing else.
    pub namespaces: Namespaces,
    /// Whether the child becomes a sibling: its parent is the caller's parent.
    pub parent: Parent,
    /// The cgroup v2 directory that the child is born in, instead of the caller's.
    pub cgroup: Option<BorrowedFd<'fd>>,
}

/// The namespaces that a new process gets of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// None: it shares the caller's.
    #[default]
    Shared,
    /// Mount, PID, IPC, UTS and cgroup; the network namespace stays the caller's.
    Container,
}

/// Whose child a new process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Parent {
    /// The caller's.
    #[default]
    Caller,
    /// That of the caller's parent, who then reaps it.
    CallersParent,
}

/// On which side of the call this is.
#[derive(Debug)]
pub enum Cloned {
    /// The caller.
    Parent {
        /// The child as the caller's PID namespace numbers it.
        pid: Pid,
        /// A handle of the child.
        pidfd: OwnedFd,
    },
    /// The new process. It must leave by exec or [`crate::process::exit_now`].
    Child,
}

/// Why no process was made.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The caller has more than one thread, so the child's memory could be torn.
    #[error("clone3: the caller has more than one thread")]
    MultiThreaded,
    /// The kernel refused.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
}

/// Makes a new process.
pub fn clone3(options: CloneOptions<'_>) -> Result<Cloned, CloneError> {
    if !is_single_threaded() {
        return Err(CloneError::MultiThreaded);
    }
    let namespaces = match options.namespaces {
        Namespaces::Shared => 0,
        Namespaces::Container => {
            libc::CLONE_NEWNS
                | libc::CLONE_NEWPID
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWUTS
                | libc::CLONE_NEWCGROUP
        }
    };
    let mut flags = i64::from(namespaces | libc::CLONE_PIDFD);
    // With CLONE_PARENT the exit signal is the caller's own, and the field must be zero.
    let exit_signal = match options.parent {
        Parent::Caller => libc::SIGCHLD,
        Parent::CallersParent => {
            flags |= i64::from(libc::CLONE_PARENT);
            0
        }
    };
    let mut cgroup = 0;
    if let Some(fd) = options.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = u64::try_from(fd.as_raw_fd()).unwrap_or_default();
    }
    let mut pidfd: libc::c_int = -1;
    let arguments = libc::clone_args {
        flags: flags.cast_unsigned(),
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(exit_signal.cast_unsigned()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: without CLONE_VM and CLONE_SETTLS both sides return here on stacks of their own, and the
    // only thread's memory is what the child gets; `arguments` and `pidfd` outlive the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        _ if pid < 0 => Err(SyscallError::last(format!("clone3({flags:#x})")).into()),
        None => Ok(Cloned::Child),
        Some(pid) => {
            // SAFETY: the kernel wrote a new descriptor here, as CLONE_PIDFD asks, and nobody else knows its number.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Asks the kernel: "unsharing" the thread group is refused unless there is one thread,
/// and does nothing then. Unlike a look into `/proc`, this works in any root filesystem.
fn is_single_threaded() -> bool {
    // SAFETY: CLONE_THREAD asks for no change at all; the call is only a check.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_several_threads_is_refused() {
        // The test harness itself runs this test on a thread beside its main one.
        let error = clone3(CloneOptions::default()).unwrap_err();
        assert!(matches!(error, CloneError::MultiThreaded), "{error}");
    }
}
