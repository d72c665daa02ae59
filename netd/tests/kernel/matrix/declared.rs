//! What was declared, and who reaches whom by that alone. It is written from the
//! documentation and knows nothing of netd's own model.

use std::net::IpAddr;

use super::probe::{Kind, Probe};

/// A port that every container exposes, and one that none does; both are listened at.
pub(crate) const TCP_EXPOSED: u16 = 5432;
pub(crate) const TCP_HIDDEN: u16 = 6000;
pub(crate) const UDP_EXPOSED: u16 = 53;
pub(crate) const UDP_HIDDEN: u16 = 6001;
/// The port that published ports lead to.
pub(crate) const PUBLISHED: u16 = 80;
/// Ports of the host that are ever published.
pub(crate) const HOST_PORTS: [u16; 3] = [8080, 8081, 8082];

/// A link: to whom, and to which TCP ports only.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) source: String,
    pub(crate) only_tcp: Option<u16>,
}

/// A container on one network.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) endpoint_id: String,
    pub(crate) container: String,
    pub(crate) network: String,
    pub(crate) netns: String,
    pub(crate) gateways: [IpAddr; 2],
    pub(crate) ips: [IpAddr; 2],
    pub(crate) link_local: IpAddr,
    pub(crate) links: Vec<Link>,
    /// Host ports that lead to [`PUBLISHED`].
    pub(crate) published: Vec<u16>,
}

/// Everything that was declared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    pub(crate) members: Vec<Member>,
    /// The networks whose members reach each other.
    pub(crate) open: Vec<String>,
}

impl Declared {
    pub(crate) fn find(&mut self, container: &str, network: &str) -> &mut Member {
        self.members
            .iter_mut()
            .find(|member| member.container == container && member.network == network)
            .expect("the member is declared")
    }

    /// The names of the containers, each once.
    pub(crate) fn containers(&self) -> Vec<&str> {
        let mut names: Vec<_> = self
            .members
            .iter()
            .map(|one| one.container.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether a container reaches a member, by its address on the network of both.
    fn reaches(&self, from: &str, to: &Member, kind: Kind, port: u16) -> bool {
        let Some(own) = self
            .members
            .iter()
            .find(|own| own.container == from && own.network == to.network)
        else {
            return false;
        };
        let opens = |link: &Link| {
            let port_is_open = match link.only_tcp {
                Some(only) => kind == Kind::Tcp && port == only,
                None => match kind {
                    Kind::Tcp => port == TCP_EXPOSED,
                    Kind::Udp => port == UDP_EXPOSED,
                    Kind::Echo => false,
                },
            };
            link.source == to.container && (kind == Kind::Echo || port_is_open)
        };
        self.open.contains(&to.network) || own.links.iter().any(opens)
    }

    /// Everything that one container tries.
    pub(crate) fn probes_of(&self, from: &str) -> Vec<Probe> {
        let mut probes = Vec::new();
        for to in self.members.iter().filter(|to| to.container != from) {
            let mut probe = |ip: IpAddr, kind, port, is_open: bool| {
                probes.push(Probe::new(
                    from,
                    ip,
                    kind,
                    port,
                    is_open.then_some(&to.container),
                ));
            };
            for ip in to.ips {
                for (kind, port) in [
                    (Kind::Tcp, TCP_EXPOSED),
                    (Kind::Tcp, TCP_HIDDEN),
                    (Kind::Udp, UDP_EXPOSED),
                    (Kind::Udp, UDP_HIDDEN),
                    (Kind::Echo, 0),
                ] {
                    probe(ip, kind, port, self.reaches(from, to, kind, port));
                }
            }
            // The wire between two containers is cut: what is behind it is nobody.
            probe(to.link_local, Kind::Tcp, TCP_EXPOSED, false);
            probe(to.link_local, Kind::Echo, 0, false);
        }
        for own in self.members.iter().filter(|own| own.container == from) {
            for gateway in own.gateways {
                probes.push(Probe::new(
                    from,
                    gateway,
                    Kind::Echo,
                    0,
                    Some(&"the host".to_owned()),
                ));
                for port in HOST_PORTS {
                    probes.push(Probe::new(from, gateway, Kind::Tcp, port, None));
                }
            }
        }
        probes
    }

    /// Everything that a neighbour of the host tries: published ports, and the containers
    /// themselves by way of the host.
    pub(crate) fn probes_of_lan(&self, hosts: [IpAddr; 2]) -> Vec<Probe> {
        let mut probes = Vec::new();
        for port in HOST_PORTS {
            let holder = self
                .members
                .iter()
                .find(|one| one.published.contains(&port));
            let holder = holder.map(|one| &one.container);
            for host in hosts {
                probes.push(Probe::new("the LAN", host, Kind::Tcp, port, holder));
            }
        }
        for to in &self.members {
            for (kind, port) in [(Kind::Tcp, PUBLISHED), (Kind::Udp, UDP_EXPOSED)] {
                probes.push(Probe::new("the LAN", to.ips[0], kind, port, None));
            }
        }
        probes
    }

    /// Who may send as whom: nobody as another. Each container sends to each member as the
    /// one that may reach it.
    pub(crate) fn forgeries_of(&self, from: &str) -> Vec<(IpAddr, IpAddr)> {
        let mut forgeries = Vec::new();
        for to in self.members.iter().filter(|to| to.container != from) {
            let friend = self.members.iter().find(|friend| {
                friend.container != from
                    && friend.network == to.network
                    && self.reaches(&friend.container, to, Kind::Udp, UDP_EXPOSED)
            });
            if let Some(friend) = friend {
                forgeries.extend([0, 1].map(|family| (friend.ips[family], to.ips[family])));
            }
        }
        forgeries
    }
}
