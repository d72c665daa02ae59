//! Published ports: each is one element of a map from where it is on the host to where
//! it is in a container. A run of ports that keep their numbers is one element too.

use std::net::IpAddr;

use super::endpoint::of_family;
use super::{Elements, SetName, interval, key};
use crate::network::{Addresses, Protocol, PublishedPort};

/// Neighbouring published ports of one protocol and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first of them.
    pub(crate) first: PublishedPort,
    /// The last host port.
    pub(crate) last: u16,
}

impl Run {
    /// The ports of the run.
    pub(crate) fn ports(&self) -> impl Iterator<Item = PublishedPort> {
        let first = self.first;
        (first.host_port..=self.last).map(move |host_port| {
            let mut port = first;
            port.host_port = host_port;
            port.port.number += host_port - first.host_port;
            port
        })
    }
}

/// What is published, as few runs as possible, ascending. Only ports that keep their
/// numbers are joined: the kernel's translation of a run knows no other.
pub(crate) fn runs(published: &[PublishedPort]) -> Vec<Run> {
    let mut sorted = published.to_vec();
    sorted.sort_unstable_by_key(|port| {
        (
            port.host_ip,
            port.port.protocol,
            port.host_port,
            port.port.number,
        )
    });
    let mut runs: Vec<Run> = Vec::new();
    for port in sorted {
        let keeps_number = |port: &PublishedPort| port.host_port == port.port.number;
        match runs.last_mut() {
            Some(run)
                if keeps_number(&run.first)
                    && keeps_number(&port)
                    && run.first.host_ip == port.host_ip
                    && run.first.port.protocol == port.port.protocol
                    && run.last.checked_add(1) == Some(port.host_port) =>
            {
                run.last = port.host_port;
            }
            _ => runs.push(Run {
                first: port,
                last: port.host_port,
            }),
        }
    }
    runs
}

/// The elements that open published ports to a container with these addresses, and count
/// what passes.
pub(crate) fn elements(published: &[PublishedPort], addresses: &Addresses) -> Elements {
    let mut elements: Elements = runs(published)
        .iter()
        .map(|run| {
            let (set, key) = place(run);
            ((set, key), target(run, addresses))
        })
        .collect();
    for host_ip in [IpAddr::from(addresses.ipv4), IpAddr::from(addresses.ipv6)] {
        for (protocol, first, last) in container_runs(published, host_ip.is_ipv4()) {
            let (ip, set) = of_family(host_ip, SetName::Traffic4, SetName::Traffic6);
            let protocol = [protocol.number()];
            let ends = interval(
                &[&ip, &protocol, &first.to_be_bytes()],
                &[&ip, &protocol, &last.to_be_bytes()],
            );
            elements.insert((set, ends), Vec::new());
        }
    }
    elements
}

/// The set and the key of a run.
pub(crate) fn place(run: &Run) -> (SetName, Vec<u8>) {
    use SetName::{
        HostPublished4, HostPublished6, HostRanges4, HostRanges6, Published4, Published6, Ranges4,
        Ranges6,
    };
    let PublishedPort {
        port,
        host_ip,
        host_port,
    } = run.first;
    let protocol = [port.protocol.number()];
    let (first, last) = (host_port.to_be_bytes(), run.last.to_be_bytes());
    let (ip, _) = of_family(host_ip, (), ());
    let is_one = host_port == run.last;
    match (host_ip.is_unspecified(), is_one) {
        (true, true) => {
            let (_, set) = of_family(host_ip, Published4, Published6);
            (set, key(&[&protocol, &first]))
        }
        (true, false) => {
            let (_, set) = of_family(host_ip, Ranges4, Ranges6);
            (set, interval(&[&protocol, &first], &[&protocol, &last]))
        }
        (false, true) => {
            let (_, set) = of_family(host_ip, HostPublished4, HostPublished6);
            (set, key(&[&ip, &protocol, &first]))
        }
        (false, false) => {
            let (_, set) = of_family(host_ip, HostRanges4, HostRanges6);
            let ends = interval(&[&ip, &protocol, &first], &[&ip, &protocol, &last]);
            (set, ends)
        }
    }
}

/// Where a run leads: address and port, or the address alone where ports keep their numbers.
fn target(run: &Run, addresses: &Addresses) -> Vec<u8> {
    let (ip, _) = of_family(addresses.like(run.first.host_ip), (), ());
    if run.first.host_port == run.last {
        key(&[&ip, &run.first.port.number.to_be_bytes()])
    } else {
        key(&[&ip])
    }
}

/// The container ports of a family that something is published of, in runs.
fn container_runs(published: &[PublishedPort], ipv4: bool) -> Vec<(Protocol, u16, u16)> {
    let mut ports: Vec<_> = published
        .iter()
        .filter(|published| published.host_ip.is_ipv4() == ipv4)
        .map(|published| published.port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let mut runs: Vec<(Protocol, u16, u16)> = Vec::new();
    for port in ports {
        match runs.last_mut() {
            Some((protocol, _, last))
                if *protocol == port.protocol && last.checked_add(1) == Some(port.number) =>
            {
                *last = port.number;
            }
            _ => runs.push((port.protocol, port.number, port.number)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Port;

    fn published(host_ip: &str, host_port: u16, number: u16) -> PublishedPort {
        PublishedPort {
            port: Port {
                protocol: Protocol::Tcp,
                number,
            },
            host_ip: host_ip.parse().unwrap(),
            host_port,
        }
    }

    fn addresses() -> Addresses {
        Addresses {
            ipv4: "172.17.0.2".parse().unwrap(),
            ipv6: "fd17::2".parse().unwrap(),
        }
    }

    #[test]
    fn a_range_that_keeps_its_numbers_is_one_element() {
        let range: Vec<_> = (8000..9000)
            .map(|port| published("0.0.0.0", port, port))
            .collect();
        let elements = elements(&range, &addresses());
        let sets: Vec<_> = elements.keys().map(|(set, _)| *set).collect();
        assert_eq!(sets, [SetName::Ranges4, SetName::Traffic4]);
    }

    #[test]
    fn only_neighbours_of_one_address_that_keep_their_numbers_are_joined() {
        let ports = [
            published("0.0.0.0", 80, 80),
            published("0.0.0.0", 81, 81),
            published("0.0.0.0", 83, 83),
            published("0.0.0.0", 84, 1084),
            published("127.0.0.1", 82, 82),
        ];
        let ends: Vec<_> = runs(&ports)
            .iter()
            .map(|run| (run.first.host_port, run.last))
            .collect();
        assert_eq!(ends, [(80, 81), (83, 83), (84, 84), (82, 82)]);
    }

    #[test]
    fn every_form_of_a_run_has_a_set_of_its_own() {
        let of = |ip, last| {
            let run = Run {
                first: published(ip, 80, 80),
                last,
            };
            place(&run).0
        };
        assert_eq!(of("0.0.0.0", 80), SetName::Published4);
        assert_eq!(of("::", 81), SetName::Ranges6);
        assert_eq!(of("::1", 80), SetName::HostPublished6);
        assert_eq!(of("127.0.0.1", 90), SetName::HostRanges4);
    }
}
