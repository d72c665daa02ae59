//! Sockets of a network namespace, as its kernel lists them; sock_diag(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{Message, attribute, u32_at};
use super::socket::{NetlinkError, NetlinkSocket};

const BY_FAMILY: u16 = 20;
/// Length of `struct inet_diag_msg`.
const FIXED_LENGTH: usize = 72;
const SKV6ONLY: u16 = 11;
const ALL_STATES: u32 = u32::MAX;

const TCP_LISTEN: u8 = 10;
const TCP_CLOSE: u8 = 7;
/// Bound, and neither listening nor connected.
const TCP_BOUND_INACTIVE: u8 = 13;

/// A socket that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundSocket {
    /// Its address; unspecified if it is bound to all.
    pub(crate) ip: IpAddr,
    /// Whether it is an IPv6 socket that takes IPv4 as well.
    pub(crate) takes_both: bool,
    /// What it does.
    pub(crate) activity: Activity,
    /// The user that it belongs to.
    pub(crate) uid: u32,
    /// Its number; 0 if no process has it any more.
    pub(crate) inode: u64,
}

/// What a socket does with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Activity {
    /// It takes what comes from anybody.
    Listening,
    /// It only keeps others from it.
    Idle,
    /// It talks to one peer, or did.
    Connected,
}

/// The sockets of a transport protocol that have a port, of both families.
pub(crate) fn list(
    socket: &mut NetlinkSocket,
    protocol: u8,
    port: u16,
) -> Result<Vec<BoundSocket>, NetlinkError> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).expect("families of IP are small");
        let replies = socket.dump(request(family, protocol, port))?;
        found.extend(
            replies
                .iter()
                .filter(|reply| reply.kind == BY_FAMILY)
                .filter_map(|reply| parse(&reply.payload, protocol, port)),
        );
    }
    Ok(found)
}

/// `struct inet_diag_req_v2`, which asks for one port of our side.
fn request(family: u8, protocol: u8, port: u16) -> Message {
    const LENGTH: usize = 56;
    let mut fixed = [0; LENGTH];
    fixed[0] = family;
    fixed[1] = protocol;
    fixed[4..8].copy_from_slice(&ALL_STATES.to_ne_bytes());
    fixed[8..10].copy_from_slice(&port.to_be_bytes());
    Message::new(BY_FAMILY, libc::NLM_F_DUMP, &fixed)
}

fn parse(payload: &[u8], protocol: u8, port: u16) -> Option<BoundSocket> {
    let (family, state) = (*payload.first()?, *payload.get(1)?);
    if payload.get(4..6)? != port.to_be_bytes() {
        return None;
    }
    let octets: [u8; 16] = payload.get(8..24)?.try_into().ok()?;
    let is_ipv6 = i32::from(family) == libc::AF_INET6;
    let ip: IpAddr = if is_ipv6 {
        Ipv6Addr::from(octets).into()
    } else {
        let [a, b, c, d, ..] = octets;
        Ipv4Addr::new(a, b, c, d).into()
    };
    let rest = payload.get(FIXED_LENGTH..)?;
    let only_ipv6 = attribute(rest, SKV6ONLY).and_then(|value| value.first().copied());
    let is_datagram = i32::from(protocol) == libc::IPPROTO_UDP;
    Some(BoundSocket {
        ip,
        takes_both: is_ipv6 && ip.is_unspecified() && only_ipv6 == Some(0),
        activity: match state {
            TCP_LISTEN => Activity::Listening,
            TCP_CLOSE if is_datagram => Activity::Listening,
            TCP_CLOSE | TCP_BOUND_INACTIVE => Activity::Idle,
            _ => Activity::Connected,
        },
        uid: u32_at(payload, 64)?,
        inode: u32_at(payload, 68)?.into(),
    })
}
