//! Signal dispositions, and leaving a process at once.

use crate::SyscallError;

/// Highest signal number of Linux.
const LAST_SIGNAL: libc::c_int = 64;

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
