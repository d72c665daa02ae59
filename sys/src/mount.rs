//! `mount_setattr(2)` for a mount that a descriptor holds.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::SyscallError;

/// What to switch on, for one mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// Nothing beneath can be changed.
    pub read_only: bool,
    /// Set-user-id bits have no effect.
    pub no_suid: bool,
    /// Device nodes cannot be opened.
    pub no_dev: bool,
    /// Programs cannot be executed.
    pub no_exec: bool,
}

/// Adds attributes to the mount that `mount` is the root of; those not named stay.
pub fn set_attributes(mount: impl AsFd, attributes: MountAttributes) -> Result<(), SyscallError> {
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    let attr_set = flag(attributes.read_only, libc::MOUNT_ATTR_RDONLY)
        | flag(attributes.no_suid, libc::MOUNT_ATTR_NOSUID)
        | flag(attributes.no_dev, libc::MOUNT_ATTR_NODEV)
        | flag(attributes.no_exec, libc::MOUNT_ATTR_NOEXEC);
    let arguments = libc::mount_attr {
        attr_set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a static C string, and the kernel reads `arguments` up to the size given with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const arguments,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        return Err(SyscallError::last(format!(
            "mount_setattr(fd, AT_EMPTY_PATH, {attr_set:#x})"
        )));
    }
    Ok(())
}

/// A read-only view of a host program, to be executed as `/proc/self/fd/N`.
///
/// A container that gets hold of its runtime's `/proc/PID/exe` cannot write through it
/// (CVE-2019-5736), and all processes still share the one copy in the page cache.
pub fn read_only_program(path: &Path) -> Result<OwnedFd, SyscallError> {
    let call = || format!("open_tree({path:?}, OPEN_TREE_CLONE)");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree =
        open_tree(CWD, path, flags).map_err(|errno: Errno| SyscallError::new(call(), errno))?;
    set_attributes(
        &tree,
        MountAttributes {
            read_only: true,
            ..Default::default()
        },
    )?;
    Ok(tree)
}
