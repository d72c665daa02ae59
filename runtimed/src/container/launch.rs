//! Starts a run: files, addresses, shim, in an order that overlaps what can overlap.
//!
//! Every step leaves only what [`clean_up`] removes, so a failure at any of them, or a
//! crash, is rolled back by the same function.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use linkspan_proto::shim_v1::shim_message::Content;
use linkspan_proto::shim_v1::shim_request::Operation;
use linkspan_proto::shim_v1::{Exit, ShutdownRequest, StartRequest};
use linkspan_proto::time::unix_nanos;
use prost::Message;
use tokio::sync::mpsc;

use super::environment::{LinkSource, process_environment};
use super::link::{self, ResolvedLink};
use super::record::{
    HOST_GATEWAY, HostsLine, NetworkSettings, RECORD_VERSION, Record, Run, RunPhase,
};
use super::spec::{RunPaths, container_spec};
use super::streams::ShimStreams;
use super::{ContainerError, Result, hosts, orphan, resolver};
use crate::engine::Engine;
use crate::image::layer::remove_tree;
use crate::shim_client::{self, ShimClient, ShimError, ShimEvent};

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
        .map_err(files("run the shim".to_owned()))?;
    engine.tracker.spawn(async move {
        if let Err(error) = process.reap().await {
            tracing::warn!(%error, "wait for a shim, ignoring");
        }
    });
    let (shim, events) = ShimClient::connect(&directory, &engine.tracker)?;
    let network = engine.network.attach(record).await?;

    run.env = environment(record, links);
    run.hosts_lines = links.iter().flat_map(ResolvedLink::hosts_lines).collect();
    write_files(record, &paths, &network, &run.hosts_lines)?;
    let spec = container_spec(record, &paths, run.env.clone(), streams.has_stdin())?;
    let spec = linkspan_sys::memfd::sealed("container-spec", &spec.encode_to_vec())
        .map_err(|e| files("write the specification".to_owned())(std::io::Error::other(e)))?;
    let netns = std::fs::File::open(&network.netns_path).map_err(files(format!(
        "open the network namespace `{}`",
        network.netns_path
    )))?;
    let mut fds = vec![spec.as_fd(), netns.as_fd()];
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
    run.network = Some(network);
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
    if let Ok((shim, _events)) = ShimClient::connect(&directory, &engine.tracker) {
        // A shim without a container may have ended on its own by now.
        shim.request(Operation::Shutdown(ShutdownRequest {}), &[])
            .await
            .ok();
    }
    let release = record.host.auto_remove && record.generated_name;
    if let Err(error) = engine.network.detach(&record.id, release).await {
        tracing::warn!(container_id = record.id, %error, "detach from the network, ignoring");
    }
    let id = record.id.clone();
    let removed = engine.blocking(move |engine| {
        engine.store.remove_run(&id)?;
        remove_tree(&directory).map_err(files("remove the run directory".to_owned()))
    });
    if let Err(error) = removed.await {
        tracing::warn!(container_id = record.id, %error, "clean up after a run, ignoring");
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
        .map_err(files(format!("make `{}`", directory.display())))
}

fn write_files(
    record: &Record,
    paths: &RunPaths,
    network: &NetworkSettings,
    links: &[HostsLine],
) -> Result<()> {
    let mut extra = Vec::new();
    for entry in &record.host.extra_hosts {
        extra.push(extra_host(entry, &network.ipv4_gateway)?);
    }
    let config = &record.config;
    let hosts = hosts::render(
        Some(network.addresses()),
        record.hostname(),
        &config.domainname,
        &extra,
        links,
    );
    let wanted = resolver::Wanted {
        servers: &record.host.dns,
        search: &record.host.dns_search,
        options: &record.host.dns_options,
    };
    let resolv_conf = resolver::render(&resolver::host_configuration(), wanted);
    let contents = [
        (&paths.hosts, hosts),
        (&paths.hostname, format!("{}\n", record.hostname())),
        (&paths.resolv_conf, resolv_conf),
    ];
    for (path, text) in contents {
        std::fs::write(path, text).map_err(files(format!("write `{path}`")))?;
    }
    Ok(())
}

/// Reads `NAME:ADDRESS`, where `host-gateway` stands for the gateway.
pub(crate) fn extra_host(entry: &str, gateway: &str) -> Result<(String, IpAddr)> {
    let invalid = |rule: String| ContainerError::Invalid {
        what: "--add-host",
        rule,
    };
    let (name, address) = entry
        .split_once([':', '='])
        .ok_or_else(|| invalid(format!("`{entry}` is not NAME:ADDRESS")))?;
    let valid = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !valid {
        return Err(invalid(format!("`{name}` is no host name")));
    }
    let text = if address == HOST_GATEWAY {
        gateway
    } else {
        address
    };
    let text = text.trim_start_matches('[').trim_end_matches(']');
    let address = text
        .parse()
        .map_err(|_e| invalid(format!("`{text}` is no IP address")))?;
    Ok((name.to_owned(), address))
}

fn files(act: String) -> impl FnOnce(std::io::Error) -> ContainerError {
    move |source| ContainerError::Files { act, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_host_is_a_name_and_an_address() {
        let host = |entry| extra_host(entry, "172.17.0.1").map(|(n, a)| format!("{n} {a}"));
        assert_eq!(host("db:10.0.0.1").unwrap(), "db 10.0.0.1");
        assert_eq!(host("db:::1").unwrap(), "db ::1");
        assert_eq!(host("h:host-gateway").unwrap(), "h 172.17.0.1");
        for bad in ["a", ":1.1.1.1", "a b:1.1.1.1", "a:zzz", "a\n:1.1.1.1"] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }
}
