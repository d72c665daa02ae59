//! Neighbours: the addresses behind a bridge port, written once and never learned.

use std::net::IpAddr;

use super::message::Message;
use crate::network::MacAddress;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const STATE_PERMANENT: u16 = 0x80;
const STATE_NO_ARP: u16 = 0x40;
const FLAG_MASTER: u8 = 0x04;

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
    let family = u8::try_from(libc::AF_BRIDGE).expect("address families are small numbers");
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = entry(
        libc::RTM_NEWNEIGH,
        flags,
        family,
        port_index,
        STATE_NO_ARP,
        FLAG_MASTER,
    );
    message.put(NDA_LLADDR, &mac.octets());
    message
}

/// A message that starts with `struct ndmsg`.
fn entry(kind: u16, flags: i32, family: u8, index: u32, state: u16, entry_flags: u8) -> Message {
    let mut fixed = [0; 12];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed[10] = entry_flags;
    Message::new(kind, flags, &fixed)
}
