//! The owner: carries out one request at a time, and undoes what it cannot finish.
//!
//! ```text
//! attach: lease, ports ─ row "attaching" ─ netns ─ firewall ─ devices ─ row "attached"
//! detach: row "detaching" ─ openings ─ conntrack ─ devices ─ pins ─ netns ─ no row
//! ```
//!
//! The firewall pins a bridge port to its addresses before the device is there, and until
//! it is gone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

mod change;
mod flows;
pub(super) mod heal;
mod networks;
mod rename;
mod sandboxes;
pub(super) mod tables;

use super::damage::Damage;
use super::device::{self, DefaultRoute};
use super::error::{self, NetworkError};
use super::model::{
    AttachRequest, Egress, Endpoint, EndpointId, HostPort, InvalidValue, Name, Network,
    PortMapping, Protocol, PublishedPort,
};
use super::monitor::{Inbox, Ownership, SettingsWatch};
use super::port::{Reservation, Reserved, Reserver};
use super::registry::Registry;
use super::repairs::Repairs;
use super::{ChangeKind, LeaseFate, Publisher, Request};
use crate::firewall::expression::Family;
use crate::firewall::{Difference, Elements, Firewall, Passage};
use crate::ipam::Leases;
use crate::ipam::pool::Novelty;
use crate::netlink::NetlinkSocket;
use crate::netns::NetnsDirectory;
use crate::store::record::{ENDPOINTS, EndpointRecord, Phase};
use crate::store::{Change, Store};

/// How many ports the kernel allows on one bridge.
pub(crate) const BRIDGE_PORT_LIMIT: usize = 1023;

/// What the owner needs to know that does not change.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The default network.
    pub(crate) default_network: Arc<Network>,
    /// Where random host ports come from.
    pub(crate) port_range: RangeInclusive<u16>,
    /// How long a freed address rests.
    pub(crate) quarantine: Duration,
    /// Whether a host that was no router becomes one for others.
    pub(crate) transit: Passage,
}

/// What the owner has for each network.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(super) index: u32,
    pub(super) leases: Leases,
}

/// Everything that the owner owns.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) settings: Settings,
    pub(super) bridges: BTreeMap<Name, Bridge>,
    pub(super) routing: NetlinkSocket,
    pub(super) tracking: NetlinkSocket,
    pub(super) firewall: Firewall,
    pub(super) netns: NetnsDirectory,
    pub(super) durable: Arc<Store>,
    pub(super) store: Store,
    pub(super) registry: Registry,
    pub(super) reservations: BTreeMap<EndpointId, Vec<Reservation>>,
    /// Endpoints whose detaching has begun; what is missing of them is not damage.
    pub(super) condemned: BTreeSet<EndpointId>,
    /// Where to look for damage.
    pub(super) inbox: Inbox,
    pub(super) settings_watch: SettingsWatch,
    pub(super) repairs: Arc<Repairs>,
    /// What repairs did not mend, by what it is the damage of.
    pub(super) hopeless: BTreeMap<String, Vec<Damage>>,
}

impl Owner {
    /// Carries out a request and answers it.
    pub(crate) fn handle(&mut self, request: Request, publisher: &Publisher) {
        // A caller that went away gets no answer; what it asked for is done all the same.
        match request {
            Request::Attach(request, reply) => drop(reply.send(self.attach(*request, publisher))),
            Request::Detach(id, lease, reply) => {
                drop(reply.send(self.detach(&id, lease, publisher)));
            }
            Request::Rename(name, new_name, reply) => {
                drop(reply.send(self.rename(&name, &new_name, publisher)));
            }
            Request::Release(name, network, reply) => {
                drop(reply.send(self.release(&name, network.as_ref())));
            }
            Request::Update(request, reply) => drop(reply.send(self.update(*request, publisher))),
            Request::Move(request, reply) => drop(reply.send(self.move_port(&request, publisher))),
            Request::CreateSandbox(id, reply) => {
                drop(reply.send(self.create_sandbox(&id, publisher)));
            }
            Request::DeleteSandbox(id, reply) => {
                drop(reply.send(self.delete_sandbox(&id, publisher)));
            }
            Request::CreateNetwork(request, reply) => {
                drop(reply.send(self.create_network(*request, publisher)));
            }
            Request::DeleteNetwork(name, reply) => {
                drop(reply.send(self.delete_network(&name, publisher)));
            }
            Request::Look => self.heal(),
        }
    }

    /// What is attached.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where repairs are told.
    pub(crate) fn repairs(&self) -> Arc<Repairs> {
        Arc::clone(&self.repairs)
    }

