//! Packets and file descriptors over a unix SOCK_SEQPACKET socket.
//!
//! One call moves one packet. Received descriptors are closed on exec. A packet that does
//! not fit, or that brings more descriptors than [`MAX_FDS`], is an error: half a message
//! is worse than none.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// How many descriptors one packet may carry.
pub const MAX_FDS: usize = 8;

const ANCILLARY_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// Why a packet was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ScmError {
    /// The socket refused.
    #[error("{operation} = -1 {errno}")]
    Socket {
        /// The call and its arguments.
        operation: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The packet is longer than the buffer, or carries too many descriptors.
    #[error("recvmsg: packet cut off by the kernel")]
    Truncated,
    /// More descriptors than [`MAX_FDS`].
    #[error("sendmsg: {count} descriptors in one packet")]
    TooManyFds {
        /// How many.
        count: usize,
    },
}

impl ScmError {
    /// The error number; `EAGAIN` when the socket is non-blocking and not ready.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Socket { errno, .. } => *errno,
            Self::Truncated | Self::TooManyFds { .. } => Errno::MSGSIZE,
        }
    }

    /// Whether the call is to be repeated once the socket is ready.
    pub fn would_block(&self) -> bool {
        self.errno() == Errno::AGAIN
    }
}

impl From<ScmError> for std::io::Error {
    fn from(error: ScmError) -> Self {
        let kind = Self::from(error.errno()).kind();
        Self::new(kind, error)
    }
}

/// One packet.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it fills; 0 when the peer closed the connection.
    pub length: usize,
    /// The descriptors that came along, in order.
    pub fds: Vec<OwnedFd>,
}

/// Sends one packet with its descriptors. A vanished peer is `EPIPE`, not a signal.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ScmError> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(ScmError::TooManyFds { count: fds.len() });
    }
    loop {
        let sent = sendmsg(
            &socket,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        );
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(ScmError::Socket {
                    operation: "sendmsg(SCM_RIGHTS)",
                    errno,
                });
            }
        }
    }
}

/// Receives one packet with its descriptors.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Received, ScmError> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg(&socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(ScmError::Socket {
                    operation: "recvmsg(MSG_CMSG_CLOEXEC)",
                    errno,
                });
            }
        }
    };
    let fds = ancillary
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(ScmError::Truncated);
    }
    Ok(Received {
        length: message.bytes,
        fds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    #[test]
    fn a_packet_brings_its_descriptors_in_order_and_closed_on_exec() {
        let (left, right) = pair();
        let first = crate::memfd::sealed("first", b"1").unwrap();
        let second = crate::memfd::sealed("second", b"2").unwrap();
        send(&left, b"hello", &[first.as_fd(), second.as_fd()]).unwrap();
        let mut buffer = [0; 64];
        let received = receive(&right, &mut buffer).unwrap();
        assert_eq!(&buffer[..received.length], b"hello");
        let contents: Vec<_> = received
            .fds
            .iter()
            .map(|fd| crate::memfd::read(fd).unwrap())
            .collect();
        assert_eq!(contents, [b"1", b"2"]);
        for fd in &received.fds {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn an_empty_socket_would_block_and_a_closed_one_gives_nothing() {
        let (left, right) = pair();
        let mut buffer = [0; 8];
        assert!(receive(&right, &mut buffer).unwrap_err().would_block());
        drop(left);
        assert_eq!(receive(&right, &mut buffer).unwrap().length, 0);
        assert_eq!(send(&right, b"x", &[]).unwrap_err().errno(), Errno::PIPE);
    }

    #[test]
    fn a_packet_that_does_not_fit_is_an_error() {
        let (left, right) = pair();
        send(&left, &[7; 32], &[]).unwrap();
        let mut buffer = [0; 8];
        assert!(matches!(
            receive(&right, &mut buffer),
            Err(ScmError::Truncated)
        ));
    }
}
