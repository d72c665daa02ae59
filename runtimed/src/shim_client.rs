//! One connection to one shim: requests with answers, and the events that it sends.
//!
//! Owns the socket and the table of open requests. Knows nothing of what a container's
//! state means. The protocol: `proto/linkspan/shim/v1/shim.proto`.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use linkspan_proto::shim_v1::shim_message::Content;
use linkspan_proto::shim_v1::shim_request::Operation;
use linkspan_proto::shim_v1::{Exit, Failure, ShimMessage, ShimRequest};
use linkspan_sys::scm;
use prost::Message;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::async_fd;

/// The largest packet of the protocol.
const MAX_PACKET_BYTES: usize = 64 << 10;
/// How long a shim may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The name of a shim's socket in the container's directory.
const SOCKET_NAME: &str = "shim.sock";
/// The descriptor at which a shim finds its listening socket.
const LISTENER_FD: i32 = 3;

/// Why a request to a shim failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("{act} the shim")]
    Socket {
        act: &'static str,
        source: io::Error,
    },
    #[error("the shim has gone away")]
    Closed,
    #[error("the shim did not answer in time")]
    Timeout,
    #[error("the shim gave an answer that does not fit the request")]
    Protocol,
    #[error("{}", failure.message)]
    Refused { failure: Failure },
}

/// What a shim says of its own accord.
#[derive(Debug)]
pub(crate) enum ShimEvent {
    /// The first process has ended.
    Exited(Exit),
    /// The connection is closed.
    Closed,
}

/// A connection to a shim. Dropping it closes it; the shim goes on.
#[derive(Debug)]
pub(crate) struct ShimClient {
    socket: Arc<AsyncFd<OwnedFd>>,
    open: Arc<Mutex<OpenRequests>>,
    next_id: AtomicU64,
    sending: tokio::sync::Mutex<()>,
    closed: tokio_util::sync::CancellationToken,
}

#[derive(Debug, Default)]
struct OpenRequests {
    answers: HashMap<u64, oneshot::Sender<Content>>,
    execs: HashMap<String, oneshot::Sender<i32>>,
}

/// A shim that was just started.
#[derive(Debug)]
pub(crate) struct ShimProcess(tokio::process::Child);

impl ShimProcess {
    /// Waits for its end, so that it leaves no zombie.
    pub(crate) async fn reap(mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }
}

/// Starts a shim whose socket is in `directory`. Its messages go to a file there.
///
/// `program` is a read-only view of the shim, so that no container can ever write the file
/// that the next shim is made of (CVE-2019-5736).
pub(crate) fn spawn(
    program: &OwnedFd,
    id: &str,
    cgroup: &str,
    directory: &Path,
) -> io::Result<ShimProcess> {
    let listener = listen(directory)?;
    let messages = File::options()
        .create(true)
        .append(true)
        .open(directory.join("shim.log"))?;
    let program = format!("/proc/self/fd/{}", program.as_raw_fd());
    let mut command = std::process::Command::new(program);
    command
        .arg0("linkspan-shim")
        .args(["--id", id, "--cgroup", cgroup])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(messages)
        .fd_mappings(vec![FdMapping {
            parent_fd: listener,
            child_fd: LISTENER_FD,
        }])
        .map_err(io::Error::other)?;
    tokio::process::Command::from(command)
        .spawn()
        .map(ShimProcess)
}

