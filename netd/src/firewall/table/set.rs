//! The sets and maps that the rules look things up in: names, keys, values.

use crate::firewall::expression::Family;

/// A set or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SetName {
    /// The bridge ports that are ours.
    Ports,
    /// Bridge port, hardware address, IPv4 address.
    Pins4,
    /// Bridge port, hardware address, IPv6 address.
    Pins6,
    /// The bridges that are ours.
    Bridges,
    /// Incoming and outgoing bridge, between which everything passes.
    Open,
    /// The bridges without a way to the outside.
    Internal,
    /// The addresses of the host on our bridges.
    Gateways4,
    /// The addresses of the host on our bridges.
    Gateways6,
    /// Bridge, address at which names are answered.
    Resolvers4,
    /// Bridge, address at which names are answered.
    Resolvers6,
    /// Consumer, source, protocol, port; counts connections.
    Links4,
    /// Consumer, source, protocol, port; counts connections.
    Links6,
    /// Consumer, source; counts packets in both directions.
    Peers4,
    /// Consumer, source; counts packets in both directions.
    Peers6,
    /// Protocol, host port: to container address and port; counts connections.
    Published4,
    /// Protocol, host port: to container address and port; counts connections.
    Published6,
    /// Host address, protocol, host port: to container address and port; counts connections.
    HostPublished4,
    /// Host address, protocol, host port: to container address and port; counts connections.
    HostPublished6,
    /// Protocol, host ports: to container address; counts connections.
    Ranges4,
    /// Protocol, host ports: to container address; counts connections.
    Ranges6,
    /// Host address, protocol, host ports: to container address; counts connections.
    HostRanges4,
    /// Host address, protocol, host ports: to container address; counts connections.
    HostRanges6,
    /// Container address, protocol, published container ports; counts packets.
    Traffic4,
    /// Container address, protocol, published container ports; counts packets.
    Traffic6,
    /// Container address, share of its connections; the kernel adds elements itself.
    Connections4,
    /// Container address, share of its connections; the kernel adds elements itself.
    Connections6,
}

/// A data type of nft(8), which only matters to whoever lists the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataType {
    /// An IPv4 address.
    Ipv4 = 7,
    /// An IPv6 address.
    Ipv6 = 8,
    /// A hardware address.
    Ether = 9,
    /// A transport protocol.
    Protocol = 12,
    /// A port.
    Service = 13,
    /// A number in machine order.
    Mark = 19,
    /// The name of a device.
    Ifname = 41,
}

impl DataType {
    /// How many bytes of it mean something.
    pub(crate) fn width(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Service => 2,
            Self::Ether => 6,
            Self::Ipv4 | Self::Ipv6 | Self::Mark | Self::Ifname => self.length(),
        }
    }

    /// How many bytes of key it takes.
    pub(crate) fn length(self) -> u32 {
        match self {
            Self::Protocol | Self::Service | Self::Ipv4 | Self::Mark => 4,
            Self::Ether => 8,
            Self::Ipv6 | Self::Ifname => 16,
        }
    }
}

impl SetName {
    /// Every set.
    pub(crate) const ALL: [Self; 26] = [
        Self::Ports,
        Self::Pins4,
        Self::Pins6,
        Self::Bridges,
        Self::Open,
        Self::Internal,
        Self::Gateways4,
        Self::Gateways6,
        Self::Resolvers4,
        Self::Resolvers6,
        Self::Links4,
        Self::Links6,
        Self::Peers4,
        Self::Peers6,
        Self::Published4,
        Self::Published6,
        Self::HostPublished4,
        Self::HostPublished6,
        Self::Ranges4,
        Self::Ranges6,
        Self::HostRanges4,
        Self::HostRanges6,
        Self::Traffic4,
        Self::Traffic6,
        Self::Connections4,
        Self::Connections6,
    ];

