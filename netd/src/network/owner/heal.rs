//! Healing: what was touched is compared with what should be, and repaired.
//!
//! ```text
//! firewall ─ settings of the host ─ bridges ─ ports
//! ```
//!
//! In this order, so that no device is reachable before the rules and pins that keep it: if
//! the firewall cannot be repaired, nothing after it is. Each repair can be repeated, and is
//! looked at again when it is done. What it did not mend is told once and then left alone,
//! until it was whole in between: netd does not fight.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Owner, chain};
use crate::netlink::route::OwnRoute;
use crate::network::damage::{self, Damage};
use crate::network::device::{self, DefaultRoute};
use crate::network::error::NetworkError;
use crate::network::model::{Endpoint, Network};
use crate::network::repairs::Subject;
use crate::network::touched::Touched;
use crate::network::{bridge, observe};

/// Whether a repair is an event of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Telling {
    /// It is.
    Aloud,
    /// It follows from another one, or from a start that has nothing to adopt.
    Quiet,
}

/// Whether something had to be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Condition {
    /// It was whole.
    Whole,
    /// It was damaged.
    Damaged,
}

impl Owner {
    /// Looks at what was touched since the last time, and repairs it.
    pub(crate) fn heal(&mut self) {
        let touched = self.inbox.take();
        if touched.everything || touched.firewall {
            let healed = self.heal_firewall();
            if self.failed(&Subject::Firewall, healed, || Touched {
                firewall: true,
                ..Touched::default()
            }) {
                // What else there is to do waits for it.
                let _was_empty = self.inbox.add(touched);
                return;
            }
        }
        if touched.everything || touched.settings {
            let healed = self.heal_host();
            self.failed(&Subject::Host, healed, || Touched {
                settings: true,
                ..Touched::default()
            });
        }
        let networks: Vec<_> = self.registry.networks().cloned().collect();
        for network in networks {
            self.heal_network(&network, &touched);
        }
    }

    fn heal_network(&mut self, network: &Arc<Network>, touched: &Touched) {
        let is_touched = touched.everything
            || touched.settings
            || touched.devices.contains(&network.bridge_name);
        let ports = self.touched_ports(network, touched);
        if !is_touched && ports.is_empty() {
            return;
        }
        let subject = subject_of(network);
        // A port may only feel what happened to its bridge.
        let is_suspect = is_touched
            || !observe::is_bridge_up(&mut self.routing, &network.bridge_name).unwrap_or(false);
        let healed = if is_suspect {
            self.heal_bridge(network, Telling::Aloud)
        } else {
            Ok(Condition::Whole)
        };
        let condition = *healed.as_ref().unwrap_or(&Condition::Whole);
        let again = || of_device(&network.bridge_name);
        if self.failed(&subject, healed, again) {
            return;
        }
        let (ports, telling) = match condition {
            Condition::Whole => (ports, Telling::Aloud),
            Condition::Damaged => (self.ports_of(network), Telling::Quiet),
        };
        for endpoint in ports {
            let healed = self.heal_port(&endpoint, telling);
            let subject = subject_of_port(&endpoint);
            self.failed(&subject, healed, || of_device(&endpoint.id.ifname()));
        }
    }

    /// Logs a failure, and sees to it that the next look is there again.
    fn failed<T>(
        &self,
        subject: &Subject,
        healed: Result<T, NetworkError>,
        again: impl FnOnce() -> Touched,
    ) -> bool {
        let Err(error) = healed else {
            return false;
        };
        tracing::error!(subject = %subject, error = %chain(&error), "damaged from outside, not repaired");
        let _was_empty = self.inbox.add(again());
        true
    }

    fn ports_of(&self, network: &Network) -> Vec<Arc<Endpoint>> {
        self.registry
            .members_of(&network.name)
            .filter(|endpoint| !self.condemned.contains(&endpoint.id))
            .cloned()
            .collect()
    }

