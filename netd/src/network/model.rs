//! What exists on a network, in types that cannot hold nonsense.
//!
//! Nothing here knows the wire, the kernel or a store. Text from outside becomes one of
//! these types at the edge, or an [`InvalidValue`] that says in one sentence what is wrong.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// One container on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The identity.
    pub(crate) id: EndpointId,
    /// The name that the lease belongs to.
    pub(crate) name: Name,
    /// The host name.
    pub(crate) hostname: String,
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
}

/// What a caller wants attached.
#[derive(Debug, Clone)]
pub(crate) struct AttachRequest {
    /// The identity.
    pub(crate) id: EndpointId,
    /// The name to lease addresses for.
    pub(crate) name: Name,
    /// The host name.
    pub(crate) hostname: String,
    /// The ports that links to this endpoint open, in order and each once.
    pub(crate) exposed: Vec<Port>,
    /// The ports to publish.
    pub(crate) mappings: Vec<PortMapping>,
    /// The links of which this endpoint is the consumer.
    pub(crate) links: Vec<Link>,
    /// Whether it may open connections to the host.
    pub(crate) host_access: bool,
}

/// A subnet of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet<Ip> {
    /// The first address.
    pub(crate) base: Ip,
    /// The length of the prefix.
    pub(crate) prefix: u8,
}

impl<Ip: fmt::Display> fmt::Display for Subnet<Ip> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// The subnets of a network. One offset serves both families: container 5 of
/// 172.17.0.0/16 is also number 5 of the IPv6 subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnets {
    /// The IPv4 subnet.
    pub(crate) ipv4: Subnet<Ipv4Addr>,
    /// The IPv6 subnet.
    pub(crate) ipv6: Subnet<Ipv6Addr>,
}

impl Subnets {
    /// The offset of the gateway.
    pub(crate) const GATEWAY: u32 = 1;

    /// The addresses at an offset.
    pub(crate) fn at(&self, offset: u32) -> Addresses {
        let ipv4 = Ipv4Addr::from_bits(self.ipv4.base.to_bits() + offset);
        let ipv6 = Ipv6Addr::from_bits(self.ipv6.base.to_bits() + u128::from(offset));
        Addresses { ipv4, ipv6 }
    }

    /// The addresses of the gateway.
    pub(crate) fn gateway(&self) -> Addresses {
        self.at(Self::GATEWAY)
    }

    /// The offsets that containers may have.
    pub(crate) fn offsets(&self) -> RangeInclusive<u32> {
        let size = 1_u32 << (32 - self.ipv4.prefix);
        Self::GATEWAY + 1..=size - 2
    }

    /// The offset of an IPv4 address, if containers may have it.
    pub(crate) fn offset_of(&self, ip: Ipv4Addr) -> Option<u32> {
        let offset = ip.to_bits().checked_sub(self.ipv4.base.to_bits())?;
        self.offsets().contains(&offset).then_some(offset)
    }
}
