//! The streams. Of endpoints: a snapshot, then changes; a new snapshot for who fell behind.
//! Of repairs: those that are remembered, then those that come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::SystemTime;

use futures_util::stream::{self, Stream};
use linkspan_proto::net_v1 as wire;
use linkspan_proto::net_v1::watch_endpoints_response::Change as WireChange;
use linkspan_proto::time::timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{NetworkInfo, convert};
use crate::network::{Change, ChangeKind, Handle, Repair, Subject};

/// What a watcher receives.
pub(super) type WatchStream =
    Pin<Box<dyn Stream<Item = Result<wire::WatchEndpointsResponse, Status>> + Send>>;

/// What a watcher of repairs receives.
pub(super) type RepairStream =
    Pin<Box<dyn Stream<Item = Result<wire::WatchRepairsResponse, Status>> + Send>>;

/// Starts a watch of repairs; it ends when netd stops.
pub(super) fn repairs(
    handle: &Handle,
    after: Option<SystemTime>,
    stopping: CancellationToken,
) -> RepairStream {
    let (past, future) = handle.repairs().watch(after);
    let state = (VecDeque::from(past), future, stopping);
    Box::pin(stream::unfold(
        state,
        async |(mut past, mut future, stopping)| {
            let next = stopping.run_until_cancelled(next_repair(&mut past, &mut future));
            let repair = Some(written(next.await??));
            let response = wire::WatchRepairsResponse { repair };
            Some((Ok(response), (past, future, stopping)))
        },
    ))
}

/// The next repair, or none when the network is gone. What was lost is in the log.
async fn next_repair(
    past: &mut VecDeque<Repair>,
    future: &mut broadcast::Receiver<Repair>,
) -> Option<Repair> {
    if let Some(repair) = past.pop_front() {
        return Some(repair);
    }
    loop {
        match future.recv().await {
            Ok(repair) => return Some(repair),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

fn written(repair: Repair) -> wire::Repair {
    let Repair {
        subject,
        damage,
        at,
    } = repair;
    let mut written = wire::Repair {
        subject: subject.to_string(),
        damage,
        repaired_at: Some(timestamp(at)),
        ..wire::Repair::default()
    };
    match subject {
        Subject::Host | Subject::Firewall => {}
        Subject::Network { network, .. } => written.network = network.to_string(),
        Subject::Endpoint { id, name, network } => {
            written.network = network.to_string();
            written.endpoint_id = id.to_string();
            written.endpoint_name = name.to_string();
        }
    }
    written
}

/// Starts a watch; it ends when netd stops.
pub(super) fn stream(
    handle: Handle,
    info: NetworkInfo,
    stopping: CancellationToken,
) -> WatchStream {
    // Subscribed before the first snapshot is taken, so that no change falls between.
    let changes = handle.changes();
    let watcher = Watcher {
        handle,
        info,
        changes,
        seen: None,
    };
    Box::pin(stream::unfold(
        (watcher, stopping),
        async |(mut watcher, stopping)| {
            let change = stopping.run_until_cancelled(watcher.next()).await??;
            let response = wire::WatchEndpointsResponse {
                change: Some(change),
            };
            Some((Ok(response), (watcher, stopping)))
        },
    ))
}

struct Watcher {
    handle: Handle,
    info: NetworkInfo,
    changes: broadcast::Receiver<Change>,
    /// The generation that the watcher knows of; none if it must begin anew.
    seen: Option<u64>,
}

impl Watcher {
    /// The next thing to tell, or none when the network is gone.
    async fn next(&mut self) -> Option<WireChange> {
        loop {
            let Some(seen) = self.seen else {
                let registry = self.handle.registry();
                self.seen = Some(registry.generation());
                let endpoints = convert::endpoints(&registry, &self.info);
                return Some(WireChange::Snapshot(wire::EndpointSnapshot { endpoints }));
            };
            match self.changes.recv().await {
                // The snapshot has it already.
                Ok(change) if change.generation <= seen => {}
                Ok(change) => {
                    if let Some(told) = self.tell(&change) {
                        return Some(told);
                    }
                }
                Err(RecvError::Lagged(_)) => self.seen = None,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// What a change means to who watches endpoints, if anything.
    fn tell(&self, change: &Change) -> Option<WireChange> {
        match &change.kind {
            ChangeKind::Attached(endpoint) => {
                let registry = self.handle.registry();
                Some(WireChange::Attached(convert::endpoint(
                    endpoint, &registry, &self.info,
                )))
            }
            ChangeKind::Detached(endpoint) => Some(WireChange::DetachedId(endpoint.id.to_string())),
            ChangeKind::Networks | ChangeKind::Sandboxes => None,
        }
    }
}
