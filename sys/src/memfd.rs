//! Sealed anonymous files: a message too long for a packet, which its sender can no longer change.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{Errno, pread, write};

use crate::SyscallError;

/// The longest content that [`read`] accepts.
pub const MAX_BYTES: usize = 4 << 20;

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// Why a sealed file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// Its sender could still change it.
    #[error("read memfd: not sealed")]
    NotSealed,
    /// Longer than [`MAX_BYTES`].
    #[error("read memfd: {bytes} bytes")]
    TooLong {
        /// How long.
        bytes: i64,
    },
}

/// Makes a file with this content that nobody can change any more.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, SyscallError> {
    let failed = |call: &'static str| move |errno| SyscallError::new(call, errno);
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(failed("memfd_create(MFD_CLOEXEC|MFD_ALLOW_SEALING)"))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = write(&fd, rest).map_err(failed("write(memfd)"))?;
        rest = &rest[written..];
    }
    fcntl_add_seals(&fd, SEALS).map_err(failed("fcntl(memfd, F_ADD_SEALS)"))?;
    Ok(fd)
}

/// Reads the whole content of a file that [`sealed`] made, perhaps in another process.
pub fn read(fd: impl AsFd) -> Result<Vec<u8>, ReadError> {
    let failed = |call: &'static str| move |errno| SyscallError::new(call, errno);
    let seals = fcntl_get_seals(&fd).map_err(failed("fcntl(memfd, F_GET_SEALS)"))?;
    if !seals.contains(SEALS.difference(SealFlags::SEAL)) {
        return Err(ReadError::NotSealed);
    }
    let bytes = fstat(&fd).map_err(failed("fstat(memfd)"))?.st_size;
    let length = usize::try_from(bytes)
        .ok()
        .filter(|length| *length <= MAX_BYTES);
    let mut content = vec![0; length.ok_or(ReadError::TooLong { bytes })?];
    let mut filled = 0;
    while filled < content.len() {
        let offset = u64::try_from(filled).expect("a length below MAX_BYTES fits in 64 bits");
        match pread(&fd, &mut content[filled..], offset).map_err(failed("pread(memfd)"))? {
            0 => return Err(SyscallError::new("pread(memfd)", Errno::IO).into()),
            read => filled += read,
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_is_read_back_and_cannot_be_written() {
        let fd = sealed("test", b"content").unwrap();
        assert_eq!(read(&fd).unwrap(), b"content");
        assert_eq!(write(&fd, b"x"), Err(Errno::PERM));
    }

    #[test]
    fn a_file_that_may_still_change_is_refused() {
        let fd = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(matches!(read(&fd), Err(ReadError::NotSealed)));
    }
}
