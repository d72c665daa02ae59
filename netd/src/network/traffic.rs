//! What passed, by link and by published port: the kernel's counters beside what they
//! belong to. Read on demand, on a thread of the caller.

use std::net::IpAddr;
use std::sync::Arc;

use super::error::{NetworkError, device};
use super::model::{Addresses, Endpoint, Protocol};
use super::registry::{LinkStatus, Registry};
use crate::firewall::counter::{Counter, Counters};
use crate::firewall::port::Run;
use crate::firewall::{OpenLink, SetName, link, port, read};
use crate::netlink::conntrack::{self, Entry, Scope};
use crate::netlink::{NetlinkSocket, socket::NetlinkError, statistics};

/// What passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Packets and bytes, in both directions.
    pub(crate) passed: Counter,
    /// Connections that were opened.
    pub(crate) connections: u64,
    /// Connections that are open now.
    pub(crate) open_connections: u64,
}

/// Everything that was counted at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    sets: std::collections::BTreeMap<SetName, Counters>,
    flows: Vec<Entry>,
}

impl Snapshot {
    /// Asks the kernel.
    pub(crate) fn take() -> Result<Self, NetworkError> {
        let mut socket = read::open()?;
        let mut sets = std::collections::BTreeMap::new();
        for set in SetName::ALL
            .into_iter()
            .filter(|set| set.counting() == crate::firewall::Counting::Packets)
        {
            sets.insert(set, read::counters(&mut socket, set)?);
        }
        let failed = |error: NetlinkError| device("read connection tracking")(error);
        let mut tracking = NetlinkSocket::open(libc::NETLINK_NETFILTER).map_err(failed)?;
        let flows = conntrack::list(&mut tracking, &Scope::Every).map_err(failed)?;
        Ok(Self { sets, flows })
    }

    /// What passed over a link that is open.
    pub(crate) fn of_link(&self, open: &OpenLink) -> Traffic {
        let mut traffic = Traffic::default();
        for (set, key) in link::elements(open).into_keys() {
            let counted = self.counted(set, &key);
            match set {
                SetName::Peers4 | SetName::Peers6 => traffic.passed += counted,
                _ => traffic.connections += counted.packets,
            }
        }
        let is_between = |entry: &&Entry| {
            entry.source == open.consumer.like(entry.source)
                && entry.destination == open.source.like(entry.destination)
        };
        traffic.open_connections = count(self.flows.iter().filter(is_between));
        traffic
    }

    /// How many connections an endpoint has opened and still has, of the family that has more.
    pub(crate) fn opened_by(&self, endpoint: &Endpoint) -> u64 {
        let of = |ip: IpAddr| count_all(self.flows.iter().filter(|entry| entry.source == ip));
        let Addresses { ipv4, ipv6 } = endpoint.addresses;
        of(ipv4.into()).max(of(ipv6.into()))
    }

    /// What passed through a run of published ports of an endpoint.
    pub(crate) fn of_run(&self, endpoint: &Endpoint, run: &Run) -> Traffic {
        let (set, key) = port::place(run);
        let published: Vec<_> = run.ports().collect();
        let passed = port::elements(&published, &endpoint.addresses)
            .into_keys()
            .filter(|(set, _)| matches!(set, SetName::Traffic4 | SetName::Traffic6))
            .fold(Counter::default(), |mut sum, (set, key)| {
                sum += self.counted_within(set, &key);
                sum
            });
        let target = endpoint.addresses.like(run.first.host_ip);
        let leads_here = |entry: &&Entry| {
            entry.reply_source == target
                && entry.destination != target
                && entry.protocol == run.first.port.protocol.number()
                && (run.first.host_port..=run.last).contains(&entry.destination_port)
        };
        Traffic {
            passed,
            connections: self.counted(set, &key).packets,
            open_connections: count(self.flows.iter().filter(leads_here)),
        }
    }

    fn counted(&self, set: SetName, key: &[u8]) -> Counter {
        let found = self.sets.get(&set).and_then(|counters| counters.get(key));
        found.copied().unwrap_or_default()
    }

    /// What the interval counted that has the first key of another in it.
    fn counted_within(&self, set: SetName, ends: &[u8]) -> Counter {
        let first = &ends[..ends.len() / 2];
        let Some(counters) = self.sets.get(&set) else {
            return Counter::default();
        };
        counters
            .iter()
            .find(|(other, _)| {
                let (low, high) = other.split_at(other.len() / 2);
                low <= first && first <= high
            })
            .map_or_else(Counter::default, |(_, counter)| *counter)
    }
}

