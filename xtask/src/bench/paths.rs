//! The paths of packets: whether a published port stays as fast with many ports and with
//! many containers, and what the way between two containers costs beside a plain bridge.
//!
//! Each state is measured between two measurements of the first one, since the machine
//! drifts: what counts is the ratio.

use std::path::Path as FilePath;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};

use super::engine::Engine;
use super::traffic::{self, Path};
use crate::workspace;

/// Where the LAN is, which nothing else in the namespaces uses.
const HOST: &str = "10.201.0.1";
const LAN: &str = "10.201.0.2";
const PLAIN: [&str; 2] = ["10.202.0.2", "10.202.0.3"];
const PORT: u16 = 5001;
/// More ports, published on a container beside the one that is measured.
const MORE: u16 = 20000;

/// How many ports and containers an engine is given: as many as it takes in a minute or so.
fn crowd(engine: Engine) -> (u16, usize) {
    match engine {
        Engine::Linkspan => (1000, 500),
        _ => (300, 50),
    }
}

/// Measures the paths of an engine; this process is in its namespaces.
pub(super) fn all(engine: Engine, state: &FilePath) -> anyhow::Result<Value> {
    let lan = traffic::namespace()?;
    link(
        "bench0",
        &format!("{HOST}/24"),
        lan.pid(),
        &format!("{LAN}/24"),
    )?;
    let mapping = format!("{PORT}:{PORT}");
    let expose = PORT.to_string();
    let web = run(
        engine,
        state,
        &["--name", "bench-web", "-p", &mapping, "--expose", &expose],
    )?;
    let peer = match engine {
        // Everybody else's containers reach each other anyway.
        Engine::Linkspan => run(engine, state, &["--link", "bench-web:web"])?,
        _ => run(engine, state, &[])?,
    };
    let (web_pid, peer_pid) = (engine.pid(state, &web)?, engine.pid(state, &peer)?);
    let server = traffic::server(web_pid, PORT)?;
    let published = || traffic::measure(lan.pid(), HOST, PORT);
    let (ports, containers) = crowd(engine);

    let first = published()?;
    let (publish_ms, with_ports, remove_ms) = with_ports(engine, state, ports, published)?;
    let second = published()?;
    let mut ids = Vec::new();
    for _ in 0..containers {
        ids.push(run(engine, state, &[])?);
    }
    let with_containers = published()?;
    workspace::output(&mut engine.remove(state, &ids))?;
    let third = published()?;
    let between = traffic::measure(peer_pid, &engine.address(state, &web)?, PORT)?;
    drop(server);
    workspace::output(&mut engine.remove(state, &[web, peer]))?;
    let plain = plain_bridge()?;
    workspace::output(Command::new("ip").args(["link", "del", "bench0"]))?;

    let ports_base = first.between(second);
    let containers_base = second.between(third);
    Ok(json!({
        "ports": ports,
        "containers": containers,
        "publish_ms": publish_ms,
        "remove_ms": remove_ms,
        "connect_us": first.connect_us,
        "gbit": first.gbit,
        "connect_with_ports": with_ports.connect_us / ports_base.connect_us,
        "gbit_with_ports": with_ports.gbit / ports_base.gbit,
        "connect_with_containers": with_containers.connect_us / containers_base.connect_us,
        "gbit_with_containers": with_containers.gbit / containers_base.gbit,
        "between_gbit": between.gbit,
        "between_of_plain": between.gbit / plain.gbit,
        "between_connect_of_plain": between.connect_us / plain.connect_us,
    }))
}

/// Publishes many ports, measures, and takes them back; the times are in milliseconds.
fn with_ports(
    engine: Engine,
    state: &FilePath,
    count: u16,
    published: impl Fn() -> anyhow::Result<Path>,
) -> anyhow::Result<(f64, Path, f64)> {
    let range = format!("{MORE}-{}", MORE + count - 1);
    let mapping = format!("{range}:{range}");
    let timed = |command: &mut Command| -> anyhow::Result<(String, f64)> {
        let begin = Instant::now();
        let text = workspace::output(command)?;
        Ok((text, begin.elapsed().as_secs_f64() * 1000.0))
    };
    if engine == Engine::Linkspan {
        // What is alive takes them while it runs.
        let id = run(engine, state, &[])?;
        let linkspan = |words: &[&str]| {
            let mut command = Command::new("linkspan");
            command.args(words);
            command
        };
        let (_, publish) = timed(&mut linkspan(&["port", "add", &id, &mapping]))?;
        let path = published()?;
        let (_, remove) = timed(&mut linkspan(&["port", "rm", &range]))?;
        workspace::output(&mut engine.remove(state, &[id]))?;
        return Ok((publish, path, remove));
    }
    let (id, publish) = timed(&mut engine.run_idle(state, &["-p", &mapping]))?;
    let path = published()?;
    let (_, remove) = timed(&mut engine.remove(state, &[id.trim().to_owned()]))?;
    Ok((publish, path, remove))
}

fn run(engine: Engine, state: &FilePath, flags: &[&str]) -> anyhow::Result<String> {
    let id = workspace::output(&mut engine.run_idle(state, flags))?;
    Ok(id.trim().to_owned())
}

/// Two namespaces on a bridge with nothing special about it.
fn plain_bridge() -> anyhow::Result<Path> {
    ip("link add bench-plain type bridge")?;
    ip("link set bench-plain up")?;
    let ends = [traffic::namespace()?, traffic::namespace()?];
    for (number, (end, address)) in ends.iter().zip(PLAIN).enumerate() {
        let device = format!("benchp{number}");
        link(&device, "", end.pid(), &format!("{address}/24"))?;
        ip(&format!("link set {device} master bench-plain"))?;
    }
    let _server = traffic::server(ends[1].pid(), PORT)?;
    let path = traffic::measure(ends[0].pid(), PLAIN[1], PORT);
    ip("link del bench-plain")?;
    path
}

/// A veth pair from this namespace to that of a process, both ends up.
fn link(device: &str, own: &str, pid: u32, theirs: &str) -> anyhow::Result<()> {
    ip(&format!(
        "link add {device} type veth peer name eth0 netns {pid}"
    ))?;
    if !own.is_empty() {
        ip(&format!("addr add {own} dev {device}"))?;
    }
    ip(&format!("link set {device} up"))?;
    let namespace = format!("--net=/proc/{pid}/ns/net");
    for line in [
        format!("addr add {theirs} dev eth0"),
        "link set eth0 up".to_owned(),
    ] {
        let mut command = Command::new("nsenter");
        command.args([&namespace, "ip"]).args(line.split(' '));
        workspace::output(&mut command).context("set a device up")?;
    }
    Ok(())
}

fn ip(line: &str) -> anyhow::Result<()> {
    workspace::output(Command::new("ip").args(line.split(' '))).map(drop)
}
