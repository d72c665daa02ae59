//! Who holds a host port: a container of ours, or a process of the host.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::model::{Name, Protocol};

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A container.
    Container(Name),
    /// A process of the host.
    Process {
        /// The name of its program.
        command: String,
        /// Its id.
        pid: u32,
        /// Its user, by name if the host has one for it.
        user: String,
    },
    /// A connection that its process has left behind.
    ClosingConnection,
    /// Someone who cannot be seen from here.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(name) => write!(f, "container \"{name}\""),
            Self::Process { command, pid, user } => {
                write!(f, "process {command} (pid {pid}, user {user})")
            }
            Self::ClosingConnection => f.write_str("a connection that is still closing"),
            Self::Unknown => f.write_str("a process that netd cannot see"),
        }
    }
}

/// The process that holds a port of the host.
pub(crate) fn find(ip: IpAddr, port: u16, protocol: Protocol) -> Holder {
    let Some(table) = protocol_table(protocol) else {
        return Holder::Unknown;
    };
    let mut closing = false;
    for (file, parse) in [
        (table.to_owned(), parse_ipv4 as fn(&str) -> Option<IpAddr>),
        (format!("{table}6"), parse_ipv6),
    ] {
        let path = Path::new("/proc/thread-self/net").join(file);
        let text = fs::read_to_string(path).unwrap_or_default();
        let rows = text
            .lines()
            .skip(1)
            .filter_map(|line| SocketRow::parse(line, parse));
        for row in rows.filter(|row| row.port == port && overlaps(row.ip, ip)) {
            if row.inode == 0 {
                closing = true;
            } else if let Some(holder) = process_of(&row) {
                return holder;
            }
        }
    }
    if closing {
        Holder::ClosingConnection
    } else {
        Holder::Unknown
    }
}

/// Whether sockets bound to these addresses would exclude each other.
pub(crate) fn overlaps(one: IpAddr, other: IpAddr) -> bool {
    match (one.to_canonical(), other.to_canonical()) {
        // A wildcard IPv6 socket may serve IPv4 too; the kernel's table does not say.
        (IpAddr::V6(six), IpAddr::V4(_)) | (IpAddr::V4(_), IpAddr::V6(six)) => six.is_unspecified(),
        (one, other) => one == other || one.is_unspecified() || other.is_unspecified(),
    }
}

fn protocol_table(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Tcp => Some("tcp"),
        Protocol::Udp => Some("udp"),
        Protocol::Sctp => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct SocketRow {
    ip: IpAddr,
    port: u16,
    uid: u32,
    inode: u64,
}

impl SocketRow {
    fn parse(line: &str, parse_ip: fn(&str) -> Option<IpAddr>) -> Option<Self> {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        Some(Self {
            ip: parse_ip(ip)?,
            port: u16::from_str_radix(port, 16).ok()?,
            uid: fields.get(7)?.parse().ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    }
}

fn parse_ipv4(text: &str) -> Option<IpAddr> {
    let word = u32::from_str_radix(text, 16).ok()?;
    Some(Ipv4Addr::from(word.to_ne_bytes()).into())
}

fn parse_ipv6(text: &str) -> Option<IpAddr> {
    let mut octets = [0; 16];
    for (word, target) in octets.chunks_exact_mut(4).enumerate() {
        let digits = text.get(word * 8..word * 8 + 8)?;
        target.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    Some(Ipv6Addr::from(octets).into())
}

fn process_of(row: &SocketRow) -> Option<Holder> {
    let socket = format!("socket:[{}]", row.inode);
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
            });
        holds.then(|| Holder::Process {
            command: fs::read_to_string(entry.path().join("comm"))
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim_end().to_owned()),
            pid,
            user: user_name(row.uid),
        })
    })
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
    use super::*;

    #[test]
    fn rows_of_the_kernel_are_understood() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0 100 0 0 10 0";
        let row = SocketRow::parse(line, parse_ipv4).unwrap();
        let expected = SocketRow {
            ip: "127.0.0.1".parse().unwrap(),
            port: 8080,
            uid: 1000,
            inode: 4242,
        };
        assert_eq!(row, expected);
        let six = parse_ipv6("00000000000000000000000001000000").unwrap();
        assert_eq!(six, "::1".parse::<IpAddr>().unwrap());
        assert_eq!(SocketRow::parse("garbage", parse_ipv4), None);
    }

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
}
