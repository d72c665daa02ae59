//! The error of a system call, printed as strace prints it.

use std::fmt;

use rustix::io::Errno;

/// A system call that failed: `mount_setattr("", RDONLY) = -1 EINVAL (Invalid argument)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyscallError {
    call: String,
    errno: Errno,
}

impl SyscallError {
    /// Records that `call`, written with its arguments, failed with `errno`.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self {
            call: call.into(),
            errno,
        }
    }

    /// Records that `call` failed with the errno that the C library holds.
    pub(crate) fn last(call: impl Into<String>) -> Self {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        Self::new(call, Errno::from_raw_os_error(errno))
    }

    /// The error number.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl fmt::Display for SyscallError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} = -1 {}", self.call, self.errno)
    }
}

impl std::error::Error for SyscallError {}
