//! The fixed part of the firewall: tables, chains, rules, and the sets that they look
//! things up in.
//!
//! ```text
//! bridge linkspan   prerouting   a bridge port sends only as itself, and only ARP, IPv4, IPv6
//!                   forward      nothing goes from one bridge port straight to another
//! inet linkspan     raw          nothing goes straight to a gateway, nothing loops back
//!                   prerouting   published ports, for others
//!                   output       published ports, for the host itself
//!                   postrouting  egress and loopback clients get an address of the host
//!                   forward ──── between ─── link (both ends on our bridges)
//!                           ├─── from_container
//!                           └─── to_container
//!                   input ────── to_host
//!                   output       no redirects
//!                   limit_forward, limit_input ─── limit (connections of one container)
//! ```
//!
//! Which bridges are ours is a set as well, so that a network is elements and no rules.
//! Traffic that neither comes from them nor goes to them passes untouched, unless the host
//! would not forward it without us.

use std::num::NonZeroU32;

use super::expression::Family;

mod bridge;
mod filter;
mod limit;
mod nat;
mod rule;
mod set;

pub(crate) use filter::is_metadata;
pub(crate) use limit::SHARES;
pub(crate) use rule::Rule;
pub(crate) use set::{Counting, DataType, SetName};

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

/// Whether the host forwards packets of a family that neither come from us nor go to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It was a router before us, or may be one.
    Open,
    /// Only we made it one.
    Closed,
}

/// The packets that are none of ours, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transit {
    /// Those of IPv4.
    pub(crate) ipv4: Passage,
    /// Those of IPv6.
    pub(crate) ipv6: Passage,
}

impl Transit {
    /// Everything passes.
    pub(crate) const OPEN: Self = Self {
        ipv4: Passage::Open,
        ipv6: Passage::Open,
    };

    /// What both let pass.
    pub(crate) fn and(self, other: Self) -> Self {
        let both = |one, other| match (one, other) {
            (Passage::Open, Passage::Open) => Passage::Open,
            _ => Passage::Closed,
        };
        Self {
            ipv4: both(self.ipv4, other.ipv4),
            ipv6: both(self.ipv6, other.ipv6),
        }
    }
}

/// What the fixed rules depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Whether containers may open connections to the host itself.
    pub(crate) host_access: HostAccess,
    /// How many connections of each family a container may have open; none means any.
    pub(crate) max_connections: Option<NonZeroU32>,
    /// What is forwarded that is none of ours.
    pub(crate) transit: Transit,
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
    let mut chains = vec![bridge::prerouting(), bridge::forward()];
    chains.extend(filter::chains(layout));
    chains.extend(nat::chains());
    chains.extend(limit::chains(layout));
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
