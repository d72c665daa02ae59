//! The allocator: offsets in a subnet, leased to names. Pure: time comes in as a number.
//!
//! ```text
//!   free ── grant ──> leased ── release ──> quarantined ── time ──> free
//!                        │                        │
//!                        └─ oldest idle one ──────┴─ oldest one: reused early,
//!                           last of all               if nothing is free
//! ```

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::network::Name;

/// Why a name gets no offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// All offsets are held by attached endpoints.
    Exhausted,
    /// The offset that it must have belongs to another name.
    Taken(Name),
    /// The offset that it must have is the gateway's, or not in the subnet.
    Unusable,
}

/// An offset that a name got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The offset.
    pub(crate) offset: u32,
    /// Whether the name had none before.
    pub(crate) novelty: Novelty,
    /// The idle name that lost the offset for it.
    pub(crate) evicted: Option<Name>,
}

/// Whether a lease is older than the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Novelty {
    /// The name had it already.
    Known,
    /// The name got it now.
    New,
}

/// Whether the name of a lease has an attached endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Attached,
    /// Since the tick of this number.
    Idle(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Leased { name: Name, usage: Use },
    Quarantined { until_seconds: u64 },
    Gateway,
}

/// The offsets of a network and who holds them.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    /// Those that may be used at all.
    offsets: RangeInclusive<u32>,
    /// Those that are given to who does not care.
    choice: RangeInclusive<u32>,
    holders: BTreeMap<u32, Holder>,
    names: BTreeMap<Name, u32>,
    ticks: u64,
}

impl Pool {
    /// A pool in which only the gateway holds an offset. Names that do not care get one of
    /// `choice`.
    pub(crate) fn new(
        offsets: RangeInclusive<u32>,
        choice: RangeInclusive<u32>,
        gateway: u32,
    ) -> Self {
        Self {
            offsets,
            choice,
            holders: BTreeMap::from([(gateway, Holder::Gateway)]),
            names: BTreeMap::new(),
            ticks: 0,
        }
    }

    /// Puts a lease back as it was stored; says no if the offset is held or is not here.
    pub(crate) fn restore(&mut self, name: &Name, offset: u32) -> Option<()> {
        let vacant = self.offsets.contains(&offset)
            && !self.holders.contains_key(&offset)
            && !self.names.contains_key(name);
        vacant.then(|| {
            let usage = Use::Idle(self.tick());
            self.hold(name, offset, usage);
        })
    }

    /// Puts a quarantine back as it was stored.
    pub(crate) fn quarantine(&mut self, offset: u32, until_seconds: u64) {
        if self.offsets.contains(&offset) {
            self.holders
                .entry(offset)
                .or_insert(Holder::Quarantined { until_seconds });
        }
    }

    /// The offset of a name, which counts as attached from now on: the one that it must
    /// have, or the one it has, or the lowest free one, or the one that has rested longest,
    /// or the one that has been idle longest.
    pub(crate) fn grant(
        &mut self,
        name: &Name,
        wanted: Option<u32>,
        now_seconds: u64,
    ) -> Result<Grant, Denied> {
        let had = self.offset_of(name);
        if let Some(offset) = had.filter(|had| wanted.is_none_or(|wanted| wanted == *had)) {
            self.hold(name, offset, Use::Attached);
            return Ok(Grant {
                offset,
                novelty: Novelty::Known,
                evicted: None,
            });
        }
        self.holders.retain(|_, holder| {
            !matches!(holder, Holder::Quarantined { until_seconds } if *until_seconds <= now_seconds)
        });
        let offset = match wanted {
            Some(wanted) => self.admit(wanted)?,
            None => self
                .lowest_free()
                .or_else(|| self.longest_rested())
                .or_else(|| self.longest_idle())
                .ok_or(Denied::Exhausted)?,
        };
        let evicted = match self.holders.remove(&offset) {
            Some(Holder::Leased { name, .. }) => Some(name),
            _ => None,
        };
        if let Some(evicted) = &evicted {
            self.names.remove(evicted);
        }
        if let Some(had) = had {
            self.holders.remove(&had);
        }
        self.hold(name, offset, Use::Attached);
        Ok(Grant {
            offset,
            novelty: Novelty::New,
            evicted,
        })
    }

    /// An offset that is asked for, if nobody has it. A rest does not matter then.
    fn admit(&self, wanted: u32) -> Result<u32, Denied> {
        match self.holders.get(&wanted) {
            _ if !self.offsets.contains(&wanted) => Err(Denied::Unusable),
            Some(Holder::Gateway) => Err(Denied::Unusable),
            Some(Holder::Leased { name, .. }) => Err(Denied::Taken(name.clone())),
            Some(Holder::Quarantined { .. }) | None => Ok(wanted),
        }
    }

