//! The devices of one endpoint: a veth pair, one end a closed port of the bridge, the
//! other `eth0`, `eth1` and so on in the container's namespace.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::thread;

use super::damage::PortState;
use super::error::{NetworkError, device};
use super::model::{ALIAS_PREFIX, Addresses, Endpoint, EndpointId};
use super::owner::chain;
use super::subnet::Subnets;
use crate::netlink::address::Address;
use crate::netlink::link::{Device, VethPair};
use crate::netlink::{Message, NetlinkSocket, address, link, neighbour, route};
use crate::netns::Netns;
use crate::sysctl;

/// The loopback device is the first of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// What bridges and the host ends of pairs of ours have as their group: "lk".
pub(crate) const GROUP: u32 = 0x6c6b;

/// Whether packets to everywhere else leave the container by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DefaultRoute {
    /// They do.
    Here,
    /// They do not.
    Elsewhere,
}

/// What the host end should be.
pub(crate) fn wanted_port(endpoint: &Endpoint, bridge_index: u32) -> PortState {
    let name = endpoint.id.ifname();
    PortState {
        alias: endpoint.id.alias(),
        is_up: true,
        master: Some(bridge_index),
        wrong_flags: Vec::new(),
        is_forwarded: true,
        resolved: own_ips(endpoint).collect(),
        settings: [(no_ipv6(&name), "1".to_owned())].into(),
        name,
    }
}

/// Makes the pair and brings both ends up.
pub(crate) fn create(
    socket: &mut NetlinkSocket,
    mut netns: Netns,
    bridge_index: u32,
    endpoint: &Endpoint,
    subnets: &Subnets,
    default_route: DefaultRoute,
) -> Result<(), NetworkError> {
    let ifname = endpoint.id.ifname();
    let pair = VethPair {
        host_ifname: &ifname,
        group: GROUP,
        container_ifname: &endpoint.ifname,
        mac: endpoint.addresses.mac(),
        netns: netns.fd.as_fd(),
    };
    if let Err(error) = socket.execute(vec![link::create_veth(pair)]) {
        let in_the_way = error.errno() == Some(libc::EEXIST)
            && link::find(socket, &ifname).is_ok_and(|found| found.is_some());
        return Err(if in_the_way {
            NetworkError::ForeignDevice { name: ifname }
        } else {
            device("create the devices")(error)
        });
    }
    configure_container(&mut netns.socket, endpoint, subnets, default_route)?;
    connect(socket, bridge_index, endpoint)
}

/// Brings the loopback device of a namespace up.
pub(crate) fn start_loopback(mut netns: Netns) -> Result<(), NetworkError> {
    netns
        .socket
        .execute(vec![link::start(LOOPBACK_INDEX)])
        .map_err(device("start the loopback device"))
}

/// Makes the host end a closed port of the bridge, again if need be.
pub(crate) fn connect(
    socket: &mut NetlinkSocket,
    bridge_index: u32,
    endpoint: &Endpoint,
) -> Result<(), NetworkError> {
    let ifname = endpoint.id.ifname();
    socket
        .execute(vec![link::enslave(
            &ifname,
            &endpoint.id.alias(),
            bridge_index,
        )])
        .map_err(device("connect the bridge port"))?;
    sysctl::ensure(&no_ipv6(&ifname), "1")?;
    let port = link::find(socket, &ifname)
        .map_err(device("look for the bridge port"))?
        .ok_or_else(|| device("look for the bridge port")(gone()))?;
    let mac = endpoint.addresses.mac();
    let mut messages = vec![
        link::isolate_and_start(&ifname),
        neighbour::forward(port.index, mac),
    ];
    messages.extend(own_ips(endpoint).map(|ip| neighbour::resolve(bridge_index, ip, mac)));
    socket
        .execute(messages)
        .map_err(device("close the bridge port"))
}

/// Whether a device that has the name of a port or a bridge is that one. The kernel stamps
/// only what exists, so that a device that was just made has only its group.
pub(crate) fn is_ours(device: &Device, alias: &str) -> bool {
    device.alias == alias || device.group == GROUP
}

/// Removes the pair, if it is there and is ours.
pub(crate) fn remove(socket: &mut NetlinkSocket, id: &EndpointId) -> Result<(), NetworkError> {
    // Watched before it is looked for, so that it cannot go unheard.
    let mut watch = link::watch().map_err(device("watch devices"))?;
    let found = link::find(socket, &id.ifname()).map_err(device("look for the bridge port"))?;
    let Some(found) = found.filter(|device| is_ours(device, &id.alias())) else {
        return Ok(());
    };
    remove_in_background(found.index)?;
    link::wait_until_gone(&mut watch, found.index).map_err(device("wait for the devices to go"))
}

