//! Starts a run: files, addresses, shim, in an order that overlaps what can overlap.
//!
//! Every step leaves only what [`clean_up`] removes, so a failure at any of them, or a
//! crash, is rolled back by the same function.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use linkspan_proto::shim_v1::shim_message::Content;
use linkspan_proto::shim_v1::shim_request::Operation;
use linkspan_proto::shim_v1::{Exit, ShutdownRequest, StartRequest};
use linkspan_proto::time::unix_nanos;
use prost::Message;
use tokio::sync::mpsc;

use super::environment::{LinkSource, process_environment};
use super::link::{self, ResolvedLink};
use super::record::{RECORD_VERSION, Record, Run, RunPhase};
use super::spec::{RunPaths, container_spec};
use super::streams::ShimStreams;
use super::{ContainerError, Result, attachment, files, orphan};
use crate::engine::Engine;
use crate::image::layer::remove_tree;
use crate::shim_client::{self, ShimClient, ShimError, ShimEvent};

/// How long a shim may take to end.
const SHIM_END_TIMEOUT: Duration = Duration::from_secs(10);

/// A run that is under way.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) run: Run,
    pub(crate) shim: ShimClient,
    pub(crate) events: mpsc::Receiver<ShimEvent>,
}

/// What a start does about a source that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DownSources {
    /// Refuse.
    Refuse,
    /// Go on without its hosts lines; a restart never fails for a link.
    Tolerate,
}

/// Starts a run. On an error nothing of it is left.
pub(crate) async fn launch(
    engine: &Arc<Engine>,
    record: &Record,
    streams: Option<ShimStreams>,
    down: DownSources,
) -> Result<Launched> {
    let links = link::resolve(engine, record);
    if down == DownSources::Refuse {
        link::check_sources(record, &links)?;
    }
    let mut run = Run {
        version: RECORD_VERSION,
        container_id: record.id.clone(),
        phase: RunPhase::Starting,
        started_at_ns: unix_nanos(SystemTime::now()),
        pid: 0,
        process: None,
        network: None,
        networks: Vec::new(),
        resolv_conf: String::new(),
        env: Vec::new(),
        hosts_lines: Vec::new(),
    };
    let intent = run.clone();
    engine
        .blocking(move |engine| Ok(engine.store.put_run(&intent)?))
        .await?;
    let result = start(
        engine,
        record,
        &mut run,
        &links,
        streams.unwrap_or_default(),
    )
    .await;
    match result {
        Ok((shim, events)) => Ok(Launched { run, shim, events }),
        Err(error) => {
            clean_up(engine, record).await;
            Err(error)
        }
    }
}

async fn start(
    engine: &Arc<Engine>,
    record: &Record,
    run: &mut Run,
    links: &[ResolvedLink],
    streams: ShimStreams,
) -> Result<(ShimClient, mpsc::Receiver<ShimEvent>)> {
    let paths = run_paths(engine, &record.id);
    let directory = engine.run_dir(&record.id);
    make_directory(&directory)?;
    // The shim makes its control groups while netd makes the network.
    let process = shim_client::spawn(&engine.shim_program, &record.id, &paths.cgroup, &directory)
        .map_err(failed("run the shim".to_owned()))?;
    engine.tracker.spawn(async move {
        if let Err(error) = process.reap().await {
            tracing::warn!(%error, "wait for a shim, ignoring");
        }
    });
    let (shim, events) = ShimClient::connect(&directory, &engine.tracker)?;
    let attached = attachment::attach(engine, record).await?;
    run.networks = attached.networks;

    run.env = environment(record, links);
    let paths = files::write(engine, record, paths, run, links)?;
    let spec = container_spec(record, &paths, run.env.clone(), streams.has_stdin())?;
    let spec = linkspan_sys::memfd::sealed("container-spec", &spec.encode_to_vec())
        .map_err(|e| failed("write the specification".to_owned())(std::io::Error::other(e)))?;
    let mut fds = vec![spec.as_fd(), attached.namespace.as_fd()];
    fds.extend(streams.fds());
    let request = Operation::Start(StartRequest {
        streams: Some(streams.to_wire()),
    });
    match shim.request(request, &fds).await? {
        Content::Started(started) => {
            run.pid = started.pid;
            run.process = orphan::handle_of(started.pid);
        }
        _ => return Err(ShimError::Protocol.into()),
    }
    run.phase = RunPhase::Running;
    let row = run.clone();
    engine
        .blocking(move |engine| Ok(engine.store.put_run(&row)?))
        .await?;
    Ok((shim, events))
}

/// Ends what is left of a run: the shim, the endpoint, the directory, the row. Goes on
/// after a failure, and may be called for a run that is already gone.
pub(crate) async fn clean_up(engine: &Arc<Engine>, record: &Record) {
    let directory = engine.run_dir(&record.id);
    if let Ok((shim, events)) = ShimClient::connect(&directory, &engine.tracker) {
        shut_down(&shim, events).await;
    }
    attachment::detach(engine, record).await;
    let id = record.id.clone();
    let removed = engine.blocking(move |engine| {
        engine.store.remove_run(&id)?;
        remove_tree(&directory).map_err(failed("remove the run directory".to_owned()))
    });
    if let Err(error) = removed.await {
        tracing::warn!(container_id = record.id, %error, "clean up after a run, ignoring");
    }
}

/// Ends a shim that has no container any more, and waits until it is gone: its control
/// groups go with it, and the next start makes them anew under the same path.
async fn shut_down(shim: &ShimClient, mut events: mpsc::Receiver<ShimEvent>) {
    // One without a container may have ended on its own by now.
    let asked = shim
        .request(Operation::Shutdown(ShutdownRequest {}), &[])
        .await;
    if asked.is_err() {
        return;
    }
    let gone = async { while let Some(ShimEvent::Exited(_)) = events.recv().await {} };
    if tokio::time::timeout(SHIM_END_TIMEOUT, gone).await.is_err() {
        tracing::warn!("the shim does not end, ignoring");
    }
}

/// The exit record that a shim left, if it could write one.
pub(crate) fn read_exit_record(engine: &Engine, id: &str) -> Option<Exit> {
    let bytes = std::fs::read(run_paths(engine, id).exit_record).ok()?;
    Exit::decode(bytes.as_slice()).ok()
}

/// The variables of the first process.
fn environment(record: &Record, links: &[ResolvedLink]) -> Vec<String> {
    let sources: Vec<LinkSource<'_>> = links.iter().filter_map(ResolvedLink::carried).collect();
    process_environment(record, &sources)
}

/// Where the files of a container's run are.
pub(crate) fn run_paths(engine: &Engine, id: &str) -> RunPaths {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let state = engine.container_dir(id);
    let run = engine.run_dir(id);
    RunPaths {
        upper_dir: text(state.join("upper")),
        work_dir: text(state.join("work")),
        hosts: text(run.join("hosts")),
        hostname: text(run.join("hostname")),
        resolv_conf: text(run.join("resolv.conf")),
        log: text(state.join("log/container.log")),
        exit_record: text(run.join("exit")),
        cgroup: format!("{}/{id}", engine.config.cgroup_parent),
    }
}

fn make_directory(directory: &Path) -> Result<()> {
    remove_tree(directory)
        .and_then(|()| std::fs::create_dir(directory))
        .map_err(failed(format!("make `{}`", directory.display())))
}

fn failed(act: String) -> impl FnOnce(std::io::Error) -> ContainerError {
    move |source| ContainerError::Files { act, source }
}
