//! The tables in the kernel: taken over, compared, and changed in one transaction.

use super::endpoint;
use super::expression::Family;
use super::read;
use super::render::{self, Ownership};
use super::table::Layout;
use super::{Difference, Elements};
use crate::netlink::message::attribute;
use crate::netlink::{Message, NetlinkError, NetlinkSocket};
use crate::network::Addresses;

const FIXED_LENGTH: usize = 4;

/// Why the firewall could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirewallError {
    /// Another live process owns a table of our name.
    #[error("another process owns the nftables table `linkspan`")]
    OwnedByOther,
    /// The kernel refused.
    #[error("{act}")]
    Kernel {
        /// What was tried.
        act: &'static str,
        /// The refusal.
        #[source]
        source: NetlinkError,
    },
}

/// The firewall in the kernel, which belongs to the socket inside.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: NetlinkSocket,
}

impl Firewall {
    /// Takes the tables over and makes them what they should be. If the fixed part is
    /// the same, only elements that differ are written; else both tables are replaced,
    /// in one transaction. Nothing is removed first.
    pub(crate) fn adopt(layout: &Layout, desired: &Elements) -> Result<Self, FirewallError> {
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER).map_err(|source| {
            FirewallError::Kernel {
                act: "open nftables",
                source,
            }
        })?;
        let mut firewall = Self { socket };
        let stamp = render::stamp(layout);
        let present = firewall.present(&stamp)?;
        if present.iter().all(|state| *state == TableState::Current) {
            firewall.take_over(&stamp)?;
            let current = firewall.read()?;
            let difference = Difference::between(&current, desired);
            tracing::info!(
                added = difference.added.len(),
                removed = difference.removed.len(),
                "firewall adopted"
            );
            firewall.apply(&difference)?;
        } else {
            firewall.replace(layout, &stamp, &present, desired)?;
            tracing::info!(elements = desired.len(), "firewall written");
        }
        Ok(firewall)
    }

    /// Applies a difference, all of it or nothing.
    pub(crate) fn apply(&mut self, difference: &Difference) -> Result<(), FirewallError> {
        if difference.is_empty() {
            return Ok(());
        }
        self.commit(
            "change elements of the firewall",
            render::difference(difference),
        )
    }

    /// Forgets what was counted of the connections of a container that is gone.
    pub(crate) fn forget(&mut self, addresses: &Addresses) -> Result<(), FirewallError> {
        let counted = endpoint::counted(addresses);
        match self.commit("forget connections", render::destruction(&counted)) {
            // Before Linux 6.3 nothing can be removed that may not be there. What stays is
            // empty, and counts for whoever has the address next.
            Err(FirewallError::Kernel { source, .. })
                if matches!(source.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// The elements that the kernel has.
    pub(crate) fn read(&mut self) -> Result<Elements, FirewallError> {
        read::elements(&mut self.socket)
    }

    fn present(&mut self, stamp: &str) -> Result<Vec<TableState>, FirewallError> {
        let expected = render::comment(stamp);
        render::FAMILIES
            .into_iter()
            .map(
                |family| match self.socket.query(render::get_table(family)) {
                    Ok(replies) => {
                        let found = replies.iter().any(|reply| {
                            let rest = reply.payload.get(FIXED_LENGTH..).unwrap_or_default();
                            attribute(rest, render::TABLE_USERDATA) == Some(&expected[..])
                        });
                        Ok(if found {
                            TableState::Current
                        } else {
                            TableState::Other
                        })
                    }
                    Err(error) if error.is_absent() => Ok(TableState::Absent),
                    Err(source) => Err(FirewallError::Kernel {
                        act: "look for the firewall",
                        source,
                    }),
                },
            )
            .collect()
    }

    fn take_over(&mut self, stamp: &str) -> Result<(), FirewallError> {
        self.with_ownership(|ownership| render::tables(ownership, stamp))
    }

    fn replace(
        &mut self,
        layout: &Layout,
        stamp: &str,
        present: &[TableState],
        desired: &Elements,
    ) -> Result<(), FirewallError> {
        let stale: Vec<Family> = render::FAMILIES
            .into_iter()
            .zip(present)
            .filter(|(_, state)| **state != TableState::Absent)
            .map(|(family, _)| family)
            .collect();
        let all = Difference {
            removed: Elements::new(),
            added: desired.clone(),
        };
        self.with_ownership(|ownership| {
            let mut messages: Vec<_> = stale.iter().copied().map(render::delete_table).collect();
            messages.extend(render::tables(ownership, stamp));
            messages.extend(render::skeleton(layout));
            messages.extend(render::difference(&all));
            messages
        })
    }

    /// Commits what names the tables, without ownership if the kernel does not know it.
    fn with_ownership(
        &mut self,
        messages: impl Fn(Ownership) -> Vec<Message>,
    ) -> Result<(), FirewallError> {
        match self.commit("write the firewall", messages(Ownership::Owned)) {
            Err(FirewallError::Kernel { source, .. })
                if matches!(source.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
            {
                tracing::warn!(
                    error = %source,
                    "kernel has no owned nftables tables, ignoring: other tools can flush the firewall"
                );
                self.commit("write the firewall", messages(Ownership::Shared))
            }
            other => other,
        }
    }

    fn commit(&mut self, act: &'static str, messages: Vec<Message>) -> Result<(), FirewallError> {
        self.socket
            .transact(render::transaction(messages))
            .map_err(|source| match source.errno() {
                Some(libc::EPERM) => FirewallError::OwnedByOther,
                _ => FirewallError::Kernel { act, source },
            })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TableState {
    Absent,
    Current,
    Other,
}
