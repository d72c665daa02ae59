//! The start: what was left by the last run is adopted, finished or rolled back.
//!
//! Nothing is removed first. Rows say what should be there; the kernel is made to agree,
//! and traffic of endpoints that are there goes on all the while.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{NetworkError, StartError, device as device_error};
use super::model::{Endpoint, Subnets};
use super::owner::{Owner, Settings, chain};
use super::{bridge, device, port, registry::Registry};
use crate::config::Config;
use crate::firewall::{Firewall, Layout};
use crate::ipam::Leases;
use crate::netlink::NetlinkSocket;
use crate::netns::NetnsDirectory;
use crate::store::record::{CHOICES, ENDPOINTS, EndpointRecord, Phase, SubnetRecord, VERSION};
use crate::store::{Change, Store, StoreError};

const SUBNET_KEY: &str = "subnet";

impl Owner {
    /// Takes over what is there and makes what is missing.
    pub(crate) fn start(config: &Config) -> Result<Self, StartError> {
        let durable = Store::open(&config.lease_file()).map_err(NetworkError::from)?;
        let store = Store::open(&config.endpoint_file()).map_err(NetworkError::from)?;
        let mut routing = open(libc::NETLINK_ROUTE)?;
        let subnets = choose_subnets(config, &durable, &mut routing)?;
        let leases =
            Leases::open(durable, subnets, config.quarantine).map_err(NetworkError::from)?;
        let netns = NetnsDirectory::open(config.netns_directory()).map_err(NetworkError::from)?;
        let bridge_index = bridge::ensure(&mut routing, &config.bridge_name, &subnets)?;

        let rows = read_rows(&store)?;
        let mut registry = Registry::default();
        let mut unfinished = Vec::new();
        for (endpoint, phase) in rows {
            let is_whole = phase == Phase::Attached
                && netns.has(&endpoint.id)
                && device::exists(&mut routing, &endpoint.id)?;
            if is_whole {
                registry.insert(&Arc::new(endpoint));
            } else {
                unfinished.push((endpoint, phase));
            }
        }
        let layout = Layout {
            bridge_name: config.bridge_name.clone(),
            subnets,
            host_access: config.host_access,
        };
        let firewall =
            Firewall::adopt(&layout, &registry.elements()).map_err(NetworkError::from)?;
        let mut owner = Self {
            settings: Settings {
                bridge_name: config.bridge_name.clone(),
                subnets,
                port_range: config.port_range.clone(),
            },
            bridge_index,
            routing,
            tracking: open(libc::NETLINK_NETFILTER)?,
            firewall,
            netns,
            leases,
            store,
            registry,
            reservations: BTreeMap::new(),
        };
        owner.finish(unfinished);
        owner.adopt_endpoints()?;
        owner.remove_orphans()?;
        Ok(owner)
    }

    fn finish(&mut self, unfinished: Vec<(Endpoint, Phase)>) {
        for (endpoint, phase) in unfinished {
            tracing::warn!(endpoint_id = %endpoint.id, name = %endpoint.name, ?phase, "endpoint is not whole, removing it");
            for error in self.unmake(&endpoint) {
                tracing::error!(endpoint_id = %endpoint.id, error = %chain(&error), "endpoint not removed");
            }
        }
    }

    fn adopt_endpoints(&mut self) -> Result<(), NetworkError> {
        let endpoints: Vec<_> = self.registry.by_name().cloned().collect();
        for endpoint in endpoints {
            let (leased, novelty) = self.leases.grant(&endpoint.name)?;
            if leased != endpoint.addresses {
                tracing::warn!(name = %endpoint.name, address = %endpoint.addresses.ipv4, leased = %leased.ipv4, "endpoint has another address than its lease, ignoring");
            }
            let kept = self.leases.ports_of(&endpoint.name).to_vec();
            self.leases.keep(&endpoint.name, novelty, kept)?;
            device::connect(&mut self.routing, self.bridge_index, &endpoint)?;
            let held = endpoint
                .published
                .iter()
                .copied()
                .map(port::adopt)
                .collect();
            self.reservations.insert(endpoint.id.clone(), held);
        }
        if self.registry.len() > 0 {
            tracing::info!(count = self.registry.len(), "endpoints adopted");
        }
        Ok(())
    }

    fn remove_orphans(&mut self) -> Result<(), NetworkError> {
        let registry = &self.registry;
        let is_claimed = |id: &str| id.parse().is_ok_and(|id| registry.find(&id).is_some());
        device::remove_orphans(&mut self.routing, is_claimed)?;
        Ok(self.netns.remove_orphans(is_claimed)?)
    }
}

fn open(protocol: i32) -> Result<NetlinkSocket, NetworkError> {
    NetlinkSocket::open(protocol).map_err(device_error("open a netlink socket"))
}

/// The subnet that is given, or the one that was chosen before, or one that is free.
fn choose_subnets(
    config: &Config,
    durable: &Store,
    routing: &mut NetlinkSocket,
) -> Result<Subnets, StartError> {
    let stored = durable
        .load::<SubnetRecord>(CHOICES)
        .map_err(NetworkError::from)?;
    let preferred = stored.into_iter().find(|(key, _)| key == SUBNET_KEY).map(
        |(
            _,
            SubnetRecord {
                version: _,
                base,
                prefix,
            },
        )| super::Subnet { base, prefix },
    );
    let ipv4 = bridge::choose_subnet(routing, &config.bridge_name, config.subnet, preferred)?;
    if config.subnet.is_none() && preferred != Some(ipv4) {
        let record = SubnetRecord {
            version: VERSION,
            base: ipv4.base,
            prefix: ipv4.prefix,
        };
        let change = Change::put(CHOICES, SUBNET_KEY, &record);
        durable.commit(&[change]).map_err(NetworkError::from)?;
    }
    Ok(Subnets {
        ipv4,
        ipv6: config.subnet6,
    })
}

fn read_rows(store: &Store) -> Result<Vec<(Endpoint, Phase)>, NetworkError> {
    let rows: Result<Vec<(String, EndpointRecord)>, StoreError> = store.load(ENDPOINTS);
    rows?
        .into_iter()
        .map(|(id, record)| {
            let phase = record.phase;
            Ok((record.endpoint(&id)?, phase))
        })
        .collect()
}
