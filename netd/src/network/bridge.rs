//! The bridge of a network, and the settings of the host that it needs.
//!
//! Ports of the bridge are isolated from each other, so that container-to-container
//! traffic is routed by the host and meets the firewall, whatever the host's settings for
//! bridged packets are. For IPv4 the bridge answers ARP for every container
//! (`proxy_arp_pvlan`); for IPv6 a container has no neighbour but the gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::damage::BridgeState;
use super::device::{GROUP, is_ours};
use super::error::{NetworkError, device};
use super::model::MacAddress;
use super::subnet::Subnets;
use crate::firewall::{Passage, Transit};
use crate::netlink::address::Address;
use crate::netlink::link::Device;
use crate::netlink::route::{OwnRoute, Target};
use crate::netlink::{NetlinkError, NetlinkSocket, address, link, route};
use crate::sysctl::{self, SysctlError};

/// The stamp on every bridge of ours.
const ALIAS: &str = "linkspan:bridge";

const FORWARDING4: &str = "ipv4/ip_forward";
const FORWARDING6: &str = "ipv6/conf/all/forwarding";
const CALL_IP6TABLES: &str = "bridge/bridge-nf-call-ip6tables";

/// Where the settings of the host are that bridges of ours need.
pub(crate) const HOST_DIRECTORIES: [&str; 3] = ["ipv4", "ipv6/conf/all", "bridge"];

/// Settings of IPv4 on the bridge. `route_localnet` lets replies to loopback clients come
/// back; the raw chain of the firewall keeps everybody else from using it.
const IPV4_SETTINGS: [(&str, &str); 5] = [
    ("forwarding", "1"),
    ("proxy_arp_pvlan", "1"),
    ("route_localnet", "1"),
    ("send_redirects", "0"),
    ("accept_redirects", "0"),
];

/// Settings of IPv6 on the bridge: it takes nobody's advice.
const IPV6_SETTINGS: [(&str, &str); 6] = [
    ("disable_ipv6", "0"),
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("accept_redirects", "0"),
    ("accept_dad", "0"),
    ("forwarding", "1"),
];

/// What the bridge should be.
pub(crate) fn wanted(name: &str, subnets: &Subnets) -> BridgeState {
    let addresses = addresses(subnets);
    let on_link = addresses.iter().zip([
        IpAddr::from(subnets.ipv4.base),
        IpAddr::from(subnets.ipv6.base),
    ]);
    let mut routes: Vec<_> = on_link
        .map(|(address, base)| OwnRoute {
            target: Target::Link,
            destination: base,
            prefix: address.prefix,
        })
        .collect();
    let hosts = addresses.iter().map(|address| address.ip);
    routes.extend(hosts.chain([Ipv6Addr::LOCALHOST.into()]).map(to_host));
    let mut settings = BTreeMap::new();
    for (directory, list) in [("ipv4", &IPV4_SETTINGS[..]), ("ipv6", &IPV6_SETTINGS[..])] {
        settings.extend(list.iter().map(|(key, value)| {
            (
                format!("{directory}/conf/{name}/{key}"),
                (*value).to_owned(),
            )
        }));
    }
    // Without this the answer for a neighbour waits up to 0.8 seconds.
    settings.insert(format!("ipv4/neigh/{name}/proxy_delay"), "0".to_owned());
    BridgeState {
        name: name.to_owned(),
        alias: ALIAS.to_owned(),
        is_up: true,
        mac: MacAddress::of(subnets.gateway().ipv4).octets().to_vec(),
        wrong_flags: Vec::new(),
        addresses: addresses.into(),
        routes: routes.into_iter().collect(),
        settings,
    }
}

/// The directories below `/proc/sys/net` in which a bridge has settings.
pub(crate) fn setting_directories(name: &str) -> [String; 3] {
    [
        format!("ipv4/conf/{name}"),
        format!("ipv6/conf/{name}"),
        format!("ipv4/neigh/{name}"),
    ]
}

