//! The rules that keep one container from filling the kernel's table of connections.
//!
//! The kernel goes through all connections of an element to find those that have ended, so
//! what a new connection costs grows with them. Each container has several elements, and a
//! connection belongs to one by its id: the cost is that of one share.

use super::{Chain, FORWARD, INPUT, Layout, Rule, SetName, base, regular};
use crate::firewall::expression::{Family, Field, IP4_SOURCE, IP6_SOURCE, Sense::Is};

/// In how many shares the connections of a container are counted; a power of two.
pub(crate) const SHARES: u32 = 32;

/// After every other filter: what is dropped anyway does not count.
const PRIORITY: i32 = 10;
const STATE_NEW: u32 = 8;

/// The chains, those that others go to first; none without a limit.
pub(super) fn chains(layout: &Layout) -> Vec<Chain> {
    let Some(limit) = layout.max_connections else {
        return Vec::new();
    };
    let exceeds = |family, source: Field, set| {
        Rule::new()
            .family(family)
            .exceeds(source, set, SHARES, limit.get() / SHARES)
    };
    let new = || {
        vec![
            Rule::new()
                .any_bit(Field::ConnectionState, STATE_NEW)
                .iif_ours(Is)
                .goto("limit"),
        ]
    };
    vec![
        regular(
            "limit",
            vec![
                exceeds(Family::Ipv4, IP4_SOURCE, SetName::Connections4).drop("connection_limit"),
                exceeds(Family::Ipv6, IP6_SOURCE, SetName::Connections6).drop("connection_limit6"),
            ],
        ),
        base("limit_forward", "filter", FORWARD, PRIORITY, new()),
        base("limit_input", "filter", INPUT, PRIORITY, new()),
    ]
}
