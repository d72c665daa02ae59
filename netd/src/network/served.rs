//! What the name server is told: the user networks, what their members are called, and what
//! each of them sees beside that. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::model::{Addresses, Egress, Endpoint, Network};
use super::registry::Registry;
use super::{ChangeKind, Name};
use crate::names::{Host, ServedNetwork, View, Zone};

/// The port of name servers.
const DNS: u16 = 53;

/// The networks that have names.
pub(crate) fn networks(registry: &Registry) -> Vec<ServedNetwork> {
    registry
        .networks()
        .filter(|network| network.is_users())
        .map(|network| served(network, registry))
        .collect()
}

/// Brings what is served after a change; whether that made a difference.
pub(crate) fn follow(
    served: &mut Vec<ServedNetwork>,
    registry: &Registry,
    kind: &ChangeKind,
) -> bool {
    let endpoint = match kind {
        ChangeKind::Networks => {
            *served = networks(registry);
            return true;
        }
        ChangeKind::Sandboxes => return false,
        ChangeKind::Attached(endpoint) | ChangeKind::Detached(endpoint) => endpoint,
    };
    let is_there = matches!(kind, ChangeKind::Attached(_));
    let mut changed = false;
    if let Some(network) = find(served, &endpoint.network) {
        if is_there {
            changed |= network.zone.insert(host(endpoint));
        } else {
            changed |= network.zone.remove(endpoint.sandbox.short());
            for ip in ips(endpoint) {
                changed |= network.views.remove_mut(&ip);
            }
        }
    }
    // What the container itself sees, and what those see that have a link to it.
    let mut sandboxes = BTreeSet::from([endpoint.sandbox.clone()]);
    let consumers = registry.consumers_of(&endpoint.name);
    sandboxes.extend(consumers.map(|consumer| consumer.sandbox.clone()));
    for sandbox in &sandboxes {
        for member in registry.in_sandbox(sandbox) {
            if let Some(network) = find(served, &member.network) {
                changed |= set_view(network, member, registry);
            }
        }
    }
    changed
}

fn find<'a>(served: &'a mut [ServedNetwork], name: &Name) -> Option<&'a mut ServedNetwork> {
    served
        .iter_mut()
        .find(|served| served.name == name.as_str())
}

fn served(network: &Network, registry: &Registry) -> ServedNetwork {
    let gateway = network.subnets.gateway();
    let subnets = network.subnets;
    let mut served = ServedNetwork {
        name: network.name.to_string(),
        gateways: vec![gateway.ipv4.into(), gateway.ipv6.into()],
        internal: network.egress == Egress::Internal,
        zone: Zone::new(vec![
            (IpAddr::from(subnets.ipv4.base), subnets.ipv4.prefix),
            (IpAddr::from(subnets.ipv6.base), subnets.ipv6.prefix),
        ]),
        views: Default::default(),
    };
    for endpoint in registry.members_of(&network.name) {
        served.zone.insert(host(endpoint));
        set_view(&mut served, endpoint, registry);
    }
    served
}

/// Tells a network what one of its members sees; whether that is new.
fn set_view(network: &mut ServedNetwork, endpoint: &Endpoint, registry: &Registry) -> bool {
    let now = view(endpoint, registry);
    let known = network.views.get(&endpoint.addresses.ipv4.into());
    if known.map_or(now == View::default(), |known| **known == now) {
        return false;
    }
    let now = Arc::new(now);
    for ip in ips(endpoint) {
        network.views.insert_mut(ip, Arc::clone(&now));
    }
    true
}

/// What an endpoint's container sees beside the names of the endpoint's network.
fn view(endpoint: &Endpoint, registry: &Registry) -> View {
    let mut links = Zone::default();
    let mut others = Vec::new();
    for sibling in registry.in_sandbox(&endpoint.sandbox) {
        for link in &sibling.links {
            if let Some(open) = registry.open_link(sibling, link) {
                links.insert(linked(&link.alias, &open.source));
            }
        }
        let is_users = registry
            .find_network(&sibling.network)
            .is_some_and(|network| network.is_users());
        if sibling.id != endpoint.id && is_users {
            others.push((sibling.ifname.clone(), sibling.network.to_string()));
        }
    }
    others.sort();
    let servers = endpoint.dns_servers.iter();
    View {
        links,
        others: others.into_iter().map(|(_, network)| network).collect(),
        servers: servers.map(|ip| SocketAddr::new(*ip, DNS)).collect(),
    }
}

/// The source of a link by what its consumer calls it.
fn linked(alias: &str, source: &Addresses) -> Host {
    Host {
        name: alias.to_owned(),
        short_id: alias.to_owned(),
        aliases: Vec::new(),
        hostname: alias.to_owned(),
        ips: vec![source.ipv4.into(), source.ipv6.into()],
    }
}

fn ips(endpoint: &Endpoint) -> [IpAddr; 2] {
    [
        endpoint.addresses.ipv4.into(),
        endpoint.addresses.ipv6.into(),
    ]
}

