//! What was damaged from outside and is whole again, told to whoever watches.
//!
//! Keeps the last [`REMEMBERED`] repairs, so that who comes after a restart learns of what
//! was repaired at the start.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

use super::model::{EndpointId, Name};

const REMEMBERED: usize = 256;

/// What a repair was of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Settings that all networks share.
    Host,
    /// The tables of the firewall.
    Firewall,
    /// The bridge of a network.
    Network {
        /// The network.
        network: Name,
        /// The bridge.
        bridge_name: String,
    },
    /// The device of an endpoint.
    Endpoint {
        /// The endpoint.
        id: EndpointId,
        /// Its name.
        name: Name,
        /// Its network.
        network: Name,
    },
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => write!(f, "host"),
            Self::Firewall => write!(f, "firewall"),
            Self::Network { bridge_name, .. } => write!(f, "bridge {bridge_name}"),
            Self::Endpoint { id, .. } => write!(f, "bridge port {}", id.ifname()),
        }
    }
}

/// One repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repair {
    /// Of what.
    pub(crate) subject: Subject,
    /// What was wrong with it.
    pub(crate) damage: String,
    /// Since when it is whole again.
    pub(crate) at: SystemTime,
}

/// Where repairs are told.
#[derive(Debug)]
pub(crate) struct Repairs {
    sender: broadcast::Sender<Repair>,
    past: Mutex<VecDeque<Repair>>,
}

impl Repairs {
    /// Nothing was repaired yet.
    pub(crate) fn new() -> Self {
        Self {
            sender: broadcast::channel(REMEMBERED).0,
            past: Mutex::default(),
        }
    }

    /// Tells and logs a repair.
    pub(crate) fn tell(&self, subject: Subject, damage: String) {
        tracing::warn!(subject = %subject, damage, "damaged from outside, repaired");
        let repair = Repair {
            subject,
            damage,
            at: SystemTime::now(),
        };
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(repair.clone());
        // Sent under the lock, to keep the order. No watcher is no error.
        drop(self.sender.send(repair));
    }

    /// What was remembered after a moment, and what is to come, without a gap.
    pub(crate) fn watch(
        &self,
        after: Option<SystemTime>,
    ) -> (Vec<Repair>, broadcast::Receiver<Repair>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.sender.subscribe();
        let old = past
            .iter()
            .filter(|repair| after.is_some_and(|after| repair.at > after))
            .cloned()
            .collect();
        (old, receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_gets_what_came_after_a_moment_and_each_once() {
        let repairs = Repairs::new();
        repairs.tell(Subject::Host, "one".to_owned());
        let (past, _) = repairs.watch(Some(SystemTime::UNIX_EPOCH));
        repairs.tell(Subject::Firewall, "two".to_owned());
        let (later, mut future) = repairs.watch(Some(past[0].at));
        repairs.tell(Subject::Host, "three".to_owned());
        let texts = |list: &[Repair]| -> Vec<String> {
            list.iter().map(|repair| repair.damage.clone()).collect()
        };
        assert_eq!(texts(&past), ["one"]);
        assert_eq!(texts(&later), ["two"]);
        assert_eq!(future.try_recv().unwrap().damage, "three");
        assert!(repairs.watch(None).0.is_empty());
    }
}
