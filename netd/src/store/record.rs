//! The rows on disk. A field is only ever added, with a default; a change of meaning is
//! a new version, and the old reader then refuses the row instead of guessing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Table;
use crate::firewall::{Passage, Transit};
use crate::network::{
    Addresses, DEFAULT_NETWORK, Egress, Endpoint, EndpointId, InvalidValue, Link, Network, Policy,
    Port, Protocol, PublishedPort, Subnet, Subnets,
};

/// Names and their addresses, in the durable file.
pub(crate) const LEASES: Table = Table("leases");
/// Addresses at rest, in the durable file.
pub(crate) const QUARANTINE: Table = Table("quarantine");
/// What was chosen at the first start, in the durable file.
pub(crate) const CHOICES: Table = Table("choices");
/// The networks that users made, in the durable file.
pub(crate) const NETWORKS: Table = Table("networks");
/// Endpoints, in the volatile file.
pub(crate) const ENDPOINTS: Table = Table("endpoints");

/// Namespaces that stay without endpoints, in the volatile file.
pub(crate) const SANDBOXES: Table = Table("sandboxes");
/// What the kernel has of the firewall, in the volatile file.
pub(crate) const FIREWALL: Table = Table("firewall");

/// The version of every record here.
pub(crate) const VERSION: u32 = 1;

/// A lease; its key is the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    /// The version.
    pub(crate) version: u32,
    /// The IPv4 address, from which the others follow.
    pub(crate) ipv4: Ipv4Addr,
    /// The host ports that were chosen for the name.
    #[serde(default)]
    pub(crate) kept_ports: Vec<KeptPortRecord>,
}

/// A host port that was chosen for a container port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptPortRecord {
    /// The container port.
    pub(crate) port: PortRecord,
    /// The host address that was asked for; none means all.
    pub(crate) host_ip: Option<IpAddr>,
    /// The host port.
    pub(crate) host_port: u16,
}

/// A rest; its key is the IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QuarantineRecord {
    /// The version.
    pub(crate) version: u32,
    /// When the address may be used again, in seconds of the epoch.
    pub(crate) until_seconds: u64,
}

/// The subnet that was chosen when none was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubnetRecord {
    /// The version.
    pub(crate) version: u32,
    /// The first address.
    pub(crate) base: Ipv4Addr,
    /// The length of the prefix.
    pub(crate) prefix: u8,
}

/// What the fixed part of the firewall was like in the kernel when it was written. A start
/// that finds none, or another, writes it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirewallRecord {
    /// The version.
    pub(crate) version: u32,
    /// The digest.
    pub(crate) digest: u64,
    /// What it keeps the host from forwarding.
    #[serde(default)]
    pub(crate) closed: ClosedRecord,
}

/// Whether packets that are none of ours are kept back, by family. An older build kept none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClosedRecord {
    /// Those of IPv4.
    pub(crate) ipv4: bool,
    /// Those of IPv6.
    pub(crate) ipv6: bool,
}

impl ClosedRecord {
    /// What is kept back.
    pub(crate) fn of(transit: Transit) -> Self {
        Self {
            ipv4: transit.ipv4 == Passage::Closed,
            ipv6: transit.ipv6 == Passage::Closed,
        }
    }

    /// What passes.
    pub(crate) fn transit(self) -> Transit {
        let passage = |is_closed| {
            if is_closed {
                Passage::Closed
            } else {
                Passage::Open
            }
        };
        Transit {
            ipv4: passage(self.ipv4),
            ipv6: passage(self.ipv6),
        }
    }
}

/// What is being done to an endpoint, written before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It is being made; a restart rolls it back.
    Attaching,
    /// It is there; a restart adopts it.
    Attached,
    /// It is being removed; a restart finishes that.
    Detaching,
}

