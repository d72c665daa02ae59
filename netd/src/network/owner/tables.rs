//! The tables as a whole: repaired, narrowed, and written down for the next start.

use super::Owner;
use crate::firewall::{Digest, Elements, Passage, Transit};
use crate::network::bridge;
use crate::network::error::NetworkError;
use crate::network::repairs::Subject;
use crate::store::Change;
use crate::store::record::{ClosedRecord, FIREWALL, FirewallRecord, VERSION};

const FIREWALL_KEY: &str = "digest";

impl Owner {
    /// The elements that the kernel should have.
    fn elements(&self) -> Elements {
        let mut registry = self.registry.clone();
        for id in &self.condemned {
            registry.remove(id);
        }
        registry.elements()
    }

    /// Makes the tables whole.
    pub(super) fn heal_firewall(&mut self) -> Result<(), NetworkError> {
        let mended = self.firewall.heal(&self.elements())?;
        let Some(damage) = mended.damage else {
            return Ok(());
        };
        self.record_firewall()?;
        self.cut(&mended.difference)?;
        self.repairs.tell(Subject::Firewall, damage);
        Ok(())
    }

    /// Writes down what the kernel has of the firewall, for the next start.
    pub(in crate::network) fn record_firewall(&self) -> Result<(), NetworkError> {
        let record = FirewallRecord {
            version: VERSION,
            digest: self.firewall.digest().0,
            closed: ClosedRecord::of(self.firewall.transit()),
        };
        let row = Change::put(FIREWALL, FIREWALL_KEY, &record);
        Ok(self.store.commit(&[row])?)
    }

    /// Who turned forwarding off wants no router. We need one, so it is none for others.
    pub(super) fn narrow_transit(&mut self) -> Result<(), NetworkError> {
        if self.settings.transit == Passage::Open {
            return Ok(());
        }
        let before = self.firewall.transit();
        let transit = before.and(bridge::transit());
        if transit == before {
            return Ok(());
        }
        self.firewall.set_transit(transit, &self.elements())?;
        self.record_firewall()
    }
}

/// What the firewall was like when it was written.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct RecordedFirewall {
    pub(in crate::network) digest: Digest,
    pub(in crate::network) transit: Transit,
}

/// What is written down of the firewall.
pub(in crate::network) fn recorded_firewall(
    store: &crate::store::Store,
) -> Result<Option<RecordedFirewall>, NetworkError> {
    let rows = store.load::<FirewallRecord>(FIREWALL)?;
    let known = rows
        .into_iter()
        .find(|(key, record)| key == FIREWALL_KEY && record.version == VERSION);
    Ok(known.map(|(_, record)| RecordedFirewall {
        digest: Digest(record.digest),
        transit: record.closed.transit(),
    }))
}
