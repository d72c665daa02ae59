//! The bridge, and the settings of the host that it needs.
//!
//! Ports of the bridge are isolated from each other, so that container-to-container
//! traffic is routed by the host and meets the firewall, whatever the host's settings for
//! bridged packets are. For IPv4 the bridge answers ARP for every container
//! (`proxy_arp_pvlan`); for IPv6 a container has no neighbour but the gateway.

use std::net::{IpAddr, Ipv4Addr};

use super::error::{NetworkError, StartError, device};
use super::model::{MacAddress, Subnet, Subnets};
use crate::netlink::address::Address;
use crate::netlink::link::Device;
use crate::netlink::{NetlinkError, NetlinkSocket, address, link, route};
use crate::sysctl::{self, SysctlError};

/// The stamp on the bridge.
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

/// The IPv4 subnet: the one that is given, or the first default that nothing else
/// routes. `preferred` is the one that was chosen before.
pub(crate) fn choose_subnet(
    socket: &mut NetlinkSocket,
    bridge_name: &str,
    given: Option<Subnet<Ipv4Addr>>,
    preferred: Option<Subnet<Ipv4Addr>>,
) -> Result<Subnet<Ipv4Addr>, StartError> {
    let devices = link::list(socket).map_err(device("list devices"))?;
    let routes = route::list(socket).map_err(device("list routes"))?;
    let name_of = |index| devices.iter().find(|device| device.index == index);
    let overlapping = |subnet: Subnet<Ipv4Addr>| {
        routes
            .iter()
            .filter(|route| name_of(route.index).is_none_or(|device| device.name != bridge_name))
            .find(|route| overlaps(subnet, route.destination, route.prefix))
    };
    if let Some(subnet) = given {
        return match overlapping(subnet) {
            None => Ok(subnet),
            Some(route) => Err(StartError::SubnetOverlaps {
                subnet: subnet.to_string(),
                route: format!("{}/{}", route.destination, route.prefix),
                device: name_of(route.index)
                    .map_or_else(|| "none".to_owned(), |device| device.name.clone()),
            }),
        };
    }
    let defaults = (17..=31).map(|second| Subnet {
        base: Ipv4Addr::new(172, second, 0, 0),
        prefix: 16,
    });
    preferred
        .into_iter()
        .chain(defaults)
        .find(|subnet| overlapping(*subnet).is_none())
        .ok_or(StartError::NoSubnetLeft)
}

/// Makes the bridge what it should be, or makes it; returns its index.
pub(crate) fn ensure(
    socket: &mut NetlinkSocket,
    name: &str,
    subnets: &Subnets,
) -> Result<u32, StartError> {
    forward_packets().map_err(NetworkError::from)?;
    let bridge = find_or_create(socket, name, subnets)?;
    sysctl::write_all(&format!("ipv4/conf/{name}"), &IPV4_SETTINGS)
        .and_then(|()| sysctl::write_all(&format!("ipv6/conf/{name}"), &IPV6_SETTINGS))
        // Without this the answer for a neighbour waits up to 0.8 seconds.
        .and_then(|()| sysctl::write(&format!("ipv4/neigh/{name}/proxy_delay"), "0"))
        .map_err(NetworkError::from)?;
    configure(socket, &bridge, subnets).map_err(device("configure the bridge"))?;
    leave_loopback_to_routing(socket, name)?;
    Ok(bridge.index)
}

fn find_or_create(
    socket: &mut NetlinkSocket,
    name: &str,
    subnets: &Subnets,
) -> Result<Device, StartError> {
    let find = |socket: &mut NetlinkSocket| {
        link::find(socket, name).map_err(device("look for the bridge"))
    };
    if let Some(found) = find(socket)? {
        if found.kind != "bridge" {
            return Err(StartError::NotABridge {
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
    find(socket)?.ok_or_else(|| StartError::NotABridge {
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
    messages.push(route::loopback_through(bridge.index));
    socket.execute(messages)
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
fn leave_loopback_to_routing(socket: &mut NetlinkSocket, name: &str) -> Result<(), StartError> {
    const KEY: &str = "bridge/bridge-nf-call-ip6tables";
    if sysctl::read(KEY).as_deref() != Some("1") {
        return Ok(());
    }
    let devices = link::list(socket).map_err(device("list devices"))?;
    let other = devices
        .iter()
        .find(|device| device.kind == "bridge" && device.name != name);
    match other {
        None => sysctl::write(KEY, "0").map_err(NetworkError::from)?,
        Some(other) => tracing::warn!(
            bridge = other.name,
            "another bridge may need bridge-nf-call-ip6tables, ignoring: published ports do not answer on ::1"
        ),
    }
    Ok(())
}

fn overlaps(subnet: Subnet<Ipv4Addr>, destination: IpAddr, prefix: u8) -> bool {
    let IpAddr::V4(destination) = destination else {
        return false;
    };
    let shorter = u32::from(subnet.prefix.min(prefix));
    let mask = u32::MAX.checked_shl(32 - shorter).unwrap_or(0);
    shorter > 0 && subnet.base.to_bits() & mask == destination.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_seen_in_both_directions() {
        let subnet = Subnet {
            base: Ipv4Addr::new(172, 17, 0, 0),
            prefix: 16,
        };
        for (destination, prefix, expected) in [
            ("172.17.0.0", 16, true),
            ("172.17.5.0", 24, true),
            ("172.16.0.0", 12, true),
            ("172.18.0.0", 16, false),
            ("0.0.0.0", 0, false),
            ("fd00::", 8, false),
        ] {
            let found = overlaps(subnet, destination.parse().unwrap(), prefix);
            assert_eq!(found, expected, "{destination}/{prefix}");
        }
    }
}