    /// The socket that owns the firewall, for the monitor.
    pub(crate) fn ownership(&self) -> Result<Ownership, NetworkError> {
        let act = "look at the firewall's socket";
        let port = self.firewall.port().map_err(error::device(act))?;
        let socket = self.firewall.duplicate().map_err(NetworkError::Watch)?;
        Ok(Ownership { port, socket })
    }

    fn attach(
        &mut self,
        request: AttachRequest,
        publisher: &Publisher,
    ) -> Result<Arc<Endpoint>, NetworkError> {
        if let Some(existing) = self.registry.find(&request.id) {
            return Ok(Arc::clone(existing));
        }
        let network = self.admit(&request)?;
        let (addresses, novelty) = self
            .leases_mut(&network.name)?
            .grant(&request.name, request.wanted)?;
        let name = request.name.clone();
        let attached = self
            .reserve(&network.name, &request.name, &request.mappings, &[])
            .and_then(|reserved| {
                let Reserved { reservations, kept } = reserved;
                self.leases_mut(&network.name)?.keep(&name, novelty, kept)?;
                let published = reservations.iter().map(|held| held.published).collect();
                let AttachRequest {
                    id,
                    network: _,
                    sandbox,
                    name,
                    wanted: _,
                    hostname,
                    aliases,
                    exposed,
                    mappings: _,
                    links,
                    host_access,
                    dns_servers,
                } = request;
                let sandbox = sandbox.unwrap_or_else(|| id.clone());
                let endpoint = Endpoint {
                    ifname: self.free_ifname(&sandbox),
                    id,
                    network: network.name.clone(),
                    sandbox,
                    name,
                    hostname,
                    aliases,
                    addresses,
                    exposed,
                    published,
                    links,
                    host: host_access.then(|| network.subnets.gateway()),
                    dns_servers,
                };
                self.realize(endpoint, reservations, publisher)
            });
        if attached.is_err() {
            self.return_lease(&network.name, &name, novelty);
        }
        attached
    }

    /// What must hold before anything is done; returns the network.
    fn admit(&self, request: &AttachRequest) -> Result<Arc<Network>, NetworkError> {
        let network = self.network(&request.network)?;
        if let Some(holder) = self.registry.find_name(&request.name, &network.name) {
            return Err(NetworkError::NameAttached {
                name: request.name.clone(),
                holder: holder.id.clone(),
            });
        }
        if self.registry.count_on(&network.name) >= BRIDGE_PORT_LIMIT {
            return Err(NetworkError::BridgeFull {
                bridge: network.bridge_name.clone(),
                limit: BRIDGE_PORT_LIMIT,
            });
        }
        // The device is named after the id, and two cannot have one name.
        if let Some(other) = self.registry.find_ifname(&request.id) {
            return Err(NetworkError::Invalid(InvalidValue(format!(
                "the endpoint id must differ from {} in its first ten digits",
                other.short()
            ))));
        }
        if let Some(sandbox) = &request.sandbox
            && let Some(member) = self
                .registry
                .in_sandbox(sandbox)
                .find(|member| member.network == network.name)
        {
            return Err(NetworkError::NameAttached {
                name: request.name.clone(),
                holder: member.id.clone(),
            });
        }
        Ok(network)
    }

    /// The network of a name.
    pub(super) fn network(&self, name: &Name) -> Result<Arc<Network>, NetworkError> {
        self.registry
            .find_network(name)
            .cloned()
            .ok_or_else(|| NetworkError::NetworkNotFound {
                network: name.to_string(),
            })
    }

    pub(super) fn bridge(&self, network: &Name) -> Result<&Bridge, NetworkError> {
        self.bridges
            .get(network)
            .ok_or_else(|| NetworkError::NetworkNotFound {
                network: network.to_string(),
            })
    }

    pub(super) fn bridge_mut(&mut self, network: &Name) -> Result<&mut Bridge, NetworkError> {
        match self.bridges.get_mut(network) {
            Some(bridge) => Ok(bridge),
            None => Err(NetworkError::NetworkNotFound {
                network: network.to_string(),
            }),
        }
    }

    pub(super) fn leases_mut(&mut self, network: &Name) -> Result<&mut Leases, NetworkError> {
        Ok(&mut self.bridge_mut(network)?.leases)
    }

    /// The first device name that no other endpoint of a namespace has.
    fn free_ifname(&self, sandbox: &EndpointId) -> String {
        let taken: HashSet<_> = self
            .registry
            .in_sandbox(sandbox)
            .map(|member| member.ifname.clone())
            .collect();
        (0..)
            .map(|number| format!("eth{number}"))
            .find(|ifname| !taken.contains(ifname))
            .expect("there are more numbers than devices")
    }

