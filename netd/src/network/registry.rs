//! What is attached, and what follows from it: which links are open, and which elements
//! the firewall has. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rpds::{RedBlackTreeMapSync, RedBlackTreeSet, RedBlackTreeSetSync};

use super::model::{Addresses, Endpoint, EndpointId, Link, Name, Network};
use crate::firewall::{Elements, OpenLink, endpoint, link, network, port};

/// A link as declared, and what of it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkStatus {
    /// The name of the consumer.
    pub(crate) consumer_name: Name,
    /// The link.
    pub(crate) link: Link,
    /// The network of both ends, which may be the wrong one while the link is not open.
    pub(crate) network: Name,
    /// What is open; none if the source is not attached.
    pub(crate) open: Option<OpenLink>,
}

/// The endpoints that have something in common, by what it is.
type Index<K> = RedBlackTreeMapSync<K, RedBlackTreeSetSync<EndpointId>>;

/// The networks and the attached endpoints.
///
/// The maps share their structure with their clones: what is published after each change
/// costs no copy, whatever is attached.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    networks: RedBlackTreeMapSync<Name, Arc<Network>>,
    endpoints: RedBlackTreeMapSync<EndpointId, Arc<Endpoint>>,
    /// By name and network.
    names: RedBlackTreeMapSync<(Name, Name), EndpointId>,
    members: Index<Name>,
    sandboxes: Index<EndpointId>,
    /// Namespaces that stay without endpoints.
    kept_sandboxes: RedBlackTreeSetSync<EndpointId>,
    /// Those that have a link to a name.
    consumers: Index<Name>,
    generation: u64,
}

impl Registry {
    /// How many changes there were.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds or replaces a network.
    pub(crate) fn insert_network(&mut self, network: &Arc<Network>) {
        self.generation += 1;
        self.networks
            .insert_mut(network.name.clone(), Arc::clone(network));
    }

    /// Removes a network that no endpoint is on.
    pub(crate) fn remove_network(&mut self, name: &Name) {
        self.generation += 1;
        self.networks.remove_mut(name);
    }

    /// The network of a name.
    pub(crate) fn find_network(&self, name: &Name) -> Option<&Arc<Network>> {
        self.networks.get(name)
    }

    /// The networks, by name.
    pub(crate) fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// Adds or replaces an endpoint.
    pub(crate) fn insert(&mut self, endpoint: &Arc<Endpoint>) {
        self.take_out(&endpoint.id);
        self.generation += 1;
        let id = &endpoint.id;
        self.endpoints.insert_mut(id.clone(), Arc::clone(endpoint));
        self.names.insert_mut(key(endpoint), id.clone());
        note(&mut self.members, &endpoint.network, id);
        note(&mut self.sandboxes, &endpoint.sandbox, id);
        for link in &endpoint.links {
            note(&mut self.consumers, &link.source_name, id);
        }
    }

    /// Removes an endpoint.
    pub(crate) fn remove(&mut self, id: &EndpointId) {
        self.generation += 1;
        self.take_out(id);
    }

    fn take_out(&mut self, id: &EndpointId) {
        let Some(old) = self.endpoints.get(id).cloned() else {
            return;
        };
        self.endpoints.remove_mut(id);
        self.names.remove_mut(&key(&old));
        strike(&mut self.members, &old.network, id);
        strike(&mut self.sandboxes, &old.sandbox, id);
        for link in &old.links {
            strike(&mut self.consumers, &link.source_name, id);
        }
    }

    /// Adds a namespace that stays without endpoints.
    pub(crate) fn insert_sandbox(&mut self, id: &EndpointId) {
        self.generation += 1;
        self.kept_sandboxes.insert_mut(id.clone());
    }

    /// Lets a namespace go with its last endpoint.
    pub(crate) fn remove_sandbox(&mut self, id: &EndpointId) {
        self.generation += 1;
        self.kept_sandboxes.remove_mut(id);
    }

    /// Whether a namespace stays without endpoints.
    pub(crate) fn has_sandbox(&self, id: &EndpointId) -> bool {
        self.kept_sandboxes.contains(id)
    }

    /// The namespaces that stay without endpoints, by id.
    pub(crate) fn sandboxes(&self) -> impl Iterator<Item = &EndpointId> {
        self.kept_sandboxes.iter()
    }

    /// The endpoint of an id.
    pub(crate) fn find(&self, id: &EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(id)
    }

    /// The endpoint that is attached by a name on a network.
    pub(crate) fn find_name(&self, name: &Name, network: &Name) -> Option<&Arc<Endpoint>> {
        self.endpoints
            .get(self.names.get(&(name.clone(), network.clone()))?)
    }