/// A published run of an endpoint, and what passed through it.
#[derive(Debug, Clone)]
pub(crate) struct PortStatus {
    /// Whose it is.
    pub(crate) endpoint: Arc<Endpoint>,
    /// The ports.
    pub(crate) run: Run,
    /// What passed.
    pub(crate) traffic: Traffic,
}

/// The published ports of everyone, by number, protocol and address.
pub(crate) fn ports(registry: &Registry) -> Result<Vec<PortStatus>, NetworkError> {
    Ok(ports_in(&Snapshot::take()?, registry))
}

fn ports_in(snapshot: &Snapshot, registry: &Registry) -> Vec<PortStatus> {
    let mut statuses: Vec<_> = registry
        .by_name()
        .flat_map(|endpoint| {
            port::runs(&endpoint.published)
                .into_iter()
                .map(|run| PortStatus {
                    endpoint: Arc::clone(endpoint),
                    traffic: snapshot.of_run(endpoint, &run),
                    run,
                })
        })
        .collect();
    statuses.sort_by_key(|status| {
        let first = status.run.first;
        (first.host_port, first.port.protocol, first.host_ip)
    });
    statuses
}

/// What the members of a network sent to others and received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NetworkTraffic {
    /// What came from its members.
    pub(crate) sent: Counter,
    /// What went to its members.
    pub(crate) received: Counter,
}

/// What passed each network, in their order. All of it goes through the bridge's own
/// device, since no port may speak to another.
pub(crate) fn networks(registry: &Registry) -> Result<Vec<NetworkTraffic>, NetworkError> {
    let failed = |error: NetlinkError| device("read what passed the bridges")(error);
    let mut routing = NetlinkSocket::open(libc::NETLINK_ROUTE).map_err(failed)?;
    registry
        .networks()
        .map(|network| {
            let found = statistics::of(&mut routing, &network.bridge_name).map_err(failed)?;
            Ok(
                found.map_or_else(NetworkTraffic::default, |found| NetworkTraffic {
                    sent: Counter {
                        packets: found.incoming_packets,
                        bytes: found.incoming_bytes,
                    },
                    received: Counter {
                        packets: found.outgoing_packets,
                        bytes: found.outgoing_bytes,
                    },
                }),
            )
        })
        .collect()
}

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Everything {
    /// The links of everyone.
    pub(crate) links: Vec<(LinkStatus, Traffic)>,
    /// The published ports of everyone.
    pub(crate) ports: Vec<PortStatus>,
    /// What each rule that drops has dropped.
    pub(crate) drops: Vec<(String, Counter)>,
    /// Each network, how many endpoints it has, and what passed.
    pub(crate) networks: Vec<(String, u64, NetworkTraffic)>,
    /// How many endpoints there are.
    pub(crate) endpoints: u64,
}

/// Counts everything at one moment.
pub(crate) fn everything(registry: &Registry) -> Result<Everything, NetworkError> {
    let snapshot = Snapshot::take()?;
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let networks = registry.networks().zip(networks(registry)?);
    Ok(Everything {
        links: links_in(&snapshot, registry),
        ports: ports_in(&snapshot, registry),
        drops: drops()?,
        networks: networks
            .map(|(network, traffic)| {
                let count = number(registry.count_on(&network.name));
                (network.name.to_string(), count, traffic)
            })
            .collect(),
        endpoints: number(registry.len()),
    })
}

/// What each rule that drops has dropped.
pub(crate) fn drops() -> Result<Vec<(String, Counter)>, NetworkError> {
    Ok(read::drops(&mut read::open()?)?)
}

/// The links of everyone, and what passed over those that are open.
pub(crate) fn links(registry: &Registry) -> Result<Vec<(LinkStatus, Traffic)>, NetworkError> {
    Ok(links_in(&Snapshot::take()?, registry))
}

fn links_in(snapshot: &Snapshot, registry: &Registry) -> Vec<(LinkStatus, Traffic)> {
    registry
        .links()
        .into_iter()
        .map(|status| {
            let traffic = status
                .open
                .as_ref()
                .map_or_else(Traffic::default, |open| snapshot.of_link(open));
            (status, traffic)
        })
        .collect()
}

fn count<'a>(entries: impl Iterator<Item = &'a Entry>) -> u64 {
    count_all(entries.filter(|entry| {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .iter()
            .any(|protocol| protocol.number() == entry.protocol)
    }))
}

fn count_all<'a>(entries: impl Iterator<Item = &'a Entry>) -> u64 {
    let open = entries.filter(|entry| !entry.is_closed);
    open.fold(0, |sum, _| sum + 1)
}
