//! The tables in the kernel: taken over, compared, and changed in one transaction.

use std::os::fd::OwnedFd;

use super::endpoint;
use super::expression::Family;
use super::read::{self, Digest};
use super::render::{self, Ownership};
use super::table::{Layout, Transit};
use super::{Difference, Elements};
use crate::netlink::message::attribute;
use crate::netlink::{Message, NetlinkError, NetlinkSocket};
use crate::network::Addresses;

const FIXED_LENGTH: usize = 4;

/// Why the firewall could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirewallError {
    /// Another live process owns a table of our name.
    #[error(
        "another process owns the nftables table `linkspan`: a linkspan-netd that still runs, or a linkspan-runtimed that does not hand it over"
    )]
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
    layout: Layout,
    stamp: String,
    ownership: Ownership,
    digest: Digest,
}

/// What is there when netd starts.
#[derive(Debug)]
pub(crate) struct Inheritance {
    /// The socket that owns the tables, if somebody kept it.
    pub(crate) socket: Option<NetlinkSocket>,
    /// What the fixed part was like in the kernel when it was written.
    pub(crate) digest: Option<Digest>,
    /// Whether the tables are to be owned.
    pub(crate) ownership: Ownership,
}

/// What had to be done to make the tables what they should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mended {
    /// What was wrong; none if nothing was, or if another build wrote the tables.
    pub(crate) damage: Option<String>,
    /// What was removed and added.
    pub(crate) difference: Difference,
}

impl Firewall {
    /// Takes the tables over and makes them what they should be. If the fixed part is
    /// the same, only elements that differ are written; else both tables are replaced.
    /// Either is one transaction. Nothing is removed first.
    pub(crate) fn adopt(
        layout: &Layout,
        desired: &Elements,
        inheritance: Inheritance,
    ) -> Result<(Self, Mended), FirewallError> {
        let open = |source| FirewallError::Kernel {
            act: "open nftables",
            source,
        };
        let Inheritance {
            socket,
            digest,
            ownership,
        } = inheritance;
        let socket = match socket {
            Some(kept) => kept,
            None => NetlinkSocket::open(libc::NETLINK_NETFILTER).map_err(open)?,
        };
        let mut firewall = Self {
            socket,
            layout: *layout,
            stamp: render::stamp(layout),
            ownership,
            digest: digest.unwrap_or_default(),
        };
        let mended = firewall.mend(desired, Entry::Start)?;
        let Difference { added, removed } = &mended.difference;
        tracing::info!(
            added = added.len(),
            removed = removed.len(),
            damage = mended.damage,
            "firewall adopted"
        );
        Ok((firewall, mended))
    }

    /// Makes the tables what they should be, if they are not.
    pub(crate) fn heal(&mut self, desired: &Elements) -> Result<Mended, FirewallError> {
        self.mend(desired, Entry::Running)
    }

    /// What is forwarded that is none of ours.
    pub(crate) fn transit(&self) -> Transit {
        self.layout.transit
    }

    /// Changes what is forwarded that is none of ours.
    pub(crate) fn set_transit(
        &mut self,
        transit: Transit,
        desired: &Elements,
    ) -> Result<(), FirewallError> {
        let layout = Layout {
            transit,
            ..self.layout
        };
        let before = std::mem::replace(&mut self.layout, layout);
        self.stamp = render::stamp(&layout);
        let written = self.mend(desired, Entry::Running);
        if written.is_err() {
            self.layout = before;
            self.stamp = render::stamp(&before);
        }
        written.map(drop)
    }

    /// What the fixed part is like in the kernel.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// By what the kernel knows who writes the tables.
    pub(crate) fn port(&self) -> Result<u32, NetlinkError> {
        self.socket.port()
    }

    /// The socket that owns the tables, for another to hold.
    pub(crate) fn duplicate(&self) -> std::io::Result<OwnedFd> {
        self.socket.duplicate()
    }

    fn mend(&mut self, desired: &Elements, entry: Entry) -> Result<Mended, FirewallError> {
        let present = self.present()?;
        let is_ours = present.iter().all(|state| *state == TableState::Current);
        if is_ours && read::digest(&mut self.socket)? == self.digest {
            let difference = Difference::between(&self.read()?, desired);
            if entry == Entry::Start || !difference.is_empty() {
                let stamp = self.stamp.clone();
                self.with_ownership(|ownership| {
                    let mut messages = render::tables(ownership, &stamp);
                    messages.extend(render::difference(&difference));
                    messages
                })?;
            }
            return Ok(Mended {
                damage: sentence(&difference),
                difference,
            });
        }
        self.replace(&present, desired)?;
        self.digest = read::digest(&mut self.socket)?;
        let damage = if present.contains(&TableState::Absent) {
            Some("table deleted")
        } else if is_ours {
            Some("rules changed")
        } else {
            None
        };
        Ok(Mended {
            damage: damage.map(str::to_owned),
            difference: Difference {
                removed: Elements::new(),
                added: desired.clone(),
            },
        })
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

    fn present(&mut self) -> Result<Vec<TableState>, FirewallError> {
        let expected = render::comment(&self.stamp);
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

    fn replace(&mut self, present: &[TableState], desired: &Elements) -> Result<(), FirewallError> {
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
        let (layout, stamp) = (self.layout, self.stamp.clone());
        self.with_ownership(|ownership| {
            let mut messages: Vec<_> = stale.iter().copied().map(render::delete_table).collect();
            messages.extend(render::tables(ownership, &stamp));
            messages.extend(render::skeleton(&layout));
            messages.extend(render::difference(&all));
            messages
        })
    }

    /// Commits what names the tables, without ownership if the kernel does not know it.
    fn with_ownership(
        &mut self,
        messages: impl Fn(Ownership) -> Vec<Message>,
    ) -> Result<(), FirewallError> {
        match self.commit("write the firewall", messages(self.ownership)) {
            Err(FirewallError::Kernel { source, .. })
                if self.ownership == Ownership::Owned
                    && matches!(source.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
            {
                self.ownership = Ownership::Shared;
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

/// What is wrong with elements; none if nothing is.
fn sentence(difference: &Difference) -> Option<String> {
    let Difference { removed, added } = difference;
    let count = |count: usize, what: &str| (count > 0).then(|| format!("{count} elements {what}"));
    let parts = [count(added.len(), "removed"), count(removed.len(), "added")];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// When the tables are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// At the start, when they must be taken over in any case.
    Start,
    /// Later.
    Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TableState {
    Absent,
    Current,
    Other,
}
