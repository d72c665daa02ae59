//! The fixed part of the firewall: tables, chains, rules, and the sets that they look
//! things up in.
//!
//! ```text
//! bridge linkspan   prerouting   a bridge port sends only as itself, and only ARP, IPv4, IPv6
//! inet linkspan     raw          nothing goes straight to a container, nothing loops back
//!                   prerouting   published ports, for others
//!                   output       published ports, for the host itself
//!                   postrouting  egress and loopback clients get an address of the host
//!                   forward ──── from_container ── link (both ends on the bridge)
//!                           └─── to_container
//!                   input ────── to_host
//!                   output       no redirects
//! ```
//!
//! Traffic that neither comes from the bridge nor goes to it passes untouched.

use super::expression::{Expression, Family};
use crate::network::Subnets;

mod bridge;
mod filter;
mod nat;
mod rule;

pub(crate) use rule::Rule;

/// The name of both tables.
pub(crate) const TABLE: &str = "linkspan";

/// Whether containers may open connections to the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostAccess {
    /// They may not.
    Deny,
    /// They may.
    Allow,
}

/// What the fixed rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The name of the bridge.
    pub(crate) bridge_name: String,
    /// The subnets on it.
    pub(crate) subnets: Subnets,
    /// Whether containers may open connections to the host itself.
    pub(crate) host_access: HostAccess,
}

/// A set or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SetName {
    /// The bridge ports that are ours.
    Ports,
    /// Bridge port, hardware address, IPv4 address.
    Pins4,
    /// Bridge port, hardware address, IPv6 address.
    Pins6,
    /// Consumer, source, protocol, port.
    Links4,
    /// Consumer, source, protocol, port.
    Links6,
    /// Consumer, source.
    Peers4,
    /// Consumer, source.
    Peers6,
    /// Protocol, host port: to container address and port.
    Published4,
    /// Protocol, host port: to container address and port.
    Published6,
    /// Host address, protocol, host port: to container address and port.
    HostPublished4,
    /// Host address, protocol, host port: to container address and port.
    HostPublished6,
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
    /// The name of a device.
    Ifname = 41,
}

impl DataType {
    /// How many bytes of key it takes.
    pub(crate) fn length(self) -> u32 {
        match self {
            Self::Protocol | Self::Service | Self::Ipv4 => 4,
            Self::Ether => 8,
            Self::Ipv6 | Self::Ifname => 16,
        }
    }
}

impl SetName {
    /// Every set.
    pub(crate) const ALL: [Self; 11] = [
        Self::Ports,
        Self::Pins4,
        Self::Pins6,
        Self::Links4,
        Self::Links6,
        Self::Peers4,
        Self::Peers6,
        Self::Published4,
        Self::Published6,
        Self::HostPublished4,
        Self::HostPublished6,
    ];

    /// The name in the kernel.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Pins4 => "pins4",
            Self::Pins6 => "pins6",
            Self::Links4 => "links4",
            Self::Links6 => "links6",
            Self::Peers4 => "peers4",
            Self::Peers6 => "peers6",
            Self::Published4 => "published4",
            Self::Published6 => "published6",
            Self::HostPublished4 => "host_published4",
            Self::HostPublished6 => "host_published6",
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
        use DataType::{Ether, Ifname, Ipv4, Ipv6, Protocol, Service};
        match self {
            Self::Ports => &[Ifname],
            Self::Pins4 => &[Ifname, Ether, Ipv4],
            Self::Pins6 => &[Ifname, Ether, Ipv6],
            Self::Links4 => &[Ipv4, Ipv4, Protocol, Service],
            Self::Links6 => &[Ipv6, Ipv6, Protocol, Service],
            Self::Peers4 => &[Ipv4, Ipv4],
            Self::Peers6 => &[Ipv6, Ipv6],
            Self::Published4 | Self::Published6 => &[Protocol, Service],
            Self::HostPublished4 => &[Ipv4, Protocol, Service],
            Self::HostPublished6 => &[Ipv6, Protocol, Service],
        }
    }

    /// The fields of a map's value; none for a set.
    pub(crate) fn value(self) -> &'static [DataType] {
        use DataType::{Ipv4, Ipv6, Service};
        match self {
            Self::Published4 | Self::HostPublished4 => &[Ipv4, Service],
            Self::Published6 | Self::HostPublished6 => &[Ipv6, Service],
            _ => &[],
        }
    }
}

/// A place in the kernel where a chain is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// The number of the hook.
    pub(crate) number: u32,
    /// The priority among the chains of the hook.
    pub(crate) priority: i32,
}

pub(super) const PREROUTING: u32 = 0;
pub(super) const INPUT: u32 = 1;
pub(super) const FORWARD: u32 = 2;
pub(super) const OUTPUT: u32 = 3;
pub(super) const POSTROUTING: u32 = 4;

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The table that it is in.
    pub(crate) family: Family,
    /// The name.
    pub(crate) name: &'static str,
    /// Where the kernel calls it; none if only other chains do.
    pub(crate) hook: Option<Hook>,
    /// The rules.
    pub(crate) rules: Vec<Rule>,
}

/// All chains, those that others go to first.
pub(crate) fn chains(layout: &Layout) -> Vec<Chain> {
    let mut chains = vec![bridge::prerouting()];
    chains.extend(filter::chains(layout));
    chains.extend(nat::chains(layout));
    chains
}

fn base(
    name: &'static str,
    kind: &'static str,
    number: u32,
    priority: i32,
    rules: Vec<Rule>,
) -> Chain {
    Chain {
        family: Family::Inet,
        name,
        hook: Some(Hook {
            kind,
            number,
            priority,
        }),
        rules,
    }
}

fn regular(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain {
        family: Family::Inet,
        name,
        hook: None,
        rules,
    }
}

impl Rule {
    /// What the rule does.
    pub(crate) fn expressions(&self) -> &[Expression] {
        &self.expressions
    }
}