    /// Marks the lease of a name as idle.
    pub(crate) fn detach(&mut self, name: &Name) {
        if let Some(offset) = self.offset_of(name) {
            let usage = Use::Idle(self.tick());
            self.hold(name, offset, usage);
        }
    }

    /// Takes the lease of a name back; the offset rests until a time.
    pub(crate) fn release(&mut self, name: &Name, until_seconds: u64) -> Option<u32> {
        let offset = self.names.remove(name)?;
        self.holders
            .insert(offset, Holder::Quarantined { until_seconds });
        Some(offset)
    }

    /// Takes the lease of a name back; the offset was never used and is free at once.
    pub(crate) fn revoke(&mut self, name: &Name) {
        if let Some(offset) = self.names.remove(name) {
            self.holders.remove(&offset);
        }
    }

    /// Moves a lease to a name that has none.
    pub(crate) fn rename(&mut self, name: &Name, new_name: &Name) {
        let Some(offset) = self.names.remove(name) else {
            return;
        };
        let usage = match self.holders.get(&offset) {
            Some(Holder::Leased { usage, .. }) => *usage,
            _ => Use::Idle(self.tick()),
        };
        self.hold(new_name, offset, usage);
    }

    /// The offset of a name.
    pub(crate) fn offset_of(&self, name: &Name) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// How many offsets names that do not care may get.
    pub(crate) fn size(&self) -> usize {
        let gateways = self
            .holders
            .range(self.choice.clone())
            .filter(|(_, holder)| **holder == Holder::Gateway)
            .count();
        self.choice.clone().count() - gateways
    }

    fn hold(&mut self, name: &Name, offset: u32, usage: Use) {
        self.names.insert(name.clone(), offset);
        self.holders.insert(
            offset,
            Holder::Leased {
                name: name.clone(),
                usage,
            },
        );
    }

    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    fn lowest_free(&self) -> Option<u32> {
        let mut candidate = *self.choice.start();
        for (held, _) in self.holders.range(self.choice.clone()) {
            if *held != candidate {
                break;
            }
            candidate += 1;
        }
        self.choice.contains(&candidate).then_some(candidate)
    }

    fn longest_rested(&self) -> Option<u32> {
        self.holders
            .range(self.choice.clone())
            .filter_map(|(offset, holder)| match holder {
                Holder::Quarantined { until_seconds } => Some((*until_seconds, *offset)),
                Holder::Leased { .. } | Holder::Gateway => None,
            })
            .min()
            .map(|(_, offset)| offset)
    }