    fn touched_ports(&self, network: &Network, touched: &Touched) -> Vec<Arc<Endpoint>> {
        if touched.everything {
            return self.ports_of(network);
        }
        let named = touched
            .devices
            .iter()
            .filter_map(|ifname| self.registry.find_device(ifname));
        let addressed = self.registry.with_addresses(&touched.addresses);
        let ids: BTreeSet<_> = named
            .chain(addressed)
            .filter(|endpoint| {
                endpoint.network == network.name && !self.condemned.contains(&endpoint.id)
            })
            .map(|endpoint| endpoint.id.clone())
            .collect();
        let found = ids.iter().filter_map(|id| self.registry.find(id));
        found.cloned().collect()
    }

    fn heal_host(&mut self) -> Result<Condition, NetworkError> {
        let mut look = || -> Result<Vec<Damage>, NetworkError> {
            let wanted = bridge::host_settings(&mut self.routing)?;
            let found = observe::settings(wanted.keys());
            Ok(damage::of_settings(&wanted, &found).collect())
        };
        let damages = look()?;
        let damages = self.hopeful(&Subject::Host, damages);
        if damages.is_empty() {
            return Ok(Condition::Whole);
        }
        self.narrow_transit()?;
        bridge::prepare_host(&mut self.routing)?;
        let wanted = bridge::host_settings(&mut self.routing)?;
        let found = observe::settings(wanted.keys());
        let left = damage::of_settings(&wanted, &found).collect();
        self.conclude(Subject::Host, &damages, left, Telling::Aloud);
        Ok(Condition::Damaged)
    }

    /// Makes the bridge of a network whole.
    pub(in crate::network) fn heal_bridge(
        &mut self,
        network: &Network,
        telling: Telling,
    ) -> Result<Condition, NetworkError> {
        let wanted = bridge::wanted(&network.bridge_name, &network.subnets);
        let known = self.bridge(&network.name)?.index;
        let mut found = observe::bridge(&mut self.routing, &wanted, known)?;
        let judge = |found: &Option<(u32, _)>| {
            let state = found.as_ref().map(|(_, state)| state);
            damage::of_bridge(&wanted, state)
        };
        let mut damages = judge(&found);
        let has_setting = |damage: &Damage| matches!(damage, Damage::Setting { .. });
        // What changes a setting of the host changes it at all devices.
        if damages.iter().any(has_setting) && self.heal_host()? == Condition::Damaged {
            found = observe::bridge(&mut self.routing, &wanted, known)?;
            damages = judge(&found);
        }
        let subject = subject_of(network);
        let damages = self.hopeful(&subject, damages);
        if damages.is_empty() {
            self.watch_bridge(network, found.map_or(known, |(index, _)| index))?;
            return Ok(Condition::Whole);
        }
        if let Some((index, state)) = &found
            && state.name != wanted.name
        {
            bridge::rename(&mut self.routing, *index, &wanted.name)?;
        }
        let (name, subnets) = (&network.bridge_name, &network.subnets);
        let index = bridge::ensure(&mut self.routing, name, subnets)?;
        self.watch_bridge(network, index)?;
        let mut left = self.damage_of_bridge(&wanted, index)?;
        let missing: Vec<OwnRoute> = left.iter().filter_map(route_of).collect();
        if !missing.is_empty() {
            bridge::add_routes(&mut self.routing, index, subnets, missing.into_iter())?;
            left = self.damage_of_bridge(&wanted, index)?;
        }
        self.conclude(subject, &damages, left, telling);
        Ok(Condition::Damaged)
    }

    fn damage_of_bridge(
        &mut self,
        wanted: &damage::BridgeState,
        index: u32,
    ) -> Result<Vec<Damage>, NetworkError> {
        let found = observe::bridge(&mut self.routing, wanted, index)?;
        Ok(damage::of_bridge(
            wanted,
            found.as_ref().map(|(_, state)| state),
        ))
    }

    /// Remembers a bridge by its index, and watches its settings if it is a new one.
    fn watch_bridge(&mut self, network: &Network, index: u32) -> Result<(), NetworkError> {
        let bridge = self.bridge_mut(&network.name)?;
        if bridge.index == index {
            return Ok(());
        }
        bridge.index = index;
        self.settings_watch
            .watch(bridge::setting_directories(&network.bridge_name))
    }

