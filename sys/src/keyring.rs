//! The session keyring.

use crate::SyscallError;

const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Joins a new, anonymous session keyring, so that no key of the caller's session is in reach.
pub fn join_new_session() -> Result<(), SyscallError> {
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name is the documented way to ask for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name) };
    if result < 0 {
        return Err(SyscallError::last(
            "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)",
        ));
    }
    Ok(())
}
