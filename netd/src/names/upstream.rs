//! Questions for servers outside: asked under a random port and id, of one server after
//! another, and of the next while a slow one still thinks. Answers are not kept.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Forward, Quality};

/// Before this the asker has given up: the C library waits five seconds.
const DEADLINE: Duration = Duration::from_millis(4_500);
/// After this the next server is asked as well.
const PATIENCE: Duration = Duration::from_millis(600);
/// How often each server is asked: a datagram may be lost.
const ROUNDS: usize = 3;
const LONGEST_DATAGRAM: usize = 4096;

/// The servers outside.
#[derive(Debug)]
pub(super) struct Upstream {
    servers: watch::Receiver<Vec<SocketAddr>>,
    /// The position of the server that answered last; it is asked first.
    preferred: AtomicUsize,
}

struct Response {
    bytes: Vec<u8>,
    quality: Quality,
    position: usize,
}

impl Upstream {
    /// Asks whatever servers there are at that time.
    pub(super) fn new(servers: watch::Receiver<Vec<SocketAddr>>) -> Self {
        Self {
            servers,
            preferred: AtomicUsize::new(0),
        }
    }

    /// The reply to a question. There always is one.
    pub(super) async fn ask(&self, forward: &Forward) -> Vec<u8> {
        let reply = match forward.servers() {
            [] => {
                let servers = self.servers.borrow().clone();
                self.race(forward, &servers, &self.preferred).await
            }
            // One that few members ask is not remembered.
            own => self.race(forward, own, &AtomicUsize::new(0)).await,
        };
        match reply {
            Some(response) => forward.relay(response.bytes),
            None => forward.failure(),
        }
    }

    async fn race(
        &self,
        forward: &Forward,
        servers: &[SocketAddr],
        preferred: &AtomicUsize,
    ) -> Option<Response> {
        let deadline = Instant::now() + DEADLINE;
        let first = preferred.load(Ordering::Relaxed);
        let mut order = (0..servers.len() * ROUNDS)
            .map(|turn| (first + turn) % servers.len())
            .peekable();
        let mut attempts = FuturesUnordered::new();
        let mut last_resort = None;
        loop {
            if let Some(position) = order.next() {
                attempts.push(attempt(forward, position, servers[position]));
            }
            let until = match order.peek() {
                Some(_) => deadline.min(Instant::now() + PATIENCE),
                None => deadline,
            };
            match timeout_at(until, attempts.next()).await {
                Ok(Some(Some(response))) if response.quality != Quality::Failure => {
                    preferred.store(response.position, Ordering::Relaxed);
                    return Some(response);
                }
                Ok(Some(failed)) => last_resort = failed.or(last_resort),
                Ok(None) => return last_resort,
                Err(_elapsed) if Instant::now() >= deadline => return last_resort,
                Err(_elapsed) => {}
            }
        }
    }
}

/// Asks one server; none if it cannot be asked.
async fn attempt(forward: &Forward, position: usize, server: SocketAddr) -> Option<Response> {
    let (bytes, quality) = ask_by_datagram(forward, server).await.ok()?;
    let mut response = Response {
        bytes,
        quality,
        position,
    };
    if quality == Quality::CutOff
        && forward.has_more_room()
        && let Ok(Ok((bytes, quality))) = timeout(DEADLINE, ask_by_stream(forward, server)).await
    {
        response.bytes = bytes;
        response.quality = quality;
    }
    Some(response)
}

/// The socket is connected, so that nobody but the server is heard.
async fn ask_by_datagram(forward: &Forward, server: SocketAddr) -> io::Result<(Vec<u8>, Quality)> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = random_id()?;
    socket.send(&forward.question(id)).await?;
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(quality) = forward.judge(&buffer[..length], id) {
            buffer.truncate(length);
            return Ok((buffer, quality));
        }
    }
}

async fn ask_by_stream(forward: &Forward, server: SocketAddr) -> io::Result<(Vec<u8>, Quality)> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id()?;
    stream.write_all(&framed(&forward.question(id))).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    match forward.judge(&bytes, id) {
        Some(quality) => Ok((bytes, quality)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A message as it goes over a connection: its length comes first.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&message[..length.into()]);
    bytes
}

fn random_id() -> io::Result<[u8; 2]> {
    let mut id = [0; 2];
    getrandom(&mut id, GetRandomFlags::empty())?;
    Ok(id)
}
