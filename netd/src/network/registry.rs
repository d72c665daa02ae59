//! What is attached, and what follows from it: which links are open, and which elements
//! the firewall has. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::{Endpoint, EndpointId, Link, Name, Port};
use crate::firewall::{Elements, OpenLink, endpoint, link, port};

/// A link as declared, and what of it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkStatus {
    /// The name of the consumer.
    pub(crate) consumer_name: Name,
    /// The link.
    pub(crate) link: Link,
    /// The open ports; none if the source is not attached.
    pub(crate) open_ports: Option<Vec<Port>>,
}

/// The attached endpoints.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    names: BTreeMap<Name, EndpointId>,
    generation: u64,
}

impl Registry {
    /// How many changes there were.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds or replaces an endpoint.
    pub(crate) fn insert(&mut self, endpoint: &Arc<Endpoint>) {
        self.generation += 1;
        self.names
            .insert(endpoint.name.clone(), endpoint.id.clone());
        if let Some(old) = self
            .endpoints
            .insert(endpoint.id.clone(), Arc::clone(endpoint))
            && old.name != endpoint.name
        {
            self.names.remove(&old.name);
        }
    }

    /// Removes an endpoint.
    pub(crate) fn remove(&mut self, id: &EndpointId) {
        self.generation += 1;
        if let Some(endpoint) = self.endpoints.remove(id) {
            self.names.remove(&endpoint.name);
        }
    }

    /// The endpoint of an id.
    pub(crate) fn find(&self, id: &EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(id)
    }

    /// The endpoint that is attached by a name.
    pub(crate) fn find_name(&self, name: &Name) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(self.names.get(name)?)
    }

    /// The id whose device has the name that the device of this one would have.
    pub(crate) fn find_ifname(&self, id: &EndpointId) -> Option<&EndpointId> {
        let ifname = id.ifname();
        self.endpoints.keys().find(|other| other.ifname() == ifname)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
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
                open_ports: self.open(consumer, link).map(|open| open.ports),
            }));
        }
        statuses
    }

    /// All elements of the firewall.
    pub(crate) fn elements(&self) -> Elements {
        let mut elements = Elements::new();
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
        for consumer in self.consumers_of(&endpoint.name) {
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
        self.endpoints
            .values()
            .filter(move |consumer| consumer.links.iter().any(|link| link.source_name == *name))
    }

    fn link_elements(&self, consumer: &Endpoint) -> Elements {
        consumer
            .links
            .iter()
            .filter_map(|link| self.open(consumer, link))
            .flat_map(|open| link::elements(&open))
            .collect()
    }

    fn open(&self, consumer: &Endpoint, link: &Link) -> Option<OpenLink> {
        let source = self.find_name(&link.source_name)?;
        Some(open_link(consumer, source, link))
    }
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
    for published in &endpoint.published {
        elements.append(&mut port::elements(published, &endpoint.addresses));
    }
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