/// An endpoint; its key is the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointRecord {
    /// The version.
    pub(crate) version: u32,
    /// What is being done to it.
    pub(crate) phase: Phase,
    /// The name.
    pub(crate) name: String,
    /// The network; older rows are of the default one.
    #[serde(default = "default_network")]
    pub(crate) network: String,
    /// Whose namespace it is in; empty means its own.
    #[serde(default)]
    pub(crate) sandbox: String,
    /// The device in the container; older rows have the first.
    #[serde(default = "first_ifname")]
    pub(crate) ifname: String,
    /// The names beside the name.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// The host name.
    pub(crate) hostname: String,
    /// The IPv4 address.
    pub(crate) ipv4: Ipv4Addr,
    /// The IPv6 address.
    pub(crate) ipv6: Ipv6Addr,
    /// The exposed ports.
    pub(crate) exposed: Vec<PortRecord>,
    /// The published ports.
    pub(crate) published: Vec<PublishedRecord>,
    /// The links of which it is the consumer.
    pub(crate) links: Vec<LinkRecord>,
    /// Where it may reach the host; older rows have none.
    #[serde(default)]
    pub(crate) host: Option<(Ipv4Addr, Ipv6Addr)>,
    /// The name servers that are asked for it; older rows have none.
    #[serde(default)]
    pub(crate) dns_servers: Vec<IpAddr>,
}

/// A namespace that stays without endpoints; its key is the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    /// The version.
    pub(crate) version: u32,
}

impl SandboxRecord {
    /// A row for the store.
    pub(crate) fn new() -> Self {
        Self { version: VERSION }
    }
}

