//! The connections of runtimed: packets in, packets out.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use linkspan_proto::shim_v1 as wire;
use linkspan_sys::scm::{self, ScmError};
use prost::Message;
use rustix::net::{SocketFlags, accept_with};

use crate::failure::Failure;
use crate::stdio::ClientStreams;

/// The longest packet of the contract.
const MAX_PACKET: usize = 64 << 10;
/// How many answers may wait for a peer that does not read, before it is given up.
const MAX_WAITING: usize = 64;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Unlike a descriptor's number, never used twice.
    pub(crate) number: u64,
    pub(crate) socket: OwnedFd,
    waiting: VecDeque<Vec<u8>>,
}

/// A request and what came with it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) operation: wire::shim_request::Operation,
    pub(crate) fds: VecDeque<OwnedFd>,
}

/// What a connection has to say.
#[derive(Debug)]
pub(crate) enum Incoming {
    Request(Request),
    /// A packet that is no request; its id, if it has one.
    Malformed(u64),
    Nothing,
    Closed,
}

impl Connection {
    pub(crate) fn new(number: u64, socket: OwnedFd) -> Self {
        Self {
            number,
            socket,
            waiting: VecDeque::new(),
        }
    }

    /// Reads one packet without waiting.
    pub(crate) fn receive(&self) -> Incoming {
        let mut buffer = vec![0; MAX_PACKET];
        let received = match scm::receive(&self.socket, &mut buffer) {
            Ok(received) if received.length == 0 => return Incoming::Closed,
            Ok(received) => received,
            Err(error) if error.would_block() => return Incoming::Nothing,
            Err(ScmError::Truncated | ScmError::TooManyFds { .. }) => {
                return Incoming::Malformed(0);
            }
            Err(ScmError::Socket { .. }) => return Incoming::Closed,
        };
        match wire::ShimRequest::decode(&buffer[..received.length]) {
            Ok(wire::ShimRequest {
                id,
                operation: Some(operation),
            }) => Incoming::Request(Request {
                id,
                operation,
                fds: received.fds.into(),
            }),
            Ok(wire::ShimRequest {
                id,
                operation: None,
            }) => Incoming::Malformed(id),
            Err(_not_a_request) => Incoming::Malformed(0),
        }
    }

    /// Sends a message, or keeps it until the peer reads. `false`: the peer is given up.
    pub(crate) fn send(&mut self, id: u64, content: wire::shim_message::Content) -> bool {
        let message = wire::ShimMessage {
            id,
            content: Some(content),
        };
        self.waiting.push_back(message.encode_to_vec());
        self.flush() && self.waiting.len() <= MAX_WAITING
    }

    /// Sends what waits. `false`: the peer is gone.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(message) = self.waiting.front() {
            match scm::send(&self.socket, message, &[]) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) => return error.would_block(),
            }
        }
        true
    }

    /// Whether something waits for the peer to read.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// Accepts one connection that waits.
pub(crate) fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    accept_with(listener, flags).ok()
}

/// Takes the client's descriptors that a message announces.
pub(crate) fn client_streams(
    streams: Option<wire::Streams>,
    fds: &mut VecDeque<OwnedFd>,
) -> Result<ClientStreams, Failure> {
    let streams = streams.unwrap_or_default();
    let mut next = |wanted: bool| {
        let missing =
            || Failure::invalid("receive", "fewer descriptors than the message announces");
        wanted
            .then(|| fds.pop_front().ok_or_else(missing))
            .transpose()
    };
    Ok(ClientStreams {
        stdin: next(streams.stdin)?,
        stdout: next(streams.stdout)?,
        stderr: next(streams.stderr)?,
    })
}
