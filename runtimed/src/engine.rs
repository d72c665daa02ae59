//! What all parts of the engine share: the stores, the clients, and who is who.
//!
//! Owns the index of names and ids, and the start of the process: every container that a
//! store remembers gets its owner back, and what no store remembers is removed.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::container::record::{NetworkSettings, Record, Run};
use crate::container::{ContainerError, Handle, Result, View, actor, moves};
use crate::events::Events;
use crate::image::Images;
use crate::image::layer::remove_tree;
use crate::network_client::NetworkClient;
use crate::store::Store;

/// How many digits of an id people see.
const SHORT_ID: usize = 12;

/// The engine.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) store: Arc<Store>,
    pub(crate) images: Images,
    pub(crate) network: NetworkClient,
    pub(crate) events: Events,
    pub(crate) containers: Containers,
    /// A read-only view of the shim's program.
    pub(crate) shim_program: OwnedFd,
    /// Every task that the engine spawns.
    pub(crate) tracker: TaskTracker,
    /// Counts changes of names and addresses; containers with links watch it.
    pub(crate) names: watch::Sender<u64>,
    /// Held while a port moves from one container to another.
    pub(crate) moves: tokio::sync::Mutex<()>,
}

/// Who is who.
#[derive(Debug, Default)]
pub(crate) struct Containers(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    /// None while the container is being made.
    by_id: HashMap<String, Option<Handle>>,
    ids: HashMap<String, String>,
    requests: HashMap<String, String>,
}

impl Engine {
    /// Opens the stores and makes the engine; [`Engine::recover`] brings it to life.
    pub(crate) fn open(config: Config) -> anyhow::Result<Arc<Self>> {
        for directory in [
            config.root.join("containers"),
            config.run.join("containers"),
        ] {
            std::fs::create_dir_all(&directory)
                .map_err(|e| anyhow::anyhow!("make `{}`: {e}", directory.display()))?;
        }
        let shim_program = linkspan_sys::mount::read_only_program(&config.shim)
            .with_context(|| format!("open the shim `{}`", config.shim.display()))?;
        let store = Arc::new(Store::open(&config.root, &config.run)?);
        let images = Images::open(&config.root, Arc::clone(&store))?;
        let network = NetworkClient::new(&config.run.join("netd.sock"));
        Ok(Arc::new(Self {
            config,
            store,
            images,
            network,
            events: Events::new(),
            containers: Containers::default(),
            shim_program,
            tracker: TaskTracker::new(),
            names: watch::channel(0).0,
            moves: tokio::sync::Mutex::new(()),
        }))
    }

