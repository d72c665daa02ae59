//! Networks that users make: a bridge, its leases and its elements come and go together.

use std::sync::Arc;

use super::heal::Telling;
use super::{Bridge, Owner, chain};
use crate::firewall::{Difference, Elements, network as elements};
use crate::hash;
use crate::ipam::{Leases, now_seconds};
use crate::network::error::NetworkError;
use crate::network::model::{InvalidValue, Name, Network, NetworkRequest};
use crate::network::subnet::Subnets;
use crate::network::{ChangeKind, DEFAULT_NETWORK, Publisher, bridge, choose};
use crate::store::Change;
use crate::store::record::{NETWORKS, NetworkRecord};

/// Names that mean something else where a network is named.
const RESERVED: [&str; 4] = ["host", "none", "default", "container"];

impl Owner {
    pub(super) fn create_network(
        &mut self,
        request: NetworkRequest,
        publisher: &Publisher,
    ) -> Result<Arc<Network>, NetworkError> {
        if RESERVED.contains(&request.name.as_str()) {
            return Err(InvalidValue(format!(
                "the name {:?} is reserved; give the network another",
                request.name.as_str()
            ))
            .into());
        }
        if let Some(existing) = self.registry.find_network(&request.name) {
            return if is_same(existing, &request) {
                Ok(Arc::clone(existing))
            } else {
                Err(NetworkError::NetworkExists {
                    network: request.name,
                })
            };
        }
        let network = Arc::new(self.plan_network(request)?);
        let row = Change::put(
            NETWORKS,
            network.name.as_str(),
            &NetworkRecord::of(&network),
        );
        self.durable.commit(&[row])?;
        if let Err(error) = self.make_network(&network) {
            for undo_error in self.unmake_network(&network) {
                tracing::warn!(network = %network.name, error = %chain(&undo_error), "rollback incomplete, ignoring: the next start goes on with it");
            }
            return Err(error);
        }
        self.registry.insert_network(&network);
        tracing::info!(network = %network.name, bridge = network.bridge_name, subnet = %network.subnets.ipv4, "network created");
        publisher.publish(&self.registry, ChangeKind::Networks);
        Ok(network)
    }

    pub(super) fn delete_network(
        &mut self,
        name: &Name,
        publisher: &Publisher,
    ) -> Result<(), NetworkError> {
        let Some(network) = self.registry.find_network(name).cloned() else {
            return Ok(());
        };
        if !network.is_users() {
            return Err(InvalidValue(format!(
                "the network {DEFAULT_NETWORK:?} cannot be removed: it is the one for containers that name none"
            ))
            .into());
        }
        let mut members: Vec<_> = self
            .registry
            .members_of(name)
            .map(|member| member.name.as_str())
            .collect();
        members.sort_unstable();
        if !members.is_empty() {
            return Err(NetworkError::NetworkInUse {
                network: name.clone(),
                endpoints: members.join(", "),
            });
        }
        let mut errors = self.unmake_network(&network).into_iter();
        if let Some(first) = errors.next() {
            return Err(first);
        }
        self.registry.remove_network(name);
        tracing::info!(network = %name, "network removed");
        publisher.publish(&self.registry, ChangeKind::Networks);
        Ok(())
    }

