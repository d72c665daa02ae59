//! What exists on a network, in types that cannot hold nonsense.
//!
//! Nothing here knows the wire, the kernel or a store. Text from outside becomes one of
//! these types at the edge, or an [`InvalidValue`] that says in one sentence what is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use super::subnet::{Subnet, Subnets};

const LONGEST_NAME: usize = 255;

/// A value from outside that cannot be, as one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidValue(pub(crate) String);

/// The identity of an endpoint: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EndpointId(Arc<str>);

impl EndpointId {
    /// The digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, which serve as a host name.
    pub(crate) fn short(&self) -> &str {
        &self.0[..12]
    }

    /// The name of the host's end of the veth pair.
    pub(crate) fn ifname(&self) -> String {
        format!("lk{}", &self.0[..10])
    }

    /// The first in order of all ids whose device has the same name.
    pub(crate) fn first_of_ifname(&self) -> Self {
        Self(format!("{:0<64}", &self.0[..10]).into())
    }

    /// The stamp on the host's end of the veth pair.
    pub(crate) fn alias(&self) -> String {
        format!("{ALIAS_PREFIX}{}", self.0)
    }
}

/// How every stamp of ours on a device starts.
pub(crate) const ALIAS_PREFIX: &str = "linkspan:";

impl FromStr for EndpointId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let digits = text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 64 && digits {
            Ok(Self(text.into()))
        } else {
            Err(InvalidValue(
                "the endpoint id must be 64 lower-case hexadecimal digits".to_owned(),
            ))
        }
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name that addresses are leased to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(Arc<str>);

impl Name {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let legal = text.bytes().enumerate().all(|(position, byte)| {
            byte.is_ascii_alphanumeric() || (position > 0 && matches!(byte, b'_' | b'.' | b'-'))
        });
        if legal && !text.is_empty() && text.len() <= LONGEST_NAME {
            Ok(Self(text.into()))
        } else {
            Err(InvalidValue(format!(
                "the name {text:?} must be letters, digits, `_`, `.` or `-`, start with a letter or digit, and have at most {LONGEST_NAME} characters"
            )))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A transport protocol, in the order in which ports are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The lower-case name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port number of a protocol inside a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The number, never 0.
    pub(crate) number: u16,
}

/// Which host port a mapping asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostPort {
    /// Any from the range that netd chooses from.
    Any,
    /// The lowest free one of these.
    OneOf(RangeInclusive<u16>),
}

/// A request to publish a container port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortMapping {
    /// The protocol and the port inside the container.
    pub(crate) port: Port,
    /// The port on the host.
    pub(crate) host_port: HostPort,
    /// The host address; none means all of both families.
    pub(crate) host_ip: Option<IpAddr>,
}

/// A container port that is published at one definite place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PublishedPort {
    /// The protocol and the port inside the container.
    pub(crate) port: Port,
    /// The host address; the unspecified one means all of its family.
    pub(crate) host_ip: IpAddr,
    /// The port on the host.
    pub(crate) host_port: u16,
}

/// The declared wish of a consumer to reach a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// The name by which the consumer knows the source.
    pub(crate) alias: String,
    /// The name of the source.
    pub(crate) source_name: Name,
    /// The ports to open; none means all that the source exposes.
    pub(crate) ports: Vec<Port>,
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address that goes with an IPv4 address, so that neither outlives the other.
    pub(crate) fn of(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The bytes.
    pub(crate) fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The link-local address that a kernel derives from this hardware address.
    pub(crate) fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let pair = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            pair(a ^ 2, b),
            pair(c, 0xff),
            pair(0xfe, d),
            pair(e, f),
        )
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The addresses of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The IPv4 address.
    pub(crate) ipv4: Ipv4Addr,
    /// The IPv6 address.
    pub(crate) ipv6: Ipv6Addr,
}

impl Addresses {
    /// The hardware address.
    pub(crate) fn mac(&self) -> MacAddress {
        MacAddress::of(self.ipv4)
    }

    /// The address of the family of another.
    pub(crate) fn like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.ipv4.into(),
            IpAddr::V6(_) => self.ipv6.into(),
        }
    }
}

/// What the members of a network may do among each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// They reach each other.
    Open,
    /// They reach only what they have a link to.
    Isolated,
}

/// Whether a network has a way to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Egress {
    /// It has one.
    Open,
    /// It has none.
    Internal,
}