/// Makes the host fit for bridges of ours.
pub(crate) fn prepare_host(socket: &mut NetlinkSocket) -> Result<(), NetworkError> {
    forward_packets()?;
    leave_loopback_to_routing(socket)
}

/// Makes the bridge what it should be, or makes it; returns its index. Settings come before
/// addresses, and before the bridge is up.
pub(crate) fn ensure(
    socket: &mut NetlinkSocket,
    name: &str,
    subnets: &Subnets,
) -> Result<u32, NetworkError> {
    let bridge = find_or_create(socket, name, subnets)?;
    for (key, value) in &wanted(name, subnets).settings {
        sysctl::ensure(key, value)?;
    }
    configure(socket, &bridge, subnets).map_err(device("configure the bridge"))?;
    Ok(bridge.index)
}

/// Gives a bridge its name back.
pub(crate) fn rename(
    socket: &mut NetlinkSocket,
    index: u32,
    name: &str,
) -> Result<(), NetworkError> {
    socket
        .execute(vec![link::rename(index, name)])
        .map_err(device("rename the bridge"))
}

/// Removes a bridge of ours, if it is there.
pub(crate) fn remove(socket: &mut NetlinkSocket, name: &str) -> Result<(), NetworkError> {
    let found = link::find(socket, name).map_err(device("look for the bridge"))?;
    let Some(found) = found.filter(is_our_bridge) else {
        return Ok(());
    };
    match socket.execute(vec![link::delete(found.index)]) {
        Err(error) if !error.is_absent() => Err(device("remove the bridge")(error)),
        _ => Ok(()),
    }
}

/// Removes every bridge of ours that no network claims.
pub(crate) fn remove_orphans(
    socket: &mut NetlinkSocket,
    is_claimed: impl Fn(&str) -> bool,
) -> Result<(), NetworkError> {
    let devices = link::list(socket).map_err(device("list devices"))?;
    for found in devices
        .iter()
        .filter(|found| is_our_bridge(found) && !is_claimed(&found.name))
    {
        tracing::info!(bridge = found.name, "orphaned bridge removed");
        remove(socket, &found.name)?;
    }
    Ok(())
}

/// The bridge, if it is there; a device of somebody else that has its name is an error.
pub(crate) fn find(socket: &mut NetlinkSocket, name: &str) -> Result<Option<Device>, NetworkError> {
    let found = link::find(socket, name).map_err(device("look for the bridge"))?;
    match found {
        Some(found) if !is_our_bridge(&found) => Err(NetworkError::ForeignBridge {
            name: name.to_owned(),
        }),
        found => Ok(found),
    }
}

fn is_our_bridge(device: &Device) -> bool {
    device.kind == "bridge" && is_ours(device, ALIAS)
}

fn find_or_create(
    socket: &mut NetlinkSocket,
    name: &str,
    subnets: &Subnets,
) -> Result<Device, NetworkError> {
    if let Some(found) = find(socket, name)? {
        return Ok(found);
    }
    let mac = MacAddress::of(subnets.gateway().ipv4);
    socket
        .execute(vec![link::create_bridge(name, mac, GROUP)])
        .map_err(device("create the bridge"))?;
    tracing::info!(bridge = name, "bridge created");
    find(socket, name)?.ok_or_else(|| NetworkError::ForeignBridge {
        name: name.to_owned(),
    })
}

