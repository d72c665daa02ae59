//! Many probes at once from one network namespace, and the servers that they are for.
//!
//! Those that must fail cost one quiet window for all of them, not a time-out each.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::IpTransparent};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::world::{DEADLINE, PATIENCE, spawn_inside};

/// The device of a container that link-local addresses are tried by.
const FIRST_DEVICE: u32 = 2;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    Echo,
}

/// One thing to try, and who is to answer.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) from: String,
    pub(crate) target: SocketAddr,
    pub(crate) kind: Kind,
    pub(crate) expected: Option<String>,
}

impl Probe {
    pub(crate) fn new(
        from: &str,
        ip: IpAddr,
        kind: Kind,
        port: u16,
        expected: Option<&String>,
    ) -> Self {
        let target = match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, port, 0, FIRST_DEVICE).into()
            }
            ip => SocketAddr::new(ip, port),
        };
        Self {
            from: from.to_owned(),
            target,
            kind,
            expected: expected.cloned(),
        }
    }

    /// Whether an answer says who gave it.
    fn is_named(&self) -> bool {
        self.kind != Kind::Echo
    }
}

/// The datagrams that servers have heard, by who heard them.
pub(crate) type Heard = Arc<Mutex<BTreeSet<(String, Vec<u8>)>>>;

/// Starts the servers of a container: each answers with the container's name.
pub(crate) fn serve(netns: &str, name: &str, tcp: &[u16], udp: &[u16], heard: &Heard) {
    let (ready, is_ready) = mpsc::channel();
    for port in tcp.iter().copied() {
        let (ready, name) = (ready.clone(), name.to_owned());
        spawn_inside(netns, move || {
            let listener = TcpListener::bind(("::", port)).unwrap();
            ready.send(()).unwrap();
            for mut stream in listener.incoming().flatten() {
                drop(stream.write_all(name.as_bytes()));
            }
        });
    }
    for port in udp.iter().copied() {
        let (ready, name, heard) = (ready.clone(), name.to_owned(), Arc::clone(heard));
        spawn_inside(netns, move || {
            let socket = UdpSocket::bind(("::", port)).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 64];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let told = buffer[..length].to_vec();
                drop(socket.send_to(&[&told, name.as_bytes()].concat(), peer));
                heard.lock().unwrap().insert((name.clone(), told));
            }
        });
    }
    for _server in 0..tcp.len() + udp.len() {
        is_ready.recv_timeout(DEADLINE).expect("the server listens");
    }
}

/// Tries everything at once from a namespace; the handle returns what was not as expected.
pub(crate) fn try_all(netns: &str, probes: Vec<Probe>) -> thread::JoinHandle<Vec<String>> {
    spawn_inside(netns, move || Round::start(probes).finish())
}

/// Probes on their way.
struct Round {
    probes: Vec<Probe>,
    answers: Vec<Option<String>>,
    /// Each with the number of its probe.
    streams: Vec<(usize, TcpStream)>,
    datagrams: Vec<UdpSocket>,
    echoes: Vec<UdpSocket>,
}

impl Round {
    fn start(probes: Vec<Probe>) -> Self {
        let any = ["0.0.0.0:0", "[::]:0"];
        let mut round = Self {
            answers: vec![None; probes.len()],
            streams: Vec::new(),
            datagrams: any.map(|any| UdpSocket::bind(any).unwrap()).into(),
            // Only containers may have these sockets.
            echoes: if probes.iter().any(|probe| probe.kind == Kind::Echo) {
                [true, false].map(echo_socket).into()
            } else {
                Vec::new()
            },
            probes,
        };
        for (number, probe) in round.probes.iter().enumerate() {
            let family = usize::from(probe.target.is_ipv6());
            let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
            match probe.kind {
                Kind::Tcp => round
                    .streams
                    .extend(connect(probe.target).map(|stream| (number, stream))),
                Kind::Udp => {
                    drop(round.datagrams[family].send_to(&[high, low], probe.target));
                }
                Kind::Echo => {
                    let request = if family == 0 { 8 } else { 128 };
                    let packet = [request, 0, 0, 0, 0, 0, high, low];
                    drop(round.echoes[family].send_to(&packet, probe.target));
                }
            }
        }
        for socket in round.datagrams.iter().chain(&round.echoes) {
            socket.set_nonblocking(true).unwrap();
        }
        round
    }

