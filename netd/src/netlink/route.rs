//! Routes.

use std::net::{IpAddr, Ipv6Addr};

use super::message::{Message, attribute, u32_at};
use super::socket::{NetlinkError, NetlinkSocket, Reply};
use crate::network::Subnet;

const FIXED_LENGTH: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFERRED_SOURCE: u16 = 7;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
const PROTOCOL_KERNEL: u8 = 2;
const PROTOCOL_STATIC: u8 = 4;
/// The metric of routes that the kernel adds for IPv6.
const KERNEL_METRIC: u32 = 256;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const TYPE_UNICAST: u8 = 1;
const TYPE_LOCAL: u8 = 2;

/// A route that a device has because of its addresses: the kernel adds it with them, and
/// does not when somebody has removed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnRoute {
    /// Whether it leads to this host or to the link.
    pub(crate) target: Target,
    /// The destination.
    pub(crate) destination: IpAddr,
    /// The length of its prefix.
    pub(crate) prefix: u8,
}

/// Where a route of a device leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// To what is on the link.
    Link,
    /// To this host.
    Host,
}

/// A route of the main table, as far as overlaps are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// The destination.
    pub(crate) destination: IpAddr,
    /// The length of its prefix.
    pub(crate) prefix: u8,
    /// The device.
    pub(crate) index: u32,
}

/// A default route through a gateway.
pub(crate) fn default_via(gateway: IpAddr, index: u32) -> Message {
    through(None, gateway, index)
}

/// A route to a subnet through a gateway.
pub(crate) fn subnet_via(subnet: Subnet<Ipv6Addr>, gateway: IpAddr, index: u32) -> Message {
    through(Some((subnet.base.into(), subnet.prefix)), gateway, index)
}

fn through(destination: Option<(IpAddr, u8)>, gateway: IpAddr, index: u32) -> Message {
    let fixed = [
        family(gateway),
        destination.map_or(0, |(_, prefix)| prefix),
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_STATIC,
        SCOPE_UNIVERSE,
        TYPE_UNICAST,
    ];
    let mut message = add(fixed);
    if let Some((base, _)) = destination {
        message.put(RTA_DST, &octets(base));
    }
    message
        .put(RTA_GATEWAY, &octets(gateway))
        .put_u32(RTA_OIF, index);
    message
}

/// A route to one host that is on the link.
pub(crate) fn on_link(host: IpAddr, index: u32) -> Message {
    let length = u8::try_from(octets(host).len() * 8).expect("an address has at most 128 bits");
    let fixed = [
        family(host),
        length,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_STATIC,
        SCOPE_LINK,
        TYPE_UNICAST,
    ];
    let mut message = add(fixed);
    message.put(RTA_DST, &octets(host)).put_u32(RTA_OIF, index);
    message
}

/// One more local route to `::1`, through a device: the kernel looks loopback up strictly
/// by device, and a translated reply comes in by this one. Every bridge has one, so it is
/// added beside the others; one that is there already is refused (`EEXIST`).
pub(crate) fn loopback_through(index: u32) -> Message {
    let host = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let fixed = [
        family(host),
        128,
        0,
        0,
        TABLE_LOCAL,
        PROTOCOL_STATIC,
        SCOPE_UNIVERSE,
        TYPE_LOCAL,
    ];
    let mut message = new_route(fixed, libc::NLM_F_CREATE);
    message.put(RTA_DST, &octets(host)).put_u32(RTA_OIF, index);
    message
}

/// Adds a route as the kernel does for an address of the device.
pub(crate) fn own(index: u32, route: OwnRoute, source: IpAddr) -> Message {
    let (table, scope, kind) = match route.target {
        Target::Host if source.is_ipv4() => (TABLE_LOCAL, SCOPE_HOST, TYPE_LOCAL),
        Target::Host => (TABLE_LOCAL, SCOPE_UNIVERSE, TYPE_LOCAL),
        Target::Link if source.is_ipv4() => (TABLE_MAIN, SCOPE_LINK, TYPE_UNICAST),
        Target::Link => (TABLE_MAIN, SCOPE_UNIVERSE, TYPE_UNICAST),
    };
    let fixed = [
        family(source),
        route.prefix,
        0,
        0,
        table,
        PROTOCOL_KERNEL,
        scope,
        kind,
    ];
    let mut message = new_route(fixed, libc::NLM_F_CREATE);
    message.put(RTA_DST, &octets(route.destination));
    if source.is_ipv4() {
        message.put(RTA_PREFERRED_SOURCE, &octets(source));
    } else if route.target == Target::Link {
        message.put_u32(RTA_PRIORITY, KERNEL_METRIC);
    }
    message.put_u32(RTA_OIF, index);
    message
}

/// The routes of both families that lead through a device, in whichever table.
pub(crate) fn through_device(
    socket: &mut NetlinkSocket,
    index: u32,
) -> Result<Vec<OwnRoute>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut fixed = [0; FIXED_LENGTH];
        fixed[0] = u8::try_from(family).expect("address families are small numbers");
        let mut request = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &fixed);
        request.put_u32(RTA_OIF, index);
        let replies = socket.dump(request)?;
        routes.extend(replies.iter().filter_map(|reply| own_route(reply, index)));
    }
    Ok(routes)
}

fn own_route(reply: &Reply, index: u32) -> Option<OwnRoute> {
    let rest = reply.payload.get(FIXED_LENGTH..)?;
    if attribute(rest, RTA_OIF).and_then(|value| u32_at(value, 0)) != Some(index) {
        return None;
    }
    let target = match *reply.payload.get(7)? {
        TYPE_UNICAST => Target::Link,
        TYPE_LOCAL => Target::Host,
        _ => return None,
    };
    Some(OwnRoute {
        target,
        destination: ip(attribute(rest, RTA_DST)?)?,
        prefix: *reply.payload.get(1)?,
    })
}

/// The routes of the main tables of both families that have a destination.
pub(crate) fn list(socket: &mut NetlinkSocket) -> Result<Vec<Route>, NetlinkError> {
    let request = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &[0; FIXED_LENGTH]);
    let replies = socket.dump(request)?;
    Ok(replies
        .iter()
        .filter(|reply| reply.payload.get(4) == Some(&TABLE_MAIN))
        .filter_map(|reply| {
            let rest = reply.payload.get(FIXED_LENGTH..)?;
            Some(Route {
                destination: ip(attribute(rest, RTA_DST)?)?,
                prefix: *reply.payload.get(1)?,
                index: attribute(rest, RTA_OIF)
                    .and_then(|value| u32_at(value, 0))
                    .unwrap_or(0),
            })
        })
        .collect())
}

/// The address family of an address.
pub(crate) fn family(ip: IpAddr) -> u8 {
    let number = if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(number).expect("address families are small numbers")
}

/// The bytes of an address.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The address in these bytes.
pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(octets));
    }
    Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

fn add(fixed: [u8; 8]) -> Message {
    new_route(fixed, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
}

fn new_route(fixed: [u8; 8], flags: i32) -> Message {
    let mut bytes = [0; FIXED_LENGTH];
    bytes[..8].copy_from_slice(&fixed);
    Message::new(libc::RTM_NEWROUTE, flags, &bytes)
}