fn configure(
    socket: &mut NetlinkSocket,
    bridge: &Device,
    subnets: &Subnets,
) -> Result<(), NetlinkError> {
    let wanted = addresses(subnets);
    let present = address::list(socket, bridge.index)?;
    let mut messages: Vec<_> = present
        .iter()
        .filter(|address| !wanted.contains(address))
        .map(|stale| address::remove(bridge.index, *stale))
        .collect();
    messages.push(link::configure_bridge(
        bridge.index,
        MacAddress::of(subnets.gateway().ipv4),
    ));
    messages.extend(wanted.map(|address| address::add(bridge.index, address)));
    messages.push(link::stamp(bridge.index, ALIAS));
    messages.push(link::start(bridge.index));
    socket.execute(messages)?;
    match socket.execute(vec![route::loopback_through(bridge.index)]) {
        Err(error) if error.errno() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Adds routes that the kernel gave the bridge with its addresses, and that somebody removed.
pub(crate) fn add_routes(
    socket: &mut NetlinkSocket,
    index: u32,
    subnets: &Subnets,
    missing: impl Iterator<Item = OwnRoute>,
) -> Result<(), NetworkError> {
    let messages = missing
        .map(|missing| {
            let source = subnets.gateway().like(missing.destination);
            route::own(index, missing, source)
        })
        .collect();
    socket
        .execute(messages)
        .map_err(device("add the routes of the bridge"))
}

fn to_host(destination: IpAddr) -> OwnRoute {
    OwnRoute {
        target: Target::Host,
        destination,
        prefix: if destination.is_ipv4() { 32 } else { 128 },
    }
}

fn addresses(subnets: &Subnets) -> [Address; 2] {
    let gateway = subnets.gateway();
    [
        Address {
            ip: gateway.ipv4.into(),
            prefix: subnets.ipv4.prefix,
        },
        Address {
            ip: gateway.ipv6.into(),
            prefix: subnets.ipv6.prefix,
        },
    ]
}

/// The settings of the host that are not as bridges of ours need them.
pub(crate) fn host_settings(
    socket: &mut NetlinkSocket,
) -> Result<BTreeMap<String, String>, NetworkError> {
    let mut wanted =
        BTreeMap::from([FORWARDING4, FORWARDING6].map(|key| (key.to_owned(), "1".to_owned())));
    if sysctl::read(CALL_IP6TABLES).as_deref() == Some("1") && foreign_bridge(socket)?.is_none() {
        wanted.insert(CALL_IP6TABLES.to_owned(), "0".to_owned());
    }
    Ok(wanted)
}

/// What the host forwards by its own settings, before us or in spite of us.
pub(crate) fn transit() -> Transit {
    let passage = |key| match sysctl::read(key).as_deref() {
        Some("1") => Passage::Open,
        _ => Passage::Closed,
    };
    Transit {
        ipv4: passage(FORWARDING4),
        ipv6: passage(FORWARDING6),
    }
}

/// Turns the host into a router. IPv6 stops listening to routers when it becomes one,
/// unless it is told not to: the host's own uplinks must not lose their addresses.
fn forward_packets() -> Result<(), SysctlError> {
    sysctl::ensure(FORWARDING4, "1")?;
    if sysctl::read(FORWARDING6).as_deref() != Some("1") {
        for name in sysctl::names("ipv6/conf") {
            let key = format!("ipv6/conf/{name}/accept_ra");
            if name != "all" && sysctl::read(&key).as_deref() == Some("1") {
                sysctl::write(&key, "2")?;
            }
        }
        sysctl::write(FORWARDING6, "1")?;
    }
    Ok(())
}

/// A reply to `::1` is dropped before it is translated back if bridged packets meet the
/// IPv6 firewall. The setting is turned off unless another bridge may count on it.
fn leave_loopback_to_routing(socket: &mut NetlinkSocket) -> Result<(), NetworkError> {
    if sysctl::read(CALL_IP6TABLES).as_deref() != Some("1") {
        return Ok(());
    }
    match foreign_bridge(socket)? {
        None => sysctl::write(CALL_IP6TABLES, "0")?,
        Some(other) => tracing::warn!(
            bridge = other.name,
            "another bridge may need bridge-nf-call-ip6tables, ignoring: published ports do not answer on ::1"
        ),
    }
    Ok(())
}

fn foreign_bridge(socket: &mut NetlinkSocket) -> Result<Option<Device>, NetworkError> {
    let devices = link::list(socket).map_err(device("list devices"))?;
    Ok(devices
        .into_iter()
        .find(|device| device.kind == "bridge" && !is_our_bridge(device)))
}
