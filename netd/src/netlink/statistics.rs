//! What passed a device, as the kernel counts it.

use super::message::{Message, attribute};
use super::socket::{NetlinkError, NetlinkSocket};

const FIXED_LENGTH: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_STATS64: u16 = 23;

/// What passed a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Packets that came in by it.
    pub(crate) incoming_packets: u64,
    /// Packets that went out by it.
    pub(crate) outgoing_packets: u64,
    /// Bytes that came in by it.
    pub(crate) incoming_bytes: u64,
    /// Bytes that went out by it.
    pub(crate) outgoing_bytes: u64,
}

/// The statistics of a device; none if it is not there.
pub(crate) fn of(
    socket: &mut NetlinkSocket,
    ifname: &str,
) -> Result<Option<Statistics>, NetlinkError> {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &[0; FIXED_LENGTH]);
    message.put_text(IFLA_IFNAME, ifname);
    match socket.query(message) {
        Ok(replies) => Ok(replies.iter().find_map(|reply| {
            let rest = reply.payload.get(FIXED_LENGTH..)?;
            parse(attribute(rest, IFLA_STATS64)?)
        })),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The start of `struct rtnl_link_stats64`.
fn parse(bytes: &[u8]) -> Option<Statistics> {
    let number = |index: usize| {
        let bytes = bytes.get(index * 8..index * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    Some(Statistics {
        incoming_packets: number(0)?,
        outgoing_packets: number(1)?,
        incoming_bytes: number(2)?,
        outgoing_bytes: number(3)?,
    })
}
