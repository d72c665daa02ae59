//! The terminal of a process, made in the container's own devpts.
//!
//! The other side is got from the descriptor, never by its name: the image could have
//! put anything there.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, makedev, openat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::failure::{Failure, Step};
use crate::spec::TerminalSize;

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS: i64 = 0x1cd1;

/// Both sides of a new terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// For the shim.
    pub(crate) master: OwnedFd,
    /// For the process.
    pub(crate) peer: OwnedFd,
}

/// Makes a terminal of a size; 0 leaves the kernel's.
pub(crate) fn open(size: TerminalSize) -> Result<Terminal, Failure> {
    let step = "open terminal";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = openat(CWD, "/dev/pts/ptmx", flags, Mode::empty()).step(step)?;
    let device = fstat(&master).step(step)?.st_rdev;
    if device != makedev(5, 2) || fstatfs(&master).step(step)?.f_type != DEVPTS {
        return Err(Failure::invalid(
            step,
            "/dev/pts/ptmx of the container is not a terminal multiplexer",
        ));
    }
    unlockpt(&master).step(step)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = ioctl_tiocgptpeer(&master, flags).step(step)?;
    set_size(&master, size).step(step)?;
    Ok(Terminal { master, peer })
}

/// Sets the size; the processes of the terminal get SIGWINCH.
pub(crate) fn set_size(master: &OwnedFd, size: TerminalSize) -> Result<(), rustix::io::Errno> {
    if size.rows == 0 || size.columns == 0 {
        return Ok(());
    }
    let TerminalSize { rows, columns } = size;
    tcsetwinsize(
        master,
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}
