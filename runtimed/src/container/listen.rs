//! The tcp ports that a container listens on, as its kernel tables say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::record::Addresses;

/// TCP_LISTEN of the kernel's socket states.
const LISTEN: &str = "0A";
/// More than the tables of any container that is well.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// The tcp ports on which the namespace of a process listens at these addresses, or at
/// every address. A process that is gone listens on none.
pub(crate) fn ports(pid: i32, addresses: Option<Addresses>) -> Vec<u16> {
    let mut own = Vec::new();
    if let Some(Addresses { ipv4, ipv6 }) = addresses {
        own.push(IpAddr::V4(ipv4));
        own.extend(ipv6.map(IpAddr::V6));
    }
    let mut ports = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = read(&format!("/proc/{pid}/net/{table}"));
        let listeners = text.lines().skip(1).filter_map(listener);
        let reachable = listeners.filter(|(address, _)| {
            address.is_unspecified() || own.contains(&address.to_canonical())
        });
        ports.extend(reachable.map(|(_, port)| port));
    }
    ports
}

fn read(path: &str) -> String {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_TABLE_BYTES).read_to_string(&mut text));
    if read.is_err() {
        text.clear();
    }
    text
}

/// The address and port of a line, if it is of a socket that listens.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, each printed as a number of the machine's own order.
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .filter_map(|word| address.get(word * 8..word * 8 + 8))
        .filter_map(|word| u32::from_str_radix(word, 16).ok())
        .map(u32::to_ne_bytes)
        .collect();
    let bytes: Vec<u8> = words.concat();
    let address = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_listener_is_read_in_both_families() {
        let line = "   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000";
        assert_eq!(listener(line), Some(("127.0.0.1".parse().unwrap(), 0x1538)));
        let line = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(listener(line), Some(("::1".parse().unwrap(), 80)));
        let line = "   0: 0100007F:1538 00000000:0000 01 00000000:00000000";
        assert_eq!(listener(line), None);
        for bad in ["", "x", "0: zz:zz 0 0A", "0: :1 0 0A"] {
            assert_eq!(listener(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_listener_of_this_process_is_seen() {
        let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(ports(pid, None).contains(&port));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(!ports(pid, None).contains(&port));
    }
}
