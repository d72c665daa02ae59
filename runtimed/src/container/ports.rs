//! Which of a container's mappings stand behind a port of the host. Pure.
//!
//! netd turns a mapping into definite ports: one at each family, at a number that it may
//! have chosen. People name ports by that number, so the way back is looked up here.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::record::{Openings, PortMapping, Record, Run};
use crate::port::{Port, Protocol};

/// Ports of the host, as people name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPorts {
    pub(crate) protocol: Protocol,
    pub(crate) numbers: RangeInclusive<u16>,
}

impl HostPorts {
    /// One port.
    pub(crate) fn one(protocol: Protocol, number: u16) -> Self {
        Self {
            protocol,
            numbers: number..=number,
        }
    }

    /// Whether a definite mapping is at one of them.
    pub(crate) fn holds(&self, mapping: &PortMapping) -> bool {
        mapping.container.protocol == self.protocol && self.numbers.contains(&mapping.host_port)
    }
}

impl std::fmt::Display for HostPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.numbers.start(), self.numbers.end());
        if first == last {
            write!(f, "{first}/{}", self.protocol.name())
        } else {
            write!(f, "{first}-{last}/{}", self.protocol.name())
        }
    }
}

/// The definite ports of a container: those that it has, or had when it last ran.
pub(crate) fn published<'a>(record: &'a Record, run: Option<&'a Run>) -> &'a [PortMapping] {
    match (run, &record.last_run) {
        (Some(run), _) => run.published(),
        (None, Some(last)) => &last.published,
        (None, None) => &[],
    }
}

/// What is left of the openings of a container without some ports of the host, and the
/// mappings that go; none go if it publishes none of them.
pub(crate) fn without(
    record: &Record,
    published: &[PortMapping],
    ports: &HostPorts,
) -> (Openings, Vec<PortMapping>) {
    let mut wanted: Vec<Option<PortMapping>> =
        record.wanted_mappings().into_iter().map(Some).collect();
    let mut gone = Vec::new();
    for slot in &mut wanted {
        let names = |m: &PortMapping| m.host_port != 0 && m.host_port_end == 0 && ports.holds(m);
        gone.extend(slot.take_if(|m| names(m)));
    }
    // A range or a free choice is known by what became of it. Ports that belong to a
    // mapping with that very number are not asked about.
    let mut known: BTreeMap<Port, Vec<PortMapping>> = BTreeMap::new();
    for mapping in &gone {
        known
            .entry(mapping.container)
            .or_default()
            .push(mapping.clone());
    }
    for port in published.iter().filter(|port| ports.holds(port)) {
        let of_port = known.entry(port.container).or_default();
        if of_port.iter().any(|m| made(m, port)) {
            continue;
        }
        let behind = wanted
            .iter_mut()
            .filter(|slot| slot.as_ref().is_some_and(|m| made(m, port)))
            .max_by_key(|slot| slot.as_ref().is_some_and(|m| m.host_port != 0));
        let behind = behind.and_then(Option::take);
        of_port.extend(behind.clone());
        gone.extend(behind);
    }
    let from_publish_all = wanted
        .iter()
        .skip(record.host.port_mappings.len())
        .any(Option::is_none);
    let kept = if record.host.publish_all && !from_publish_all {
        record.host.port_mappings.len()
    } else {
        wanted.len()
    };
    let openings = Openings {
        links: record.host.links.clone(),
        port_mappings: wanted.into_iter().take(kept).flatten().collect(),
        publish_all: record.host.publish_all && !from_publish_all,
        networks: record.host.networks.clone(),
    };
    (openings, gone)
}

/// The mappings that lead a host port into another container, at the addresses that the
/// mappings which go had.
pub(crate) fn redirected(
    gone: &[PortMapping],
    host_port: u16,
    container: Port,
) -> Vec<PortMapping> {
    let mut mappings: Vec<PortMapping> = gone
        .iter()
        .map(|mapping| PortMapping {
            container,
            host_port,
            host_port_end: 0,
            host_ip: mapping.host_ip.clone(),
        })
        .collect();
    mappings.dedup();
    mappings
}

/// Whether a mapping may have become this definite port.
fn made(mapping: &PortMapping, port: &PortMapping) -> bool {
    let last = mapping.host_port_end.max(mapping.host_port);
    mapping.container == port.container
        && (mapping.host_ip.is_empty() || mapping.host_ip == port.host_ip)
        && (mapping.host_port == 0 || (mapping.host_port..=last).contains(&port.host_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    fn mapping(host_port: u16, end: u16, container: &str, ip: &str) -> PortMapping {
        PortMapping {
            container: container.parse().unwrap(),
            host_port,
            host_port_end: end,
            host_ip: ip.to_owned(),
        }
    }

    fn tcp(numbers: RangeInclusive<u16>) -> HostPorts {
        HostPorts {
            protocol: Protocol::Tcp,
            numbers,
        }
    }

    fn both(host_port: u16, container: &str) -> [PortMapping; 2] {
        [
            mapping(host_port, 0, container, "0.0.0.0"),
            mapping(host_port, 0, container, "::"),
        ]
    }

    #[test]
    fn a_port_is_found_however_it_was_asked_for() {
        let mut record = record("web");
        record.host.port_mappings = vec![
            mapping(8080, 0, "80/tcp", ""),
            mapping(9000, 9010, "81/tcp", ""),
            mapping(0, 0, "82/tcp", "127.0.0.1"),
            mapping(8080, 0, "80/udp", ""),
        ];
        let mut published = [both(8080, "80/tcp"), both(9003, "81/tcp")].concat();
        published.push(mapping(49153, 0, "82/tcp", "127.0.0.1"));
        for (number, left) in [(8080, [1, 2, 3]), (9003, [0, 2, 3]), (49153, [0, 1, 3])] {
            let (openings, gone) = without(&record, &published, &tcp(number..=number));
            let expected = left.map(|i| record.host.port_mappings[i].clone());
            assert_eq!(openings.port_mappings, expected, "{number}");
            assert_eq!(gone.len(), 1, "{number}");
        }
        let (openings, gone) = without(&record, &published, &tcp(1..=79));
        assert_eq!((openings.port_mappings.len(), gone.len()), (4, 0));
    }

    #[test]
    fn a_range_goes_as_a_whole() {
        let mut record = record("web");
        record.host.port_mappings = (8000..8100)
            .map(|port| mapping(port, 0, &format!("{port}/tcp"), ""))
            .collect();
        let (openings, gone) = without(&record, &[], &tcp(8010..=8019));
        assert_eq!((openings.port_mappings.len(), gone.len()), (90, 10));
    }

    #[test]
    fn one_of_all_published_ports_leaves_the_others() {
        let mut record = record("web");
        record.host.publish_all = true;
        record.config.exposed = vec!["80/tcp".parse().unwrap(), "81/tcp".parse().unwrap()];
        let published = [both(49153, "80/tcp"), both(49154, "81/tcp")].concat();
        let (openings, gone) = without(&record, &published, &tcp(49153..=49153));
        assert_eq!(gone, [mapping(0, 0, "80/tcp", "")]);
        assert!(!openings.publish_all);
        assert_eq!(openings.port_mappings, [mapping(0, 0, "81/tcp", "")]);
    }

    #[test]
    fn a_moved_port_keeps_its_addresses_and_its_number() {
        let gone = [mapping(0, 0, "80/tcp", "127.0.0.1")];
        let moved = redirected(&gone, 49153, "81/tcp".parse().unwrap());
        assert_eq!(moved, [mapping(49153, 0, "81/tcp", "127.0.0.1")]);
    }
}