fn host(endpoint: &Endpoint) -> Host {
    Host {
        name: endpoint.name.to_string(),
        // The first endpoint of a container has the container's id.
        short_id: endpoint.sandbox.short().to_owned(),
        aliases: endpoint.aliases.clone(),
        hostname: endpoint.hostname.clone(),
        ips: ips(endpoint).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::model::{EndpointId, Link, Policy, Port, Protocol};
    use crate::network::subnet::{Subnet, Subnets};

    fn network(name: &str, third: u8) -> Arc<Network> {
        Arc::new(Network {
            name: name.parse().unwrap(),
            bridge_name: name.to_owned(),
            subnets: Subnets {
                ipv4: Subnet {
                    base: std::net::Ipv4Addr::new(10, 0, third, 0),
                    prefix: 24,
                },
                ipv6: Subnet {
                    base: std::net::Ipv6Addr::new(0xfd00, 0, 0, third.into(), 0, 0, 0, 0),
                    prefix: 64,
                },
                gateway: Subnets::GATEWAY,
            },
            range: None,
            policy: Policy::Open,
            egress: Egress::Open,
            labels: Default::default(),
            created_seconds: (name != "bridge").then_some(1),
        })
    }

    fn id(digit: char) -> EndpointId {
        digit.to_string().repeat(64).parse().unwrap()
    }

    /// An endpoint whose last byte says who it is.
    fn endpoint(network: &Network, digit: char, sandbox: char, name: &str, last: u8) -> Endpoint {
        let third = network.subnets.ipv4.base.octets()[2];
        Endpoint {
            id: id(digit),
            network: network.name.clone(),
            sandbox: id(sandbox),
            ifname: "eth0".to_owned(),
            name: name.parse().unwrap(),
            hostname: name.to_owned(),
            aliases: Vec::new(),
            addresses: Addresses {
                ipv4: std::net::Ipv4Addr::new(10, 0, third, last),
                ipv6: std::net::Ipv6Addr::new(0xfd00, 0, 0, third.into(), 0, 0, 0, last.into()),
            },
            exposed: vec![Port {
                protocol: Protocol::Tcp,
                number: 80,
            }],
            published: Vec::new(),
            links: Vec::new(),
            host: None,
            dns_servers: Vec::new(),
        }
    }

    fn link(alias: &str, source: &str) -> Link {
        Link {
            alias: alias.to_owned(),
            source_name: source.parse().unwrap(),
            ports: Vec::new(),
        }
    }

    /// What is brought forward change by change is what would be made from scratch, and a
    /// consumer sees its links and its other networks.
    #[test]
    fn a_member_sees_its_links_and_its_other_networks() {
        let [bridge, front, back] = [
            network("bridge", 0),
            network("front", 1),
            network("back", 2),
        ];
        let mut registry = Registry::default();
        for network in [&bridge, &front, &back] {
            registry.insert_network(network);
        }
        let mut served = networks(&registry);
        let web = Arc::new(Endpoint {
            links: vec![link("store", "db"), link("old", "legacy")],
            dns_servers: vec!["9.9.9.9".parse().unwrap()],
            ..endpoint(&front, 'a', 'a', "web", 2)
        });
        let web_back = Arc::new(Endpoint {
            links: web.links.clone(),
            ifname: "eth1".to_owned(),
            ..endpoint(&back, 'b', 'a', "web", 2)
        });
        let web_bridge = Arc::new(Endpoint {
            links: web.links.clone(),
            ifname: "eth2".to_owned(),
            ..endpoint(&bridge, 'c', 'a', "web", 2)
        });
        let db = Arc::new(endpoint(&back, 'd', 'd', "db", 3));
        let legacy = Arc::new(endpoint(&bridge, 'e', 'e', "legacy", 3));
        let all = [&web, &web_back, &web_bridge, &db, &legacy];
        for endpoint in all {
            registry.insert(endpoint);
            follow(
                &mut served,
                &registry,
                &ChangeKind::Attached(Arc::clone(endpoint)),
            );
            assert_eq!(served, networks(&registry), "{}", endpoint.id);
        }
        let seen = |served: &[ServedNetwork]| {
            let front = served.iter().find(|served| served.name == "front").unwrap();
            front.views.get(&web.addresses.ipv4.into()).cloned()
        };
        let view = seen(&served).unwrap();
        assert_eq!(view.others, ["back"]);
        assert_eq!(view.servers, ["9.9.9.9:53".parse().unwrap()]);
        let mut expected = Zone::default();
        expected.insert(linked("store", &db.addresses));
        expected.insert(linked("old", &legacy.addresses));
        assert_eq!(view.links, expected);
        for endpoint in all.into_iter().rev() {
            registry.remove(&endpoint.id);
            follow(
                &mut served,
                &registry,
                &ChangeKind::Detached(Arc::clone(endpoint)),
            );
            assert_eq!(served, networks(&registry), "{}", endpoint.id);
        }
        assert!(seen(&served).is_none());
    }
}
