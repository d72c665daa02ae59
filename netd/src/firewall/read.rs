//! What the kernel has and what it counted. Reading needs no ownership: any socket will do,
//! so nobody who reads waits for the owner of the network.

use super::counter::{self, Counter, Counters};
use super::render;
use super::table::{SetName, TABLE};
use super::{Elements, FirewallError};
use crate::hash;
use crate::netlink::message::{attribute, attributes, text};
use crate::netlink::{Message, NetlinkSocket, Reply};

const FIXED_LENGTH: usize = 4;

/// A socket to read by.
pub(crate) fn open() -> Result<NetlinkSocket, FirewallError> {
    NetlinkSocket::open(libc::NETLINK_NETFILTER).map_err(|source| FirewallError::Kernel {
        act: "open nftables",
        source,
    })
}

/// The elements of every set that has none but ours.
pub(crate) fn elements(socket: &mut NetlinkSocket) -> Result<Elements, FirewallError> {
    let mut elements = Elements::new();
    for set in SetName::ALL
        .into_iter()
        .filter(|set| set.dynamic_size().is_none())
    {
        each_element(socket, set, |element| {
            if let Some((key, value)) = parse_element(set, element) {
                elements.insert((set, key), value);
            }
        })?;
    }
    Ok(elements)
}

/// What the elements of a set have counted.
pub(crate) fn counters(
    socket: &mut NetlinkSocket,
    set: SetName,
) -> Result<Counters, FirewallError> {
    let mut counters = Counters::new();
    each_element(socket, set, |element| {
        if let Some((key, _)) = parse_element(set, element) {
            counters.insert(key, counter::of_element(element).unwrap_or_default());
        }
    })?;
    Ok(counters)
}

/// What the rules that drop have dropped, by their names, in their order. Rules of one name
/// in several chains are told as one.
pub(crate) fn drops(socket: &mut NetlinkSocket) -> Result<Vec<(String, Counter)>, FirewallError> {
    let mut drops: Vec<(String, Counter)> = Vec::new();
    for family in render::FAMILIES {
        let rules = dump(socket, render::get_rules(family))?;
        let found = rules
            .iter()
            .filter(|reply| reply.kind == render::NEW_RULE)
            .filter_map(|reply| counter::of_rule(reply.payload.get(FIXED_LENGTH..)?));
        for (name, counter) in found {
            match drops.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += counter,
                None => drops.push((name, counter)),
            }
        }
    }
    Ok(drops)
}

/// What the fixed part is like in the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) u64);

/// What the fixed part is like in the kernel: different when somebody has changed a rule, a
/// chain or a set. What the kernel counts and numbers by itself is left out.
pub(crate) fn digest(socket: &mut NetlinkSocket) -> Result<Digest, FirewallError> {
    /// The attributes that say what an object is, by the kind of object.
    const CHAIN: &[u16] = &[3, 4, 5, 7, 10];
    const SET: &[u16] = &[2, 3, 4, 5, 6, 7];
    const RULE: &[u16] = &[2];
    const OBJECT_TABLE: u16 = 1;
    let mut bytes = Vec::new();
    for family in render::FAMILIES {
        for table in query(socket, render::get_table(family))? {
            let rest = table.payload.get(FIXED_LENGTH..).unwrap_or_default();
            // A table that is dormant is not in force.
            let flags = attribute(rest, render::TABLE_FLAGS).and_then(<[u8]>::last);
            bytes.push(flags.map_or(0, |flags| flags & 1));
        }
        for (request, kinds) in [
            (render::get_chains(family), CHAIN),
            (render::get_sets(family), SET),
            (render::get_rules(family), RULE),
        ] {
            for reply in dump(socket, request)? {
                let object = reply.payload.get(FIXED_LENGTH..).unwrap_or_default();
                if attribute(object, OBJECT_TABLE).map(text).as_deref() != Some(TABLE) {
                    continue;
                }
                for value in kinds.iter().filter_map(|kind| attribute(object, *kind)) {
                    bytes.extend_from_slice(value);
                }
                if reply.kind == render::NEW_RULE {
                    add_expressions(&mut bytes, object);
                }
            }
        }
    }
    Ok(Digest(hash::stable(bytes)))
}

fn add_expressions(bytes: &mut Vec<u8>, rule: &[u8]) {
    let list = attribute(rule, render::RULE_EXPRESSIONS).unwrap_or_default();
    for (_, expression) in attributes(list) {
        if !counter::is_counter(expression) {
            bytes.extend_from_slice(expression);
        }
    }
}

fn each_element(
    socket: &mut NetlinkSocket,
    set: SetName,
    mut visit: impl FnMut(&[u8]),
) -> Result<(), FirewallError> {
    for reply in dump(socket, render::get_elements(set))? {
        if reply.kind != render::NEW_ELEMENT {
            continue;
        }
        let rest = reply.payload.get(FIXED_LENGTH..).unwrap_or_default();
        let list = attribute(rest, render::ELEMENT_LIST).unwrap_or_default();
        attributes(list)
            .filter(|(kind, _)| *kind == render::LIST_ELEMENT)
            .for_each(|(_, element)| visit(element));
    }
    Ok(())
}

fn query(socket: &mut NetlinkSocket, request: Message) -> Result<Vec<Reply>, FirewallError> {
    socket
        .query(request)
        .map_err(|source| FirewallError::Kernel {
            act: "read the firewall",
            source,
        })
}

fn dump(socket: &mut NetlinkSocket, request: Message) -> Result<Vec<Reply>, FirewallError> {
    socket
        .dump(request)
        .map_err(|source| FirewallError::Kernel {
            act: "read the firewall",
            source,
        })
}

fn parse_element(set: SetName, element: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let value = |kind| attribute(attribute(element, kind)?, render::DATA_VALUE);
    let mut key = value(render::ELEMENT_KEY)?.to_vec();
    if set.has_intervals() {
        let end = value(render::ELEMENT_KEY_END).unwrap_or(&key).to_vec();
        key.extend(end);
    }
    Some((
        key,
        value(render::ELEMENT_DATA).unwrap_or_default().to_vec(),
    ))
}
