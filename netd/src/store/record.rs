//! The rows on disk. A field is only ever added, with a default; a change of meaning is
//! a new version, and the old reader then refuses the row instead of guessing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Table;
use crate::network::{Addresses, Endpoint, InvalidValue, Link, Port, Protocol, PublishedPort};

/// Names and their addresses, in the durable file.
pub(crate) const LEASES: Table = Table("leases");
/// Addresses at rest, in the durable file.
pub(crate) const QUARANTINE: Table = Table("quarantine");
/// What was chosen at the first start, in the durable file.
pub(crate) const CHOICES: Table = Table("choices");
/// Endpoints, in the volatile file.
pub(crate) const ENDPOINTS: Table = Table("endpoints");

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
            id: _,
            name,
            hostname,
            addresses,
            exposed,
            published,
            links,
            host,
        } = endpoint;
        let ports = |ports: &[Port]| ports.iter().copied().map(PortRecord::from).collect();
        Self {
            version: VERSION,
            phase,
            name: name.to_string(),
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
        Ok(Endpoint {
            id: id.parse()?,
            name: self.name.parse()?,
            hostname: self.hostname,
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
        })
    }
}
