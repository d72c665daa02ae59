//! Who holds a host port: a container of ours, or a process of the host.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::error::{NetworkError, device};
use super::model::{Name, Protocol};
use super::owner::chain;
use crate::netlink::NetlinkSocket;
use crate::netlink::diag::{self, Activity, BoundSocket};

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A container.
    Container(Name),
    /// A process of the host.
    Process(Process),
    /// A connection that its process has left behind.
    ClosingConnection,
    /// Someone who cannot be seen from here.
    Unknown,
}

/// A process of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// The name of its program.
    pub(crate) command: String,
    /// Its id.
    pub(crate) pid: u32,
    /// The user of its socket, by name if the host has one for it.
    pub(crate) user: String,
    /// Its systemd unit or, without one, its control group.
    pub(crate) unit: Option<Unit>,
}

/// What a process is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A service or scope of systemd.
    Systemd(String),
    /// A control group that is none.
    ControlGroup(String),
}

/// A socket of the host that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// The address.
    pub(crate) ip: IpAddr,
    /// The user of the socket.
    pub(crate) user: String,
    /// The process; none if it cannot be seen, or is gone.
    pub(crate) process: Option<Process>,
    socket: BoundSocket,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(name) => write!(f, "container \"{name}\""),
            Self::Process(process) => {
                let Process {
                    command,
                    pid,
                    user,
                    unit,
                } = process;
                write!(f, "process {command} (pid {pid}, user {user})")?;
                match unit {
                    Some(Unit::Systemd(unit)) => write!(f, " of {unit}"),
                    Some(Unit::ControlGroup(_)) | None => Ok(()),
                }
            }
            Self::ClosingConnection => f.write_str("a connection that is still closing"),
            Self::Unknown => f.write_str("a process that netd cannot see"),
        }
    }
}

impl Unit {
    /// The name of the unit, or the path of the control group.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Systemd(text) | Self::ControlGroup(text) => text,
        }
    }
}

/// The process that keeps others from a port of the host.
pub(crate) fn find(ip: IpAddr, port: u16, protocol: Protocol) -> Holder {
    let held = all(port, protocol).unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), "sockets of the host cannot be listed, ignoring: the holder of a port stays unknown");
        Vec::new()
    });
    // Who listens says more than who only has a connection.
    let in_the_way = held
        .into_iter()
        .filter(|held| held.overlaps(ip))
        .min_by_key(|held| (held.process.is_none(), held.socket.activity));
    match in_the_way {
        None => Holder::Unknown,
        Some(Held {
            process: Some(process),
            ..
        }) => Holder::Process(process),
        Some(held) if held.socket.inode == 0 => Holder::ClosingConnection,
        Some(_) => Holder::Unknown,
    }
}

/// All sockets of the host that have a port, by address. Connections to a port that
/// somebody listens at are his.
pub(crate) fn all(port: u16, protocol: Protocol) -> Result<Vec<Held>, NetworkError> {
    let act = "list the sockets of the host";
    let mut netlink = NetlinkSocket::open(libc::NETLINK_SOCK_DIAG).map_err(device(act))?;
    let mut sockets = match diag::list(&mut netlink, protocol.number(), port) {
        // The kernel has no such sockets, or cannot list them.
        Err(error) if error.is_absent() => Vec::new(),
        other => other.map_err(device(act))?,
    };
    let is_listened_at = sockets
        .iter()
        .any(|socket| socket.activity == Activity::Listening);
    sockets.retain(|socket| !is_listened_at || socket.activity != Activity::Connected);
    sockets.sort_by_key(|socket| (socket.ip, socket.activity, socket.inode));
    sockets.dedup_by_key(|socket| (socket.ip, socket.activity, socket.inode));
    let processes = processes_of(&sockets);
    Ok(sockets
        .into_iter()
        .map(|socket| Held {
            ip: socket.ip,
            user: user_name(socket.uid),
            process: processes.get(&socket.inode).cloned(),
            socket,
        })
        .collect())
}

impl Held {
    /// Whether a socket bound to an address would be in the way of this one.
    pub(crate) fn overlaps(&self, ip: IpAddr) -> bool {
        match (self.ip, ip.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(_)) => {
                self.socket.takes_both
                    || matches!(self.ip.to_canonical(), IpAddr::V4(_)) && overlaps(self.ip, ip)
            }
            _ => overlaps(self.ip, ip),
        }
    }
}

/// Whether sockets bound to these addresses would exclude each other.
pub(crate) fn overlaps(one: IpAddr, other: IpAddr) -> bool {
    match (one.to_canonical(), other.to_canonical()) {
        // A wildcard IPv6 socket may serve IPv4 too.
        (IpAddr::V6(six), IpAddr::V4(_)) | (IpAddr::V4(_), IpAddr::V6(six)) => six.is_unspecified(),
        (one, other) => one == other || one.is_unspecified() || other.is_unspecified(),
    }
}

