//! Waiting for an owned descriptor on the runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the runtime.
#[expect(
    deprecated,
    reason = "the safe constructor; its hazard is a type that lends a closed descriptor, which OwnedFd cannot be"
)]
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