    fn longest_idle(&self) -> Option<u32> {
        self.holders
            .range(self.choice.clone())
            .filter_map(|(offset, holder)| match holder {
                Holder::Leased {
                    usage: Use::Idle(since),
                    ..
                } => Some((*since, *offset)),
                _ => None,
            })
            .min()
            .map(|(_, offset)| offset)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn offset(pool: &mut Pool, text: &str, now: u64) -> u32 {
        pool.grant(&name(text), None, now).unwrap().offset
    }

    #[test]
    fn the_lowest_free_offset_comes_first() {
        let mut pool = Pool::new(1..=9, 1..=9, 1);
        assert_eq!(
            ["a", "b", "c"].map(|text| offset(&mut pool, text, 0)),
            [2, 3, 4]
        );
        pool.revoke(&name("b"));
        assert_eq!(offset(&mut pool, "d", 0), 3);
    }

    #[test]
    fn a_name_gets_its_last_offset_back() {
        let mut pool = Pool::new(1..=9, 1..=9, 1);
        offset(&mut pool, "a", 0);
        offset(&mut pool, "db", 0);
        pool.detach(&name("db"));
        offset(&mut pool, "c", 0);
        assert_eq!(
            pool.grant(&name("db"), None, 0).unwrap().novelty,
            Novelty::Known
        );
        assert_eq!(offset(&mut pool, "db", 0), 3);
    }

    #[test]
    fn a_released_offset_rests_before_it_is_used_again() {
        let mut pool = Pool::new(1..=9, 1..=9, 1);
        offset(&mut pool, "a", 0);
        pool.release(&name("a"), 60);
        assert_eq!(offset(&mut pool, "b", 59), 3);
        assert_eq!(offset(&mut pool, "c", 60), 2);
    }

    #[test]
    fn a_full_pool_takes_what_rested_longest_and_then_what_was_idle_longest() {
        let mut pool = Pool::new(1..=5, 1..=5, 1);
        for text in ["a", "b", "c", "d"] {
            offset(&mut pool, text, 0);
        }
        pool.release(&name("b"), 70);
        pool.release(&name("a"), 80);
        pool.detach(&name("d"));
        pool.detach(&name("c"));
        assert_eq!(offset(&mut pool, "e", 0), 3);
        assert_eq!(offset(&mut pool, "f", 0), 2);
        let grant = pool.grant(&name("g"), None, 0).unwrap();
        assert_eq!((grant.offset, grant.evicted), (5, Some(name("d"))));
        assert_eq!(
            pool.grant(&name("h"), None, 0).unwrap().evicted,
            Some(name("c"))
        );
        assert_eq!(pool.grant(&name("i"), None, 0), Err(Denied::Exhausted));
        assert_eq!(pool.size(), 4);
    }

    #[test]
    fn an_offset_that_is_asked_for_is_given_unless_it_belongs_to_someone() {
        let mut pool = Pool::new(1..=9, 4..=6, 1);
        let mut ask = |text: &str, wanted| pool.grant(&name(text), wanted, 0).map(|got| got.offset);
        assert_eq!(ask("a", None), Ok(4));
        assert_eq!(ask("b", Some(9)), Ok(9));
        assert_eq!(ask("c", Some(9)), Err(Denied::Taken(name("b"))));
        assert_eq!(ask("c", Some(1)), Err(Denied::Unusable));
        assert_eq!(ask("c", Some(10)), Err(Denied::Unusable));
        assert_eq!(ask("b", Some(8)), Ok(8));
        assert_eq!(ask("c", Some(9)), Ok(9));
        assert_eq!(pool.size(), 3);
    }

    #[test]
    fn a_renamed_lease_stays_where_it_is() {
        let mut pool = Pool::new(1..=5, 1..=5, 1);
        offset(&mut pool, "a", 0);
        pool.rename(&name("a"), &name("b"));
        assert_eq!(
            (pool.offset_of(&name("a")), pool.offset_of(&name("b"))),
            (None, Some(2))
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Grant(u8),
        Detach(u8),
        Release(u8),
        Revoke(u8),
        Rename(u8, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        (0_u8..5, 0_u8..12, 12_u8..20).prop_map(|(kind, a, b)| match kind {
            0 | 1 => Step::Grant(a),
            2 => Step::Detach(a),
            3 => Step::Release(a),
            _ if a % 2 == 0 => Step::Revoke(a),
            _ => Step::Rename(a, b),
        })
    }

    proptest! {
        /// No two names ever have one offset, none is outside, and names agree with offsets.
        #[test]
        fn prop_offsets_belong_to_one_name(steps in proptest::collection::vec(step(), 0..80)) {
            let mut pool = Pool::new(1..=8, 1..=8, 1);
            let mut attached = BTreeMap::new();
            for (now, step) in steps.into_iter().enumerate() {
                let of = |number: u8| name(&format!("n{number}"));
                match step {
                    Step::Grant(number) => match pool.grant(&of(number), None, now as u64) {
                        Ok(grant) => {
                            attached.insert(of(number), grant.offset);
                        }
                        Err(_) => prop_assert_eq!(attached.len(), pool.size()),
                    },
                    Step::Detach(number) => {
                        pool.detach(&of(number));
                        attached.remove(&of(number));
                    }
                    Step::Release(number) => {
                        pool.release(&of(number), now as u64 + 5);
                        attached.remove(&of(number));
                    }
                    Step::Revoke(number) => {
                        pool.revoke(&of(number));
                        attached.remove(&of(number));
                    }
                    Step::Rename(number, new) => {
                        if pool.offset_of(&of(new)).is_none() {
                            pool.rename(&of(number), &of(new));
                            if let Some(offset) = attached.remove(&of(number)) {
                                attached.insert(of(new), offset);
                            }
                        }
                    }
                }
                for (name, offset) in &attached {
                    prop_assert_eq!(pool.offset_of(name), Some(*offset));
                }
                let mut seen: Vec<_> = pool.names.values().copied().collect();
                seen.sort_unstable();
                let count = seen.len();
                seen.dedup();
                prop_assert_eq!(seen.len(), count);
                prop_assert!(seen.iter().all(|offset| (2..=8).contains(offset)));
            }
        }
    }
}
