//! A netlink socket that sends a batch and waits for the kernel's verdict on it, or that
//! hears what others change.
//!
//! Every wait has a deadline: the kernel answers synchronously, so an answer that does
//! not come means that something is wrong, not that it is slow.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force,
    set_socket_timeout,
};
use rustix::net::{RecvFlags, SendFlags, getsockname, recv, send};

use super::message::{HEADER_LENGTH, Message, attribute, text, u16_at, u32_at};

const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Room for a transaction that writes or reads every element of a full bridge.
const BUFFER_BYTES: usize = 32 << 20;
const RECEIVE_BYTES: usize = 64 << 10;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const FLAG_CAPPED: u16 = 0x100;
const EXTENDED_TEXT: u16 = 1;

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The socket failed, or the answer did not come in time.
    #[error("netlink {act}")]
    Socket {
        /// What was tried.
        act: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a message.
    #[error("kernel refused message {index} of the request{hint}")]
    Refused {
        /// The position of the message in its batch.
        index: usize,
        /// The kernel's own words, if it has any, after a colon.
        hint: String,
        /// The error number.
        #[source]
        source: io::Error,
    },
}

impl NetlinkError {
    /// The error number.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
        }
    }

    /// Whether the object was already gone.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)
        )
    }
}

/// A message from the kernel: its type and what follows the header.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The message type.
    pub(crate) kind: u16,
    /// The fixed part and the attributes.
    pub(crate) payload: Vec<u8>,
}

/// Which answers complete an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completion {
    /// The one to the last message that asked for an answer.
    Last,
    /// As above, or a refusal of the first message, which refuses the transaction as a whole.
    LastOrFirstRefused,
}

