//! Whether a connection would pass, and why: the same model that the rules are rendered
//! from, walked as a packet would walk the rules. Pure; what listens and what was counted
//! is told by the caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use super::listener::Listening;
use super::model::{Egress, Endpoint, Name, Network, Policy, Port, PublishedPort};
use super::registry::Registry;
use crate::firewall::{Elements, HostAccess, OpenLink, link, port};

/// The places where clouds tell machines their secrets.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Party {
    /// A container, by a name or by an alias of a link.
    Container(String),
    /// The host.
    Host,
    /// Somebody else.
    Address(IpAddr),
}

/// A connection that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Who would connect.
    pub(crate) from: Party,
    /// To whom.
    pub(crate) to: Party,
    /// The port; none means an ICMP echo request.
    pub(crate) port: Option<Port>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// What it is.
    pub(crate) subject: &'static str,
    /// What was found.
    pub(crate) finding: String,
    /// Whether the packet goes on.
    pub(crate) passes: bool,
}

/// Whether and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// What was looked at.
    pub(crate) steps: Vec<Step>,
    /// What to do about it.
    pub(crate) hint: String,
}

impl Explanation {
    /// Whether a connection would be made.
    pub(crate) fn is_reachable(&self) -> bool {
        self.steps.iter().all(|step| step.passes)
    }

    fn passes(&mut self, subject: &'static str, finding: String) {
        self.steps.push(Step {
            subject,
            finding,
            passes: true,
        });
    }

    fn stops(&mut self, subject: &'static str, finding: String, hint: String) {
        self.steps.push(Step {
            subject,
            finding,
            passes: false,
        });
        self.hint = hint;
    }
}

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
            (Some(from), None) => self.outward(from, question, &mut told),
            (None, Some(to)) => self.inward(&question.from, to, question.port, &mut told),
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
                    "{} is on network \"{}\" and {} on \"{}\"; networks are closed to each other",
                    one.name, one.network, other.name, other.network
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

    fn outward(&self, from: &Endpoint, question: &Question, told: &mut Explanation) {
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
        if matches!(to, Party::Address(ip) if METADATA.contains(ip)) {
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

    fn inward(&self, from: &Party, to: &Endpoint, port: Option<Port>, told: &mut Explanation) {
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
            return told.stops(
                "port",
                format!(
                    "{} does not publish {} (rule not_published)",
                    to.name,
                    text_of(Some(port))
                ),
                format!(
                    "linkspan port add {} {}:{}",
                    to.name, port.number, port.number
                ),
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
    fn to_host(&self, question: &Question, told: &mut Explanation) {
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

    fn is_gateway(&self, ip: IpAddr) -> bool {
        self.registry
            .networks()
            .any(|network| network.subnets.gateway().like(ip) == ip)
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

fn text_of(port: Option<Port>) -> String {
    port.map_or_else(
        || "echo requests".to_owned(),
        |port| format!("{}/{}", port.number, port.protocol.name()),
    )
}

fn places(published: &[&PublishedPort]) -> String {
    let owned: Vec<_> = published.iter().map(|port| **port).collect();
    let places: Vec<_> = port::runs(&owned)
        .iter()
        .map(|run| SocketAddr::new(run.first.host_ip, run.first.host_port).to_string())
        .collect();
    places.join(", ")
}
