//! Moves a published port from one container to another.
//!
//! Two records change, so there is a row of the intent before the first of them: whoever
//! finds it at the next start looks where netd has the port, and makes both records agree.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ports::{self, HostPorts};
use super::record::{RECORD_VERSION, Record, Run};
use super::{Change, Command, ContainerError, Handle, Result, View};
use crate::engine::Engine;
use crate::port::Port;

/// A move that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortMove {
    pub(crate) version: u32,
    /// The id of the container that has the port.
    pub(crate) from: String,
    /// The id of the one that gets it.
    pub(crate) to: String,
    /// The port of the host.
    pub(crate) host: Port,
    /// The port inside; none means as it was.
    pub(crate) inner: Option<Port>,
}

impl PortMove {
    fn ports(&self) -> HostPorts {
        HostPorts::one(self.host.protocol, self.host.number)
    }
}

/// Gives a port of the host to a container; answers with the name of the one that had it.
pub(crate) async fn move_port(
    engine: &Arc<Engine>,
    host: Port,
    to: Handle,
    inner: Option<Port>,
) -> Result<String> {
    // One at a time: its two owners wait for each other.
    let _one = engine.moves.lock().await;
    let ports = HostPorts::one(host.protocol, host.number);
    let (from, from_view) = holder(engine, &ports)?;
    let to_view = to.view();
    let name = from_view.record.name.clone();
    if from_view.record.id == to_view.record.id {
        return Err(ContainerError::Invalid {
            what: "move",
            rule: format!("port {ports} leads into container `{name}` already"),
        });
    }
    let intent = PortMove {
        version: RECORD_VERSION,
        from: from_view.record.id.clone(),
        to: to_view.record.id.clone(),
        host,
        inner,
    };
    engine
        .blocking(move |engine| Ok(engine.store.put_move(&intent)?))
        .await?;
    let result = from
        .ask(|reply| {
            Command::Change(Change::GivePort {
                ports,
                to,
                inner,
                reply,
            })
        })
        .await;
    let removed = engine
        .blocking(move |engine| Ok(engine.store.remove_move(host)?))
        .await;
    if let Err(error) = removed {
        tracing::warn!(%error, "forget a move that is done, ignoring");
    }
    result.map(|()| name)
}

/// The container that publishes a port: one that runs, before one that would.
pub(crate) fn holder(engine: &Engine, wanted: &HostPorts) -> Result<(Handle, Arc<View>)> {
    let mut found = None;
    for handle in engine.containers.handles() {
        let view = handle.view();
        if view.removed || !publishes(&view, wanted) {
            continue;
        }
        if view.run.is_some() {
            return Ok((handle, view));
        }
        found.get_or_insert((handle, view));
    }
    found.ok_or_else(|| ContainerError::PortNotFound {
        who: "no container publishes".to_owned(),
        port: wanted.to_string(),
    })
}

/// Whether a container has one of these ports, or would if it ran.
pub(crate) fn publishes(view: &View, wanted: &HostPorts) -> bool {
    let published = ports::published(&view.record, view.run.as_ref());
    !ports::without(&view.record, published, wanted).1.is_empty()
}

/// Finishes the moves that an earlier process began, before any container has an owner.
pub(crate) async fn recover(
    engine: &Arc<Engine>,
    records: &mut [Record],
    runs: &mut HashMap<String, Run>,
) -> Result<()> {
    let moves = engine.blocking(|engine| Ok(engine.store.moves()?)).await?;
    for intent in moves {
        if !agree(engine, &intent, records, runs).await {
            continue;
        }
        let changed: Vec<Record> = records
            .iter()
            .filter(|record| record.id == intent.from || record.id == intent.to)
            .cloned()
            .collect();
        engine
            .blocking(move |engine| {
                for record in &changed {
                    engine.store.put_container(record)?;
                }
                Ok(engine.store.remove_move(intent.host)?)
            })
            .await?;
    }
    Ok(())
}

/// Makes both records say where the port is; false if that cannot be known now.
async fn agree(
    engine: &Arc<Engine>,
    intent: &PortMove,
    records: &mut [Record],
    runs: &mut HashMap<String, Run>,
) -> bool {
    let mut moved = true;
    if runs.contains_key(&intent.from) && runs.contains_key(&intent.to) {
        let endpoints = match engine.network.endpoints().await {
            Ok(endpoints) => endpoints,
            Err(error) => {
                tracing::warn!(%error, "finish the move of a port, ignoring");
                return false;
            }
        };
        let ports = intent.ports();
        moved = endpoints.iter().any(|(id, settings)| {
            *id == intent.to && settings.published.iter().any(|port| ports.holds(port))
        });
        for (id, settings) in endpoints {
            if let Some(run) = runs.get_mut(&id)
                && (id == intent.to || id == intent.from)
            {
                run.update(settings);
            }
        }
    }
    let position = |id: &str| records.iter().position(|record| record.id == id);
    if let (Some(from), Some(to)) = (position(&intent.from), position(&intent.to))
        && let Ok([from, to]) = records.get_disjoint_mut([from, to])
    {
        settle(intent, moved, from, to);
    }
    true
}

/// Completes the move in both records, or takes it back.
fn settle(intent: &PortMove, moved: bool, from: &mut Record, to: &mut Record) {
    let take = |record: &mut Record| {
        let (openings, gone) =
            ports::without(record, ports::published(record, None), &intent.ports());
        record.set_openings(openings);
        gone
    };
    if !moved {
        take(to);
        return;
    }
    let gone = take(from);
    let Some(first) = gone.first() else {
        return;
    };
    let inner = intent.inner.unwrap_or(first.container);
    for mapping in ports::redirected(&gone, intent.host.number, inner) {
        if !to.host.port_mappings.contains(&mapping) {
            to.host.port_mappings.push(mapping);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::record::PortMapping;
    use crate::container::tests::record;

    fn intent() -> PortMove {
        PortMove {
            version: RECORD_VERSION,
            from: "1".to_owned(),
            to: "2".to_owned(),
            host: "8080/tcp".parse().unwrap(),
            inner: None,
        }
    }

    fn mapping() -> PortMapping {
        PortMapping {
            host_port: 8080,
            ..PortMapping::anywhere("80/tcp".parse().unwrap())
        }
    }

    #[test]
    fn a_move_that_was_cut_short_ends_in_exactly_one_record() {
        for moved in [true, false] {
            for written in [(true, false), (true, true), (false, true)] {
                let (mut from, mut to) = (record("from"), record("to"));
                for (record, has) in [(&mut from, written.0), (&mut to, written.1)] {
                    record.host.port_mappings.extend(has.then(mapping));
                }
                if written == (false, true) && !moved {
                    // The old owner gives it up only after netd moved it.
                    continue;
                }
                settle(&intent(), moved, &mut from, &mut to);
                let has = [&from, &to].map(|record| record.host.port_mappings == [mapping()]);
                assert_eq!(has, [!moved, moved], "{written:?}");
            }
        }
    }
}
