//! netd's side of the contract with who keeps the socket that owns its tables.
//!
//! There may be no keeper, and it may be stuck: every step is bounded, and what fails is
//! logged and left. The protocol: `proto/linkspan/net/v1/keeper.proto`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linkspan_proto::net_v1::keeper_request::Operation;
use linkspan_proto::net_v1::{FetchSocket, KeepSocket, KeeperRequest, KeeperResponse};
use linkspan_sys::scm::{self, Received};
use prost::Message;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_domain};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The name of the keeper's socket.
pub(crate) const SOCKET_NAME: &str = "keeper.sock";
/// How long each step may take.
const STEP_LIMIT: Duration = Duration::from_millis(500);
const MAX_PACKET_BYTES: usize = 4096;

/// Why the keeper did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    /// The connection failed or was silent.
    #[error("{act} the keeper")]
    Socket {
        /// What was tried.
        act: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("the keeper gave an answer that makes no sense")]
    Protocol,
}

/// The way to the keeper.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    path: PathBuf,
}

impl Keeper {
    /// The keeper whose socket is in a directory.
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            path: directory.join(SOCKET_NAME),
        }
    }

    /// The socket that is kept; none if there is no keeper or it has none.
    pub(crate) fn fetch(&self) -> Result<Option<OwnedFd>, KeeperError> {
        let operation = Operation::Fetch(FetchSocket {});
        let Some((response, fds)) = self.ask(operation, &[])? else {
            return Ok(None);
        };
        match (response.kept, fds.into_iter().next()) {
            (false, None) => Ok(None),
            (true, Some(socket)) if socket_domain(&socket) == Ok(AddressFamily::NETLINK) => {
                Ok(Some(socket))
            }
            _ => Err(KeeperError::Protocol),
        }
    }

    /// Lets the keeper keep a socket; says whether there is a keeper.
    pub(crate) fn keep(&self, socket: impl AsFd) -> Result<bool, KeeperError> {
        let operation = Operation::Keep(KeepSocket {});
        match self.ask(operation, &[socket.as_fd()])? {
            Some((response, _)) if response.kept => Ok(true),
            Some(_) => Err(KeeperError::Protocol),
            None => Ok(false),
        }
    }

    /// Asks; none if there is no keeper.
    fn ask(
        &self,
        operation: Operation,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Option<(KeeperResponse, Vec<OwnedFd>)>, KeeperError> {
        let failed = |act| move |source: io::Error| KeeperError::Socket { act, source };
        let socket = match self.connect() {
            Ok(socket) => socket,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed("connect to")(error)),
        };
        let request = KeeperRequest {
            operation: Some(operation),
        };
        scm::send(&socket, &request.encode_to_vec(), fds)
            .map_err(|error| failed("ask")(error.into()))?;
        let mut buffer = [0; MAX_PACKET_BYTES];
        let Received { length, fds } = scm::receive(&socket, &mut buffer)
            .map_err(|error| failed("hear from")(error.into()))?;
        let response =
            KeeperResponse::decode(&buffer[..length]).map_err(|_bad| KeeperError::Protocol)?;
        Ok(Some((response, fds)))
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        for timeout in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, timeout, Some(STEP_LIMIT))?;
        }
        rustix::net::connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        Ok(socket)
    }
}
