//! Network devices: the bridge, veth pairs, bridge ports.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{Message, attribute, attributes, text, u32_at};
use super::socket::{NetlinkError, NetlinkSocket, Reply};
use crate::network::MacAddress;

const FIXED_LENGTH: usize = 16;
const UP: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

/// A setting of a bridge or of a bridge port, as it has to be.
#[derive(Debug)]
struct Flag {
    /// Its name, as ip(8) has it.
    name: &'static str,
    kind: u16,
    value: u32,
    is_byte: bool,
}

const fn byte(name: &'static str, kind: u16, value: u32) -> Flag {
    Flag {
        name,
        kind,
        value,
        is_byte: true,
    }
}

/// No spanning tree, no multicast snooping.
const BRIDGE_FLAGS: [Flag; 2] = [
    Flag {
        name: "stp_state",
        kind: 5,
        value: 0,
        is_byte: false,
    },
    byte("mcast_snooping", 23, 0),
];

/// A port that is isolated and closed to everything flooded.
const PORT_FLAGS: [Flag; 7] = [
    byte("isolated", 33, 1),
    byte("learning", 8, 0),
    byte("guard", 5, 1),
    byte("neigh_suppress", 32, 0),
    byte("flood", 9, 0),
    byte("mcast_flood", 27, 0),
    byte("bcast_flood", 30, 0),
];

/// A device as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// The index.
    pub(crate) index: u32,
    /// The name.
    pub(crate) name: String,
    /// The stamp that its maker left.
    pub(crate) alias: String,
    /// The kind, such as `bridge`; empty for hardware.
    pub(crate) kind: String,
    /// Whether it was brought up.
    pub(crate) is_up: bool,
    /// The hardware address.
    pub(crate) mac: Vec<u8>,
    /// The group.
    pub(crate) group: u32,
    /// The bridge that it is a port of.
    pub(crate) master: Option<u32>,
    /// The names of the settings that are not as a bridge or a port of ours has them.
    pub(crate) wrong_flags: Vec<&'static str>,
}

/// What a veth pair is to look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VethPair<'a> {
    /// The name of the host end.
    pub(crate) host_ifname: &'a str,
    /// The group of the host end: a mark that a device has from its beginning.
    pub(crate) group: u32,
    /// The name of the container end.
    pub(crate) container_ifname: &'a str,
    /// The address of the container end.
    pub(crate) mac: MacAddress,
    /// The namespace of the container end.
    pub(crate) netns: BorrowedFd<'a>,
}

/// Creates a bridge without spanning tree and multicast snooping.
pub(crate) fn create_bridge(name: &str, mac: MacAddress, group: u32) -> Message {
    let mut message = Message::new(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &fixed(0, 0),
    );
    message
        .put_text(IFLA_IFNAME, name)
        .put_u32(IFLA_GROUP, group)
        .put(IFLA_ADDRESS, &mac.octets());
    message.nest(IFLA_LINKINFO, |info| {
        info.put_text(IFLA_INFO_KIND, "bridge")
            .nest(IFLA_INFO_DATA, |data| put_flags(data, &BRIDGE_FLAGS));
    });
    message
}

/// Gives a bridge that is there its hardware address and its settings.
pub(crate) fn configure_bridge(index: u32, mac: MacAddress) -> Message {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &fixed(index, 0));
    message
        .put(IFLA_ADDRESS, &mac.octets())
        .nest(IFLA_LINKINFO, |info| {
            info.put_text(IFLA_INFO_KIND, "bridge")
                .nest(IFLA_INFO_DATA, |data| put_flags(data, &BRIDGE_FLAGS));
        });
    message
}

/// Creates a veth pair, the other end already in its namespace.
pub(crate) fn create_veth(pair: VethPair<'_>) -> Message {
    let mut message = Message::new(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &fixed(0, 0),
    );
    message
        .put_text(IFLA_IFNAME, pair.host_ifname)
        .put_u32(IFLA_GROUP, pair.group);
    message.nest(IFLA_LINKINFO, |info| {
        info.put_text(IFLA_INFO_KIND, "veth")
            .nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&fixed(0, 0))
                        .put_text(IFLA_IFNAME, pair.container_ifname)
                        .put(IFLA_ADDRESS, &pair.mac.octets())
                        .put(IFLA_NET_NS_FD, &pair.netns.as_raw_fd().to_ne_bytes());
                });
            });
    });
    message
}

/// Stamps a device, makes it a port of a bridge, and gives it no IPv6 address.
pub(crate) fn enslave(ifname: &str, alias: &str, bridge_index: u32) -> Message {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &fixed(0, 0));
    message
        .put_text(IFLA_IFNAME, ifname)
        .put_text(IFLA_IFALIAS, alias)
        .put_u32(IFLA_MASTER, bridge_index)
        .nest(IFLA_AF_SPEC, |families| {
            families.nest(
                libc::AF_INET6.unsigned_abs().try_into().unwrap_or(10),
                |inet6| {
                    inet6.put_u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE);
                },
            );
        });
    message
}