    /// Waits until all that must answer have, and the quiet window is over.
    fn finish(mut self) -> Vec<String> {
        let start = Instant::now();
        loop {
            self.take_answers();
            let missing = self.probes.iter().zip(&self.answers);
            let is_complete = missing
                .filter(|(probe, _)| probe.expected.is_some())
                .all(|(_, answer)| answer.is_some());
            let limit = if is_complete { PATIENCE } else { DEADLINE };
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                break;
            };
            self.wait(left);
        }
        self.probes
            .iter()
            .zip(&self.answers)
            .filter(|(probe, answer)| {
                let expected = probe.expected.as_ref();
                match answer {
                    Some(name) if probe.is_named() => Some(name) != expected,
                    Some(_) => expected.is_none(),
                    None => expected.is_some(),
                }
            })
            .map(|(probe, answer)| format!("{probe:?} was answered by {answer:?}"))
            .collect()
    }

    fn wait(&self, limit: Duration) {
        let sockets = self.datagrams.iter().chain(&self.echoes);
        let mut polled: Vec<_> = sockets
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        let streams = self.streams.iter();
        polled.extend(streams.map(|(_, stream)| PollFd::new(stream, PollFlags::IN)));
        poll(&mut polled, Some(&limit.try_into().unwrap())).unwrap();
    }

    fn take_answers(&mut self) {
        let Self {
            answers,
            streams,
            datagrams,
            echoes,
            ..
        } = self;
        let mut buffer = [0; 64];
        streams.retain_mut(|(number, stream)| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                answers[*number] = Some(text(&buffer[..length]));
                false
            }
            // Refused, unreachable or reset: no answer any more.
            Err(error) => matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::NotConnected
            ),
        });
        for socket in datagrams {
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                let number = u16::from_be_bytes([buffer[0], buffer[1]]);
                answers[usize::from(number)] = Some(text(&buffer[2..length]));
            }
        }
        for socket in echoes {
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let number = u16::from_be_bytes([buffer[6], buffer[7]]);
                answers[usize::from(number)] = Some(peer.ip().to_string());
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A connection that is under way; none if there is no way at all.
fn connect(target: SocketAddr) -> Option<TcpStream> {
    let family = family_of(target.is_ipv4());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Some(socket.into()),
        Err(_no_way) => None,
    }
}

fn family_of(ipv4: bool) -> AddressFamily {
    if ipv4 {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    }
}

/// A socket for echo requests that needs no privilege.
fn echo_socket(ipv4: bool) -> UdpSocket {
    let protocol = if ipv4 { ipproto::ICMP } else { ipproto::ICMPV6 };
    rustix::net::socket_with(
        family_of(ipv4),
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(protocol),
    )
    .unwrap()
    .into()
}

/// Sends a datagram to a port from each first address to its second, neither of which need
/// be the sender's own.
pub(crate) fn forge(netns: &str, pairs: Vec<(IpAddr, IpAddr)>, port: u16, text: Vec<u8>) {
    spawn_inside(netns, move || {
        for (source, target) in pairs {
            let socket: OwnedFd = rustix::net::socket_with(
                family_of(source.is_ipv4()),
                SocketType::DGRAM,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            if source.is_ipv4() {
                setsockopt(&socket.as_fd(), IpTransparent, &true).unwrap();
            } else {
                sockopt::set_ipv6_freebind(&socket, true).unwrap();
            }
            rustix::net::bind(&socket, &SocketAddr::new(source, 0)).unwrap();
            // Where there is no way, nothing leaves.
            drop(UdpSocket::from(socket).send_to(&text, (target, port)));
        }
    })
    .join()
    .unwrap();
}
