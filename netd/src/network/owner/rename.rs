//! Names: a lease and the links to it move to another name, or a lease is given back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Owner, row};
use crate::firewall::{Difference, Elements};
use crate::network::error::NetworkError;
use crate::network::model::{Endpoint, EndpointId, Name};
use crate::network::registry::Registry;
use crate::network::{ChangeKind, Publisher};
use crate::store::record::Phase;

impl Owner {
    pub(super) fn rename(
        &mut self,
        name: &Name,
        new_name: &Name,
        publisher: &Publisher,
    ) -> Result<(), NetworkError> {
        if name == new_name {
            return Ok(());
        }
        for endpoint in self.registry.all_of_name(name) {
            if let Some(holder) = self.registry.find_name(new_name, &endpoint.network) {
                return Err(NetworkError::NameAttached {
                    name: new_name.clone(),
                    holder: holder.id.clone(),
                });
            }
        }
        let mut bridges = self.bridges.values();
        if bridges.any(|bridge| bridge.leases.has(name) && bridge.leases.has(new_name)) {
            return Err(NetworkError::NameLeased {
                name: new_name.clone(),
            });
        }
        let renamed = renamed_endpoints(&self.registry, name, new_name);
        let mut registry = self.registry.clone();
        for endpoint in &renamed {
            registry.insert(endpoint);
        }
        let concerned = |registry: &Registry| -> Elements {
            let endpoints = renamed.iter().filter_map(|new| registry.find(&new.id));
            endpoints
                .flat_map(|endpoint| registry.elements_of(endpoint))
                .collect()
        };
        let difference = Difference::between(&concerned(&self.registry), &concerned(&registry));
        let rows: Vec<_> = renamed
            .iter()
            .map(|endpoint| row(endpoint, Phase::Attached))
            .collect();
        for bridge in self.bridges.values_mut() {
            bridge.leases.rename(name, new_name)?;
        }
        self.store.commit(&rows)?;
        self.firewall.apply(&difference)?;
        self.registry = registry;
        for endpoint in renamed {
            publisher.publish(&self.registry, ChangeKind::Attached(endpoint));
        }
        Ok(())
    }

    pub(super) fn release(
        &mut self,
        name: &Name,
        network: Option<&Name>,
    ) -> Result<(), NetworkError> {
        let concerns = |other: &Name| network.is_none_or(|network| network == other);
        if self
            .registry
            .all_of_name(name)
            .any(|endpoint| concerns(&endpoint.network))
        {
            return Err(NetworkError::EndpointAttached { name: name.clone() });
        }
        for (_, bridge) in self.bridges.iter_mut().filter(|(other, _)| concerns(other)) {
            bridge.leases.release(name)?;
        }
        Ok(())
    }
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
    for holder in registry.all_of_name(name) {
        let holder = renamed
            .entry(holder.id.clone())
            .or_insert_with(|| Endpoint::clone(holder));
        holder.name = new_name.clone();
    }
    renamed.into_values().map(Arc::new).collect()
}