    /// Reserves what the mappings ask for, beside what the same endpoint holds already.
    fn reserve(
        &self,
        network: &Name,
        name: &Name,
        mappings: &[PortMapping],
        held: &[PublishedPort],
    ) -> Result<Reserved, NetworkError> {
        // All leases are asked, so only for who needs a choice.
        let is_choice = |mapping: &PortMapping| mapping.host_port == HostPort::Any;
        let claimed = if mappings.iter().any(is_choice) {
            let leases = self.bridges.iter().flat_map(|(other, bridge)| {
                let own = (other == network).then_some(name);
                bridge.leases.ports_of_others(own)
            });
            leases.collect()
        } else {
            HashSet::new()
        };
        Reserver {
            range: &self.settings.port_range,
            kept: self.bridge(network)?.leases.ports_of(name),
            claimed,
            name,
            held,
            holder_of: &|ip, port, protocol| self.holder_of(ip, port, protocol),
        }
        .reserve(mappings)
    }

    fn holder_of(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Option<Name> {
        let (id, _) = self.reservations.iter().find(|(_, held)| {
            held.iter()
                .any(|held| held.published.conflicts_with(ip, port, protocol))
        })?;
        Some(self.registry.find(id)?.name.clone())
    }

    /// Makes an endpoint exist, or leaves nothing of it.
    fn realize(
        &mut self,
        endpoint: Endpoint,
        reservations: Vec<Reservation>,
        publisher: &Publisher,
    ) -> Result<Arc<Endpoint>, NetworkError> {
        let endpoint = Arc::new(endpoint);
        self.record(&endpoint, Phase::Attaching)?;
        self.registry.insert(&endpoint);
        match self.make(&endpoint) {
            Ok(()) => {
                tracing::info!(endpoint_id = %endpoint.id, name = %endpoint.name, address = %endpoint.addresses.ipv4, "endpoint attached");
                self.reservations.insert(endpoint.id.clone(), reservations);
                publisher.publish(&self.registry, ChangeKind::Attached(Arc::clone(&endpoint)));
                Ok(endpoint)
            }
            Err(error) => {
                for undo_error in self.unmake(&endpoint) {
                    tracing::warn!(endpoint_id = %endpoint.id, error = %chain(&undo_error), "rollback incomplete, ignoring: the next start goes on with it");
                }
                self.registry.remove(&endpoint.id);
                Err(error)
            }
        }
    }

    fn make(&mut self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let network = self.network(&endpoint.network)?;
        let netns = if self.stays_without(endpoint) {
            self.netns.enter(&endpoint.sandbox)?
        } else {
            self.netns.create(&endpoint.sandbox)?
        };
        let added = self.registry.elements_of(endpoint);
        self.firewall.apply(&Difference {
            removed: Elements::new(),
            added,
        })?;
        self.forget_stale_flows(&endpoint.published)?;
        let default_route = self.default_route_of(endpoint, &network);
        device::create(
            &mut self.routing,
            netns,
            self.bridges
                .get(&endpoint.network)
                .map_or(0, |bridge| bridge.index),
            endpoint,
            &network.subnets,
            default_route,
        )?;
        self.record(endpoint, Phase::Attached)
    }

    /// The first device that leads outside has the default route.
    pub(super) fn default_route_of(&self, endpoint: &Endpoint, network: &Network) -> DefaultRoute {
        let leads_outside = |other: &Endpoint| {
            self.registry
                .find_network(&other.network)
                .is_some_and(|network| network.egress == Egress::Open)
        };
        let has_one = self
            .registry
            .in_sandbox(&endpoint.sandbox)
            .any(|other| other.id != endpoint.id && leads_outside(other));
        if network.egress == Egress::Open && !has_one {
            DefaultRoute::Here
        } else {
            DefaultRoute::Elsewhere
        }
    }

    /// Removes everything of an endpoint that is in the kernel, and its row if nothing is
    /// left. Goes on after a failure and returns every error.
    pub(super) fn unmake(&mut self, endpoint: &Endpoint) -> Vec<NetworkError> {
        let (pins, openings) = self
            .registry
            .elements_of(endpoint)
            .into_iter()
            .partition::<Elements, _>(|((set, _), _)| set.family() == Family::Bridge);
        let bridge_index = self
            .bridges
            .get(&endpoint.network)
            .map_or(0, |bridge| bridge.index);
        let netns_stays = self.stays_without(endpoint);
        let steps = [
            self.close(&openings),
            self.forget_flows(&endpoint.addresses),
            device::forget(&mut self.routing, bridge_index, endpoint),
            device::remove(&mut self.routing, &endpoint.id),
            // A port that is there is pinned: without its pins it could speak as another.
            self.close(&pins),
            self.firewall
                .forget(&endpoint.addresses)
                .map_err(NetworkError::from),
            if netns_stays {
                Ok(())
            } else {
                self.netns
                    .remove(&endpoint.sandbox)
                    .map_err(NetworkError::from)
            },
        ];
        let mut errors: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            let row = Change::remove(ENDPOINTS, endpoint.id.as_str());
            errors.extend(self.store.commit(&[row]).map_err(NetworkError::from).err());
        }
        errors
    }

