//! Clients and servers on the hosts of the sandbox: the engine's, and the one on the LAN.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::console::Engine;
use crate::host::host;
use crate::sandbox::LAN_NETNS;
use crate::skip::sandbox_required;

/// The engine's host, as the LAN sees it.
pub const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 1));
/// The engine's host, as the LAN sees it over IPv6.
pub const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 1, 0, 0, 0, 0, 1));
/// The host on the LAN.
pub const LAN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 2));
/// The host on the LAN over IPv6.
pub const LAN6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 1, 0, 0, 0, 0, 2));
/// Where the loopback clients go.
pub const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// How long a peer may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long silence must last to count as a closed door.
const SILENCE: Duration = Duration::from_millis(700);

/// Runs `act` on a thread that is on the LAN host.
pub fn on_lan<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    within(LAN_NETNS, act)
}

/// Runs `act` on a thread in the network namespace of a running container. The engine gives
/// containers few commands; this way a test speaks any protocol from where they are.
pub fn on_container<T: Send>(engine: &Engine, name: &str, act: impl FnOnce() -> T + Send) -> T {
    within(&namespace_of(engine, name), act)
}

/// Whether an echo request from a container is answered.
#[must_use]
pub fn pings(engine: &Engine, name: &str, address: &str) -> bool {
    let namespace = format!("--net={}", namespace_of(engine, name));
    host(&["nsenter", &namespace, "ping", "-c1", "-W1", address]).status == 0
}

/// Answers datagrams in a container with what they held, until the container stops.
pub fn answer_datagrams(engine: &Engine, name: &str, port: u16) {
    let socket = on_container(engine, name, || {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
    });
    let socket = socket.expect("bind a datagram socket");
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], peer));
        }
    });
}

/// An address as text.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn namespace_of(engine: &Engine, name: &str) -> String {
    format!("/proc/{}/ns/net", engine.inspect(name, "{{.State.Pid}}"))
}

fn within<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    sandbox_required();
    let thread = || {
        let file = File::open(namespace).expect("open a network namespace");
        setns(file, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
        act()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().expect("the thread ends"))
}

/// Sends a text over TCP and gives what came back until the peer closed.
///
/// # Errors
///
/// When the peer refuses, is silent or is cut off.
pub fn tcp(address: IpAddr, port: u16, text: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Asks a web server for a path and gives the body of a good answer.
///
/// # Errors
///
/// As [`tcp`], and when the answer is not 200.
pub fn http(address: IpAddr, port: u16, path: &str) -> io::Result<String> {
    let answer = tcp(address, port, &format!("GET {path} HTTP/1.0\r\n\r\n"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::other(answer)),
    }
}

/// Whether a TCP connection can be opened.
#[must_use]
pub fn reachable(address: IpAddr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address, port), SILENCE).is_ok()
}

/// Sends a datagram and gives the answer.
///
/// # Errors
///
/// When there is no answer in time.
pub fn udp(address: IpAddr, port: u16, text: &str) -> io::Result<String> {
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(SocketAddr::new(address, port))?;
    socket.set_read_timeout(Some(SILENCE))?;
    let mut buffer = [0; 1500];
    socket.send(text.as_bytes())?;
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
