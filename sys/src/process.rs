//! What a process inherits and hands on: descriptors, signal dispositions, its end.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::SyscallError;

/// Highest signal number of Linux.
const LAST_SIGNAL: libc::c_int = 64;

/// First descriptor beyond the standard streams.
const FIRST_OTHER_FD: RawFd = 3;

/// How many descriptors the kernel makes room for in advance.
const ROOM: u64 = 8192;

/// The inherited descriptors that somebody has taken.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes a descriptor that the parent process left open for this one, and closes it on exec.
///
/// Call it before this process opens anything: then an open number can only be inherited.
pub fn take_inherited(number: RawFd) -> Result<OwnedFd, SyscallError> {
    let call = || format!("fcntl({number}, F_SETFD, FD_CLOEXEC)");
    let first = TAKEN.lock().is_ok_and(|mut taken| taken.insert(number));
    if number < FIRST_OTHER_FD || !first {
        return Err(SyscallError::new(call(), Errno::BADF));
    }
    // SAFETY: F_SETFD touches nothing but the flag of this number, and fails if it is not open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(SyscallError::last(call()));
    }
    // SAFETY: the number is open, is beyond those that std owns, and `TAKEN` hands it out once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor beyond the standard streams but these.
///
/// For a cloned child that will leave by exec or [`exit_now`]: the owners in the copied
/// memory of its parent must never be used or dropped in it.
pub fn close_all_except(kept: &[BorrowedFd<'_>]) -> Result<(), SyscallError> {
    let kept: BTreeSet<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    let mut first = FIRST_OTHER_FD;
    for number in kept.into_iter().filter(|number| *number >= FIRST_OTHER_FD) {
        if first < number {
            close_range(first, number - 1, 0)?;
        }
        first = number + 1;
    }
    close_range(first, RawFd::MAX, 0)
}

/// Makes every descriptor beyond the standard streams close on exec.
pub fn close_others_on_exec() -> Result<(), SyscallError> {
    close_range(FIRST_OTHER_FD, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> Result<(), SyscallError> {
    // SAFETY: the callers say which descriptors nobody uses any more, or only change a flag.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } < 0 {
        return Err(SyscallError::last(format!(
            "close_range({first}, {last}, {flags:#x})"
        )));
    }
    Ok(())
}

/// Raises the limit of open descriptors as far as it goes, and makes room for many of them.
///
/// Call it before there are threads: each time that the kernel doubles a table of descriptors
/// that threads share, the caller waits for a grace period, which may be 25 ms.
pub fn prepare_for_many_descriptors() -> Result<(), SyscallError> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit)
        .map_err(|errno| SyscallError::new("setrlimit(RLIMIT_NOFILE)", errno))?;
    let room = maximum.map_or(ROOM, |maximum| maximum.min(ROOM));
    let last = RawFd::try_from(room)
        .unwrap_or(RawFd::MAX)
        .saturating_sub(1);
    // The table keeps its size when the descriptor is closed again.
    fcntl_dupfd_cloexec(rustix::stdio::stdin(), last)
        .map(drop)
        .map_err(|errno| SyscallError::new(format!("fcntl(0, F_DUPFD_CLOEXEC, {last})"), errno))
}

/// Ignores a signal from now on; the setting survives exec.
pub fn ignore_signal(signal: i32) -> Result<(), SyscallError> {
    // SAFETY: SIG_IGN installs no handler, so no code can run at a wrong moment.
    let previous = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if previous == libc::SIG_ERR {
        return Err(SyscallError::last(format!("signal({signal}, SIG_IGN)")));
    }
    Ok(())
}

/// Sets every signal to its default and blocks none, as a new program expects.
pub fn reset_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: SIG_DFL installs no handler; numbers that cannot be set are refused with EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let empty: u64 = 0;
    // SAFETY: the kernel reads the eight bytes of its own signal set from `empty` and writes nothing back.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Gives freed memory back to the kernel.
pub fn trim_heap() {
    // SAFETY: malloc_trim takes the allocator's own lock and touches only memory that is free.
    unsafe { libc::malloc_trim(0) };
}

/// Ends the process without destructors or exit handlers, which a cloned child shares with its parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_as_many_descriptors_as_are_allowed() {
        prepare_for_many_descriptors().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status
            .lines()
            .find_map(|line| line.strip_prefix("FDSize:"))
            .unwrap();
        let wanted = limit.maximum.map_or(ROOM, |maximum| maximum.min(ROOM));
        assert!(size.trim().parse::<u64>().unwrap() >= wanted, "{size}");
    }
}
