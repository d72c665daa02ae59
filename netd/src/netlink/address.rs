//! Addresses of devices.

use std::net::IpAddr;

use super::message::{Message, attribute, u32_at};
use super::socket::{NetlinkError, NetlinkSocket};

const FIXED_LENGTH: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// The address is ours by construction: duplicate detection would only delay it.
const IFA_F_NODAD: u32 = 0x02;
const SCOPE_UNIVERSE: u8 = 0;

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    /// The address.
    pub(crate) ip: IpAddr,
    /// The length of the prefix that is on the link.
    pub(crate) prefix: u8,
}

/// Adds an address to a device, or leaves it as it is.
pub(crate) fn add(index: u32, address: Address) -> Message {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    message(libc::RTM_NEWADDR, flags, index, address)
}

/// Removes an address from a device.
pub(crate) fn remove(index: u32, address: Address) -> Message {
    message(libc::RTM_DELADDR, 0, index, address)
}

/// The addresses of a device, without those that are link-local.
pub(crate) fn list(socket: &mut NetlinkSocket, index: u32) -> Result<Vec<Address>, NetlinkError> {
    let request = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; FIXED_LENGTH]);
    let replies = socket.dump(request)?;
    Ok(replies
        .iter()
        .filter(|reply| u32_at(&reply.payload, 4) == Some(index))
        .filter(|reply| reply.payload.get(3) == Some(&SCOPE_UNIVERSE))
        .filter_map(|reply| {
            let rest = reply.payload.get(FIXED_LENGTH..)?;
            let value = attribute(rest, IFA_LOCAL).or_else(|| attribute(rest, IFA_ADDRESS))?;
            Some(Address {
                ip: super::route::ip(value)?,
                prefix: *reply.payload.get(1)?,
            })
        })
        .collect())
}

fn message(kind: u16, flags: i32, index: u32, address: Address) -> Message {
    let mut fixed = [
        super::route::family(address.ip),
        address.prefix,
        0,
        SCOPE_UNIVERSE,
        0,
        0,
        0,
        0,
    ];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &fixed);
    let octets = super::route::octets(address.ip);
    message
        .put(IFA_LOCAL, &octets)
        .put(IFA_ADDRESS, &octets)
        .put_u32(IFA_FLAGS, IFA_F_NODAD);
    message
}