/// Whether every notification was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// Each was.
    Complete,
    /// Some did not fit into the socket's buffer.
    Lost,
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NetlinkSocket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open(protocol: i32) -> Result<Self, NetlinkError> {
        Self::open_in(protocol, &[])
    }

    /// Opens a socket that receives the notifications of groups from now on.
    pub(crate) fn open_in(protocol: i32, groups: &[u32]) -> Result<Self, NetlinkError> {
        let fail = |act| move |source| NetlinkError::Socket { act, source };
        let family = isize::try_from(protocol).expect("protocol numbers are small");
        let mut socket = Socket::new(family).map_err(fail("open"))?;
        socket.bind_auto().map_err(fail("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(fail("connect"))?;
        socket
            .set_ext_ack(true)
            .map_err(fail("ask for extended errors"))?;
        // Dumps of one device are filtered by the kernel.
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(fail("ask for strict requests"))?;
        for group in groups {
            socket.add_membership(*group).map_err(fail("subscribe"))?;
        }
        let deadline = Some(ANSWER_DEADLINE);
        set_socket_timeout(socket.as_fd(), Timeout::Recv, deadline)
            .and_then(|()| set_socket_send_buffer_size_force(socket.as_fd(), BUFFER_BYTES))
            .and_then(|()| set_socket_recv_buffer_size_force(socket.as_fd(), BUFFER_BYTES))
            .map_err(|errno| NetlinkError::Socket {
                act: "set options",
                source: errno.into(),
            })?;
        let socket = socket
            .as_fd()
            .try_clone_to_owned()
            .map_err(fail("duplicate"))?;
        Ok(Self::of(socket))
    }

    /// Goes on with a socket that another process opened and left. What it did not read is
    /// thrown away.
    pub(crate) fn take_over(socket: OwnedFd) -> Result<Self, NetlinkError> {
        let mut socket = Self::of(socket);
        // Losses do not matter: nothing of it was meant for this process.
        let _hearing = socket.hear(|_, _, _| {})?;
        Ok(socket)
    }

    fn of(socket: OwnedFd) -> Self {
        Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BYTES),
        }
    }

    /// The same socket, for another to hold.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// The port by which the kernel knows the socket, and says who changed something.
    pub(crate) fn port(&self) -> Result<u32, NetlinkError> {
        let fail = |errno: Errno| NetlinkError::Socket {
            act: "look at",
            source: errno.into(),
        };
        let address = getsockname(&self.socket).map_err(fail)?;
        SocketAddrNetlink::try_from(address)
            .map(|address| address.pid())
            .map_err(fail)
    }

    /// Takes in every notification that has come, without waiting for more: its type, the
    /// port of who caused it, and what follows the header.
    pub(crate) fn hear(
        &mut self,
        mut visit: impl FnMut(u16, u32, &[u8]),
    ) -> Result<Hearing, NetlinkError> {
        let mut hearing = Hearing::Complete;
        loop {
            match self.receive(RecvFlags::DONTWAIT) {
                Ok(()) => {}
                Err(error) if error.errno() == Some(libc::EAGAIN) => return Ok(hearing),
                Err(error) if error.errno() == Some(libc::ENOBUFS) => {
                    hearing = Hearing::Lost;
                    continue;
                }
                Err(error) => return Err(error),
            }
            for message in messages_in(&self.buffer) {
                visit(message.kind, message.port, message.payload);
            }
        }
    }

    /// Sends messages as one datagram and waits until each is acknowledged. The kernel
    /// goes on after a refusal; the first one is returned.
    pub(crate) fn execute(&mut self, messages: Vec<Message>) -> Result<(), NetlinkError> {
        if messages.is_empty() {
            return Ok(());
        }
        let messages: Vec<_> = messages.into_iter().map(Message::acknowledged).collect();
        self.exchange(messages, Completion::Last).map(drop)
    }

    /// Sends messages as one datagram of which only the last is acknowledged, as
    /// nfnetlink transactions want it. Any error means that nothing was changed.
    pub(crate) fn transact(&mut self, messages: Vec<Message>) -> Result<(), NetlinkError> {
        self.exchange(messages, Completion::LastOrFirstRefused)
            .map(drop)
    }

    /// Waits for a notification that is looked for.
    pub(crate) fn wait(
        &mut self,
        is_looked_for: impl Fn(u16, &[u8]) -> bool,
    ) -> Result<(), NetlinkError> {
        loop {
            self.receive(RecvFlags::empty())?;
            let mut messages = messages_in(&self.buffer);
            if messages.any(|message| is_looked_for(message.kind, message.payload)) {
                return Ok(());
            }
        }
    }

    /// Sends one request and collects its answers.
    pub(crate) fn query(&mut self, message: Message) -> Result<Vec<Reply>, NetlinkError> {
        self.exchange(vec![message.acknowledged()], Completion::Last)
    }

    /// Sends one dump request and collects its answers.
    pub(crate) fn dump(&mut self, message: Message) -> Result<Vec<Reply>, NetlinkError> {
        self.exchange(vec![message], Completion::Last)
    }

    fn exchange(
        &mut self,
        messages: Vec<Message>,
        completion: Completion,
    ) -> Result<Vec<Reply>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let count = messages.len();
        let mut request = Vec::with_capacity(count * 128);
        let mut awaited = first;
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let bytes = message.finish(self.sequence);
            if expects_answer(&bytes) {
                awaited = self.sequence;
            }
            request.extend_from_slice(&bytes);
        }
        send(&self.socket, &request, SendFlags::empty()).map_err(|errno| NetlinkError::Socket {
            act: "send",
            source: errno.into(),
        })?;
        self.collect(first, awaited, completion)
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<(), NetlinkError> {
        self.buffer.clear();
        recv(&self.socket, spare_capacity(&mut self.buffer), flags)
            .map(drop)
            .map_err(|errno| NetlinkError::Socket {
                act: "receive",
                source: errno.into(),
            })
    }

    /// Reads until the answer to `awaited` is complete.
    fn collect(
        &mut self,
        first: u32,
        awaited: u32,
        completion: Completion,
    ) -> Result<Vec<Reply>, NetlinkError> {
        let mut replies = Vec::new();
        let mut refusal = None;
        loop {
            self.receive(RecvFlags::empty())?;
            for received in messages_in(&self.buffer) {
                let Received {
                    kind,
                    flags,
                    sequence,
                    port: _,
                    payload,
                } = received;
                let index = sequence.wrapping_sub(first);
                if index > awaited.wrapping_sub(first) {
                    continue;
                }
                match kind {
                    MESSAGE_DONE => return Ok(replies),
                    MESSAGE_ERROR => {
                        if let Some(error) = refusal_in(index, flags, payload) {
                            refusal.get_or_insert(error);
                        }
                        let whole = completion == Completion::LastOrFirstRefused
                            && index == 0
                            && refusal.is_some();
                        if sequence == awaited || whole {
                            return refusal.map_or(Ok(replies), Err);
                        }
                    }
                    _ => replies.push(Reply {
                        kind,
                        payload: payload.to_vec(),
                    }),
                }
            }
        }
    }
}

fn expects_answer(message: &[u8]) -> bool {
    const ACKNOWLEDGE_OR_DUMP: u16 = 0x4 | 0x300;
    u16_at(message, 6).is_some_and(|flags| flags & ACKNOWLEDGE_OR_DUMP != 0)
}

/// A message in a received datagram.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    payload: &'a [u8],
}

fn messages_in(buffer: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let item = Received {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            sequence: u32_at(rest, 8)?,
            port: u32_at(rest, 12)?,
            payload: rest.get(HEADER_LENGTH..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(item)
    })
}

/// The error in an acknowledgement; none if it is a real acknowledgement.
fn refusal_in(index: u32, flags: u16, payload: &[u8]) -> Option<NetlinkError> {
    let code = i32::from_ne_bytes(payload.get(0..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    let original = if flags & FLAG_CAPPED == 0 {
        usize::try_from(u32_at(payload, 4)?)
            .ok()?
            .next_multiple_of(4)
    } else {
        HEADER_LENGTH
    };
    let hint = payload
        .get(4 + original..)
        .and_then(|rest| attribute(rest, EXTENDED_TEXT))
        .map(|value| format!(" ({})", text(value)))
        .unwrap_or_default();
    let index = usize::try_from(index).ok()?;
    Some(NetlinkError::Refused {
        index,
        hint,
        source: io::Error::from_raw_os_error(-code),
    })
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
