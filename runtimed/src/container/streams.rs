//! The pipes between a client of this process and a shim.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linkspan_proto::shim_v1::Streams;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;

/// The ends that go to the shim.
#[derive(Debug, Default)]
pub(crate) struct ShimStreams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// The ends that stay here.
#[derive(Debug, Default)]
pub(crate) struct ClientStreams {
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: Option<pipe::Receiver>,
    pub(crate) stderr: Option<pipe::Receiver>,
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl ShimStreams {
    /// Whether a client gives input.
    pub(crate) fn has_stdin(&self) -> bool {
        self.stdin.is_some()
    }

    /// What to tell the shim about the descriptors.
    pub(crate) fn to_wire(&self) -> Streams {
        Streams {
            stdin: self.stdin.is_some(),
            stdout: self.stdout.is_some(),
            stderr: self.stderr.is_some(),
        }
    }

    /// The descriptors in the order of the protocol.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect()
    }
}

/// Makes the pipes.
pub(crate) fn connect(wanted: Wanted) -> io::Result<(ShimStreams, ClientStreams)> {
    let mut shim = ShimStreams::default();
    let mut client = ClientStreams::default();
    if wanted.stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        shim.stdin = Some(read);
        client.stdin = Some(pipe::Sender::from_owned_fd(nonblocking(write)?)?);
    }
    if wanted.stdout {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        shim.stdout = Some(write);
        client.stdout = Some(pipe::Receiver::from_owned_fd(nonblocking(read)?)?);
    }
    if wanted.stderr {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        shim.stderr = Some(write);
        client.stderr = Some(pipe::Receiver::from_owned_fd(nonblocking(read)?)?);
    }
    Ok((shim, client))
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}
