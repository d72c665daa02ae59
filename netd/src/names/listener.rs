//! One address of one gateway: a UDP and a TCP socket at port 53.
//!
//! Questions are answered concurrently. What one client does not read or does not finish
//! costs nobody else anything.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::ServedNetwork;
use super::answer::{self, Transport, Verdict};
use super::limit::{Clients, Permit, Use};
use super::server::ServedNetworks;
use super::upstream::{Upstream, framed};
use super::view::Sight;

/// How long a connection may do nothing.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// How long a question may take to arrive, and a reply to be taken.
const TRANSFER_LIMIT: Duration = Duration::from_secs(5);
/// A question has 12 bytes of header, a name of at most 255, and some options.
const LONGEST_QUESTION: usize = 4096;
/// Questions that wait while a flood is thrown away, so that they are not lost with it.
const QUEUE_BYTES: usize = 4 << 20;
const BACKLOG: i32 = 128;
/// A socket that fails so often in a row will not get better.
const FAILURES: u32 = 16;

/// What every listener needs.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) clients: Clients,
    pub(super) upstream: Arc<Upstream>,
    /// All networks, for members that are on several.
    pub(super) networks: ServedNetworks,
    pub(super) tasks: TaskTracker,
}

impl Shared {
    fn answer(
        &self,
        network: &ServedNetwork,
        client: IpAddr,
        question: &[u8],
        transport: Transport,
    ) -> Verdict {
        let all = Arc::clone(&self.networks.borrow());
        let sight = Sight::of(network, network.views.get(&client), &all);
        answer::answer(&sight, question, transport)
    }
}

/// The sockets of one address.
#[derive(Debug)]
pub(super) struct Listener {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    network: watch::Receiver<Arc<ServedNetwork>>,
    shared: Shared,
}

impl Listener {
    /// Listens at an address, which need not be there yet.
    pub(super) fn bind(
        place: SocketAddr,
        network: watch::Receiver<Arc<ServedNetwork>>,
        shared: Shared,
    ) -> io::Result<Self> {
        let udp: std::net::UdpSocket = bind(place, SocketType::DGRAM)?.into();
        let tcp: std::net::TcpListener = bind(place, SocketType::STREAM)?.into();
        rustix::net::listen(&tcp, BACKLOG)?;
        Ok(Self {
            udp: Arc::new(UdpSocket::from_std(udp)?),
            tcp: TcpListener::from_std(tcp)?,
            network,
            shared,
        })
    }

    /// Serves until it is dropped, or a socket is broken.
    pub(super) async fn serve(self) -> io::Error {
        // Both loops keep nothing over an await that a drop could lose.
        tokio::select! {
            error = self.serve_datagrams() => error,
            error = self.serve_connections() => error,
        }
    }

    async fn serve_datagrams(&self) -> io::Error {
        let mut buffer = vec![0; LONGEST_QUESTION];
        let mut failures = 0;
        loop {
            match self.udp.recv_from(&mut buffer).await {
                Ok((length, peer)) => {
                    failures = 0;
                    self.take_datagram(&buffer[..length], peer);
                }
                Err(error) if failures >= FAILURES => return error,
                Err(_transient) => failures += 1,
            }
        }
    }

    fn take_datagram(&self, question: &[u8], peer: SocketAddr) {
        let network = self.network.borrow().clone();
        let client = peer.ip();
        let now = Instant::now();
        if !network.zone.covers(client) || !self.shared.clients.may_ask(client, now) {
            return;
        }
        // A reply that does not fit into the socket's buffer is lost, as datagrams are.
        let send = move |socket: &UdpSocket, reply: &[u8]| drop(socket.try_send_to(reply, peer));
        match self
            .shared
            .answer(&network, client, question, Transport::Udp)
        {
            Verdict::Ignore => {}
            Verdict::Reply(reply) => send(&self.udp, &reply),
            Verdict::Forward(forward) => {
                let Some(permit) = self.shared.clients.admit(client, Use::Forward, now) else {
                    if let Some(reply) = answer::refuse(question) {
                        send(&self.udp, &reply);
                    }
                    return;
                };
                let upstream = Arc::clone(&self.shared.upstream);
                let socket = Arc::clone(&self.udp);
                self.shared.tasks.spawn(async move {
                    let reply = upstream.ask(&forward).await;
                    send(&socket, &reply);
                    drop(permit);
                });
            }
        }
    }

    async fn serve_connections(&self) -> io::Error {
        let mut failures = 0;
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    failures = 0;
                    self.take_connection(stream, peer.ip());
                }
                Err(error) if failures >= FAILURES => return error,
                Err(_transient) => failures += 1,
            }
        }
    }

    fn take_connection(&self, stream: TcpStream, client: IpAddr) {
        if !self.network.borrow().zone.covers(client) {
            return;
        }
        let clients = &self.shared.clients;
        let Some(permit) = clients.admit(client, Use::Connection, Instant::now()) else {
            return;
        };
        let connection = Connection {
            stream,
            client,
            network: self.network.clone(),
            shared: self.shared.clone(),
            _permit: permit,
        };
        self.shared.tasks.spawn(async move {
            // A client that breaks off has nothing to be told.
            drop(connection.serve().await);
        });
    }
}

struct Connection {
    stream: TcpStream,
    client: IpAddr,
    network: watch::Receiver<Arc<ServedNetwork>>,
    shared: Shared,
    _permit: Permit,
}

impl Connection {
    /// Answers one question after another until the client is done, idle or too slow, or
    /// the network is gone.
    async fn serve(mut self) -> io::Result<()> {
        loop {
            let mut network = self.network.clone();
            let gone = async move { while network.changed().await.is_ok() {} };
            // The length that is half read when the network goes is not missed.
            let length = tokio::select! {
                length = timeout(IDLE_LIMIT, self.stream.read_u16()) => length??,
                () = gone => return Ok(()),
            };
            let mut question = vec![0; length.into()];
            timeout(TRANSFER_LIMIT, self.stream.read_exact(&mut question)).await??;
            let Some(reply) = self.reply(&question).await else {
                return Ok(());
            };
            timeout(TRANSFER_LIMIT, self.stream.write_all(&framed(&reply))).await??;
        }
    }

    async fn reply(&self, question: &[u8]) -> Option<Vec<u8>> {
        let now = Instant::now();
        if !self.shared.clients.may_ask(self.client, now) {
            return None;
        }
        let network = self.network.borrow().clone();
        match self
            .shared
            .answer(&network, self.client, question, Transport::Tcp)
        {
            Verdict::Ignore => None,
            Verdict::Reply(reply) => Some(reply),
            Verdict::Forward(forward) => {
                match self.shared.clients.admit(self.client, Use::Forward, now) {
                    Some(_permit) => Some(self.shared.upstream.ask(&forward).await),
                    None => answer::refuse(question),
                }
            }
        }
    }
}

/// A socket at an address that may come later, and that may have been used a moment ago.
fn bind(place: SocketAddr, kind: SocketType) -> io::Result<std::os::fd::OwnedFd> {
    let family = match place {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    match place {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    }
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    } else {
        sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES)?;
    }
    rustix::net::bind(&socket, &place)?;
    Ok(socket)
}
