//! Changes of what is attached: other ports, other links, and a port that moves.
//!
//! Each is one row (or two), one transaction of the firewall, and then the end of the
//! connections that are not allowed any more.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Owner, row};
use crate::firewall::{Difference, Elements};
use crate::netlink::conntrack::Entry;
use crate::network::error::NetworkError;
use crate::network::model::{
    Endpoint, EndpointId, HostPort, MoveRequest, Port, PortMapping, Protocol, PublishedPort,
    UpdateRequest,
};
use crate::network::port::{Reservation, Reserved};
use crate::network::registry::Registry;
use crate::network::{ChangeKind, Publisher};
use crate::store::record::Phase;

impl Owner {
    pub(super) fn update(
        &mut self,
        request: UpdateRequest,
        publisher: &Publisher,
    ) -> Result<Arc<Endpoint>, NetworkError> {
        let UpdateRequest {
            id,
            mappings,
            links,
            exposed,
            aliases,
        } = request;
        let old = self.attached(&id)?;
        let (staying, missing) = split(&old.published, &mappings);
        let Reserved { reservations, kept } =
            self.reserve(&old.network, &old.name, &missing, &staying)?;
        let mut published = staying;
        published.extend(reservations.iter().map(|held| held.published));
        let mut kept_ports = kept;
        kept_ports.retain(|kept| {
            published
                .iter()
                .any(|port| port.port == kept.port && port.host_port == kept.host_port)
        });
        let new = Arc::new(Endpoint {
            published,
            links,
            exposed,
            aliases,
            ..Endpoint::clone(&old)
        });
        self.replace(&[&old], &[&new], |_entry| true)?;
        self.leases_mut(&new.network)?.keep(
            &new.name,
            crate::ipam::pool::Novelty::Known,
            kept_ports,
        )?;
        let held = self.reservations.entry(id).or_default();
        let staying: HashSet<_> = new.published.iter().collect();
        held.retain(|held| staying.contains(&held.published));
        let fresh: Vec<_> = reservations.iter().map(|held| held.published).collect();
        held.extend(reservations);
        self.forget_stale_flows(&fresh)?;
        tracing::info!(endpoint_id = %new.id, name = %new.name, "endpoint changed");
        publisher.publish(&self.registry, ChangeKind::Attached(Arc::clone(&new)));
        Ok(new)
    }

    /// Connections that are open through the port stay where they are; only datagrams,
    /// which have no end, are led to the new place at once.
    pub(super) fn move_port(
        &mut self,
        request: &MoveRequest,
        publisher: &Publisher,
    ) -> Result<[Arc<Endpoint>; 2], NetworkError> {
        let MoveRequest {
            protocol,
            host_port,
            to,
            container_port,
        } = request;
        let is_moved = |published: &PublishedPort| {
            published.port.protocol == *protocol && published.host_port == *host_port
        };
        let to = self.attached(to)?;
        let from = self
            .registry
            .by_name()
            .find(|endpoint| endpoint.published.iter().any(is_moved))
            .cloned()
            .ok_or(NetworkError::PortNotFound {
                port: *host_port,
                protocol: *protocol,
            })?;
        let arrived = from
            .published
            .iter()
            .filter(|port| is_moved(port))
            .map(|port| PublishedPort {
                port: Port {
                    protocol: *protocol,
                    number: *container_port,
                },
                ..*port
            });
        let arrived: Vec<_> = arrived.collect();
        let mut left = Endpoint::clone(&from);
        left.published.retain(|port| !is_moved(port));
        let mut got = if from.id == to.id {
            left.clone()
        } else {
            Endpoint::clone(&to)
        };
        got.published.extend(&arrived);
        let (left, got) = (Arc::new(left), Arc::new(got));
        let is_datagram = |entry: &Entry| entry.protocol == Protocol::Udp.number();
        if from.id == to.id {
            self.replace(&[&from], &[&got], is_datagram)?;
        } else {
            self.replace(&[&from, &to], &[&left, &got], is_datagram)?;
        }
        self.move_reservations(&from.id, &to.id, is_moved, container_port);
        tracing::info!(host_port, protocol = protocol.name(), from = %from.name, to = %to.name, "port moved");
        publisher.publish(&self.registry, ChangeKind::Attached(Arc::clone(&left)));
        publisher.publish(&self.registry, ChangeKind::Attached(Arc::clone(&got)));
        Ok([left, got])
    }

    fn attached(&self, id: &EndpointId) -> Result<Arc<Endpoint>, NetworkError> {
        self.registry
            .find(id)
            .cloned()
            .ok_or_else(|| NetworkError::EndpointNotFound {
                endpoint: id.short().to_owned(),
            })
    }