    /// Gives every container its owner back, and removes what belongs to none.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let (records, runs) = self
            .blocking(|engine| Ok((engine.store.containers()?, engine.store.runs()?)))
            .await?;
        let mut runs: HashMap<String, Run> = runs
            .into_iter()
            .map(|run| (run.container_id.clone(), run))
            .collect();
        let mut records = records;
        moves::recover(self, &mut records, &mut runs).await?;
        let known: Vec<String> = records.iter().map(|record| record.id.clone()).collect();
        let mut owners = Vec::new();
        for record in records {
            self.containers.insert_known(&record);
            let run = runs.remove(&record.id);
            let id = record.id.clone();
            let (handle, owner) = actor::prepare(self, record, run);
            self.containers.publish(&id, handle);
            owners.push(owner);
        }
        // Not before each can see all: a source that is not there yet would lose its line.
        for owner in owners {
            owner.start();
        }
        for id in runs.into_keys() {
            self.blocking(move |engine| Ok(engine.store.remove_run(&id)?))
                .await?;
        }
        self.remove_strays(&known).await
    }

    /// Removes directories and endpoints of containers that do not exist.
    async fn remove_strays(self: &Arc<Self>, known: &[String]) -> Result<()> {
        let owned = known.to_vec();
        self.blocking(move |engine| {
            for parent in [
                engine.config.root.join("containers"),
                engine.config.run.join("containers"),
            ] {
                let error = |source| ContainerError::Files {
                    act: "remove stray directories".to_owned(),
                    source,
                };
                for entry in std::fs::read_dir(parent).map_err(error)? {
                    let entry = entry.map_err(error)?;
                    if !owned.iter().any(|id| entry.file_name() == id.as_str()) {
                        remove_tree(&entry.path()).map_err(error)?;
                    }
                }
            }
            Ok(())
        })
        .await?;
        let Ok(endpoints) = self.network.endpoints().await else {
            tracing::warn!("netd does not answer at the start, ignoring");
            return Ok(());
        };
        let strays = endpoints.iter().filter(|(id, _)| !known.contains(id));
        for (_, NetworkSettings { endpoint_id, .. }) in strays {
            tracing::info!(endpoint_id, "detach an endpoint of no container");
            if let Err(error) = self.network.detach(endpoint_id, false).await {
                tracing::warn!(endpoint_id, %error, "detach, ignoring");
            }
        }
        self.remove_stray_namespaces().await;
        Ok(())
    }

    /// A namespace is kept without endpoints only for a container that has no network.
    async fn remove_stray_namespaces(&self) {
        let Ok(sandboxes) = self.network.sandboxes().await else {
            return;
        };
        for id in sandboxes {
            let view = self.containers.find(&id).map(|handle| handle.view());
            let is_needed =
                view.is_ok_and(|view| view.run.is_some() && view.record.host.networks.is_empty());
            if is_needed {
                continue;
            }
            tracing::info!(sandbox_id = id, "remove a namespace of no container");
            if let Err(error) = self.network.delete_sandbox(&id).await {
                tracing::warn!(sandbox_id = id, %error, "remove a namespace, ignoring");
            }
        }
    }

    /// Removes what a container leaves, but its entry in the index.
    pub(crate) async fn forget(self: &Arc<Self>, record: &Record) -> Result<()> {
        let owned = record.clone();
        self.blocking(move |engine| {
            // The intent first: whoever finds it at the next start goes on from here.
            engine.store.put_container(&owned)?;
            let error = |source| ContainerError::Files {
                act: "remove the container's files".to_owned(),
                source,
            };
            remove_tree(&engine.container_dir(&owned.id)).map_err(error)?;
            remove_tree(&engine.run_dir(&owned.id)).map_err(error)?;
            Ok(engine.store.remove_container(&owned)?)
        })
        .await?;
        if record.generated_name && record.last_run.is_some() && !record.host.auto_remove {
            self.network.release(&record.name, "").await?;
        }
        Ok(())
    }

    /// Runs blocking work where that is allowed.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let engine = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&engine)).await {
            Ok(result) => result,
            Err(error) => Err(ContainerError::Files {
                act: "run a blocking task".to_owned(),
                source: std::io::Error::other(error),
            }),
        }
    }

    /// Where the durable files of a container are.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.config.root.join("containers").join(id)
    }

    /// Where the files of its run are.
    pub(crate) fn run_dir(&self, id: &str) -> PathBuf {
        self.config.run.join("containers").join(id)
    }

    /// Tells containers with links that a name or an address is another now.
    pub(crate) fn names_changed(&self) {
        self.names.send_modify(|generation| *generation += 1);
    }
}

impl Index {
    /// Gives a name to an id; fails with the id that holds it. What people take for the id of
    /// another container is no name: a command would reach the wrong one.
    fn take_name(&mut self, name: &str, id: &str) -> std::result::Result<(), String> {
        if let Some(holder) = self.ids.get(name) {
            return Err(holder.clone());
        }
        let looks_like_an_id =
            name.len() >= SHORT_ID && name.bytes().all(|b| b.is_ascii_hexdigit());
        let mut others = self.by_id.keys().filter(|other| *other != id);
        if looks_like_an_id && let Some(holder) = others.find(|other| other.starts_with(name)) {
            return Err(holder.clone());
        }
        self.ids.insert(name.to_owned(), id.to_owned());
        Ok(())
    }
}

