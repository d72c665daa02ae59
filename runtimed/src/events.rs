//! What happens, told to whoever watches.
//!
//! Keeps the last [`REMEMBERED`] events. Sending never waits for a watcher.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

/// How many events a late watcher can still be told.
const REMEMBERED: usize = 1024;

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Counts up by one from the start of this process.
    pub(crate) sequence: u64,
    pub(crate) time: SystemTime,
    /// `container`, `image` or `network`.
    pub(crate) kind: &'static str,
    pub(crate) action: String,
    pub(crate) id: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// Where events go.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Event>,
    past: Mutex<Past>,
}

#[derive(Debug, Default)]
struct Past {
    next: u64,
    events: VecDeque<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            sender: broadcast::channel(REMEMBERED).0,
            past: Mutex::new(Past::default()),
        }
    }

    /// Tells an event.
    pub(crate) fn send(
        &self,
        kind: &'static str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event {
            sequence: past.next,
            time: SystemTime::now(),
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
        };
        past.next += 1;
        if past.events.len() == REMEMBERED {
            past.events.pop_front();
        }
        past.events.push_back(event.clone());
        // An error means that nobody watches. Sent under the lock, to keep the order.
        self.sender.send(event).ok();
    }

    /// The remembered events from `since` on, and those to come, without a gap.
    pub(crate) fn watch(
        &self,
        since: Option<SystemTime>,
    ) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.sender.subscribe();
        let old = match since {
            Some(since) => past
                .events
                .iter()
                .filter(|e| e.time >= since)
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        (old, receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_watcher_gets_the_past_and_the_future_without_a_gap() {
        let events = Events::new();
        events.send("container", "create", "a", BTreeMap::new());
        let (past, mut future) = events.watch(Some(SystemTime::UNIX_EPOCH));
        events.send("container", "start", "a", BTreeMap::new());
        assert_eq!(past.len(), 1);
        assert_eq!(future.try_recv().unwrap().sequence, past[0].sequence + 1);
        assert!(events.watch(None).0.is_empty());
    }
}
