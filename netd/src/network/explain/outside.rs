//! The way out of containers, and in from outside.

use std::net::{IpAddr, SocketAddr};

use super::{Explainer, Explanation, Party, Question, text_of};
use crate::firewall::{HostAccess, is_metadata, port};
use crate::network::model::{Egress, Endpoint, Name, Network, Port, PublishedPort};

impl Explainer<'_> {
    /// The endpoint by which packets to an outsider leave: the one beside it, or else one
    /// that leads outside.
    pub(super) fn leaving<'b>(&self, from: &[&'b Endpoint], to: &Party) -> Option<&'b Endpoint> {
        let beside = from.iter().find(|endpoint| match to {
            Party::Address(ip) => self
                .registry
                .find_network(&endpoint.network)
                .is_some_and(|network| network.subnets.contain(*ip)),
            _ => endpoint.host.is_some(),
        });
        beside
            .or_else(|| from.iter().find(|endpoint| self.leads_outside(endpoint)))
            .or_else(|| from.first())
            .copied()
    }

    /// The endpoint by which outsiders come to a port: the one that publishes it, or else
    /// one that could.
    pub(super) fn entered<'b>(
        &self,
        to: &[&'b Endpoint],
        port: Option<Port>,
    ) -> Option<&'b Endpoint> {
        let publishes = |endpoint: &&&Endpoint| {
            let mut published = endpoint.published.iter();
            published.any(|published| Some(published.port) == port)
        };
        to.iter()
            .find(publishes)
            .or_else(|| to.iter().find(|endpoint| self.leads_outside(endpoint)))
            .or_else(|| to.first())
            .copied()
    }

    fn leads_outside(&self, endpoint: &Endpoint) -> bool {
        self.registry
            .find_network(&endpoint.network)
            .is_some_and(|network| network.egress == Egress::Open)
    }

    /// From a container to somebody who is none.
    pub(super) fn outward(&self, from: &Endpoint, question: &Question, told: &mut Explanation) {
        self.locate(from, told);
        let to = &question.to;
        let Some(network) = self.registry.find_network(&from.network) else {
            return;
        };
        let host = match to {
            Party::Host => true,
            Party::Address(ip) => self.is_gateway(*ip) || ip.is_loopback(),
            Party::Container(_) => false,
        };
        let is_gateway = matches!(to, Party::Address(ip) if self.is_gateway(*ip));
        if is_gateway && question.port.is_none() {
            return told.passes("rule", "gateways answer echo requests".to_owned());
        }
        if host {
            return self.to_gateway(from, network, told);
        }
        if let Party::Address(ip) = to
            && let Some(around) = self.network_around(*ip)
        {
            return told.stops(
                "address",
                format!("no container has the address {ip}"),
                format!("linkspan network inspect {around} shows who has which"),
            );
        }
        if network.egress == Egress::Internal {
            return told.stops(
                "network",
                format!(
                    "network \"{}\" is internal: nothing leaves it (rule internal)",
                    network.name
                ),
                format!("connect {} to a network that is not internal", from.name),
            );
        }
        if matches!(to, Party::Address(ip) if is_metadata(*ip)) {
            return told.stops(
                "rule",
                "cloud metadata is closed to containers (rule metadata)".to_owned(),
                "give the container what it needs by its environment".to_owned(),
            );
        }
        told.passes(
            "network",
            format!(
                "containers of \"{}\" reach the outside, with an address of the host",
                network.name
            ),
        );
    }

    fn to_gateway(&self, from: &Endpoint, network: &Network, told: &mut Explanation) {
        if self.host_access == HostAccess::Allow {
            told.passes(
                "rule",
                "containers may open connections to the host (--host-access allow)".to_owned(),
            );
        } else if from.host == Some(network.subnets.gateway()) {
            told.passes("rule", format!("the host was declared to {}", from.name));
        } else {
            told.stops(
                "rule",
                "the host is closed to containers, but for echo requests to the gateway (rule to_host)".to_owned(),
                format!("run {} with --add-host NAME:host-gateway", from.name),
            );
        }
    }

    /// From somebody who is no container to one.
    pub(super) fn inward(
        &self,
        from: &Party,
        to: &Endpoint,
        port: Option<Port>,
        told: &mut Explanation,
    ) {
        self.locate(to, told);
        if *from == Party::Host {
            told.passes("rule", "the host reaches its containers".to_owned());
            return self.listener(to, port, told);
        }
        let Some(port) = port else {
            return told.stops(
                "rule",
                "echo requests from outside end at the host (rule not_published)".to_owned(),
                format!(
                    "publish a port: linkspan port add {} HOST:CONTAINER",
                    to.name
                ),
            );
        };
        let published: Vec<_> = to
            .published
            .iter()
            .filter(|published| published.port == port && !published.host_ip.is_loopback())
            .collect();
        if published.is_empty() {
            let hint = if self.leads_outside(to) {
                format!(
                    "linkspan port add {} {}:{}",
                    to.name, port.number, port.number
                )
            } else {
                format!(
                    "connect {} to a network that is not internal, and publish the port",
                    to.name
                )
            };
            return told.stops(
                "port",
                format!(
                    "{} does not publish {} (rule not_published)",
                    to.name,
                    text_of(Some(port))
                ),
                hint,
            );
        }
        told.passes(
            "port",
            format!(
                "{} is published as {}",
                text_of(Some(port)),
                places(&published)
            ),
        );
        self.listener(to, Some(port), told);
    }

    /// Whoever asks for a port of the host means what is published there.
    pub(super) fn to_host(&self, question: &Question, told: &mut Explanation) {
        let Some(wanted) = question.port else {
            return told.passes("host", "the host answers for itself".to_owned());
        };
        let loopback = question.from == Party::Host;
        let found = self.registry.by_name().find_map(|endpoint| {
            let published = endpoint.published.iter().find(|published| {
                published.host_port == wanted.number
                    && published.port.protocol == wanted.protocol
                    && (loopback || !published.host_ip.is_loopback())
            })?;
            Some((endpoint, *published))
        });
        let Some((endpoint, published)) = found else {
            return told.stops(
                "port",
                format!("no container publishes {} of the host", text_of(Some(wanted))),
                "linkspan port ls shows what is published; linkspan port who shows who holds a port".to_owned(),
            );
        };
        told.passes(
            "port",
            format!(
                "{} of the host leads to {} in {}",
                text_of(Some(wanted)),
                text_of(Some(published.port)),
                endpoint.name
            ),
        );
        self.listener(endpoint, Some(published.port), told);
    }

    fn is_gateway(&self, ip: IpAddr) -> bool {
        self.registry
            .networks()
            .any(|network| network.subnets.gateway().like(ip) == ip)
    }

    /// The network that an address would belong to.
    fn network_around(&self, ip: IpAddr) -> Option<&Name> {
        let mut networks = self.registry.networks();
        let around = networks.find(|network| network.subnets.contain(ip))?;
        Some(&around.name)
    }
}

fn places(published: &[&PublishedPort]) -> String {
    let owned: Vec<_> = published.iter().map(|port| **port).collect();
    let places: Vec<_> = port::runs(&owned)
        .iter()
        .map(|run| SocketAddr::new(run.first.host_ip, run.first.host_port).to_string())
        .collect();
    places.join(", ")
}