impl Containers {
    /// Reserves a name for an id. Fails with the id that holds it.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> std::result::Result<(), String> {
        let mut index = self.index();
        index.take_name(name, id)?;
        index.by_id.insert(id.to_owned(), None);
        Ok(())
    }

    /// Gives a reserved entry its handle.
    pub(crate) fn publish(&self, id: &str, handle: Handle) {
        self.index().by_id.insert(id.to_owned(), Some(handle));
    }

    /// Remembers which container a request made.
    pub(crate) fn remember_request(&self, request_id: &str, id: &str) {
        if !request_id.is_empty() {
            self.index()
                .requests
                .insert(request_id.to_owned(), id.to_owned());
        }
    }

    /// The container that a request made before.
    pub(crate) fn by_request(&self, request_id: &str) -> Option<Handle> {
        let index = self.index();
        let id = index.requests.get(request_id)?;
        index.by_id.get(id)?.clone()
    }

    /// Reserves a second name for an id, to move to it.
    pub(crate) fn reserve_rename(
        &self,
        new_name: &str,
        id: &str,
    ) -> std::result::Result<(), String> {
        self.index().take_name(new_name, id)
    }

    /// Gives a name back that belongs to an id.
    pub(crate) fn release_name(&self, name: &str, id: &str) {
        let mut index = self.index();
        if index.ids.get(name).is_some_and(|holder| holder == id) {
            index.ids.remove(name);
        }
    }

    /// Removes an id and its names.
    pub(crate) fn forget(&self, id: &str) {
        let mut index = self.index();
        index.by_id.remove(id);
        index.ids.retain(|_, holder| holder != id);
        index.requests.retain(|_, made| made != id);
    }

    /// The container with this name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Handle> {
        let index = self.index();
        index.by_id.get(index.ids.get(name)?)?.clone()
    }

    /// The container with this exact id, name, or unique id prefix, in this order. A link
    /// name, `consumer/alias`, stands for the source.
    pub(crate) fn find(&self, text: &str) -> Result<Handle> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let not_found = || ContainerError::NotFound {
            text: text.to_owned(),
        };
        if let Some((consumer, alias)) = text.split_once('/') {
            let view = self.by_name(consumer).ok_or_else(not_found)?.view();
            let link = view
                .record
                .host
                .links
                .iter()
                .find(|link| link.alias == alias);
            return self
                .by_name(&link.ok_or_else(not_found)?.source)
                .ok_or_else(not_found);
        }
        if let Some(Some(handle)) = self.index().by_id.get(text) {
            return Ok(handle.clone());
        }
        if let Some(handle) = self.by_name(text) {
            return Ok(handle);
        }
        let index = self.index();
        let mut fitting = index
            .by_id
            .iter()
            .filter(|(id, _)| !text.is_empty() && id.starts_with(text))
            .filter_map(|(_, handle)| handle.as_ref());
        match (fitting.next(), fitting.count()) {
            (Some(handle), 0) => Ok(handle.clone()),
            (Some(_), more) => Err(ContainerError::Ambiguous {
                prefix: text.to_owned(),
                count: more + 1,
            }),
            (None, _) => Err(not_found()),
        }
    }

    /// All handles, in no order.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.index().by_id.values().flatten().cloned().collect()
    }

    /// All containers, newest first.
    pub(crate) fn views(&self) -> Vec<Arc<View>> {
        let mut views: Vec<Arc<View>> = self
            .handles()
            .iter()
            .map(Handle::view)
            .filter(|view| !view.removed)
            .collect();
        views.sort_by(|a, b| {
            (b.record.created_at_ns, &b.record.id).cmp(&(a.record.created_at_ns, &a.record.id))
        });
        views
    }

    fn insert_known(&self, record: &Record) {
        let mut index = self.index();
        index.ids.insert(record.name.clone(), record.id.clone());
        index.by_id.insert(record.id.clone(), None);
        if !record.request_id.is_empty() {
            index
                .requests
                .insert(record.request_id.clone(), record.id.clone());
        }
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error and its causes, as one sentence.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
