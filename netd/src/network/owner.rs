//! The owner: carries out one request at a time, and undoes what it cannot finish.
//!
//! ```text
//! attach: lease, ports ─ row "attaching" ─ netns ─ firewall ─ devices ─ row "attached"
//! detach: row "detaching" ─ openings ─ conntrack ─ devices ─ pins ─ netns ─ no row
//! ```
//!
//! The firewall pins a bridge port to its addresses before the device is there, and until
//! it is gone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::device;
use super::error::{self, NetworkError};
use super::model::{AttachRequest, Endpoint, EndpointId, InvalidValue, Name, Protocol, Subnets};
use super::port::{Reservation, Reserved, Reserver};
use super::registry::Registry;
use super::{ChangeKind, LeaseFate, Publisher, Request};
use crate::firewall::expression::Family;
use crate::firewall::{Difference, Elements, Firewall};
use crate::ipam::Leases;
use crate::ipam::pool::Novelty;
use crate::netlink::conntrack::{self, Entry};
use crate::netlink::{NetlinkError, NetlinkSocket};
use crate::netns::NetnsDirectory;
use crate::store::record::{ENDPOINTS, EndpointRecord, Phase};
use crate::store::{Change, Store};
use crate::sysctl;

/// How many ports the kernel allows on one bridge.
pub(crate) const BRIDGE_PORT_LIMIT: usize = 1023;

/// What the owner needs to know that does not change.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The name of the bridge.
    pub(crate) bridge_name: String,
    /// The subnets.
    pub(crate) subnets: Subnets,
    /// Where random host ports come from.
    pub(crate) port_range: RangeInclusive<u16>,
}

