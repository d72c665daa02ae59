//! Keeps the socket that owns netd's nftables tables while netd is away.
//!
//! What is kept is a descriptor: it is never read, written or looked into. The protocol:
//! `proto/linkspan/net/v1/keeper.proto`.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use linkspan_proto::net_v1::keeper_request::Operation;
use linkspan_proto::net_v1::{KeeperRequest, KeeperResponse};
use linkspan_sys::scm;
use prost::Message;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use crate::async_fd;

const SOCKET_NAME: &str = "keeper.sock";
const MAX_PACKET_BYTES: usize = 4096;
const BACKLOG: i32 = 16;
/// How long a peer may take: while it does, no other is served.
const PEER_LIMIT: Duration = Duration::from_millis(250);

/// The keeper.
#[derive(Debug)]
pub(crate) struct TableKeeper {
    listener: AsyncFd<OwnedFd>,
    kept: Option<OwnedFd>,
}

impl TableKeeper {
    /// Listens in a directory. The socket gets its mode before it gets its name, so that
    /// whoever waits for the name can connect.
    pub(crate) fn listen(run: &Path) -> io::Result<Self> {
        let path = run.join(SOCKET_NAME);
        let unnamed = path.with_extension("sock.new");
        match std::fs::remove_file(&unnamed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let listener = rustix::net::socket_with(family, kind, flags, None)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(&unnamed)?)?;
        std::fs::set_permissions(&unnamed, Permissions::from_mode(0o600))?;
        rustix::net::listen(&listener, BACKLOG)?;
        std::fs::rename(&unnamed, &path)?;
        Ok(Self {
            listener: async_fd::register(listener)?,
            kept: None,
        })
    }

    /// Serves one peer after the other, until it is dropped.
    pub(crate) async fn serve(mut self) -> io::Error {
        loop {
            let peer = match self.accept().await {
                Ok(peer) => peer,
                Err(error) => return error,
            };
            match timeout(PEER_LIMIT, self.answer(peer)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "keep netd's tables, ignoring"),
                Err(_elapsed) => tracing::warn!("who asks for netd's tables is silent, ignoring"),
            }
        }
    }

    async fn accept(&self) -> io::Result<AsyncFd<OwnedFd>> {
        loop {
            let mut ready = self.listener.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(self.listener.get_ref(), flags) {
                Ok(peer) => return async_fd::register(peer),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                // The peer has gone before it was served.
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    async fn answer(&mut self, peer: AsyncFd<OwnedFd>) -> io::Result<()> {
        if !socket_peercred(peer.get_ref())?.uid.is_root() {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let mut buffer = [0; MAX_PACKET_BYTES];
        let received = loop {
            let mut ready = peer.readable().await?;
            match scm::receive(peer.get_ref(), &mut buffer) {
                Err(error) if error.would_block() => ready.clear_ready(),
                other => break other?,
            }
        };
        let request = KeeperRequest::decode(&buffer[..received.length])?;
        let mut lent = None;
        match (request.operation, received.fds.into_iter().next()) {
            (Some(Operation::Keep(_)), Some(socket)) => self.kept = Some(socket),
            (Some(Operation::Fetch(_)), None) => lent = self.kept.as_ref(),
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
        let response = KeeperResponse {
            kept: self.kept.is_some(),
        };
        let fds: Vec<_> = lent.iter().map(|socket| socket.as_fd()).collect();
        // The buffer of a new connection has room for one packet.
        Ok(scm::send(peer.get_ref(), &response.encode_to_vec(), &fds)?)
    }
}
