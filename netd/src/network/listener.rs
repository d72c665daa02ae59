//! What listens inside a network namespace.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::thread;

use nix::sched::CloneFlags;

use super::model::Protocol;
use crate::netlink::NetlinkSocket;
use crate::netlink::diag::{self, Activity};

/// Where a namespace listens at one port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listening {
    /// At all IPv4 addresses.
    pub(crate) any_v4: bool,
    /// At all IPv6 addresses.
    pub(crate) any_v6: bool,
    /// At these addresses only, in order.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Listening {
    /// Whether somebody hears what is sent to an address.
    pub(crate) fn hears(&self, ip: IpAddr) -> bool {
        let all = if ip.is_ipv4() {
            self.any_v4
        } else {
            self.any_v6
        };
        all || self.addresses.contains(&ip)
    }

    /// Whether nobody listens at all.
    pub(crate) fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

/// What listens at a port in the namespace that is pinned at a path. For UDP, that is
/// every socket without a peer.
pub(crate) fn listening(netns: &Path, protocol: Protocol, port: u16) -> io::Result<Listening> {
    let netns = File::open(netns)?;
    let look = move || {
        nix::sched::setns(&netns, CloneFlags::CLONE_NEWNET)?;
        let mut socket = NetlinkSocket::open(libc::NETLINK_SOCK_DIAG).map_err(io::Error::other)?;
        match diag::list(&mut socket, protocol.number(), port) {
            // The kernel has no sockets of that protocol, so nobody listens.
            Err(error) if error.is_absent() => Ok(Vec::new()),
            other => other.map_err(io::Error::other),
        }
    };
    // The thread is thrown away, so that no thread of the daemon changes its namespace.
    let sockets = thread::Builder::new()
        .name("listeners".to_owned())
        .spawn(look)?
        .join()
        .map_err(|_panic| io::Error::other("the thread panicked"))??;
    let mut found = Listening::default();
    for socket in sockets
        .iter()
        .filter(|socket| socket.activity == Activity::Listening)
    {
        match socket.ip.to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => found.any_v4 = true,
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                found.any_v6 = true;
                found.any_v4 |= socket.takes_both;
            }
            ip => found.addresses.push(ip),
        }
    }
    found.addresses.sort_unstable();
    found.addresses.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::sync::mpsc;

    use rustix::net::sockopt;

    use super::*;
    use crate::netlink::link;

    /// Runs `act` in a new namespace, and then the test with the path of it.
    fn with_namespace<T: Send + 'static>(
        act: impl FnOnce() -> T + Send + 'static,
        test: impl FnOnce(&Path),
    ) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP a test of listeners: it needs root");
            return;
        }
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let inside = thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut socket = NetlinkSocket::open(libc::NETLINK_ROUTE).unwrap();
            socket.execute(vec![link::start(1)]).unwrap();
            let held = act();
            let thread = rustix::thread::gettid().as_raw_nonzero();
            tell.send(format!("/proc/self/task/{thread}/ns/net"))
                .unwrap();
            let _closed = ended.recv();
            drop(held);
        });
        let path = told.recv().unwrap();
        test(Path::new(&path));
        drop(end);
        inside.join().unwrap();
    }

    fn look(netns: &Path, protocol: Protocol, port: u16) -> Listening {
        listening(netns, protocol, port).unwrap()
    }

    #[test]
    fn an_address_is_told_from_all_addresses() {
        with_namespace(
            || {
                let only6 = rustix::net::socket(
                    rustix::net::AddressFamily::INET6,
                    rustix::net::SocketType::STREAM,
                    None,
                )
                .unwrap();
                sockopt::set_ipv6_v6only(&only6, true).unwrap();
                let place: std::net::SocketAddr = "[::]:6".parse().unwrap();
                rustix::net::bind(&only6, &place).unwrap();
                rustix::net::listen(&only6, 1).unwrap();
                let listeners = ["127.0.0.1:1", "0.0.0.0:4", "[::]:46", "[::1]:1"]
                    .map(|place| TcpListener::bind(place).unwrap());
                (only6, listeners, UdpSocket::bind("127.0.0.1:53").unwrap())
            },
            |netns| {
                let tcp = |port| look(netns, Protocol::Tcp, port);
                let own = tcp(1);
                assert!(!own.any_v4 && !own.any_v6);
                let addresses: Vec<_> = own.addresses.iter().map(ToString::to_string).collect();
                assert_eq!(addresses, ["127.0.0.1", "::1"]);
                assert!(own.hears("127.0.0.1".parse().unwrap()));
                assert!(!own.hears("10.0.0.1".parse().unwrap()));
                for (port, any_v4, any_v6) in [(4, true, false), (6, false, true), (46, true, true)]
                {
                    let found = tcp(port);
                    assert_eq!((found.any_v4, found.any_v6), (any_v4, any_v6), "{port}");
                    assert_eq!(found.hears("10.0.0.1".parse().unwrap()), any_v4, "{port}");
                }
                assert!(tcp(53).is_nobody());
                assert_eq!(look(netns, Protocol::Udp, 53).addresses.len(), 1);
                assert!(look(netns, Protocol::Sctp, 53).is_nobody());
            },
        );
    }

    #[test]
    fn a_namespace_that_is_gone_is_an_error() {
        let error = listening(Path::new("/nowhere"), Protocol::Tcp, 80).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