    /// Makes the port of an endpoint whole.
    pub(in crate::network) fn heal_port(
        &mut self,
        endpoint: &Endpoint,
        telling: Telling,
    ) -> Result<(), NetworkError> {
        let index = self.bridge(&endpoint.network)?.index;
        let wanted = device::wanted_port(endpoint, index);
        let found = observe::port(&mut self.routing, &wanted, endpoint, index)?;
        let state = found.as_ref().map(|(_, state)| state);
        let subject = subject_of_port(endpoint);
        let damages = self.hopeful(&subject, damage::of_port(&wanted, state));
        if damages.is_empty() {
            return Ok(());
        }
        match &found {
            None => self.remake(endpoint, index)?,
            Some((port, state)) => {
                if state.name != wanted.name {
                    device::rename(&mut self.routing, *port, &endpoint.id)?;
                }
                device::connect(&mut self.routing, index, endpoint)?;
            }
        }
        let found = observe::port(&mut self.routing, &wanted, endpoint, index)?;
        let left = damage::of_port(&wanted, found.as_ref().map(|(_, state)| state));
        // No damage of a bridge deletes its ports.
        let telling = if damages.contains(&Damage::Gone) {
            Telling::Aloud
        } else {
            telling
        };
        self.conclude(subject, &damages, left, telling);
        Ok(())
    }

    /// Makes the devices of an endpoint again, in the namespace that was pinned.
    fn remake(&mut self, endpoint: &Endpoint, bridge_index: u32) -> Result<(), NetworkError> {
        let network = self.network(&endpoint.network)?;
        let netns = self.netns.enter(&endpoint.sandbox)?;
        let made = device::create(
            &mut self.routing,
            netns,
            bridge_index,
            endpoint,
            &network.subnets,
            DefaultRoute::Elsewhere,
        );
        if made.is_err() {
            // Half a pair would look like a port whose settings were changed.
            device::remove(&mut self.routing, &endpoint.id)?;
            return made;
        }
        self.lead_default(&endpoint.sandbox);
        Ok(())
    }

    /// The damages that no repair has failed to mend.
    fn hopeful(&mut self, subject: &Subject, damages: Vec<Damage>) -> Vec<Damage> {
        let subject = subject.to_string();
        let Some(hopeless) = self.hopeless.get_mut(&subject) else {
            return damages;
        };
        hopeless.retain(|damage| damages.contains(damage));
        let hopeful = damages
            .into_iter()
            .filter(|damage| !hopeless.contains(damage))
            .collect();
        if hopeless.is_empty() {
            self.hopeless.remove(&subject);
        }
        hopeful
    }

    /// Tells what was repaired, and what was not.
    fn conclude(
        &mut self,
        subject: Subject,
        damages: &[Damage],
        left: Vec<Damage>,
        telling: Telling,
    ) {
        let (stays, mended): (Vec<_>, Vec<_>) = damages
            .iter()
            .cloned()
            .partition(|damage| left.contains(damage));
        if !stays.is_empty() {
            tracing::error!(subject = %subject, damage = damage::summary(&stays), "damaged from outside, repair had no effect");
        }
        if !left.is_empty() {
            self.hopeless.insert(subject.to_string(), left);
        }
        if !mended.is_empty() && telling == Telling::Aloud {
            self.repairs.tell(subject, damage::summary(&mended));
        }
    }
}

fn of_device(name: &str) -> Touched {
    Touched {
        devices: [name.to_owned()].into(),
        ..Touched::default()
    }
}

fn route_of(damage: &Damage) -> Option<OwnRoute> {
    match damage {
        Damage::Route(route) => Some(*route),
        _ => None,
    }
}

fn subject_of(network: &Network) -> Subject {
    Subject::Network {
        network: network.name.clone(),
        bridge_name: network.bridge_name.clone(),
    }
}

fn subject_of_port(endpoint: &Endpoint) -> Subject {
    Subject::Endpoint {
        id: endpoint.id.clone(),
        name: endpoint.name.clone(),
        network: endpoint.network.clone(),
    }
}