    /// Puts endpoints in the place of what they were. Connections that only what is gone
    /// allowed are cut, if `ends` says so too.
    fn replace(
        &mut self,
        old: &[&Arc<Endpoint>],
        new: &[&Arc<Endpoint>],
        ends: impl Fn(&Entry) -> bool,
    ) -> Result<(), NetworkError> {
        let mut registry = self.registry.clone();
        for endpoint in new {
            registry.insert(endpoint);
        }
        let difference = Difference::between(
            &elements_of(&self.registry, old),
            &elements_of(&registry, new),
        );
        let rows = |endpoints: &[&Arc<Endpoint>]| -> Vec<_> {
            endpoints
                .iter()
                .map(|endpoint| row(endpoint, Phase::Attached))
                .collect()
        };
        self.store.commit(&rows(new))?;
        if let Err(error) = self.firewall.apply(&difference) {
            self.store.commit(&rows(old))?;
            return Err(error.into());
        }
        self.registry = registry;
        self.cut_those(&difference, ends)
    }

    fn move_reservations(
        &mut self,
        from: &EndpointId,
        to: &EndpointId,
        is_moved: impl Fn(&PublishedPort) -> bool,
        container_port: &u16,
    ) {
        let held = self.reservations.remove(from).unwrap_or_default();
        let (mut moved, staying): (Vec<Reservation>, Vec<_>) =
            held.into_iter().partition(|held| is_moved(&held.published));
        self.reservations.insert(from.clone(), staying);
        for reservation in &mut moved {
            reservation.published.port.number = *container_port;
        }
        self.reservations
            .entry(to.clone())
            .or_default()
            .extend(moved);
    }
}

fn elements_of(registry: &Registry, endpoints: &[&Arc<Endpoint>]) -> Elements {
    endpoints
        .iter()
        .flat_map(|endpoint| registry.elements_of(endpoint))
        .collect()
}

/// Which published ports fulfil a mapping and stay, and which mappings are not fulfilled.
fn split(
    published: &[PublishedPort],
    mappings: &[PortMapping],
) -> (Vec<PublishedPort>, Vec<PortMapping>) {
    // Many ports may be published, but few of one container port.
    let mut rest: BTreeMap<Port, Vec<PublishedPort>> = BTreeMap::new();
    for port in published {
        rest.entry(port.port).or_default().push(*port);
    }
    let mut staying = Vec::new();
    let mut missing = Vec::new();
    for mapping in mappings {
        let candidates = rest.entry(mapping.port).or_default();
        let number = candidates
            .iter()
            .filter(|port| fulfils(port, mapping))
            .map(|port| port.host_port)
            .min();
        match number {
            Some(number) => staying.extend(candidates.extract_if(.., |port| {
                fulfils(port, mapping) && port.host_port == number
            })),
            None => missing.push(mapping.clone()),
        }
    }
    (staying, missing)
}

fn fulfils(port: &PublishedPort, mapping: &PortMapping) -> bool {
    let PortMapping {
        port: wanted,
        host_port,
        host_ip,
    } = mapping;
    let number_fits = match host_port {
        HostPort::Any => true,
        HostPort::OneOf(range) => range.contains(&port.host_port),
    };
    let address_fits = match host_ip {
        None => port.host_ip.is_unspecified(),
        Some(ip) => *ip == port.host_ip,
    };
    port.port == *wanted && number_fits && address_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, host_port: u16, number: u16) -> PublishedPort {
        PublishedPort {
            port: Port {
                protocol: Protocol::Tcp,
                number,
            },
            host_ip: host_ip.parse().unwrap(),
            host_port,
        }
    }

    fn mapping(number: u16, host_port: HostPort, host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            port: Port {
                protocol: Protocol::Tcp,
                number,
            },
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    #[test]
    fn a_mapping_that_is_fulfilled_keeps_its_host_port_at_both_families() {
        let published = [port("0.0.0.0", 49153, 80), port("::", 49153, 80)];
        let wanted = [
            mapping(80, HostPort::Any, None),
            mapping(81, HostPort::OneOf(8081..=8081), None),
        ];
        let (staying, missing) = split(&published, &wanted);
        assert_eq!(staying, published);
        assert_eq!(missing, wanted[1..]);
    }

    #[test]
    fn two_mappings_of_one_container_port_need_two_host_ports() {
        let published = [port("0.0.0.0", 8080, 80), port("::", 8080, 80)];
        let wanted = [
            mapping(80, HostPort::OneOf(8080..=8080), None),
            mapping(80, HostPort::Any, None),
        ];
        let (staying, missing) = split(&published, &wanted);
        assert_eq!((staying.len(), missing), (2, vec![wanted[1].clone()]));
    }

    #[test]
    fn what_no_mapping_asks_for_goes() {
        let published = [port("127.0.0.1", 8080, 80)];
        let (staying, missing) = split(&published, &[]);
        assert!(staying.is_empty() && missing.is_empty());
        let elsewhere = [mapping(80, HostPort::OneOf(8080..=8080), None)];
        assert!(split(&published, &elsewhere).0.is_empty());
    }
}