/// Binds the socket by way of a descriptor of its directory, since a unix address holds
/// only 108 bytes.
fn listen(directory: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    let (_directory, address) = address_in(directory)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn address_in(directory: &Path) -> io::Result<(File, SocketAddrUnix)> {
    let directory = File::open(directory)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
    Ok((directory, SocketAddrUnix::new(path)?))
}

impl ShimClient {
    /// Connects to the shim whose socket is in `directory`.
    pub(crate) fn connect(
        directory: &Path,
        tracker: &TaskTracker,
    ) -> Result<(Self, mpsc::Receiver<ShimEvent>), ShimError> {
        let error = |source| ShimError::Socket {
            act: "connect to",
            source,
        };
        let socket = seqpacket().map_err(error)?;
        let (_directory, address) = address_in(directory).map_err(error)?;
        rustix::net::connect(&socket, &address).map_err(|errno| error(errno.into()))?;
        let socket = Arc::new(async_fd::register(socket).map_err(error)?);
        let open = Arc::new(Mutex::new(OpenRequests::default()));
        let (events, receiver) = mpsc::channel(4);
        let closed = tokio_util::sync::CancellationToken::new();
        let reader = Reader {
            socket: Arc::clone(&socket),
            open: Arc::clone(&open),
            events,
        };
        let stop = closed.clone();
        tracker.spawn(async move {
            // Both arms may be dropped at any await: what was read is in the table by then.
            tokio::select! {
                () = stop.cancelled() => {}
                () = reader.run() => {}
            }
        });
        let client = Self {
            socket,
            open,
            next_id: AtomicU64::new(1),
            sending: tokio::sync::Mutex::new(()),
            closed,
        };
        Ok((client, receiver))
    }

    /// Sends a request and waits for its answer. A failure that the shim reports is
    /// [`ShimError::Refused`].
    pub(crate) async fn request(
        &self,
        operation: Operation,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Content, ShimError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.open().answers.insert(id, sender);
        let bytes = ShimRequest {
            id,
            operation: Some(operation),
        }
        .encode_to_vec();
        let sent = self.send(&bytes, fds).await;
        if let Err(error) = sent {
            self.open().answers.remove(&id);
            return Err(error);
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Content::Failure(failure))) => Err(ShimError::Refused { failure }),
            Ok(Ok(content)) => Ok(content),
            Ok(Err(_dropped)) => Err(ShimError::Closed),
            Err(_elapsed) => {
                self.open().answers.remove(&id);
                Err(ShimError::Timeout)
            }
        }
    }

    /// The exit code of an exec process, once it ends. Ask before the process is started.
    pub(crate) fn exec_exit(&self, exec_id: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        self.open().execs.insert(exec_id.to_owned(), sender);
        receiver
    }

    async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        let error = |source| ShimError::Socket {
            act: "send to",
            source,
        };
        let _turn = self.sending.lock().await;
        loop {
            let mut ready = self.socket.writable().await.map_err(error)?;
            match ready.try_io(|socket| Ok(scm::send(socket.get_ref().as_fd(), bytes, fds)?)) {
                Ok(result) => return result.map_err(error),
                Err(_would_block) => {}
            }
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, OpenRequests> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ShimClient {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

struct Reader {
    socket: Arc<AsyncFd<OwnedFd>>,
    open: Arc<Mutex<OpenRequests>>,
    events: mpsc::Sender<ShimEvent>,
}

impl Reader {
    async fn run(self) {
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        while let Some(message) = self.receive(&mut buffer).await {
            if let Some(event) = self.dispatch(message) {
                // A receiver that is gone has no interest in events.
                self.events.send(event).await.ok();
            }
        }
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = OpenRequests::default();
        self.events.send(ShimEvent::Closed).await.ok();
    }

    /// The next message; none at the end of the connection or on an error.
    async fn receive(&self, buffer: &mut [u8]) -> Option<ShimMessage> {
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            let result = ready.try_io(|socket| Ok(scm::receive(socket.get_ref().as_fd(), buffer)?));
            match result {
                Err(_would_block) => {}
                Ok(Ok(received)) if received.length > 0 => {
                    return ShimMessage::decode(buffer.get(..received.length)?).ok();
                }
                Ok(_) => return None,
            }
        }
    }

    fn dispatch(&self, message: ShimMessage) -> Option<ShimEvent> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match message.content? {
            Content::Exited(exit) if message.id == 0 => return Some(ShimEvent::Exited(exit)),
            Content::ExecExited(exit) if message.id == 0 => {
                if let Some(waiter) = open.execs.remove(&exit.exec_id) {
                    // Nobody waits for an exec whose client left.
                    waiter.send(exit.exit_code).ok();
                }
            }
            content => {
                if let Some(waiter) = open.answers.remove(&message.id) {
                    waiter.send(content).ok();
                }
            }
        }
        None
    }
}
