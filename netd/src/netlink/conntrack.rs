//! Connection tracking entries: found by what they mention, and deleted.
//!
//! An entry outlives the rule that let its first packet in, and every later packet
//! passes by the entry. So whoever closes an opening flushes what came through it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::message::{Message, attribute};
use super::socket::{NetlinkError, NetlinkSocket};
use crate::sysctl;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const FIXED_LENGTH: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// `TIME_WAIT` and `CLOSE`.
const CLOSED: [u8; 2] = [7, 8];

/// What some entries have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The first packet came from this address.
    OpenedBy(IpAddr),
    /// Answers come from this address.
    AnsweredBy(IpAddr),
}

/// Which entries the kernel is asked for, at least: it may tell of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them.
    Every,
    /// Those of these parts.
    Of(BTreeSet<Part>),
}

impl Scope {
    /// Each request walks through the whole table. To tell of an entry takes as long as to
    /// pass some 64 buckets by (2.5 µs and 38 ns), so that one request for everything is
    /// best for a table with little in it, and one for each part on a busy host.
    fn requests(&self, tracked: usize, buckets: usize) -> Vec<Message> {
        const BUCKETS_PER_ENTRY: usize = 64;
        match self {
            Self::Of(parts)
                if parts.len().saturating_sub(1) * buckets < tracked * BUCKETS_PER_ENTRY =>
            {
                parts.iter().map(|part| part.request()).collect()
            }
            _ => vec![Message::new(GET, libc::NLM_F_DUMP, &fixed(0))],
        }
    }
}

impl Part {
    /// Asks for the entries. A kernel before 5.8 does not know the filter, and tells of all.
    fn request(self) -> Message {
        const BY_SOURCE: u32 = 1;
        let (tuple, flags, address) = match self {
            Self::OpenedBy(address) => (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, address),
            Self::AnsweredBy(address) => (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, address),
        };
        let family = match address {
            IpAddr::V4(_) => libc::AF_INET,
            IpAddr::V6(_) => libc::AF_INET6,
        };
        let family = u8::try_from(family).expect("families are small");
        let mut message = Message::new(GET, libc::NLM_F_DUMP, &fixed(family));
        message
            .nest(tuple, |tuple| {
                tuple.nest(CTA_TUPLE_IP, |ip| {
                    match address {
                        IpAddr::V4(address) => ip.put(CTA_IP_V4_SRC, &address.octets()),
                        IpAddr::V6(address) => ip.put(CTA_IP_V6_SRC, &address.octets()),
                    };
                });
            })
            .nest(CTA_FILTER, |filter| {
                filter.put_u32(flags, BY_SOURCE);
            });
        message
    }
}

/// How many entries there are, and in how many buckets; none if nothing is tracked.
fn size() -> Option<(usize, usize)> {
    let number = |name: &str| -> Option<usize> {
        let text = sysctl::read(&format!("netfilter/nf_conntrack_{name}"))?;
        text.parse().ok()
    };
    let tracked = number("count").unwrap_or(usize::MAX);
    (tracked > 0).then(|| (tracked, number("buckets").unwrap_or(0)))
}

/// The entries of a scope.
pub(crate) fn list(socket: &mut NetlinkSocket, scope: &Scope) -> Result<Vec<Entry>, NetlinkError> {
    let mut entries = Vec::new();
    let Some((tracked, buckets)) = size() else {
        return Ok(entries);
    };
    for request in scope.requests(tracked, buckets) {
        let replies = socket.dump(request)?;
        entries.extend(
            replies
                .iter()
                .filter_map(|reply| Entry::parse(&reply.payload)),
        );
    }
    Ok(entries)
}

