//! Durable leases: what the pool decides, written down before anyone relies on it.
//!
//! A name that has a lease is attached again without a write: only what is new costs a
//! sync of the disk.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::pool::{Denied, Novelty, Pool};
use crate::network::{Addresses, Name, Network, Port, Subnets, WantedAddresses};
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
    /// The address that was asked for belongs to another name.
    #[error("the address {address} belongs to {holder:?}", holder = holder.as_str())]
    Taken {
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        holder: Name,
    },
    /// The address that was asked for cannot be had.
    #[error("the address {address} is not one that a container may have in {subnet}")]
    Unusable {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: String,
    },
    /// The addresses that were asked for do not go together.
    #[error(
        "the IPv6 address {ipv6} does not go with {ipv4}: on this network {ipv4} has {expected}"
    )]
    Mismatch {
        /// The IPv4 address.
        ipv4: Ipv4Addr,
        /// The IPv6 address.
        ipv6: Ipv6Addr,
        /// The IPv6 address that goes with it.
        expected: Ipv6Addr,
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
    store: Arc<Store>,
    /// What the keys of this network start with.
    prefix: String,
    subnets: Subnets,
    quarantine: Duration,
    pool: Pool,
    kept_ports: BTreeMap<Name, Vec<KeptPort>>,
}

impl Leases {
    /// Reads the leases of a network. Those that are not of its subnet are left where they
    /// are: the subnet may come back.
    pub(crate) fn open(
        store: Arc<Store>,
        network: &Network,
        quarantine: Duration,
    ) -> Result<Self, StoreError> {
        let prefix = if network.is_users() {
            format!("{}/", network.name)
        } else {
            String::new()
        };
        let subnets = network.subnets;
        let choice = network
            .range
            .map_or_else(|| subnets.offsets(), |range| subnets.offsets_of(range));
        let mut pool = Pool::new(subnets.offsets(), choice, subnets.gateway);
        let mut kept_ports = BTreeMap::new();
        for (key, record) in store.load::<LeaseRecord>(LEASES)? {
            let LeaseRecord {
                version: _,
                ipv4,
                kept_ports: ports,
            } = record;
            // Names have no slash, so that what is left of another network's key is no name.
            let Some(name) = key
                .strip_prefix(&prefix)
                .and_then(|rest| rest.parse::<Name>().ok())
            else {
                continue;
            };
            let restored = subnets.offset_of(ipv4).and_then(|offset| {
                pool.restore(&name, offset)?;
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
            prefix,
            subnets,
            quarantine,
            pool,
            kept_ports,
        })
    }

    /// The addresses of a name, which counts as attached from now on. They are not yet
    /// durable: [`Self::keep`] makes them so.
    pub(crate) fn grant(
        &mut self,
        name: &Name,
        wanted: WantedAddresses,
    ) -> Result<(Addresses, Novelty), LeaseError> {
        let offset = self.wanted_offset(wanted)?;
        let grant = self
            .pool
            .grant(name, offset, now_seconds())
            .map_err(|denied| self.explain(denied, offset))?;
        if let Some(evicted) = grant.evicted {
            tracing::info!(name = %evicted, "idle lease reclaimed");
            self.kept_ports.remove(&evicted);
            self.commit(&[Change::remove(LEASES, self.key(&evicted))])?;
        }
        Ok((self.subnets.at(grant.offset), grant.novelty))
    }

    fn wanted_offset(&self, wanted: WantedAddresses) -> Result<Option<u32>, LeaseError> {
        let WantedAddresses { ipv4, ipv6 } = wanted;
        let unusable = |address: IpAddr, subnet: String| LeaseError::Unusable { address, subnet };
        let offset4 = ipv4
            .map(|ip| {
                let offset = self.subnets.offset_of(ip);
                offset.ok_or_else(|| unusable(ip.into(), self.subnets.ipv4.to_string()))
            })
            .transpose()?;
        let offset6 = ipv6
            .map(|ip| {
                let offset = self.subnets.offset_of6(ip);
                offset.ok_or_else(|| unusable(ip.into(), self.subnets.ipv6.to_string()))
            })
            .transpose()?;
        match (ipv4.zip(offset4), ipv6.zip(offset6)) {
            (Some((ipv4, four)), Some((ipv6, six))) if four != six => Err(LeaseError::Mismatch {
                ipv4,
                ipv6,
                expected: self.subnets.at(four).ipv6,
            }),
            _ => Ok(offset4.or(offset6)),
        }
    }

    fn explain(&self, denied: Denied, wanted: Option<u32>) -> LeaseError {
        let address = self.subnets.at(wanted.unwrap_or_default()).ipv4;
        let subnet = self.subnets.ipv4.to_string();
        match denied {
            Denied::Exhausted => LeaseError::Exhausted {
                subnet,
                size: self.pool.size(),
            },
            Denied::Taken(holder) => LeaseError::Taken { address, holder },
            Denied::Unusable => LeaseError::Unusable {
                address: address.into(),
                subnet,
            },
        }
    }

    /// Gives back every lease, because the network goes.
    pub(crate) fn forget(self) -> Result<(), LeaseError> {
        let rows: Vec<_> = self
            .kept_ports
            .keys()
            .map(|name| Change::remove(LEASES, self.key(name)))
            .collect();
        self.commit(&rows)
    }

    fn key(&self, name: &Name) -> String {
        format!("{}{name}", self.prefix)
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
            Change::put(LEASES, self.key(name), &record(ipv4, &ports)),
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
        self.commit(&[Change::remove(LEASES, self.key(name))])
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
            Change::remove(LEASES, self.key(name)),
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
            Change::remove(LEASES, self.key(name)),
            Change::put(LEASES, self.key(new_name), &record),
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

    /// The host ports that are kept for names other than this one, if there is one.
    pub(crate) fn ports_of_others(&self, name: Option<&Name>) -> impl Iterator<Item = u16> {
        self.kept_ports
            .iter()
            .filter(move |(other, _)| name != Some(*other))
            .flat_map(|(_, ports)| ports.iter().map(|kept| kept.host_port))
    }

    fn commit(&self, changes: &[Change]) -> Result<(), LeaseError> {
        self.store.commit(changes).map_err(LeaseError::Store)
    }
}

fn record(ipv4: Ipv4Addr, ports: &[KeptPort]) -> LeaseRecord {
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

/// The time, in seconds of the epoch.
pub(crate) fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
