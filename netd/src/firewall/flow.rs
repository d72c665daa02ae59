//! Which tracked connections a change of elements leaves without permission. Pure.
//!
//! An entry of connection tracking outlives the element that let its first packet in, so
//! whoever takes an element away has to end what came through it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::endpoint::of_family;
use super::{Difference, Elements, SetName, key};
use crate::netlink::conntrack::{Entry, Part, Scope};
use crate::netlink::route::ip;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What is not open any more.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    removed: Elements,
    added: Elements,
    intervals: Vec<(SetName, Vec<u8>, Vec<u8>)>,
}

impl Closed {
    /// What a change closes. A run of ports that is only cut anew stays open.
    pub(crate) fn by(difference: &Difference) -> Self {
        let openings = |elements: &Elements| -> Elements {
            elements
                .iter()
                .filter(|((set, _), _)| is_opening(*set))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let removed = openings(&difference.removed);
        let intervals = removed
            .keys()
            .filter(|(set, _)| set.has_intervals())
            .map(|(set, ends)| {
                let (first, last) = ends.split_at(ends.len() / 2);
                (*set, first.to_vec(), last.to_vec())
            })
            .collect();
        Self {
            removed,
            added: openings(&difference.added),
            intervals,
        }
    }

    /// Whether nothing is closed.
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty()
    }

    /// Where to look for the connections: among those that one of the closed places answers.
    pub(crate) fn scope(&self) -> Scope {
        let parts: Option<BTreeSet<_>> = self
            .removed
            .iter()
            .map(|element| answering(element).map(Part::AnsweredBy))
            .collect();
        parts.map_or(Scope::Every, Scope::Of)
    }

    /// Whether a connection came through something that is closed now.
    pub(crate) fn covers(&self, entry: &Entry) -> bool {
        let places = places(entry);
        places.iter().any(|place| self.was_open(place))
            && !places.iter().any(|place| is_in(&self.added, place))
    }

    fn was_open(&self, place: &Place) -> bool {
        is_in(&self.removed, place)
            || self.intervals.iter().any(|(set, first, last)| {
                *set == place.set && *first <= place.key && place.key <= *last
            })
    }
}

/// Where an entry would be found, and the value that a map would have.
struct Place {
    set: SetName,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Who answers a connection that came through an element: the value of a map begins with
/// the address, and in a set of pairs it is the second half of them.
fn answering(((set, key), value): (&(SetName, Vec<u8>), &Vec<u8>)) -> Option<IpAddr> {
    use SetName::{
        HostPublished6, HostRanges6, Links4, Links6, Peers4, Peers6, Published6, Ranges6,
    };
    ip(match set {
        Links4 | Peers4 => key.get(4..8)?,
        Links6 | Peers6 => key.get(16..32)?,
        HostPublished6 | HostRanges6 | Published6 | Ranges6 => value.get(..16)?,
        _ => value.get(..4)?,
    })
}

fn is_opening(set: SetName) -> bool {
    use SetName::{
        HostPublished4, HostPublished6, HostRanges4, HostRanges6, Links4, Links6, Peers4, Peers6,
        Published4, Published6, Ranges4, Ranges6,
    };
    matches!(
        set,
        HostPublished4
            | HostPublished6
            | HostRanges4
            | HostRanges6
            | Links4
            | Links6
            | Peers4
            | Peers6
            | Published4
            | Published6
            | Ranges4
            | Ranges6
    )
}

fn is_in(elements: &Elements, place: &Place) -> bool {
    if place.set.has_intervals() {
        return elements
            .range((place.set, Vec::new())..)
            .take_while(|((set, _), _)| *set == place.set)
            .any(|((_, ends), value)| {
                let (first, last) = ends.split_at(ends.len() / 2);
                first <= place.key.as_slice()
                    && place.key.as_slice() <= last
                    && *value == place.value
            });
    }
    elements.get(&(place.set, place.key.clone())) == Some(&place.value)
}

fn places(entry: &Entry) -> Vec<Place> {
    let Entry {
        source,
        destination,
        reply_source,
        destination_port,
        reply_port,
        protocol,
        ..
    } = entry;
    let bytes = |ip: &IpAddr| of_family(*ip, (), ()).0;
    let pick = |v4, v6| if destination.is_ipv4() { v4 } else { v6 };
    let (from, to, true_to) = (bytes(source), bytes(destination), bytes(reply_source));
    let protocol_key = [*protocol];
    let port = destination_port.to_be_bytes();
    let true_port = reply_port.to_be_bytes();
    let place = |set, fields: &[&[u8]], value: Vec<u8>| Place {
        set,
        key: key(fields),
        value,
    };
    if matches!(*protocol, ICMP | ICMPV6) {
        let set = pick(SetName::Peers4, SetName::Peers6);
        return vec![place(set, &[&from, &to], Vec::new())];
    }
    if destination == reply_source {
        let set = pick(SetName::Links4, SetName::Links6);
        return vec![place(set, &[&from, &to, &protocol_key, &port], Vec::new())];
    }
    let whole = key(&[&true_to, &true_port]);
    let address = key(&[&true_to]);
    vec![
        place(
            pick(SetName::Published4, SetName::Published6),
            &[&protocol_key, &port],
            whole.clone(),
        ),
        place(
            pick(SetName::HostPublished4, SetName::HostPublished6),
            &[&to, &protocol_key, &port],
            whole,
        ),
        place(
            pick(SetName::Ranges4, SetName::Ranges6),
            &[&protocol_key, &port],
            address.clone(),
        ),
        place(
            pick(SetName::HostRanges4, SetName::HostRanges6),
            &[&to, &protocol_key, &port],
            address,
        ),
    ]
}
