//! The paths of packets: whether a published port stays as fast with many ports and with
//! many containers, and what the way between two containers costs beside a plain bridge.
//!
//! Each state is measured between two measurements of the first one, since the machine
//! drifts: what counts is the ratio.

use std::path::Path as FilePath;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::engine::Engine;
use super::traffic::{self, Helper, Path};
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
    let published = || {
        let [path] = traffic::measure([(lan.pid(), HOST)], PORT)?;
        Ok(path)
    };
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
    let bridge = PlainBridge::new()?;
    let address = engine.address(state, &web)?;
    let paths = [(peer_pid, address.as_str()), (bridge.client(), PLAIN[1])];
    let [between, plain] = traffic::measure(paths, PORT)?;
    drop((server, bridge));
    workspace::output(&mut engine.remove(state, &[web, peer]))?;
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

/// Two namespaces on a bridge with nothing special about it, in a namespace where no engine
/// has rules.
struct PlainBridge {
    ends: [Helper; 2],
    _server: Helper,
    _middle: Helper,
}

impl PlainBridge {
    fn new() -> anyhow::Result<Self> {
        let middle = traffic::namespace()?;
        ip_in(middle.pid(), "link add plain type bridge")?;
        ip_in(middle.pid(), "link set plain up")?;
        let ends = [traffic::namespace()?, traffic::namespace()?];
        for (number, (end, address)) in ends.iter().zip(PLAIN).enumerate() {
            let port = format!("port{number}");
            let pid = end.pid();
            ip_in(
                middle.pid(),
                &format!("link add {port} type veth peer name eth0 netns {pid}"),
            )?;
            ip_in(middle.pid(), &format!("link set {port} master plain up"))?;
            ip_in(pid, &format!("addr add {address}/24 dev eth0"))?;
            ip_in(pid, "link set eth0 up")?;
        }
        Ok(Self {
            _server: traffic::server(ends[1].pid(), PORT)?,
            ends,
            _middle: middle,
        })
    }

    /// A process at the other end than the server.
    fn client(&self) -> u32 {
        self.ends[0].pid()
    }
}

/// A veth pair from this namespace to that of a process, both ends up.
fn link(device: &str, own: &str, pid: u32, theirs: &str) -> anyhow::Result<()> {
    ip(&format!(
        "link add {device} type veth peer name eth0 netns {pid}"
    ))?;
    ip(&format!("addr add {own} dev {device}"))?;
    ip(&format!("link set {device} up"))?;
    ip_in(pid, &format!("addr add {theirs} dev eth0"))?;
    ip_in(pid, "link set eth0 up")
}

fn ip(line: &str) -> anyhow::Result<()> {
    workspace::output(Command::new("ip").args(line.split(' '))).map(drop)
}

/// Runs ip(8) in the network namespace of a process.
fn ip_in(pid: u32, line: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .arg("ip")
        .args(line.split(' '));
    workspace::output(&mut command).map(drop)
}