/// Everything that the owner owns.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) settings: Settings,
    pub(super) bridge_index: u32,
    pub(super) routing: NetlinkSocket,
    pub(super) tracking: NetlinkSocket,
    pub(super) firewall: Firewall,
    pub(super) netns: NetnsDirectory,
    pub(super) leases: Leases,
    pub(super) store: Store,
    pub(super) registry: Registry,
    pub(super) reservations: BTreeMap<EndpointId, Vec<Reservation>>,
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
            Request::Release(name, reply) => drop(reply.send(self.release(&name))),
        }
    }

    /// The subnets of the network.
    pub(crate) fn subnets(&self) -> Subnets {
        self.settings.subnets
    }

    /// What is attached.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    fn attach(
        &mut self,
        request: AttachRequest,
        publisher: &Publisher,
    ) -> Result<Arc<Endpoint>, NetworkError> {
        if let Some(existing) = self.registry.find(&request.id) {
            return Ok(Arc::clone(existing));
        }
        self.admit(&request)?;
        let (addresses, novelty) = self.leases.grant(&request.name)?;
        let name = request.name.clone();
        let attached = self.reserve(&request).and_then(|reserved| {
            let Reserved { reservations, kept } = reserved;
            self.leases.keep(&name, novelty, kept)?;
            let published = reservations.iter().map(|held| held.published).collect();
            let AttachRequest {
                id,
                name,
                hostname,
                exposed,
                mappings: _,
                links,
                host_access,
            } = request;
            let endpoint = Endpoint {
                id,
                name,
                hostname,
                addresses,
                exposed,
                published,
                links,
                host: host_access.then(|| self.settings.subnets.gateway()),
            };
            self.realize(endpoint, reservations, publisher)
        });
        if attached.is_err() {
            self.return_lease(&name, novelty);
        }
        attached
    }

    /// What must hold before anything is done.
    fn admit(&self, request: &AttachRequest) -> Result<(), NetworkError> {
        if let Some(holder) = self.registry.find_name(&request.name) {
            return Err(NetworkError::NameAttached {
                name: request.name.clone(),
                holder: holder.id.clone(),
            });
        }
        if self.registry.len() >= BRIDGE_PORT_LIMIT {
            return Err(NetworkError::BridgeFull {
                bridge: self.settings.bridge_name.clone(),
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
        Ok(())
    }

    fn reserve(&self, request: &AttachRequest) -> Result<Reserved, NetworkError> {
        Reserver {
            range: &self.settings.port_range,
            leases: &self.leases,
            name: &request.name,
            holder_of: &|ip, port, protocol| self.holder_of(ip, port, protocol),
        }
        .reserve(&request.mappings)
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
        let netns = self.netns.create(&endpoint.id)?;
        let added = self.registry.elements_of(endpoint);
        self.firewall.apply(&Difference {
            removed: Elements::new(),
            added,
        })?;
        self.forget_stale_flows(endpoint)?;
        device::create(
            &mut self.routing,
            netns,
            self.bridge_index,
            endpoint,
            &self.settings.subnets,
        )?;
        self.record(endpoint, Phase::Attached)
    }

    /// Removes everything of an endpoint that is in the kernel, and its row if nothing is
    /// left. Goes on after a failure and returns every error.
    pub(super) fn unmake(&mut self, endpoint: &Endpoint) -> Vec<NetworkError> {
        let (pins, openings) = self
            .registry
            .elements_of(endpoint)
            .into_iter()
            .partition::<Elements, _>(|((set, _), _)| set.family() == Family::Bridge);
        let steps = [
            self.close(&openings),
            self.flush(|entry| {
                entry.mentions(endpoint.addresses.ipv4.into())
                    || entry.mentions(endpoint.addresses.ipv6.into())
            })
            .map_err(error::device("flush connection tracking")),
            device::forget(&mut self.routing, self.bridge_index, endpoint),
            device::remove(&mut self.routing, &endpoint.id),
            // A port that is there is pinned: without its pins it could speak as another.
            self.close(&pins),
            self.netns.remove(&endpoint.id).map_err(NetworkError::from),
        ];
        let mut errors: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            let row = Change::remove(ENDPOINTS, endpoint.id.as_str());
            errors.extend(self.store.commit(&[row]).map_err(NetworkError::from).err());
        }
        errors
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
        let mut errors = self.unmake(&endpoint).into_iter();
        if let Some(first) = errors.next() {
            for error in errors {
                tracing::error!(endpoint_id = %id, error = %chain(&error), "detach failed");
            }
            return Err(first);
        }
        self.reservations.remove(id);
        self.registry.remove(id);
        self.leases.detach(&endpoint.name);
        tracing::info!(endpoint_id = %id, name = %endpoint.name, "endpoint detached");
        publisher.publish(&self.registry, ChangeKind::Detached(id.clone()));
        if lease == LeaseFate::Released {
            self.leases.release(&endpoint.name)?;
        }
        Ok(())
    }

    fn rename(
        &mut self,
        name: &Name,
        new_name: &Name,
        publisher: &Publisher,
    ) -> Result<(), NetworkError> {
        if name == new_name {
            return Ok(());
        }
        if let Some(holder) = self.registry.find_name(new_name) {
            return Err(NetworkError::NameAttached {
                name: new_name.clone(),
                holder: holder.id.clone(),
            });
        }
        if self.leases.has(name) && self.leases.has(new_name) {
            return Err(NetworkError::NameLeased {
                name: new_name.clone(),
            });
        }
        let renamed = renamed_endpoints(&self.registry, name, new_name);
        let mut registry = self.registry.clone();
        for endpoint in &renamed {
            registry.insert(endpoint);
        }
        let difference = Difference::between(&self.registry.elements(), &registry.elements());
        let rows: Vec<_> = renamed
            .iter()
            .map(|endpoint| row(endpoint, Phase::Attached))
            .collect();
        self.leases.rename(name, new_name)?;
        self.store.commit(&rows)?;
        self.firewall.apply(&difference)?;
        self.registry = registry;
        for endpoint in renamed {
            publisher.publish(&self.registry, ChangeKind::Attached(endpoint));
        }
        Ok(())
    }

    fn release(&mut self, name: &Name) -> Result<(), NetworkError> {
        if self.registry.find_name(name).is_some() {
            return Err(NetworkError::EndpointAttached { name: name.clone() });
        }
        Ok(self.leases.release(name)?)
    }

    fn return_lease(&mut self, name: &Name, novelty: Novelty) {
        match novelty {
            Novelty::Known => self.leases.detach(name),
            Novelty::New => {
                if let Err(error) = self.leases.revoke(name) {
                    tracing::warn!(name = %name, error = %chain(&error), "lease of a failed attempt stays, ignoring");
                }
            }
        }
    }

    pub(super) fn record(&self, endpoint: &Endpoint, phase: Phase) -> Result<(), NetworkError> {
        Ok(self.store.commit(&[row(endpoint, phase)])?)
    }

    /// A client that sent datagrams to a port before it was published has an entry that
    /// would lead them past the new rule for as long as it goes on sending.
    fn forget_stale_flows(&mut self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let ports: Vec<_> = endpoint
            .published
            .iter()
            .filter(|published| published.port.protocol == Protocol::Udp)
            .map(|published| published.host_port)
            .collect();
        if ports.is_empty() {
            return Ok(());
        }
        self.flush(|entry| {
            entry.protocol == Protocol::Udp.number()
                && ports.contains(&entry.destination_port)
                && entry.destination == entry.reply_source
        })
        .map_err(error::device("flush connection tracking"))
    }

    fn flush(&mut self, doomed: impl Fn(&Entry) -> bool) -> Result<(), NetlinkError> {
        const COUNT: &str = "netfilter/nf_conntrack_count";
        if sysctl::read(COUNT).as_deref() == Some("0") {
            return Ok(());
        }
        conntrack::flush(&mut self.tracking, doomed).map(drop)
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

/// The endpoints that change when a name does: the one that has it, and the consumers
/// that name it as their source.
fn renamed_endpoints(registry: &Registry, name: &Name, new_name: &Name) -> Vec<Arc<Endpoint>> {
    let mut renamed: BTreeMap<EndpointId, Endpoint> = registry
        .consumers_of(name)
        .map(|consumer| (consumer.id.clone(), Endpoint::clone(consumer)))
        .collect();
    for consumer in renamed.values_mut() {
        for link in consumer
            .links
            .iter_mut()
            .filter(|link| link.source_name == *name)
        {
            link.source_name = new_name.clone();
        }
    }
    if let Some(holder) = registry.find_name(name) {
        let holder = renamed
            .entry(holder.id.clone())
            .or_insert_with(|| Endpoint::clone(holder));
        holder.name = new_name.clone();
    }
    renamed.into_values().map(Arc::new).collect()
}