/// Deletes every entry of a scope of which `doomed` says so; returns how many.
pub(crate) fn flush(
    socket: &mut NetlinkSocket,
    scope: &Scope,
    doomed: impl Fn(&Entry) -> bool,
) -> Result<usize, NetlinkError> {
    let mut entries = list(socket, scope)?;
    entries.retain(|entry| doomed(entry));
    let mut count = 0;
    for entry in entries {
        match socket.execute(vec![entry.delete()]) {
            Ok(()) => count += 1,
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// One tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where the first packet came from.
    pub(crate) source: IpAddr,
    /// Where answers come from: the true destination.
    pub(crate) reply_source: IpAddr,
    /// Where the first packet was sent.
    pub(crate) destination: IpAddr,
    /// The protocol number.
    pub(crate) protocol: u8,
    /// The port that the first packet was sent to; 0 if the protocol has none.
    pub(crate) destination_port: u16,
    /// The port that answers come from: the true one; 0 if the protocol has none.
    pub(crate) reply_port: u16,
    /// Whether both ends have closed it, and the entry only lingers.
    pub(crate) is_closed: bool,
    key: Vec<(u16, Vec<u8>)>,
    family: u8,
}

impl Entry {
    /// Whether an address has any part in the connection.
    pub(crate) fn mentions(&self, ip: IpAddr) -> bool {
        self.source == ip || self.reply_source == ip || self.destination == ip
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let rest = payload.get(FIXED_LENGTH..)?;
        let original = attribute(rest, CTA_TUPLE_ORIG)?;
        let reply = attribute(rest, CTA_TUPLE_REPLY)?;
        let protocol = attribute(original, CTA_TUPLE_PROTO)?;
        let port = |tuple, kind| {
            let value = <[u8; 2]>::try_from(attribute(tuple, kind)?).ok()?;
            Some(u16::from_be_bytes(value))
        };
        let answers = attribute(reply, CTA_TUPLE_PROTO)?;
        let key = [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE]
            .into_iter()
            .filter_map(|kind| Some((kind, attribute(rest, kind)?.to_vec())))
            .collect();
        let (source, destination) = addresses(attribute(original, CTA_TUPLE_IP)?)?;
        Some(Self {
            source,
            destination,
            reply_source: addresses(attribute(reply, CTA_TUPLE_IP)?)?.0,
            protocol: *attribute(protocol, CTA_PROTO_NUM)?.first()?,
            destination_port: port(protocol, CTA_PROTO_DST_PORT).unwrap_or(0),
            reply_port: port(answers, CTA_PROTO_SRC_PORT).unwrap_or(0),
            is_closed: tcp_state(rest).is_some_and(|state| CLOSED.contains(&state)),
            key,
            family: *payload.first()?,
        })
    }

    fn delete(&self) -> Message {
        const NESTED: u16 = 0x8000;
        let mut message = Message::new(DELETE, 0, &fixed(self.family));
        for (kind, value) in &self.key {
            let flag = if *kind == CTA_TUPLE_ORIG { NESTED } else { 0 };
            message.put(*kind | flag, value);
        }
        message
    }
}

fn tcp_state(entry: &[u8]) -> Option<u8> {
    let info = attribute(attribute(entry, CTA_PROTOINFO)?, CTA_PROTOINFO_TCP)?;
    attribute(info, CTA_PROTOINFO_TCP_STATE)?.first().copied()
}

/// Source and destination.
fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let of = |v4, v6| super::route::ip(attribute(tuple, v4).or_else(|| attribute(tuple, v6))?);
    Some((
        of(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        of(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
    ))
}

/// `struct nfgenmsg`.
fn fixed(family: u8) -> [u8; FIXED_LENGTH] {
    [family, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_full_table_is_asked_for_parts_and_an_empty_one_for_everything() {
        let parts = [
            Part::AnsweredBy(Ipv4Addr::new(172, 17, 0, 2).into()),
            Part::AnsweredBy(Ipv6Addr::LOCALHOST.into()),
        ];
        let requests = |count, tracked| {
            let scope = Scope::Of(parts.into_iter().take(count).collect());
            scope.requests(tracked, 65536).len()
        };
        assert_eq!(requests(2, 1000), 1);
        assert_eq!(requests(2, 2000), 2);
        let one = Scope::Of([parts[0]].into()).requests(1, 65536);
        assert_eq!(one, [parts[0].request()], "one walk either way");
        assert_eq!(Scope::Every.requests(1_000_000, 65536).len(), 1);
    }
}
