//! The start: what was left by the last run is adopted, finished or rolled back.
//!
//! Nothing is removed first. Rows say what should be there; the kernel is made to agree,
//! and traffic of endpoints that are there goes on all the while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::{NetworkError, StartError, device as device_error};
use super::model::{Egress, Endpoint, EndpointId, Name, Network, Policy, WantedAddresses};
use super::monitor::Monitor;
use super::owner::heal::{Condition, Telling};
use super::owner::tables::recorded_firewall;
use super::owner::{Bridge, Owner, Settings, chain};
use super::repairs::{Repairs, Subject};
use super::subnet::Subnets;
use super::{DEFAULT_NETWORK, bridge, choose, device, port, registry::Registry};
use crate::config::Config;
use crate::firewall::{Firewall, Inheritance, Layout, Mended, Passage, Transit};
use crate::ipam::Leases;
use crate::keeper::Keeper;
use crate::netlink::NetlinkSocket;
use crate::netns::NetnsDirectory;
use crate::store::record::{
    CHOICES, ENDPOINTS, EndpointRecord, NETWORKS, NetworkRecord, Phase, SANDBOXES, SandboxRecord,
    SubnetRecord, VERSION,
};
use crate::store::{Change, Store, StoreError};

const SUBNET_KEY: &str = "subnet";

impl Owner {
    /// Takes over what is there and makes what is missing: the firewall first, so that
    /// nothing becomes reachable without it.
    pub(crate) fn start(config: &Config, monitor: &Monitor) -> Result<Self, StartError> {
        let durable = Arc::new(Store::open(&config.lease_file()).map_err(NetworkError::from)?);
        let store = Store::open(&config.endpoint_file()).map_err(NetworkError::from)?;
        let mut routing = open(libc::NETLINK_ROUTE)?;
        let users = read_networks(&durable)?;
        let subnets = choose_subnets(config, &durable, &users, &mut routing)?;
        let default_network = Arc::new(default_network(config, subnets));
        // Before anything is made.
        bridge::find(&mut routing, &default_network.bridge_name)?;
        let netns = NetnsDirectory::open(config.netns_directory()).map_err(NetworkError::from)?;

        let mut registry = Registry::default();
        let mut bridges = BTreeMap::new();
        for network in std::iter::once(&default_network).chain(&users) {
            let leases = Leases::open(Arc::clone(&durable), network, config.quarantine)
                .map_err(NetworkError::from)?;
            bridges.insert(network.name.clone(), Bridge { index: 0, leases });
            registry.insert_network(network);
        }
        for id in read_sandboxes(&store)? {
            registry.insert_sandbox(&id);
        }
        let (whole, unfinished): (Vec<_>, Vec<_>) =
            read_rows(&store)?
                .into_iter()
                .partition(|(endpoint, phase)| {
                    *phase == Phase::Attached
                        && bridges.contains_key(&endpoint.network)
                        && netns.has(&endpoint.sandbox)
                });
        for (endpoint, _) in whole {
            registry.insert(&Arc::new(endpoint));
        }
        let recorded = recorded_firewall(&store)?;
        let inheritance = Inheritance {
            socket: fetch_kept(monitor.keeper()),
            digest: recorded.map(|recorded| recorded.digest),
            ownership: config.ownership,
        };
        let layout = layout(config, recorded.map(|recorded| recorded.transit));
        let (firewall, mended) = Firewall::adopt(&layout, &registry.elements(), inheritance)
            .map_err(NetworkError::from)?;
        let mut owner = Self {
            settings: Settings {
                default_network,
                port_range: config.port_range.clone(),
                quarantine: config.quarantine,
                transit: config.transit,
            },
            bridges,
            routing,
            tracking: open(libc::NETLINK_NETFILTER)?,
            firewall,
            netns,
            durable,
            store,
            registry,
            reservations: BTreeMap::new(),
            condemned: BTreeSet::new(),
            inbox: monitor.inbox(),
            settings_watch: monitor.settings_watch(),
            repairs: Arc::new(Repairs::new()),
            hopeless: BTreeMap::new(),
        };
        owner.conclude_adoption(mended)?;
        let damaged = owner.adopt_bridges()?;
        owner.finish(unfinished);
        owner.adopt_endpoints(&damaged)?;
        owner.adopt_sandboxes()?;
        owner.remove_orphans()?;
        Ok(owner)
    }

    /// A sandbox whose namespace was not made, or is gone, is no promise to anybody.
    fn adopt_sandboxes(&mut self) -> Result<(), NetworkError> {
        let gone: Vec<_> = self
            .registry
            .sandboxes()
            .filter(|id| !self.netns.has(id))
            .cloned()
            .collect();
        for id in gone {
            tracing::warn!(sandbox_id = %id, "sandbox has no namespace, removing it");
            self.store
                .commit(&[Change::remove(SANDBOXES, id.as_str())])?;
            self.registry.remove_sandbox(&id);
        }
        Ok(())
    }

    /// What was repaired while nothing is attached is not damage: it is the first start.
    fn conclude_adoption(&mut self, mended: Mended) -> Result<(), NetworkError> {
        self.record_firewall()?;
        if self.registry.len() == 0 {
            return Ok(());
        }
        self.cut(&mended.difference)?;
        if let Some(damage) = mended.damage {
            self.repairs.tell(Subject::Firewall, damage);
        }
        Ok(())
    }