    /// Whether the namespace of an endpoint is there without it.
    fn stays_without(&self, endpoint: &Endpoint) -> bool {
        let has_company = || {
            self.registry
                .in_sandbox(&endpoint.sandbox)
                .any(|other| other.id != endpoint.id)
        };
        self.registry.has_sandbox(&endpoint.sandbox) || has_company()
    }

    /// Removes those of the elements that the kernel has: a rollback may come before they
    /// were all written.
    fn close(&mut self, elements: &Elements) -> Result<(), NetworkError> {
        let whole = Difference {
            removed: elements.clone(),
            added: Elements::new(),
        };
        if self.firewall.apply(&whole).is_ok() {
            return Ok(());
        }
        let mut present = self.firewall.read()?;
        present.retain(|key, _| elements.contains_key(key));
        Ok(self.firewall.apply(&Difference {
            removed: present,
            added: Elements::new(),
        })?)
    }

    fn detach(
        &mut self,
        id: &EndpointId,
        lease: LeaseFate,
        publisher: &Publisher,
    ) -> Result<(), NetworkError> {
        let Some(endpoint) = self.registry.find(id).cloned() else {
            return Ok(());
        };
        self.record(&endpoint, Phase::Detaching)?;
        self.condemned.insert(id.clone());
        let mut errors = self.unmake(&endpoint).into_iter();
        if let Some(first) = errors.next() {
            for error in errors {
                tracing::error!(endpoint_id = %id, error = %chain(&error), "detach failed");
            }
            return Err(first);
        }
        self.condemned.remove(id);
        self.reservations.remove(id);
        self.registry.remove(id);
        let leases = self.leases_mut(&endpoint.network)?;
        leases.detach(&endpoint.name);
        let released = match lease {
            LeaseFate::Released => leases.release(&endpoint.name),
            LeaseFate::Kept => Ok(()),
        };
        tracing::info!(endpoint_id = %id, name = %endpoint.name, network = %endpoint.network, "endpoint detached");
        publisher.publish(&self.registry, ChangeKind::Detached(Arc::clone(&endpoint)));
        self.lead_default(&endpoint.sandbox);
        Ok(released?)
    }

    /// Gives the default route to the first device that is left and leads outside.
    fn lead_default(&self, sandbox: &EndpointId) {
        let mut left: Vec<_> = self.registry.in_sandbox(sandbox).collect();
        left.sort_by(|one, other| one.ifname.cmp(&other.ifname));
        let next = left.into_iter().find_map(|endpoint| {
            let network = self.registry.find_network(&endpoint.network)?;
            (network.egress == Egress::Open).then_some((endpoint, network))
        });
        let Some((endpoint, network)) = next else {
            return;
        };
        let led = self
            .netns
            .enter(sandbox)
            .map_err(NetworkError::from)
            .and_then(|netns| device::lead_default(netns, endpoint, &network.subnets));
        if let Err(error) = led {
            tracing::warn!(endpoint_id = %endpoint.id, error = %chain(&error), "default route not moved, ignoring");
        }
    }

    fn return_lease(&mut self, network: &Name, name: &Name, novelty: Novelty) {
        let Some(bridge) = self.bridges.get_mut(network) else {
            return;
        };
        match novelty {
            Novelty::Known => bridge.leases.detach(name),
            Novelty::New => {
                if let Err(error) = bridge.leases.revoke(name) {
                    tracing::warn!(name = %name, error = %chain(&error), "lease of a failed attempt stays, ignoring");
                }
            }
        }
    }

    pub(super) fn record(&self, endpoint: &Endpoint, phase: Phase) -> Result<(), NetworkError> {
        Ok(self.store.commit(&[row(endpoint, phase)])?)
    }
}

/// An error with its sources, as it is logged.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources.fold(error.to_string(), |text, source| {
        format!("{text}: {source}")
    })
}

fn row(endpoint: &Endpoint, phase: Phase) -> Change {
    Change::put(
        ENDPOINTS,
        endpoint.id.as_str(),
        &EndpointRecord::of(endpoint, phase),
    )
}
