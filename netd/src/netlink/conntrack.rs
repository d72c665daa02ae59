//! Connection tracking entries: found by what they mention, and deleted.
//!
//! An entry outlives the rule that let its first packet in, and every later packet
//! passes by the entry. So whoever closes an opening flushes what came through it.

use std::net::IpAddr;

use super::message::{Message, attribute};
use super::socket::{NetlinkError, NetlinkSocket};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const FIXED_LENGTH: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// `TIME_WAIT` and `CLOSE`.
const CLOSED: [u8; 2] = [7, 8];

/// Every entry.
pub(crate) fn list(socket: &mut NetlinkSocket) -> Result<Vec<Entry>, NetlinkError> {
    let request = Message::new(GET, libc::NLM_F_DUMP, &fixed(0));
    let replies = socket.dump(request)?;
    Ok(replies
        .iter()
        .filter_map(|reply| Entry::parse(&reply.payload))
        .collect())
}

/// Deletes every entry of which `doomed` says so; returns how many.
pub(crate) fn flush(
    socket: &mut NetlinkSocket,
    doomed: impl Fn(&Entry) -> bool,
) -> Result<usize, NetlinkError> {
    let mut entries = list(socket)?;
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

/// Source and destination: types 1 and 2 are IPv4, 3 and 4 are IPv6.
fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let of = |v4, v6| super::route::ip(attribute(tuple, v4).or_else(|| attribute(tuple, v6))?);
    Some((of(1, 3)?, of(2, 4)?))
}

/// `struct nfgenmsg`.
fn fixed(family: u8) -> [u8; FIXED_LENGTH] {
    [family, 0, 0, 0]
}