/// Isolates a bridge port, closes it to everything flooded, and brings it up. The
/// kernel sets the flags before it starts the port.
pub(crate) fn isolate_and_start(ifname: &str) -> Message {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &fixed(0, UP));
    message
        .put_text(IFLA_IFNAME, ifname)
        .nest(IFLA_LINKINFO, |info| {
            info.put_text(IFLA_INFO_SLAVE_KIND, "bridge")
                .nest(IFLA_INFO_SLAVE_DATA, |port| put_flags(port, &PORT_FLAGS));
        });
    message
}

/// Sets a device's stamp.
pub(crate) fn stamp(index: u32, alias: &str) -> Message {
    let mut message = Message::new(libc::RTM_SETLINK, 0, &fixed(index, 0));
    message.put_text(IFLA_IFALIAS, alias);
    message
}

/// Gives a device another name.
pub(crate) fn rename(index: u32, name: &str) -> Message {
    let mut message = Message::new(libc::RTM_SETLINK, 0, &fixed(index, 0));
    message.put_text(IFLA_IFNAME, name);
    message
}

/// Brings a device up.
pub(crate) fn start(index: u32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &fixed(index, UP))
}

/// Deletes a device, and with a veth end the other end.
pub(crate) fn delete(index: u32) -> Message {
    Message::new(libc::RTM_DELLINK, 0, &fixed(index, 0))
}

/// A socket that hears of devices that go.
pub(crate) fn watch() -> Result<NetlinkSocket, NetlinkError> {
    const GROUP_LINK: u32 = 1;
    NetlinkSocket::open_in(libc::NETLINK_ROUTE, &[GROUP_LINK])
}

/// Waits until a device is gone. A bridge announces likewise that a port has left it,
/// but as its own family.
pub(crate) fn wait_until_gone(watch: &mut NetlinkSocket, index: u32) -> Result<(), NetlinkError> {
    watch.wait(|kind, payload| {
        kind == libc::RTM_DELLINK
            && payload.first() == Some(&0)
            && u32_at(payload, 4) == Some(index)
    })
}

/// The device of this name.
pub(crate) fn find(socket: &mut NetlinkSocket, name: &str) -> Result<Option<Device>, NetlinkError> {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &fixed(0, 0));
    message.put_text(IFLA_IFNAME, name);
    match socket.query(message) {
        Ok(replies) => Ok(replies.iter().find_map(device)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The device of this index.
pub(crate) fn of_index(
    socket: &mut NetlinkSocket,
    index: u32,
) -> Result<Option<Device>, NetlinkError> {
    let message = Message::new(libc::RTM_GETLINK, 0, &fixed(index, 0));
    match socket.query(message) {
        Ok(replies) => Ok(replies.iter().find_map(device)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// All devices of the namespace.
pub(crate) fn list(socket: &mut NetlinkSocket) -> Result<Vec<Device>, NetlinkError> {
    let message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &fixed(0, 0));
    Ok(socket.dump(message)?.iter().filter_map(device).collect())
}

fn device(reply: &Reply) -> Option<Device> {
    if reply.kind != libc::RTM_NEWLINK {
        return None;
    }
    let mut found = Device {
        index: u32_at(&reply.payload, 4)?,
        name: String::new(),
        alias: String::new(),
        kind: String::new(),
        is_up: u32_at(&reply.payload, 8)? & UP != 0,
        mac: Vec::new(),
        group: 0,
        master: None,
        wrong_flags: Vec::new(),
    };
    for (kind, value) in attributes(reply.payload.get(FIXED_LENGTH..)?) {
        match kind {
            IFLA_IFNAME => found.name = text(value),
            IFLA_IFALIAS => found.alias = text(value),
            IFLA_ADDRESS => found.mac = value.to_vec(),
            IFLA_MASTER => found.master = u32_at(value, 0),
            IFLA_GROUP => found.group = u32_at(value, 0).unwrap_or_default(),
            IFLA_LINKINFO => {
                found.kind = attribute(value, IFLA_INFO_KIND)
                    .map(text)
                    .unwrap_or_default();
                if found.kind == "bridge"
                    && let Some(data) = attribute(value, IFLA_INFO_DATA)
                {
                    found.wrong_flags.extend(wrong_flags(data, &BRIDGE_FLAGS));
                }
                if let Some(data) = attribute(value, IFLA_INFO_SLAVE_DATA) {
                    found.wrong_flags.extend(wrong_flags(data, &PORT_FLAGS));
                }
            }
            _ => {}
        }
    }
    Some(found)
}

fn put_flags(message: &mut Message, flags: &[Flag]) {
    for flag in flags {
        if flag.is_byte {
            message.put_u8(flag.kind, flag.value.to_le_bytes()[0]);
        } else {
            message.put_u32(flag.kind, flag.value);
        }
    }
}

/// The flags that have another value. One that the kernel does not know is not wrong.
fn wrong_flags<'a>(data: &'a [u8], flags: &'a [Flag]) -> impl Iterator<Item = &'static str> + 'a {
    flags.iter().filter_map(|flag| {
        let value = attribute(data, flag.kind)?;
        let value = u32_at(value, 0).unwrap_or_else(|| value.first().copied().map_or(0, u32::from));
        (value != flag.value).then_some(flag.name)
    })
}

/// `struct ifinfomsg`: the flags given are the only ones changed.
fn fixed(index: u32, flags: u32) -> [u8; FIXED_LENGTH] {
    let mut bytes = [0; FIXED_LENGTH];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}