    /// Returns the networks whose bridges were not whole.
    fn adopt_bridges(&mut self) -> Result<BTreeSet<Name>, NetworkError> {
        let mut damaged = BTreeSet::new();
        self.settings_watch.watch(bridge::HOST_DIRECTORIES)?;
        bridge::prepare_host(&mut self.routing)?;
        let networks: Vec<_> = self.registry.networks().cloned().collect();
        for network in networks {
            let telling = if self.registry.count_on(&network.name) == 0 {
                Telling::Quiet
            } else {
                Telling::Aloud
            };
            let condition = self.heal_bridge(&network, telling)?;
            tracing::info!(
                bridge = network.bridge_name,
                adopted = condition == Condition::Whole,
                "bridge ready"
            );
            if condition == Condition::Damaged {
                damaged.insert(network.name.clone());
            }
        }
        Ok(damaged)
    }

    fn finish(&mut self, unfinished: Vec<(Endpoint, Phase)>) {
        for (endpoint, phase) in unfinished {
            tracing::warn!(endpoint_id = %endpoint.id, name = %endpoint.name, ?phase, "endpoint is not whole, removing it");
            for error in self.unmake(&endpoint) {
                tracing::error!(endpoint_id = %endpoint.id, error = %chain(&error), "endpoint not removed");
            }
        }
    }

    fn adopt_endpoints(&mut self, damaged: &BTreeSet<Name>) -> Result<(), NetworkError> {
        let endpoints: Vec<_> = self.registry.by_name().cloned().collect();
        for endpoint in endpoints {
            let leases = self.leases_mut(&endpoint.network)?;
            let (leased, novelty) = leases.grant(&endpoint.name, WantedAddresses::default())?;
            if leased != endpoint.addresses {
                tracing::warn!(name = %endpoint.name, address = %endpoint.addresses.ipv4, leased = %leased.ipv4, "endpoint has another address than its lease, ignoring");
            }
            let kept = leases.ports_of(&endpoint.name).to_vec();
            leases.keep(&endpoint.name, novelty, kept)?;
            let telling = if damaged.contains(&endpoint.network) {
                Telling::Quiet
            } else {
                Telling::Aloud
            };
            if let Err(error) = self.heal_port(&endpoint, telling) {
                tracing::error!(endpoint_id = %endpoint.id, error = %chain(&error), "endpoint adopted without its device");
            }
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
        bridge::remove_orphans(&mut self.routing, |name| {
            registry
                .networks()
                .any(|network| network.bridge_name == name)
        })?;
        let is_lived_in = |id: &str| {
            id.parse().is_ok_and(|id| {
                registry.has_sandbox(&id) || registry.in_sandbox(&id).next().is_some()
            })
        };
        Ok(self.netns.remove_orphans(is_lived_in)?)
    }
}

/// The socket that owns the firewall, if somebody kept it. Without it the firewall is taken
/// over if nobody owns it.
fn fetch_kept(keeper: &Keeper) -> Option<NetlinkSocket> {
    let kept = keeper.fetch();
    let kept = kept.map_err(|error| chain(&error)).and_then(|socket| {
        let taken = socket.map(NetlinkSocket::take_over).transpose();
        taken.map_err(|error| chain(&error))
    });
    kept.unwrap_or_else(|error| {
        tracing::warn!(error, "firewall not fetched from runtimed, ignoring");
        None
    })
}

fn open(protocol: i32) -> Result<NetlinkSocket, NetworkError> {
    NetlinkSocket::open(protocol).map_err(device_error("open a netlink socket"))
}

fn default_network(config: &Config, subnets: Subnets) -> Network {
    Network {
        name: DEFAULT_NETWORK
            .parse()
            .expect("the name of the default network is a name"),
        bridge_name: config.bridge_name.clone(),
        subnets,
        range: None,
        policy: Policy::Isolated,
        egress: Egress::Open,
        labels: BTreeMap::new(),
        created_seconds: None,
    }
}

/// The subnets that are given, or those that were chosen before, or such as are free.
fn choose_subnets(
    config: &Config,
    durable: &Store,
    users: &[Arc<Network>],
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
    let occupied = choose::occupied(routing, |ifname| {
        ifname == config.bridge_name || users.iter().any(|user| user.bridge_name == ifname)
    })?;
    let occupied4: Vec<_> = occupied
        .iter()
        .cloned()
        .chain(users.iter().map(|user| choose::Occupied {
            base: user.subnets.ipv4.base.into(),
            prefix: user.subnets.ipv4.prefix,
            holder: choose::Holder::Network(user.name.clone()),
        }))
        .collect();
    let candidates = preferred.into_iter().chain(choose::default_candidates());
    let ipv4 = choose::choose(config.subnet, candidates, &occupied4)?;
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
        ipv6: choose::choose(Some(config.subnet6), std::iter::empty(), &occupied)?,
        gateway: Subnets::GATEWAY,
    })
}

fn read_networks(durable: &Store) -> Result<Vec<Arc<Network>>, NetworkError> {
    let rows: Vec<(String, NetworkRecord)> = durable.load(NETWORKS)?;
    rows.into_iter()
        .map(|(name, record)| Ok(Arc::new(record.network(&name)?)))
        .collect()
}

fn read_sandboxes(store: &Store) -> Result<Vec<EndpointId>, NetworkError> {
    let rows: Vec<(String, SandboxRecord)> = store.load(SANDBOXES)?;
    rows.into_iter().map(|(id, _)| Ok(id.parse()?)).collect()
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

/// What the fixed rules depend on. Once we made the host a router, its settings do not say
/// any more what it was; what was written down does.
fn layout(config: &Config, recorded: Option<Transit>) -> Layout {
    let now = bridge::transit();
    Layout {
        host_access: config.host_access,
        max_connections: config.max_connections,
        transit: match (config.transit, recorded) {
            (Passage::Open, _) => Transit::OPEN,
            (Passage::Closed, None) => now,
            (Passage::Closed, Some(before)) => before.and(now),
        },
    }
}