/// A port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortRecord {
    /// The protocol.
    pub(crate) protocol: ProtocolRecord,
    /// The number.
    pub(crate) number: u16,
}

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProtocolRecord {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedRecord {
    /// The container port.
    pub(crate) port: PortRecord,
    /// The host address.
    pub(crate) host_ip: IpAddr,
    /// The host port.
    pub(crate) host_port: u16,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkRecord {
    /// The alias.
    pub(crate) alias: String,
    /// The name of the source.
    pub(crate) source_name: String,
    /// The ports; none means all that are exposed.
    pub(crate) ports: Vec<PortRecord>,
}

/// A network that a user made; its key is the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// The version.
    pub(crate) version: u32,
    /// The device.
    pub(crate) bridge_name: String,
    /// The IPv4 subnet and the length of its prefix.
    pub(crate) ipv4: (Ipv4Addr, u8),
    /// The IPv6 subnet and the length of its prefix.
    pub(crate) ipv6: (Ipv6Addr, u8),
    /// The number of the gateway in both.
    pub(crate) gateway: u32,
    /// The part that addresses are chosen from.
    pub(crate) range: Option<(Ipv4Addr, u8)>,
    /// Whether members reach each other.
    pub(crate) open: bool,
    /// Whether it has no way to the outside.
    pub(crate) internal: bool,
    /// Labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// When it was made, in seconds of the epoch.
    pub(crate) created_seconds: u64,
}

impl NetworkRecord {
    /// The row of a network.
    pub(crate) fn of(network: &Network) -> Self {
        let Network {
            name: _,
            bridge_name,
            subnets,
            range,
            policy,
            egress,
            labels,
            created_seconds,
        } = network;
        Self {
            version: VERSION,
            bridge_name: bridge_name.clone(),
            ipv4: (subnets.ipv4.base, subnets.ipv4.prefix),
            ipv6: (subnets.ipv6.base, subnets.ipv6.prefix),
            gateway: subnets.gateway,
            range: range.map(|range| (range.base, range.prefix)),
            open: *policy == Policy::Open,
            internal: *egress == Egress::Internal,
            labels: labels.clone(),
            created_seconds: created_seconds.unwrap_or_default(),
        }
    }

    /// The network of a row.
    pub(crate) fn network(self, name: &str) -> Result<Network, InvalidValue> {
        let subnet = |(base, prefix)| Subnet { base, prefix };
        Ok(Network {
            name: name.parse()?,
            bridge_name: self.bridge_name,
            subnets: Subnets {
                ipv4: subnet(self.ipv4),
                ipv6: Subnet {
                    base: self.ipv6.0,
                    prefix: self.ipv6.1,
                },
                gateway: self.gateway,
            },
            range: self.range.map(subnet),
            policy: if self.open {
                Policy::Open
            } else {
                Policy::Isolated
            },
            egress: if self.internal {
                Egress::Internal
            } else {
                Egress::Open
            },
            labels: self.labels,
            created_seconds: Some(self.created_seconds),
        })
    }
}

fn default_network() -> String {
    DEFAULT_NETWORK.to_owned()
}

fn first_ifname() -> String {
    "eth0".to_owned()
}

impl From<Port> for PortRecord {
    fn from(port: Port) -> Self {
        let protocol = match port.protocol {
            Protocol::Tcp => ProtocolRecord::Tcp,
            Protocol::Udp => ProtocolRecord::Udp,
            Protocol::Sctp => ProtocolRecord::Sctp,
        };
        Self {
            protocol,
            number: port.number,
        }
    }
}

impl From<PortRecord> for Port {
    fn from(record: PortRecord) -> Self {
        let protocol = match record.protocol {
            ProtocolRecord::Tcp => Protocol::Tcp,
            ProtocolRecord::Udp => Protocol::Udp,
            ProtocolRecord::Sctp => Protocol::Sctp,
        };
        Self {
            protocol,
            number: record.number,
        }
    }
}

impl EndpointRecord {
    /// The row of an endpoint.
    pub(crate) fn of(endpoint: &Endpoint, phase: Phase) -> Self {
        let Endpoint {
            id,
            network,
            sandbox,
            ifname,
            name,
            hostname,
            aliases,
            addresses,
            exposed,
            published,
            links,
            host,
            dns_servers,
        } = endpoint;
        let ports = |ports: &[Port]| ports.iter().copied().map(PortRecord::from).collect();
        Self {
            version: VERSION,
            phase,
            name: name.to_string(),
            network: network.to_string(),
            sandbox: if sandbox == id {
                String::new()
            } else {
                sandbox.to_string()
            },
            ifname: ifname.clone(),
            aliases: aliases.clone(),
            hostname: hostname.clone(),
            ipv4: addresses.ipv4,
            ipv6: addresses.ipv6,
            exposed: ports(exposed),
            published: published
                .iter()
                .map(|published| PublishedRecord {
                    port: published.port.into(),
                    host_ip: published.host_ip,
                    host_port: published.host_port,
                })
                .collect(),
            links: links
                .iter()
                .map(|link| LinkRecord {
                    alias: link.alias.clone(),
                    source_name: link.source_name.to_string(),
                    ports: ports(&link.ports),
                })
                .collect(),
            host: host.map(|Addresses { ipv4, ipv6 }| (ipv4, ipv6)),
            dns_servers: dns_servers.clone(),
        }
    }

    /// The endpoint of a row.
    pub(crate) fn endpoint(self, id: &str) -> Result<Endpoint, InvalidValue> {
        if self.version != VERSION {
            return Err(InvalidValue(format!(
                "endpoint record has version {}",
                self.version
            )));
        }
        let links = self.links.into_iter().map(|record| {
            Ok(Link {
                alias: record.alias,
                source_name: record.source_name.parse()?,
                ports: record.ports.into_iter().map(Port::from).collect(),
            })
        });
        let id: EndpointId = id.parse()?;
        let sandbox = match self.sandbox.as_str() {
            "" => id.clone(),
            other => other.parse()?,
        };
        Ok(Endpoint {
            id,
            network: self.network.parse()?,
            sandbox,
            ifname: self.ifname,
            name: self.name.parse()?,
            hostname: self.hostname,
            aliases: self.aliases,
            addresses: Addresses {
                ipv4: self.ipv4,
                ipv6: self.ipv6,
            },
            exposed: self.exposed.into_iter().map(Port::from).collect(),
            published: self
                .published
                .into_iter()
                .map(|record| PublishedPort {
                    port: record.port.into(),
                    host_ip: record.host_ip,
                    host_port: record.host_port,
                })
                .collect(),
            links: links.collect::<Result<_, InvalidValue>>()?,
            host: self.host.map(|(ipv4, ipv6)| Addresses { ipv4, ipv6 }),
            dns_servers: self.dns_servers,
        })
    }
}
