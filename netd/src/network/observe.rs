//! What the kernel has of a bridge and of a bridge port, in the words of [`super::damage`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::damage::{BridgeState, PortState};
use super::device::is_ours;
use super::error::{NetworkError, device};
use super::model::Endpoint;
use crate::netlink::link::Device;
use crate::netlink::{NetlinkError, NetlinkSocket, address, link, neighbour, route};
use crate::sysctl;

/// Whether a bridge is there and up: the little that is looked at when one of its ports
/// changed.
pub(crate) fn is_bridge_up(socket: &mut NetlinkSocket, name: &str) -> Result<bool, NetworkError> {
    let found = link::find(socket, name).map_err(device("look for the bridge"))?;
    Ok(found.is_some_and(|found| found.is_up))
}

/// A bridge, by its name, or by the index that it had when it was made.
pub(crate) fn bridge(
    socket: &mut NetlinkSocket,
    wanted: &BridgeState,
    index: u32,
) -> Result<Option<(u32, BridgeState)>, NetworkError> {
    let act = device("look at the bridge");
    let look = |socket: &mut NetlinkSocket| {
        let found = match link::find(socket, &wanted.name)? {
            Some(found) => Some(found),
            // It has no index before its first start.
            None if index == 0 => None,
            None => link::of_index(socket, index)?.filter(|found| found.kind == "bridge"),
        };
        found
            .map(|found| {
                let addresses = address::list(socket, found.index)?;
                let routes = route::through_device(socket, found.index)?;
                let state = BridgeState {
                    name: found.name,
                    alias: found.alias,
                    is_up: found.is_up,
                    mac: found.mac,
                    wrong_flags: found.wrong_flags,
                    addresses: addresses.into_iter().collect(),
                    routes: routes.into_iter().collect(),
                    settings: settings(wanted.settings.keys()),
                };
                Ok((found.index, state))
            })
            .transpose()
    };
    look(socket).map_err(act)
}

/// The port of an endpoint, by its name or by its stamp. A device of somebody else that has
/// the name is an error: it is not made a port.
pub(crate) fn port(
    socket: &mut NetlinkSocket,
    wanted: &PortState,
    endpoint: &Endpoint,
    bridge_index: u32,
) -> Result<Option<(u32, PortState)>, NetworkError> {
    let act = "look at the bridge port";
    let Some(found) = find_port(socket, wanted).map_err(device(act))? else {
        return Ok(None);
    };
    if !is_ours(&found, &wanted.alias) {
        return Err(NetworkError::ForeignDevice { name: found.name });
    }
    describe_port(socket, wanted, endpoint, bridge_index, found)
        .map(Some)
        .map_err(device(act))
}

fn find_port(
    socket: &mut NetlinkSocket,
    wanted: &PortState,
) -> Result<Option<Device>, NetlinkError> {
    if let Some(found) = link::find(socket, &wanted.name)? {
        return Ok(Some(found));
    }
    let mut devices = link::list(socket)?.into_iter();
    Ok(devices.find(|device| device.kind == "veth" && device.alias == wanted.alias))
}

fn describe_port(
    socket: &mut NetlinkSocket,
    wanted: &PortState,
    endpoint: &Endpoint,
    bridge_index: u32,
    found: Device,
) -> Result<(u32, PortState), NetlinkError> {
    let mac = endpoint.addresses.mac();
    let is_forwarded = neighbour::is_forwarded(socket, found.index, mac)?;
    let resolved: Result<Vec<Option<IpAddr>>, _> = wanted
        .resolved
        .iter()
        .map(|ip| {
            let known = neighbour::is_resolved(socket, bridge_index, *ip, mac)?;
            Ok(known.then_some(*ip))
        })
        .collect();
    let state = PortState {
        name: found.name,
        alias: found.alias,
        is_up: found.is_up,
        master: found.master,
        wrong_flags: found.wrong_flags,
        is_forwarded,
        resolved: resolved?.into_iter().flatten().collect(),
        settings: settings(wanted.settings.keys()),
    };
    Ok((found.index, state))
}

/// The values of settings, as far as the kernel has them.
pub(crate) fn settings<'a>(keys: impl Iterator<Item = &'a String>) -> BTreeMap<String, String> {
    keys.filter_map(|key| Some((key.clone(), sysctl::read(key)?)))
        .collect()
}
