//! Whether a connection would pass, and why: the same model that the rules are rendered
//! from, walked as a packet would walk the rules. Pure; what listens and what was counted
//! is told by the caller.

use std::net::IpAddr;
use std::num::NonZeroU32;

pub(crate) use self::page::{Explanation, Party, Question, Step};
use super::listener::Listening;
use super::model::{Endpoint, Name, Policy, Port};
use super::registry::Registry;
use crate::firewall::{Elements, HostAccess, OpenLink, link};

mod outside;
mod page;

/// What an explanation is made from.
pub(crate) struct Explainer<'a> {
    /// What is attached.
    pub(crate) registry: &'a Registry,
    /// Whether containers may open connections to the host.
    pub(crate) host_access: HostAccess,
    /// What listens in a container; none if that cannot be seen.
    pub(crate) listens: &'a dyn Fn(&Endpoint, Port) -> Option<Listening>,
    /// How many connections a link element let in.
    pub(crate) connections: &'a dyn Fn(&OpenLink) -> u64,
    /// How many connections of each family a container may have open; none means any.
    pub(crate) max_connections: Option<NonZeroU32>,
    /// How many an endpoint has opened and still has, of the family that has more.
    pub(crate) opened: &'a dyn Fn(&Endpoint) -> u64,
}

impl Explainer<'_> {
    /// Explains a connection; an error is the name of an endpoint that is not attached.
    pub(crate) fn explain(&self, question: &Question) -> Result<Explanation, String> {
        let mut told = Explanation::default();
        let from = self.endpoints(&question.from, None)?;
        let to = self.endpoints(&question.to, from.first().copied())?;
        match (from.first(), to.first()) {
            (Some(_), Some(_)) => self.between(&from, &to, question.port, &mut told),
            (Some(_), None) => {
                if let Some(from) = self.leaving(&from, &question.to) {
                    self.outward(from, question, &mut told);
                }
            }
            (None, Some(_)) => {
                if let Some(to) = self.entered(&to, question.port) {
                    self.inward(&question.from, to, question.port, &mut told);
                }
            }
            (None, None) => self.to_host(question, &mut told),
        }
        if let Some(from) = from.first().filter(|_| told.is_reachable()) {
            self.limit(from, &mut told);
        }
        Ok(told)
    }

    fn limit(&self, from: &Endpoint, told: &mut Explanation) {
        let opened = (self.opened)(from);
        if self
            .max_connections
            .is_some_and(|limit| opened >= limit.get().into())
        {
            told.stops(
                "rule",
                format!(
                    "{} has {opened} connections open and may have no more (rule connection_limit)",
                    from.name
                ),
                "let it close some, or give netd another --max-connections".to_owned(),
            );
        }
    }

    /// The endpoints that a party is, one for each of its networks; none for outsiders.
    fn endpoints(&self, party: &Party, asker: Option<&Endpoint>) -> Result<Vec<&Endpoint>, String> {
        match party {
            Party::Host => Ok(Vec::new()),
            Party::Address(ip) => Ok(self
                .registry
                .by_name()
                .filter(|endpoint| endpoint.addresses.like(*ip) == *ip)
                .map(AsRef::as_ref)
                .collect()),
            Party::Container(text) => {
                let aliased = asker.and_then(|asker| {
                    let mut links = asker.links.iter();
                    links.find(|link| link.alias == *text)
                });
                let name = match aliased {
                    Some(link) => Some(link.source_name.clone()),
                    None => text.parse::<Name>().ok(),
                };
                let found: Vec<_> = name
                    .iter()
                    .flat_map(|name| self.registry.all_of_name(name))
                    .map(AsRef::as_ref)
                    .collect();
                if found.is_empty() {
                    return Err(text.clone());
                }
                Ok(found)
            }
        }
    }

    fn between(
        &self,
        from: &[&Endpoint],
        to: &[&Endpoint],
        port: Option<Port>,
        told: &mut Explanation,
    ) {
        let pair = from.iter().find_map(|one| {
            let other = to.iter().find(|other| other.network == one.network)?;
            Some((*one, *other))
        });
        let Some((from, to)) = pair else {
            let (one, other) = (from[0], to[0]);
            told.stops(
                "network",
                format!(
                    "{} is on {}, {} on {}: networks are closed to each other",
                    one.name,
                    networks_of(from),
                    other.name,
                    networks_of(to)
                ),
                format!("linkspan network connect {} {}", other.network, one.name),
            );
            return;
        };
        self.locate(from, told);
        self.locate(to, told);
        let is_open = self
            .registry
            .find_network(&from.network)
            .is_some_and(|network| network.policy == Policy::Open);
        if is_open {
            told.passes(
                "network",
                format!("members of \"{}\" reach each other", from.network),
            );
        } else if !self.linked(from, to, port, told) {
            return;
        }
        self.listener(to, port, told);
    }

    /// What a link says; whether the packet goes on.
    fn linked(
        &self,
        from: &Endpoint,
        to: &Endpoint,
        port: Option<Port>,
        told: &mut Explanation,
    ) -> bool {
        let links: Vec<_> = from
            .links
            .iter()
            .filter(|link| link.source_name == to.name)
            .collect();
        if links.is_empty() {
            told.stops(
                "link",
                format!(
                    "{} has no link to {}, and network \"{}\" is closed without one (rule no_link)",
                    from.name, to.name, from.network
                ),
                format!("linkspan link add {} {}", from.name, to.name),
            );
            return false;
        }
        for declared in links {
            let Some(open) = self.registry.open_link(from, declared) else {
                continue;
            };
            if opens(&open, port) {
                told.passes(
                    "link",
                    format!(
                        "the link {} opens {} ({} connections so far)",
                        declared.alias,
                        text_of(port),
                        (self.connections)(&open)
                    ),
                );
                return true;
            }
        }
        let declared = from.links.iter().find(|link| link.source_name == to.name);
        let alias = declared.map_or("", |link| link.alias.as_str());
        let ports = declared
            .and_then(|link| self.registry.open_link(from, link))
            .map(|open| open.ports)
            .unwrap_or_default();
        let opens = if ports.is_empty() {
            "no port, since its source exposes none".to_owned()
        } else {
            let all: Vec<_> = ports.iter().map(|port| text_of(Some(*port))).collect();
            format!("only {}", all.join(", "))
        };
        told.stops(
            "link",
            format!("the link {alias} opens {opens} (rule no_link)"),
            format!("run {} with --expose, or give the link ports=", to.name),
        );
        false
    }

    fn locate(&self, endpoint: &Endpoint, told: &mut Explanation) {
        told.passes(
            "address",
            format!(
                "{} is {} and {} on network \"{}\"",
                endpoint.name, endpoint.addresses.ipv4, endpoint.addresses.ipv6, endpoint.network
            ),
        );
    }

    fn listener(&self, to: &Endpoint, port: Option<Port>, told: &mut Explanation) {
        let Some(port) = port else {
            return;
        };
        let what = text_of(Some(port));
        let Some(listening) = (self.listens)(to, port) else {
            return;
        };
        if listening.hears(to.addresses.ipv4.into()) || listening.hears(to.addresses.ipv6.into()) {
            told.passes("listener", format!("{} listens on {what}", to.name));
        } else if listening.is_nobody() {
            told.stops(
                "listener",
                format!("nothing in {} listens on {what}", to.name),
                format!("look at linkspan logs {}", to.name),
            );
        } else {
            let all: Vec<_> = listening.addresses.iter().map(IpAddr::to_string).collect();
            told.stops(
                "listener",
                format!("{} listens on {what} at {} only", to.name, all.join(", ")),
                "let the program listen at 0.0.0.0 or ::".to_owned(),
            );
        }
    }
}

/// Whether the elements of a link let a packet in: asked of the elements themselves, so
/// that the answer is what the kernel was told.
fn opens(open: &OpenLink, port: Option<Port>) -> bool {
    let wanted = OpenLink {
        ports: port.into_iter().collect(),
        ..open.clone()
    };
    let elements: Elements = link::elements(open);
    link::elements(&wanted)
        .keys()
        .all(|key| elements.contains_key(key))
}

/// The networks that endpoints are on, in words.
fn networks_of(endpoints: &[&Endpoint]) -> String {
    let names: Vec<_> = endpoints
        .iter()
        .map(|endpoint| format!("\"{}\"", endpoint.network))
        .collect();
    match names.as_slice() {
        [one] => format!("network {one}"),
        _ => format!("networks {}", names.join(" and ")),
    }
}

fn text_of(port: Option<Port>) -> String {
    port.map_or_else(
        || "echo requests".to_owned(),
        |port| format!("{}/{}", port.number, port.protocol.name()),
    )
}