    fn plan_network(&mut self, request: NetworkRequest) -> Result<Network, NetworkError> {
        let NetworkRequest {
            name,
            ipv4,
            ipv6,
            gateway,
            range,
            policy,
            egress,
            labels,
        } = request;
        let mut occupied = choose::occupied(&mut self.routing, |ifname| {
            self.registry
                .networks()
                .any(|network| network.bridge_name == ifname)
        })?;
        for network in self.registry.networks() {
            let holder = || choose::Holder::Network(network.name.clone());
            let Subnets { ipv4, ipv6, .. } = network.subnets;
            for (base, prefix) in [
                (ipv4.base.into(), ipv4.prefix),
                (ipv6.base.into(), ipv6.prefix),
            ] {
                occupied.push(choose::Occupied {
                    base,
                    prefix,
                    holder: holder(),
                });
            }
        }
        let default6 = self.settings.default_network.subnets.ipv6;
        let mut subnets = Subnets {
            ipv4: choose::choose(ipv4, choose::user_candidates(), &occupied)?,
            ipv6: choose::choose(ipv6, choose::user_candidates6(default6), &occupied)?,
            gateway: Subnets::GATEWAY,
        };
        let outside = |what: &str, value: &dyn std::fmt::Display| {
            InvalidValue(format!(
                "the {what} {value} is not inside the subnet {}",
                subnets.ipv4
            ))
        };
        if let Some(range) = range
            && (!subnets.ipv4.contains(range.base) || range.prefix < subnets.ipv4.prefix)
        {
            return Err(outside("address range", &range).into());
        }
        if let Some(gateway) = gateway {
            subnets.gateway = subnets
                .offset_of(gateway)
                .ok_or_else(|| outside("gateway", &gateway))?;
        }
        Ok(Network {
            bridge_name: self.free_bridge_name(&name),
            name,
            subnets,
            range,
            policy,
            egress,
            labels,
            created_seconds: Some(now_seconds()),
        })
    }

    /// A device name that follows from the network's, so that it is the same when it is
    /// made again. No endpoint's device has an `n` there.
    fn free_bridge_name(&self, name: &Name) -> String {
        let hash = hash::stable(name.as_str().bytes());
        (0..)
            .map(|attempt: u64| format!("lkn{:010x}", hash.wrapping_add(attempt) >> 24))
            .find(|ifname| {
                self.registry
                    .networks()
                    .all(|network| network.bridge_name != *ifname)
            })
            .expect("there are more names than networks")
    }

    pub(in crate::network) fn make_network(
        &mut self,
        network: &Network,
    ) -> Result<(), NetworkError> {
        self.firewall.apply(&Difference {
            removed: Elements::new(),
            added: elements::elements(network),
        })?;
        let index = bridge::ensure(&mut self.routing, &network.bridge_name, &network.subnets)?;
        let leases = Leases::open(Arc::clone(&self.durable), network, self.settings.quarantine)?;
        self.bridges
            .insert(network.name.clone(), Bridge { index, leases });
        self.settings_watch
            .watch(bridge::setting_directories(&network.bridge_name))?;
        // The kernel brings the route to a new IPv6 address later, on a queue of its own; what
        // is only on its way must not be taken for damage.
        self.heal_bridge(network, Telling::Quiet).map(drop)
    }

    /// Removes everything of a network that nobody is on. Goes on after a failure.
    fn unmake_network(&mut self, network: &Network) -> Vec<NetworkError> {
        self.settings_watch
            .forget(bridge::setting_directories(&network.bridge_name));
        let forgotten = match self.bridges.remove(&network.name) {
            Some(bridge) => bridge.leases.forget().map_err(NetworkError::from),
            None => Ok(()),
        };
        let steps = [
            forgotten,
            bridge::remove(&mut self.routing, &network.bridge_name),
            self.close(&elements::elements(network)),
        ];
        let mut errors: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            let row = Change::remove(NETWORKS, network.name.as_str());
            errors.extend(
                self.durable
                    .commit(&[row])
                    .map_err(NetworkError::from)
                    .err(),
            );
        }
        errors
    }
}

/// Whether a request asks for nothing that a network is not.
fn is_same(network: &Network, request: &NetworkRequest) -> bool {
    let NetworkRequest {
        name: _,
        ipv4,
        ipv6,
        gateway,
        range,
        policy,
        egress,
        labels,
    } = request;
    ipv4.is_none_or(|subnet| subnet == network.subnets.ipv4)
        && ipv6.is_none_or(|subnet| subnet == network.subnets.ipv6)
        && gateway.is_none_or(|gateway| gateway == network.subnets.gateway().ipv4)
        && *range == network.range
        && *policy == network.policy
        && *egress == network.egress
        && *labels == network.labels
        && network.is_users()
}