/// The kernel lets the caller wait for a grace period, some 20 ms, after the device is
/// gone. A thread that is thrown away has the time; the owner does not.
fn remove_in_background(index: u32) -> Result<(), NetworkError> {
    let mut socket =
        NetlinkSocket::open(libc::NETLINK_ROUTE).map_err(device("open a netlink socket"))?;
    let remove = move || {
        if let Err(error) = tolerate_absence(&mut socket, link::delete(index), "remove the devices")
        {
            tracing::error!(ifindex = index, error = %chain(&error), "device not removed");
        }
    };
    let spawned = thread::Builder::new()
        .name("unlink".to_owned())
        .spawn(remove);
    spawned.map(drop).map_err(NetworkError::Thread)
}

/// Forgets where the addresses of an endpoint are.
pub(crate) fn forget(
    socket: &mut NetlinkSocket,
    bridge_index: u32,
    endpoint: &Endpoint,
) -> Result<(), NetworkError> {
    own_ips(endpoint).try_for_each(|ip| {
        tolerate_absence(
            socket,
            neighbour::forget(bridge_index, ip),
            "forget the addresses",
        )
    })
}

/// Gives a port its name back.
pub(crate) fn rename(
    socket: &mut NetlinkSocket,
    index: u32,
    id: &EndpointId,
) -> Result<(), NetworkError> {
    socket
        .execute(vec![link::rename(index, &id.ifname())])
        .map_err(device("rename the bridge port"))
}

/// Removes every pair with our stamp that no endpoint claims.
pub(crate) fn remove_orphans(
    socket: &mut NetlinkSocket,
    is_claimed: impl Fn(&str) -> bool,
) -> Result<(), NetworkError> {
    for found in link::list(socket).map_err(device("list devices"))? {
        let Some(id) = found.alias.strip_prefix(ALIAS_PREFIX) else {
            continue;
        };
        if found.kind == "veth" && !is_claimed(id) {
            tracing::info!(ifname = found.name, "orphaned device removed");
            tolerate_absence(socket, link::delete(found.index), "remove the devices")?;
        }
    }
    Ok(())
}

fn configure_container(
    socket: &mut NetlinkSocket,
    endpoint: &Endpoint,
    subnets: &Subnets,
    default_route: DefaultRoute,
) -> Result<(), NetworkError> {
    let act = "configure the container's device";
    let found = link::find(socket, &endpoint.ifname).map_err(device(act))?;
    let index = found.ok_or_else(|| device(act)(gone()))?.index;
    let gateway = subnets.gateway();
    let ipv4 = Address {
        ip: endpoint.addresses.ipv4.into(),
        prefix: subnets.ipv4.prefix,
    };
    // No other address is a neighbour: all IPv6 goes through the gateway.
    let ipv6 = Address {
        ip: endpoint.addresses.ipv6.into(),
        prefix: 128,
    };
    let mut messages = vec![
        link::start(LOOPBACK_INDEX),
        address::add(index, ipv4),
        address::add(index, ipv6),
        link::start(index),
        route::on_link(gateway.ipv6.into(), index),
        route::subnet_via(subnets.ipv6, gateway.ipv6.into(), index),
    ];
    if default_route == DefaultRoute::Here {
        messages.extend(defaults(&gateway, index));
    }
    socket.execute(messages).map_err(device(act))
}

/// Lets packets to everywhere else leave by a device that is there.
pub(crate) fn lead_default(
    mut netns: Netns,
    endpoint: &Endpoint,
    subnets: &Subnets,
) -> Result<(), NetworkError> {
    let act = "move the default route";
    let found = link::find(&mut netns.socket, &endpoint.ifname).map_err(device(act))?;
    let index = found.ok_or_else(|| device(act)(gone()))?.index;
    netns
        .socket
        .execute(defaults(&subnets.gateway(), index).into())
        .map_err(device(act))
}

fn defaults(gateway: &Addresses, index: u32) -> [Message; 2] {
    [
        route::default_via(gateway.ipv4.into(), index),
        route::default_via(gateway.ipv6.into(), index),
    ]
}

fn own_ips(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    let link_local: Ipv6Addr = endpoint.addresses.mac().link_local();
    [
        endpoint.addresses.ipv4.into(),
        endpoint.addresses.ipv6.into(),
        link_local.into(),
    ]
    .into_iter()
}

fn tolerate_absence(
    socket: &mut NetlinkSocket,
    message: Message,
    act: &'static str,
) -> Result<(), NetworkError> {
    match socket.execute(vec![message]) {
        Err(error) if !error.is_absent() => Err(device(act)(error)),
        _ => Ok(()),
    }
}

/// A device that was made a moment ago is not there.
fn gone() -> crate::netlink::NetlinkError {
    crate::netlink::NetlinkError::Socket {
        act: "find the device",
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
    }
}

/// The setting that keeps IPv6 off a bridge port.
fn no_ipv6(ifname: &str) -> String {
    format!("ipv6/conf/{ifname}/disable_ipv6")
}
