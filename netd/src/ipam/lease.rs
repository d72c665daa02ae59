//! Durable leases: what the pool decides, written down before anyone relies on it.
//!
//! A name that has a lease is attached again without a write: only what is new costs a
//! sync of the disk.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::pool::{Exhausted, Novelty, Pool};
use crate::network::{Addresses, Name, Port, Subnets};
use crate::store::record::{
    KeptPortRecord, LEASES, LeaseRecord, QUARANTINE, QuarantineRecord, VERSION,
};
use crate::store::{Change, Store, StoreError};

/// Why a name got no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// Every address belongs to an attached endpoint.
    #[error("all {size} addresses of {subnet} are in use")]
    Exhausted {
        /// The subnet.
        subnet: String,
        /// How many addresses containers may have in it.
        size: usize,
    },
    /// The lease could not be written.
    #[error("keep the lease")]
    Store(#[source] StoreError),
}

/// A host port that was chosen for a container port, and stays with the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptPort {
    /// The container port.
    pub(crate) port: Port,
    /// The host address that was asked for; none means all.
    pub(crate) host_ip: Option<IpAddr>,
    /// The host port.
    pub(crate) host_port: u16,
}

/// The leases of a network.
#[derive(Debug)]
pub(crate) struct Leases {
    store: Store,
    subnets: Subnets,
    quarantine: Duration,
    pool: Pool,
    kept_ports: BTreeMap<Name, Vec<KeptPort>>,
}

impl Leases {
    /// Reads the leases. Those that are not of this subnet are left where they are: the
    /// subnet may come back.
    pub(crate) fn open(
        store: Store,
        subnets: Subnets,
        quarantine: Duration,
    ) -> Result<Self, StoreError> {
        let mut pool = Pool::new(subnets.offsets());
        let mut kept_ports = BTreeMap::new();
        for (key, record) in store.load::<LeaseRecord>(LEASES)? {
            let LeaseRecord {
                version: _,
                ipv4,
                kept_ports: ports,
            } = record;
            let restored = key.parse::<Name>().ok().and_then(|name| {
                pool.restore(&name, subnets.offset_of(ipv4)?)?;
                Some(name)
            });
            match restored {
                Some(name) => {
                    kept_ports.insert(name, ports.into_iter().map(KeptPort::from).collect());
                }
                None => {
                    tracing::warn!(name = key, address = %ipv4, "lease does not fit the network, ignoring");
                }
            }
        }
        for (key, record) in store.load::<QuarantineRecord>(QUARANTINE)? {
            let offset = key.parse().ok().and_then(|ip| subnets.offset_of(ip));
            if let Some(offset) = offset {
                pool.quarantine(offset, record.until_seconds);
            }
        }
        Ok(Self {
            store,
            subnets,
            quarantine,
            pool,
            kept_ports,
        })
    }

    /// The addresses of a name, which counts as attached from now on. They are not yet
    /// durable: [`Self::keep`] makes them so.
    pub(crate) fn grant(&mut self, name: &Name) -> Result<(Addresses, Novelty), LeaseError> {
        let grant =
            self.pool
                .grant(name, now_seconds())
                .map_err(|Exhausted| LeaseError::Exhausted {
                    subnet: self.subnets.ipv4.to_string(),
                    size: self.pool.size(),
                })?;
        if let Some(evicted) = grant.evicted {
            tracing::info!(name = %evicted, "idle lease reclaimed");
            self.kept_ports.remove(&evicted);
            self.commit(&[Change::remove(LEASES, evicted.as_str())])?;
        }
        Ok((self.subnets.at(grant.offset), grant.novelty))
    }

    /// Makes the lease of a name durable, with the ports that were chosen for it.
    pub(crate) fn keep(
        &mut self,
        name: &Name,
        novelty: Novelty,
        ports: Vec<KeptPort>,
    ) -> Result<(), LeaseError> {
        if novelty == Novelty::Known && self.ports_of(name) == ports {
            return Ok(());
        }
        let Some(offset) = self.pool.offset_of(name) else {
            return Ok(());
        };
        let ipv4 = self.subnets.at(offset).ipv4;
        self.commit(&[
            Change::put(LEASES, name.as_str(), &record(ipv4, &ports)),
            Change::remove(QUARANTINE, ipv4.to_string()),
        ])?;
        self.kept_ports.insert(name.clone(), ports);
        Ok(())
    }

    /// Marks the lease of a name as idle.
    pub(crate) fn detach(&mut self, name: &Name) {
        self.pool.detach(name);
    }

    /// Takes back a lease that was granted to a failed attempt.
    pub(crate) fn revoke(&mut self, name: &Name) -> Result<(), LeaseError> {
        self.pool.revoke(name);
        self.kept_ports.remove(name);
        self.commit(&[Change::remove(LEASES, name.as_str())])
    }

    /// Gives the lease of a name back; the address rests.
    pub(crate) fn release(&mut self, name: &Name) -> Result<(), LeaseError> {
        let until_seconds = now_seconds() + self.quarantine.as_secs();
        let Some(offset) = self.pool.release(name, until_seconds) else {
            return Ok(());
        };
        self.kept_ports.remove(name);
        let record = QuarantineRecord {
            version: VERSION,
            until_seconds,
        };
        let ipv4 = self.subnets.at(offset).ipv4.to_string();
        self.commit(&[
            Change::remove(LEASES, name.as_str()),
            Change::put(QUARANTINE, ipv4, &record),
        ])
    }

    /// Moves the lease of a name to one that has none.
    pub(crate) fn rename(&mut self, name: &Name, new_name: &Name) -> Result<(), LeaseError> {
        let Some(offset) = self.pool.offset_of(name) else {
            return Ok(());
        };
        let ports = self.ports_of(name).to_vec();
        let record = record(self.subnets.at(offset).ipv4, &ports);
        self.commit(&[
            Change::remove(LEASES, name.as_str()),
            Change::put(LEASES, new_name.as_str(), &record),
        ])?;
        self.pool.rename(name, new_name);
        self.kept_ports.remove(name);
        self.kept_ports.insert(new_name.clone(), ports);
        Ok(())
    }

    /// Whether a name has a lease.
    pub(crate) fn has(&self, name: &Name) -> bool {
        self.pool.offset_of(name).is_some()
    }

    /// The ports that were chosen for a name.
    pub(crate) fn ports_of(&self, name: &Name) -> &[KeptPort] {
        self.kept_ports.get(name).map_or(&[], Vec::as_slice)
    }

    /// The host ports that are kept for names other than this one.
    pub(crate) fn ports_of_others(&self, name: &Name) -> HashSet<u16> {
        self.kept_ports
            .iter()
            .filter(|(other, _)| *other != name)
            .flat_map(|(_, ports)| ports.iter().map(|kept| kept.host_port))
            .collect()
    }

    fn commit(&self, changes: &[Change]) -> Result<(), LeaseError> {
        self.store.commit(changes).map_err(LeaseError::Store)
    }
}

fn record(ipv4: std::net::Ipv4Addr, ports: &[KeptPort]) -> LeaseRecord {
    let kept_ports = ports
        .iter()
        .map(|kept| KeptPortRecord {
            port: kept.port.into(),
            host_ip: kept.host_ip,
            host_port: kept.host_port,
        })
        .collect();
    LeaseRecord {
        version: VERSION,
        ipv4,
        kept_ports,
    }
}

impl From<KeptPortRecord> for KeptPort {
    fn from(record: KeptPortRecord) -> Self {
        Self {
            port: record.port.into(),
            host_ip: record.host_ip,
            host_port: record.host_port,
        }
    }
}

fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
