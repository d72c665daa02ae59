//! Neighbours: the addresses behind a bridge port, written once and never learned.

use std::net::IpAddr;

use super::message::{Message, attribute, u16_at, u32_at};
use super::socket::{NetlinkError, NetlinkSocket, Reply};
use crate::network::MacAddress;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const STATE_PERMANENT: u16 = 0x80;
const STATE_NO_ARP: u16 = 0x40;
const FLAG_MASTER: u8 = 0x04;
const FIXED_LENGTH: usize = 12;

/// Says which hardware address an address on the bridge has.
pub(crate) fn resolve(index: u32, ip: IpAddr, mac: MacAddress) -> Message {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = entry(
        libc::RTM_NEWNEIGH,
        flags,
        super::route::family(ip),
        index,
        STATE_PERMANENT,
        0,
    );
    message
        .put(NDA_DST, &super::route::octets(ip))
        .put(NDA_LLADDR, &mac.octets());
    message
}

/// Forgets which hardware address an address on the bridge has.
pub(crate) fn forget(index: u32, ip: IpAddr) -> Message {
    let mut message = entry(libc::RTM_DELNEIGH, 0, super::route::family(ip), index, 0, 0);
    message.put(NDA_DST, &super::route::octets(ip));
    message
}

/// Says behind which bridge port a hardware address is.
pub(crate) fn forward(port_index: u32, mac: MacAddress) -> Message {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = entry(
        libc::RTM_NEWNEIGH,
        flags,
        bridge_family(),
        port_index,
        STATE_NO_ARP,
        FLAG_MASTER,
    );
    message.put(NDA_LLADDR, &mac.octets());
    message
}

/// Whether an address on the bridge has this hardware address, for good.
pub(crate) fn is_resolved(
    socket: &mut NetlinkSocket,
    index: u32,
    ip: IpAddr,
    mac: MacAddress,
) -> Result<bool, NetlinkError> {
    let family = super::route::family(ip);
    let mut message = entry(libc::RTM_GETNEIGH, 0, family, index, 0, 0);
    message.put(NDA_DST, &super::route::octets(ip));
    ask(socket, message, |reply| {
        is_permanent(reply, STATE_PERMANENT)
            && reply
                .payload
                .get(FIXED_LENGTH..)
                .and_then(|rest| attribute(rest, NDA_LLADDR))
                == Some(&mac.octets()[..])
    })
}

/// Whether a hardware address is behind a bridge port, for good.
pub(crate) fn is_forwarded(
    socket: &mut NetlinkSocket,
    port_index: u32,
    mac: MacAddress,
) -> Result<bool, NetlinkError> {
    let mut message = entry(
        libc::RTM_GETNEIGH,
        0,
        bridge_family(),
        port_index,
        0,
        FLAG_MASTER,
    );
    message.put(NDA_LLADDR, &mac.octets());
    ask(socket, message, |reply| {
        is_permanent(reply, STATE_NO_ARP) && u32_at(&reply.payload, 4) == Some(port_index)
    })
}

/// An entry that is not there is not as it should be; neither is one of a device that is
/// no port.
fn ask(
    socket: &mut NetlinkSocket,
    message: Message,
    is_right: impl Fn(&Reply) -> bool,
) -> Result<bool, NetlinkError> {
    match socket.query(message) {
        Ok(replies) => Ok(replies.iter().any(is_right)),
        Err(error) if error.is_absent() || error.errno() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_permanent(reply: &Reply, state: u16) -> bool {
    reply.kind == libc::RTM_NEWNEIGH
        && u16_at(&reply.payload, 8).is_some_and(|found| found & state != 0)
}

fn bridge_family() -> u8 {
    u8::try_from(libc::AF_BRIDGE).expect("address families are small numbers")
}

/// A message that starts with `struct ndmsg`.
fn entry(kind: u16, flags: i32, family: u8, index: u32, state: u16, entry_flags: u8) -> Message {
    let mut fixed = [0; FIXED_LENGTH];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed[10] = entry_flags;
    Message::new(kind, flags, &fixed)
}
