//! The firewall: two nf_tables tables that are owned by one netlink socket.
//!
//! The rules are fixed when netd starts; what changes is elements of sets and maps. So
//! the cost of a packet does not grow with containers, and every change is one
//! transaction of elements.
//!
//! ```text
//! table     the fixed rules and sets ──┐
//! network   bridges, policies ─────┐   │
//! endpoint  who may send as whom ──┤   ├─ render ── apply ── kernel
//! port      published ports ───────┼───┘  (messages) (difference, one transaction)
//! link      open links ────────────┘                    │
//!                                          counter <────┘ what the kernel counted
//! ```
//!
//! All but `apply` and `read` is pure. Nothing here knows names, leases or why something is open.

pub(crate) mod apply;
pub(crate) mod counter;
pub(crate) mod endpoint;
pub(crate) mod expression;
pub(crate) mod flow;
pub(crate) mod link;
pub(crate) mod network;
pub(crate) mod port;
pub(crate) mod read;
pub(crate) mod render;
pub(crate) mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use expression::IFNAME_LENGTH;

pub(crate) use apply::{Firewall, FirewallError, Inheritance, Mended};
pub(crate) use link::OpenLink;
pub(crate) use read::Digest;
pub(crate) use render::Ownership;
pub(crate) use table::{Counting, HostAccess, Layout, Passage, SetName, Transit, is_metadata};

/// Elements of sets and maps: (set, key) to the value that a map has; sets have none.
/// Keys and values are as the kernel keeps them.
pub(crate) type Elements = BTreeMap<(SetName, Vec<u8>), Vec<u8>>;

/// The difference between two states of the elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Elements to remove, with the values that they have.
    pub(crate) removed: Elements,
    /// Elements to add.
    pub(crate) added: Elements,
}

impl Difference {
    /// What turns `current` into `desired`. A changed value is removed and added.
    pub(crate) fn between(current: &Elements, desired: &Elements) -> Self {
        let missing_from = |from: &Elements, other: &Elements| {
            from.iter()
                .filter(|(key, value)| other.get(*key) != Some(*value))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        Self {
            removed: missing_from(current, desired),
            added: missing_from(desired, current),
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// The name of a device as the kernel compares it.
fn ifname(name: &str) -> [u8; IFNAME_LENGTH] {
    let mut bytes = [0; IFNAME_LENGTH];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// The elements of a set that is looked up by interval have both ends as their key.
fn interval(first: &[&[u8]], last: &[&[u8]]) -> Vec<u8> {
    [key(first), key(last)].concat()
}

/// Builds keys: each field padded to four bytes, as the kernel's registers hold it.
fn key(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}