    /// The endpoints that are attached by a name, one for each network.
    pub(crate) fn all_of_name(&self, name: &Name) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.networks
            .keys()
            .filter_map(move |network| self.find_name(name, network))
    }

    /// The endpoints in one network namespace.
    pub(crate) fn in_sandbox(&self, sandbox: &EndpointId) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.noted(&self.sandboxes, sandbox)
    }

    /// The id whose device has the name that the device of this one would have.
    pub(crate) fn find_ifname(&self, id: &EndpointId) -> Option<&EndpointId> {
        let (next, _) = self.endpoints.range(id.first_of_ifname()..).next()?;
        (next.ifname() == id.ifname()).then_some(next)
    }

    /// The endpoint whose device has a name.
    pub(crate) fn find_device(&self, ifname: &str) -> Option<&Arc<Endpoint>> {
        let digits = ifname.strip_prefix("lk")?;
        let first: EndpointId = format!("{digits:0<64}").parse().ok()?;
        let (_, endpoint) = self.endpoints.range(first..).next()?;
        (endpoint.id.ifname() == ifname).then_some(endpoint)
    }

    /// The endpoints that have one of these addresses.
    pub(crate) fn with_addresses<'a>(
        &'a self,
        ips: &'a BTreeSet<IpAddr>,
    ) -> impl Iterator<Item = &'a Arc<Endpoint>> + 'a {
        let has_one = |endpoint: &&Arc<Endpoint>| {
            let Addresses { ipv4, ipv6 } = endpoint.addresses;
            let link_local = endpoint.addresses.mac().link_local();
            let own = [IpAddr::V4(ipv4), IpAddr::V6(ipv6), IpAddr::V6(link_local)];
            own.iter().any(|ip| ips.contains(ip))
        };
        let all = (!ips.is_empty()).then_some(self.endpoints.values());
        all.into_iter().flatten().filter(has_one)
    }

    /// How many endpoints there are.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.size()
    }

    /// How many endpoints are on a network.
    pub(crate) fn count_on(&self, network: &Name) -> usize {
        self.members.get(network).map_or(0, RedBlackTreeSet::size)
    }

    /// The endpoints on a network, by id.
    pub(crate) fn members_of(&self, network: &Name) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.noted(&self.members, network)
    }

    /// The endpoints, by name.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.names.values().filter_map(|id| self.endpoints.get(id))
    }

    /// All links, by consumer and alias.
    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        let mut statuses = Vec::new();
        for consumer in self.by_name() {
            let mut links: Vec<_> = consumer.links.iter().collect();
            links.sort_by(|one, other| one.alias.cmp(&other.alias));
            statuses.extend(links.into_iter().map(|link| LinkStatus {
                consumer_name: consumer.name.clone(),
                link: link.clone(),
                network: consumer.network.clone(),
                open: self.open_link(consumer, link),
            }));
        }
        statuses
    }

    /// All elements of the firewall.
    pub(crate) fn elements(&self) -> Elements {
        let mut elements: Elements = self
            .networks
            .values()
            .flat_map(|found| network::elements(found))
            .collect();
        for endpoint in self.endpoints.values() {
            elements.append(&mut own_elements(endpoint));
            elements.append(&mut self.link_elements(endpoint));
        }
        elements
    }

    /// The elements that are there because of an endpoint: its own, those of its links,
    /// and those of links to it.
    pub(crate) fn elements_of(&self, endpoint: &Endpoint) -> Elements {
        let mut elements = own_elements(endpoint);
        elements.append(&mut self.link_elements(endpoint));
        let neighbours = self
            .consumers_of(&endpoint.name)
            .filter(|consumer| consumer.network == endpoint.network);
        for consumer in neighbours {
            for link in consumer
                .links
                .iter()
                .filter(|link| link.source_name == endpoint.name)
            {
                elements.append(&mut link::elements(&open_link(consumer, endpoint, link)));
            }
        }
        elements
    }

    /// The endpoints that have a link to a name.
    pub(crate) fn consumers_of(&self, name: &Name) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.noted(&self.consumers, name)
    }

    fn noted<K: Ord>(&self, index: &Index<K>, key: &K) -> impl Iterator<Item = &Arc<Endpoint>> {
        let ids = index.get(key).into_iter().flat_map(RedBlackTreeSet::iter);
        ids.filter_map(|id| self.endpoints.get(id))
    }

    fn link_elements(&self, consumer: &Endpoint) -> Elements {
        consumer
            .links
            .iter()
            .filter_map(|link| self.open_link(consumer, link))
            .flat_map(|open| link::elements(&open))
            .collect()
    }

    /// What a link of a consumer opens now; none if its source is not attached.
    pub(crate) fn open_link(&self, consumer: &Endpoint, link: &Link) -> Option<OpenLink> {
        let source = self.find_name(&link.source_name, &consumer.network)?;
        Some(open_link(consumer, source, link))
    }
}

fn note<K: Ord + Clone>(index: &mut Index<K>, key: &K, id: &EndpointId) {
    let mut noted = index.get(key).cloned().unwrap_or_default();
    noted.insert_mut(id.clone());
    index.insert_mut(key.clone(), noted);
}

fn strike<K: Ord + Clone>(index: &mut Index<K>, key: &K, id: &EndpointId) {
    let Some(mut noted) = index.get(key).cloned() else {
        return;
    };
    noted.remove_mut(id);
    if noted.is_empty() {
        index.remove_mut(key);
    } else {
        index.insert_mut(key.clone(), noted);
    }
}

fn key(endpoint: &Endpoint) -> (Name, Name) {
    (endpoint.name.clone(), endpoint.network.clone())
}

fn open_link(consumer: &Endpoint, source: &Endpoint, link: &Link) -> OpenLink {
    let ports = if link.ports.is_empty() {
        &source.exposed
    } else {
        &link.ports
    };
    OpenLink {
        consumer: consumer.addresses,
        source: source.addresses,
        ports: ports.clone(),
    }
}

fn own_elements(endpoint: &Endpoint) -> Elements {
    let mut elements = endpoint::elements(&endpoint.id.ifname(), &endpoint.addresses);
    elements.append(&mut port::elements(
        &endpoint.published,
        &endpoint.addresses,
    ));
    if let Some(host) = endpoint.host {
        // A link without ports: the pair is known, and the rules for the host ask no more.
        elements.append(&mut link::elements(&OpenLink {
            consumer: endpoint.addresses,
            source: host,
            ports: Vec::new(),
        }));
    }
    elements
}