/// A subnet with a bridge of its own, which endpoints share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// The name.
    pub(crate) name: Name,
    /// The host's device.
    pub(crate) bridge_name: String,
    /// The subnets.
    pub(crate) subnets: Subnets,
    /// The part of the IPv4 subnet that addresses are chosen from; none means all.
    pub(crate) range: Option<Subnet<Ipv4Addr>>,
    /// What its members may do among each other.
    pub(crate) policy: Policy,
    /// Whether it has a way to the outside.
    pub(crate) egress: Egress,
    /// Labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// When a user made it, in seconds of the epoch; none for the default network.
    pub(crate) created_seconds: Option<u64>,
}

impl Network {
    /// Whether a user made it; such a network has names.
    pub(crate) fn is_users(&self) -> bool {
        self.created_seconds.is_some()
    }
}

/// One container on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The identity.
    pub(crate) id: EndpointId,
    /// The network.
    pub(crate) network: Name,
    /// Whose network namespace it is in: the first endpoint's of the container.
    pub(crate) sandbox: EndpointId,
    /// The name of the device in the container.
    pub(crate) ifname: String,
    /// The name that the lease belongs to.
    pub(crate) name: Name,
    /// The host name.
    pub(crate) hostname: String,
    /// The names beside the name by which members of the network find it.
    pub(crate) aliases: Vec<String>,
    /// The addresses.
    pub(crate) addresses: Addresses,
    /// The exposed ports, ascending, tcp first.
    pub(crate) exposed: Vec<Port>,
    /// The published ports.
    pub(crate) published: Vec<PublishedPort>,
    /// The links of which this endpoint is the consumer.
    pub(crate) links: Vec<Link>,
    /// The gateway's addresses, where the endpoint may open connections to the host.
    pub(crate) host: Option<Addresses>,
    /// The name servers that the gateway asks for it; none means the host's.
    pub(crate) dns_servers: Vec<IpAddr>,
}

/// What a caller wants attached.
#[derive(Debug, Clone)]
pub(crate) struct AttachRequest {
    /// The identity.
    pub(crate) id: EndpointId,
    /// The network.
    pub(crate) network: Name,
    /// Whose network namespace to be in; none means one of its own.
    pub(crate) sandbox: Option<EndpointId>,
    /// The name to lease addresses for.
    pub(crate) name: Name,
    /// The addresses to have; none means any.
    pub(crate) wanted: WantedAddresses,
    /// The host name.
    pub(crate) hostname: String,
    /// The names beside the name by which members of the network find it.
    pub(crate) aliases: Vec<String>,
    /// The ports that links to this endpoint open, in order and each once.
    pub(crate) exposed: Vec<Port>,
    /// The ports to publish.
    pub(crate) mappings: Vec<PortMapping>,
    /// The links of which this endpoint is the consumer.
    pub(crate) links: Vec<Link>,
    /// Whether it may open connections to the host.
    pub(crate) host_access: bool,
    /// The name servers that the gateway asks for it; none means the host's.
    pub(crate) dns_servers: Vec<IpAddr>,
}

/// The addresses that a caller asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WantedAddresses {
    /// The IPv4 address; none means any.
    pub(crate) ipv4: Option<Ipv4Addr>,
    /// The IPv6 address; none means the one that goes with the IPv4 address.
    pub(crate) ipv6: Option<Ipv6Addr>,
}

/// What an endpoint is to have from now on.
#[derive(Debug, Clone)]
pub(crate) struct UpdateRequest {
    /// The identity.
    pub(crate) id: EndpointId,
    /// All ports to publish.
    pub(crate) mappings: Vec<PortMapping>,
    /// All links of which it is the consumer.
    pub(crate) links: Vec<Link>,
    /// The ports that links to it open, in order and each once.
    pub(crate) exposed: Vec<Port>,
    /// The names beside the name.
    pub(crate) aliases: Vec<String>,
}

/// A published port to give to another endpoint.
#[derive(Debug, Clone)]
pub(crate) struct MoveRequest {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The port on the host.
    pub(crate) host_port: u16,
    /// Who gets it.
    pub(crate) to: EndpointId,
    /// The port in its container.
    pub(crate) container_port: u16,
}

/// A network to make.
#[derive(Debug, Clone)]
pub(crate) struct NetworkRequest {
    /// The name.
    pub(crate) name: Name,
    /// The IPv4 subnet; none means one that is free.
    pub(crate) ipv4: Option<Subnet<Ipv4Addr>>,
    /// The IPv6 subnet; none means one that is free.
    pub(crate) ipv6: Option<Subnet<Ipv6Addr>>,
    /// The gateway's IPv4 address; none means the first.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// The part of the IPv4 subnet that addresses are chosen from; none means all.
    pub(crate) range: Option<Subnet<Ipv4Addr>>,
    /// What its members may do among each other.
    pub(crate) policy: Policy,
    /// Whether it has a way to the outside.
    pub(crate) egress: Egress,
    /// Labels.
    pub(crate) labels: BTreeMap<String, String>,
}