    /// The name in the kernel.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Pins4 => "pins4",
            Self::Pins6 => "pins6",
            Self::Bridges => "bridges",
            Self::Open => "open",
            Self::Internal => "internal",
            Self::Gateways4 => "gateways4",
            Self::Gateways6 => "gateways6",
            Self::Resolvers4 => "resolvers4",
            Self::Resolvers6 => "resolvers6",
            Self::Links4 => "links4",
            Self::Links6 => "links6",
            Self::Peers4 => "peers4",
            Self::Peers6 => "peers6",
            Self::Published4 => "published4",
            Self::Published6 => "published6",
            Self::HostPublished4 => "host_published4",
            Self::HostPublished6 => "host_published6",
            Self::Ranges4 => "ranges4",
            Self::Ranges6 => "ranges6",
            Self::HostRanges4 => "host_ranges4",
            Self::HostRanges6 => "host_ranges6",
            Self::Traffic4 => "traffic4",
            Self::Traffic6 => "traffic6",
            Self::Connections4 => "connections4",
            Self::Connections6 => "connections6",
        }
    }

    /// The table that it is in.
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Ports | Self::Pins4 | Self::Pins6 => Family::Bridge,
            _ => Family::Inet,
        }
    }

    /// The fields of a key.
    pub(crate) fn key(self) -> &'static [DataType] {
        use DataType::{Ether, Ifname, Ipv4, Ipv6, Mark, Protocol, Service};
        match self {
            Self::Ports | Self::Bridges | Self::Internal => &[Ifname],
            Self::Open => &[Ifname, Ifname],
            Self::Pins4 => &[Ifname, Ether, Ipv4],
            Self::Pins6 => &[Ifname, Ether, Ipv6],
            Self::Gateways4 => &[Ipv4],
            Self::Gateways6 => &[Ipv6],
            Self::Resolvers4 => &[Ifname, Ipv4],
            Self::Resolvers6 => &[Ifname, Ipv6],
            Self::Links4 => &[Ipv4, Ipv4, Protocol, Service],
            Self::Links6 => &[Ipv6, Ipv6, Protocol, Service],
            Self::Peers4 => &[Ipv4, Ipv4],
            Self::Peers6 => &[Ipv6, Ipv6],
            Self::Published4 | Self::Published6 | Self::Ranges4 | Self::Ranges6 => {
                &[Protocol, Service]
            }
            Self::HostPublished4 | Self::HostRanges4 | Self::Traffic4 => &[Ipv4, Protocol, Service],
            Self::HostPublished6 | Self::HostRanges6 | Self::Traffic6 => &[Ipv6, Protocol, Service],
            Self::Connections4 => &[Ipv4, Mark],
            Self::Connections6 => &[Ipv6, Mark],
        }
    }

    /// The fields of a map's value; none for a set.
    pub(crate) fn value(self) -> &'static [DataType] {
        use DataType::{Ipv4, Ipv6, Service};
        match self {
            Self::Published4 | Self::HostPublished4 => &[Ipv4, Service],
            Self::Published6 | Self::HostPublished6 => &[Ipv6, Service],
            Self::Ranges4 | Self::HostRanges4 => &[Ipv4],
            Self::Ranges6 | Self::HostRanges6 => &[Ipv6],
            _ => &[],
        }
    }

    /// Whether an element covers everything between two keys.
    pub(crate) fn has_intervals(self) -> bool {
        matches!(
            self,
            Self::Ranges4
                | Self::Ranges6
                | Self::HostRanges4
                | Self::HostRanges6
                | Self::Traffic4
                | Self::Traffic6
        )
    }

    /// How many elements a set may have that the kernel adds itself; none for a set of ours.
    pub(crate) fn dynamic_size(self) -> Option<u32> {
        // Every share of every container of more than two full bridges.
        const SIZE: u32 = 1 << 16;
        matches!(self, Self::Connections4 | Self::Connections6).then_some(SIZE)
    }

    /// What every element does when it is found.
    pub(crate) fn counting(self) -> Counting {
        match self {
            Self::Links4
            | Self::Links6
            | Self::Peers4
            | Self::Peers6
            | Self::Published4
            | Self::Published6
            | Self::HostPublished4
            | Self::HostPublished6 => Counting::Packets,
            _ if self.has_intervals() => Counting::Packets,
            _ => Counting::Nothing,
        }
    }
}

/// What an element does when it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// Nothing.
    Nothing,
    /// It counts packets and bytes.
    Packets,
}
