//! Handles of processes that no reuse of a PID can confuse.
//!
//! A pidfd names one process for as long as the descriptor is open. A [`Handle`] names
//! it for as long as the machine is up, in eight bytes that can be stored: pidfs never
//! uses a number twice.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::SyscallError;

/// `FD_PIDFS_ROOT`: stands for the root of pidfs where a mount is asked for.
const PIDFS_ROOT: libc::c_int = -10002;
/// `_IOWR(0xFF, 11, struct pidfd_info)` with the first published size of 64 bytes.
const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
const INFO_EXIT: u64 = 1 << 3;
const HANDLE_BYTES: usize = 8;

/// A process, nameable until the next boot. Store the boot id beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    kind: i32,
    bytes: [u8; HANDLE_BYTES],
}

impl Handle {
    /// The form to store.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut stored = [0; 12];
        stored[..4].copy_from_slice(&self.kind.to_le_bytes());
        stored[4..].copy_from_slice(&self.bytes);
        stored
    }

    /// Reads the stored form.
    pub fn from_bytes(stored: [u8; 12]) -> Self {
        let [a, b, c, d, bytes @ ..] = stored;
        Self {
            kind: i32::from_le_bytes([a, b, c, d]),
            bytes,
        }
    }
}

/// `struct file_handle` with room for what pidfs writes.
#[repr(C)]
struct FileHandle {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; HANDLE_BYTES],
}

/// `struct pidfd_info`, first published form.
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    /// pid, tgid, ppid, then the eight ids.
    numbers: [u32; 11],
    exit_code: i32,
}

/// Opens the process that has this PID now.
pub fn open(pid: Pid) -> Result<OwnedFd, SyscallError> {
    pidfd_open(pid, PidfdFlags::empty())
        .map_err(|errno| SyscallError::new(format!("pidfd_open({})", pid.as_raw_nonzero()), errno))
}

/// The storable name of the process behind a pidfd. `EOPNOTSUPP` before Linux 6.14.
pub fn handle(pidfd: impl AsFd) -> Result<Handle, SyscallError> {
    let length = u32::try_from(HANDLE_BYTES).expect("eight fits in 32 bits");
    let mut handle = FileHandle {
        length,
        kind: 0,
        bytes: [0; HANDLE_BYTES],
    };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: `handle` states how many bytes follow its header, and the path is a static C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            pidfd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if result < 0 {
        return Err(SyscallError::last(
            "name_to_handle_at(pidfd, AT_EMPTY_PATH)",
        ));
    }
    Ok(Handle {
        kind: handle.kind,
        bytes: handle.bytes,
    })
}

/// Opens the process that a handle names; `ESTALE` when it has ended and was reaped.
pub fn reopen(handle: Handle) -> Result<OwnedFd, SyscallError> {
    let length = u32::try_from(HANDLE_BYTES).expect("eight fits in 32 bits");
    let mut raw = FileHandle {
        length,
        kind: handle.kind,
        bytes: handle.bytes,
    };
    // SAFETY: `raw` is a complete file handle of the length that it states; pidfs checks its content.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            PIDFS_ROOT,
            &raw mut raw,
            libc::O_CLOEXEC,
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel just returned this descriptor to this caller alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(SyscallError::last(
            "open_by_handle_at(FD_PIDFS_ROOT, O_CLOEXEC)",
        )),
    }
}

/// Sends a signal of any number, real-time ones too, which rustix has no safe name for.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), SyscallError> {
    let no_info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo asks the kernel to fill it in as kill(2) would; the number is checked by it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            no_info,
            0,
        )
    };
    if result < 0 {
        return Err(SyscallError::last(format!(
            "pidfd_send_signal(pidfd, {signal})"
        )));
    }
    Ok(())
}

/// The wait status of an ended process, even when somebody else has reaped it.
///
/// `None` while it runs or is not reaped yet. The descriptor must have been opened before
/// the process was reaped.
pub fn exit_status(pidfd: impl AsFd) -> Result<Option<i32>, SyscallError> {
    let mut info = MaybeUninit::<PidfdInfo>::zeroed();
    // SAFETY: every field of `PidfdInfo` is a number, for which all-zero bytes are a value.
    let info = unsafe { info.assume_init_mut() };
    info.mask = INFO_EXIT;
    // SAFETY: the request number states 64 bytes, the size of `PidfdInfo`.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut *info) };
    if result < 0 {
        let error = SyscallError::last("ioctl(pidfd, PIDFD_GET_INFO, PIDFD_INFO_EXIT)");
        // A process that is running on an old kernel, or that is gone before its status was kept.
        return if error.errno() == rustix::io::Errno::SRCH {
            Ok(None)
        } else {
            Err(error)
        };
    }
    Ok((info.mask & INFO_EXIT != 0).then_some(info.exit_code))
}

/// The exit code that a shell would show for a wait status: 128 plus the signal, if one ended it.
pub fn exit_code(wait_status: i32) -> i32 {
    match wait_status & 0x7f {
        0 => (wait_status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_exit_status_is_there_after_somebody_else_reaped() {
        let mut child = Command::new("sh").args(["-c", "exit 42"]).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = open(pid).unwrap();
        child.wait().unwrap();
        assert_eq!(exit_status(&pidfd).unwrap().map(exit_code), Some(42));
    }

    #[test]
    fn a_handle_reopens_the_same_process_and_is_stale_once_it_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let stored = handle(open(pid).unwrap()).unwrap().to_bytes();
        let again = reopen(Handle::from_bytes(stored)).unwrap();
        assert_eq!(exit_status(&again).unwrap(), None);
        rustix::process::pidfd_send_signal(&again, rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
        assert_eq!(exit_status(&again).unwrap().map(exit_code), Some(137));
        drop(again);
        reopen(Handle::from_bytes(stored)).unwrap_err();
    }
}
