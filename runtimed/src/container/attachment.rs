//! Makes netd have the endpoints that a record says, and finds the namespace of a run.
//!
//! One function serves a start and every later change: it compares, takes off what is too
//! much, and attaches or updates the rest. Each step may be repeated.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::network::{self, NetworkMode};
use super::record::{NetworkSettings, Record};
use super::{ContainerError, Result, View, orphan};
use crate::engine::Engine;

/// The namespace of this process, which is the host's.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// What a start has of the network.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) namespace: OwnedFd,
    pub(crate) networks: Vec<NetworkSettings>,
}

/// Gives a container that starts its network.
pub(crate) async fn attach(engine: &Arc<Engine>, record: &Record) -> Result<Attached> {
    match &record.host.network_mode {
        NetworkMode::Networks => {
            let networks = realize(engine, record, &[]).await?;
            let path = match networks.first() {
                Some(first) => first.netns_path.clone(),
                None => engine.network.create_sandbox(&record.id).await?,
            };
            Ok(Attached {
                namespace: open(&path)?,
                networks,
            })
        }
        NetworkMode::Host => Ok(Attached {
            namespace: open(OWN_NAMESPACE)?,
            networks: Vec::new(),
        }),
        NetworkMode::Container(id) => Ok(Attached {
            namespace: namespace_of(&*shared(engine, record, id)?)?,
            networks: Vec::new(),
        }),
    }
}

/// The container whose network another one shares, which must run.
pub(crate) fn shared(engine: &Engine, record: &Record, id: &str) -> Result<Arc<View>> {
    let gone = || ContainerError::NetworkOwnerDown {
        name: record.name.clone(),
        owner: id.get(..12).unwrap_or(id).to_owned(),
    };
    let view = engine
        .containers
        .find(id)
        .map_err(|_missing| gone())?
        .view();
    if view.run.as_ref().is_none_or(|run| run.pid == 0) {
        return Err(ContainerError::NetworkOwnerDown {
            name: record.name.clone(),
            owner: view.record.name.clone(),
        });
    }
    Ok(view)
}

/// The namespace of a running container, by its first process. A process number may
/// belong to another one by now, so the process is looked at again afterwards.
fn namespace_of(view: &View) -> Result<OwnedFd> {
    let run = view.run.as_ref().ok_or(ContainerError::Gone)?;
    let namespace = open(&format!("/proc/{}/ns/net", run.pid))?;
    if run.process.is_some() && orphan::handle_of(run.pid) != run.process {
        return Err(ContainerError::Gone);
    }
    Ok(namespace)
}

/// Makes netd have what the record says, given the endpoints that are there now.
pub(crate) async fn realize(
    engine: &Arc<Engine>,
    record: &Record,
    current: &[NetworkSettings],
) -> Result<Vec<NetworkSettings>> {
    let client = &engine.network;
    let networks = &record.host.networks;
    let known = if network::is_plain(networks) {
        Vec::new()
    } else {
        client.networks().await?
    };
    let publisher = network::publisher(networks, &known);
    let plan = network::plan(record, current);
    if networks.is_empty() && !current.is_empty() {
        // It keeps its namespace, and may join a network again.
        client.create_sandbox(&record.id).await?;
    }
    for gone in plan.detached {
        client.detach(&gone.endpoint_id, true).await?;
    }
    let mut settings = Vec::with_capacity(networks.len());
    for (config, is_there) in plan.kept {
        let publishes = publisher == Some(config.network.as_str());
        let endpoint = if is_there {
            client.update(record, config, publishes).await?
        } else {
            client.attach(record, config, publishes).await?
        };
        settings.push(NetworkSettings {
            publishes,
            ..endpoint
        });
    }
    Ok(settings)
}

/// The endpoints of a container that are there, as netd knows them.
pub(crate) async fn present(engine: &Engine, id: &str) -> Result<Vec<NetworkSettings>> {
    let all = engine.network.endpoints().await?;
    let own = all.into_iter().filter(|(container, _)| container == id);
    Ok(own.map(|(_, settings)| settings).collect())
}

/// Takes a container off every network that it may be on. Goes on after a failure.
pub(crate) async fn detach(engine: &Arc<Engine>, record: &Record) {
    let client = &engine.network;
    let release = record.host.auto_remove && record.generated_name;
    let networks = record.host.networks.iter();
    let mut endpoints: BTreeSet<String> = networks
        .map(|config| network::endpoint_id(&record.id, &config.network))
        .collect();
    if record.before_change.is_some() {
        // Nobody knows how far the change came.
        match present(engine, &record.id).await {
            Ok(all) => endpoints.extend(all.into_iter().map(|there| there.endpoint_id)),
            Err(error) => {
                tracing::warn!(container_id = record.id, %error, "look for endpoints, ignoring");
            }
        }
    }
    let warn = |error| {
        tracing::warn!(container_id = record.id, %error, "detach from the network, ignoring");
    };
    for endpoint in &endpoints {
        client.detach(endpoint, release).await.unwrap_or_else(warn);
    }
    let owns_namespace = record.host.network_mode == NetworkMode::Networks;
    let may_be_kept = record.host.networks.is_empty() || record.before_change.is_some();
    if owns_namespace && may_be_kept {
        client.delete_sandbox(&record.id).await.unwrap_or_else(warn);
    }
}

fn open(path: &str) -> Result<OwnedFd> {
    let opened = File::open(path).map_err(|source| ContainerError::Files {
        act: format!("open the network namespace `{path}`"),
        source,
    });
    Ok(opened?.into())
}
