//! The bridge of a network, and the settings of the host that it needs.
//!
//! Ports of the bridge are isolated from each other, so that container-to-container
//! traffic is routed by the host and meets the firewall, whatever the host's settings for
//! bridged packets are. For IPv4 the bridge answers ARP for every container
//! (`proxy_arp_pvlan`); for IPv6 a container has no neighbour but the gateway.

use super::error::{NetworkError, device};
use super::model::MacAddress;
use super::subnet::Subnets;
use crate::netlink::address::Address;
use crate::netlink::link::Device;
use crate::netlink::{NetlinkError, NetlinkSocket, address, link, route};
use crate::sysctl::{self, SysctlError};

/// The stamp on every bridge of ours.
const ALIAS: &str = "linkspan:bridge";

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

/// Makes the bridge what it should be, or makes it; returns its index.
pub(crate) fn ensure(
    socket: &mut NetlinkSocket,
    name: &str,
    subnets: &Subnets,
) -> Result<u32, NetworkError> {
    forward_packets()?;
    let bridge = find_or_create(socket, name, subnets)?;
    sysctl::write_all(&format!("ipv4/conf/{name}"), &IPV4_SETTINGS)
        .and_then(|()| sysctl::write_all(&format!("ipv6/conf/{name}"), &IPV6_SETTINGS))
        // Without this the answer for a neighbour waits up to 0.8 seconds.
        .and_then(|()| sysctl::write(&format!("ipv4/neigh/{name}/proxy_delay"), "0"))?;
    configure(socket, &bridge, subnets).map_err(device("configure the bridge"))?;
    leave_loopback_to_routing(socket)?;
    Ok(bridge.index)
}

/// Removes a bridge of ours, if it is there.
pub(crate) fn remove(socket: &mut NetlinkSocket, name: &str) -> Result<(), NetworkError> {
    let found = link::find(socket, name).map_err(device("look for the bridge"))?;
    let Some(found) = found.filter(|found| found.kind == "bridge" && found.alias == ALIAS) else {
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
        .filter(|found| found.alias == ALIAS && !is_claimed(&found.name))
    {
        tracing::info!(bridge = found.name, "orphaned bridge removed");
        remove(socket, &found.name)?;
    }
    Ok(())
}

fn find_or_create(
    socket: &mut NetlinkSocket,
    name: &str,
    subnets: &Subnets,
) -> Result<Device, NetworkError> {
    let find = |socket: &mut NetlinkSocket| {
        link::find(socket, name).map_err(device("look for the bridge"))
    };
    if let Some(found) = find(socket)? {
        if found.kind != "bridge" {
            return Err(NetworkError::NotABridge {
                name: name.to_owned(),
            });
        }
        tracing::info!(bridge = name, "bridge adopted");
        return Ok(found);
    }
    let mac = MacAddress::of(subnets.gateway().ipv4);
    socket
        .execute(vec![link::create_bridge(name, mac)])
        .map_err(device("create the bridge"))?;
    tracing::info!(bridge = name, "bridge created");
    find(socket)?.ok_or_else(|| NetworkError::NotABridge {
        name: name.to_owned(),
    })
}

fn configure(
    socket: &mut NetlinkSocket,
    bridge: &Device,
    subnets: &Subnets,
) -> Result<(), NetlinkError> {
    let gateway = subnets.gateway();
    let wanted = [
        Address {
            ip: gateway.ipv4.into(),
            prefix: subnets.ipv4.prefix,
        },
        Address {
            ip: gateway.ipv6.into(),
            prefix: subnets.ipv6.prefix,
        },
    ];
    let present = address::list(socket, bridge.index)?;
    let mut messages: Vec<_> = present
        .iter()
        .filter(|address| !wanted.contains(address))
        .map(|stale| address::remove(bridge.index, *stale))
        .collect();
    messages.extend(wanted.map(|address| address::add(bridge.index, address)));
    messages.push(link::stamp(bridge.index, ALIAS));
    messages.push(link::start(bridge.index));
    socket.execute(messages)?;
    match socket.execute(vec![route::loopback_through(bridge.index)]) {
        Err(error) if error.errno() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Turns the host into a router. IPv6 stops listening to routers when it becomes one,
/// unless it is told not to: the host's own uplinks must not lose their addresses.
fn forward_packets() -> Result<(), SysctlError> {
    sysctl::ensure("ipv4/ip_forward", "1")?;
    if sysctl::read("ipv6/conf/all/forwarding").as_deref() != Some("1") {
        for name in sysctl::names("ipv6/conf") {
            let key = format!("ipv6/conf/{name}/accept_ra");
            if name != "all" && sysctl::read(&key).as_deref() == Some("1") {
                sysctl::write(&key, "2")?;
            }
        }
        sysctl::write("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// A reply to `::1` is dropped before it is translated back if bridged packets meet the
/// IPv6 firewall. The setting is turned off unless another bridge may count on it.
fn leave_loopback_to_routing(socket: &mut NetlinkSocket) -> Result<(), NetworkError> {
    const KEY: &str = "bridge/bridge-nf-call-ip6tables";
    if sysctl::read(KEY).as_deref() != Some("1") {
        return Ok(());
    }
    let devices = link::list(socket).map_err(device("list devices"))?;
    let other = devices
        .iter()
        .find(|device| device.kind == "bridge" && device.alias != ALIAS);
    match other {
        None => sysctl::write(KEY, "0")?,
        Some(other) => tracing::warn!(
            bridge = other.name,
            "another bridge may need bridge-nf-call-ip6tables, ignoring: published ports do not answer on ::1"
        ),
    }
    Ok(())
}