/// The processes that have sockets open, by the number of the socket: of several, the
/// oldest one.
fn processes_of(sockets: &[BoundSocket]) -> BTreeMap<u64, Process> {
    let mut wanted: BTreeMap<String, &BoundSocket> = sockets
        .iter()
        .filter(|socket| socket.inode != 0)
        .map(|socket| (format!("socket:[{}]", socket.inode), socket))
        .collect();
    let mut found = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    for pid in pids {
        if wanted.is_empty() {
            break;
        }
        let directory = Path::new("/proc").join(pid.to_string());
        let open = fs::read_dir(directory.join("fd"));
        for fd in open.into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else {
                continue;
            };
            let target = target.to_str().unwrap_or_default();
            if let Some(socket) = wanted.remove(target) {
                found.insert(socket.inode, describe(&directory, pid, socket.uid));
            }
        }
    }
    found
}

fn describe(directory: &Path, pid: u32, uid: u32) -> Process {
    let read = |name| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let command = read("comm");
    Process {
        command: match command.trim_end() {
            "" => "unknown".to_owned(),
            command => command.to_owned(),
        },
        pid,
        user: user_name(uid),
        unit: unit_of(&read("cgroup")),
    }
}

/// What the text of a `/proc/PID/cgroup` names: the innermost unit, else the path.
fn unit_of(text: &str) -> Option<Unit> {
    let path_in = |line: &str, controller: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let found = fields.next()? == controller;
        fields.next().filter(|_| found).map(str::to_owned)
    };
    let find = |controller| text.lines().find_map(|line| path_in(line, controller));
    // systemd has a hierarchy of its own on v1, and the only one on v2.
    let path = find("name=systemd").or_else(|| find("")).or_else(|| {
        let first = text.lines().next()?;
        first.splitn(3, ':').nth(2).map(str::to_owned)
    })?;
    let is_unit = |name: &&str| {
        [".service", ".scope"]
            .iter()
            .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
    };
    match path.rsplit('/').find(is_unit) {
        Some(unit) => Some(Unit::Systemd(unit.to_owned())),
        None if path == "/" || path.is_empty() => None,
        None => Some(Unit::ControlGroup(path)),
    }
}

fn user_name(uid: u32) -> String {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_wildcard_overlaps_every_address_of_its_family() {
        for (one, other, expected) in [
            ("0.0.0.0", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.2", "127.0.0.1", false),
            ("::", "10.0.0.1", true),
            ("::1", "10.0.0.1", false),
            ("::1", "::", true),
        ] {
            assert_eq!(
                overlaps(one.parse().unwrap(), other.parse().unwrap()),
                expected,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn the_innermost_unit_of_a_control_group_is_found() {
        let systemd = |name: &str| Some(Unit::Systemd(name.to_owned()));
        for (text, expected) in [
            ("0::/system.slice/nginx.service\n", systemd("nginx.service")),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/dev.service\n",
                systemd("dev.service"),
            ),
            (
                "0::/user.slice/user-1000.slice/session-3.scope",
                systemd("session-3.scope"),
            ),
            (
                "12:pids:/x\n1:name=systemd:/system.slice/ssh.service/inner\n0::/y\n",
                systemd("ssh.service"),
            ),
            ("4:memory:/a:b\n0::/\n", None),
            ("0::/box/a\n", Some(Unit::ControlGroup("/box/a".to_owned()))),
            (
                "3:cpu:/only-v1\n",
                Some(Unit::ControlGroup("/only-v1".to_owned())),
            ),
            (
                "0::/.service\n",
                Some(Unit::ControlGroup("/.service".to_owned())),
            ),
            ("garbage", None),
            ("", None),
        ] {
            assert_eq!(unit_of(text), expected, "{text}");
        }
    }

    fn is_me(holder: &Holder) -> bool {
        matches!(holder, Holder::Process(process) if process.pid == std::process::id())
    }

    #[test]
    fn whoever_has_a_port_is_found_at_every_address_in_its_way() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let client = TcpStream::connect(place).unwrap();
        let held = all(place.port(), Protocol::Tcp).unwrap();
        assert_eq!(held.len(), 1, "the connection is the listener's: {held:?}");
        for (ip, expected) in [("127.0.0.1", true), ("0.0.0.0", true), ("127.0.0.2", false)] {
            let holder = find(ip.parse().unwrap(), place.port(), Protocol::Tcp);
            assert_eq!(is_me(&holder), expected, "{ip}: {holder:?}");
        }
        let mine = client.local_addr().unwrap();
        assert!(is_me(&find(mine.ip(), mine.port(), Protocol::Tcp)));

        let datagrams = UdpSocket::bind("[::]:0").unwrap();
        let port = datagrams.local_addr().unwrap().port();
        for ip in ["::1", "::", "127.0.0.1"] {
            let holder = find(ip.parse().unwrap(), port, Protocol::Udp);
            assert!(is_me(&holder), "{ip}: {holder:?}");
        }
    }

    #[test]
    fn a_socket_that_neither_listens_nor_talks_is_found() {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        rustix::net::bind(&socket, &any).unwrap();
        let listener = TcpListener::from(socket);
        let port = listener.local_addr().unwrap().port();
        let holder = find("127.0.0.1".parse().unwrap(), port, Protocol::Tcp);
        assert!(is_me(&holder), "{holder:?}");
    }
}
