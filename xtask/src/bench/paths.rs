//! The paths of packets: whether a published port stays as fast with many ports and with
//! many containers, and what the way between two containers costs beside a plain bridge.
//!
//! States are measured by turns, since the machine drifts: what counts is the ratio.

use std::cell::RefCell;
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
const GATEWAY: &str = "10.202.0.1";
const BRIDGED: [&str; 2] = ["10.202.0.2", "10.202.0.3"];
const PORT: u16 = 5001;
/// More ports, published on a container beside the one that is measured.
const MORE: u16 = 20000;

/// What an engine is given: as much as it takes in a minute or so.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    ports: u16,
    containers: usize,
    /// How often they come and go again.
    port_turns: usize,
    container_turns: usize,
}

fn crowd(engine: Engine) -> Crowd {
    match engine {
        Engine::Linkspan => Crowd {
            ports: 1000,
            containers: 500,
            port_turns: 5,
            container_turns: 2,
        },
        _ => Crowd {
            ports: 300,
            containers: 50,
            port_turns: 1,
            container_turns: 1,
        },
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
    let crowd = crowd(engine);
    let ports = Ports::new(engine, state, crowd.ports)?;
    // Nothing is tracked yet.
    let publish_ms = timed(|| ports.publish())?;
    let remove_ms = timed(|| ports.remove())?;

    let server = traffic::server(web_pid, PORT)?;
    let published = || {
        let [path] = traffic::measure([(lan.pid(), HOST)], PORT)?;
        Ok(path)
    };
    let alone = published()?;
    let with_ports = compare(
        crowd.port_turns,
        published,
        || ports.publish(),
        || ports.remove(),
    )?;
    ports.publish()?;
    published()?;
    let busy_remove_ms = timed(|| ports.remove())?;
    drop(ports);
    let mut ids = RefCell::new(Vec::new());
    let with_containers = compare(
        crowd.container_turns,
        published,
        || {
            for _ in 0..crowd.containers {
                ids.borrow_mut().push(run(engine, state, &[])?);
            }
            Ok(())
        },
        || workspace::output(&mut engine.remove(state, &ids.take())).map(drop),
    )?;
    ids.get_mut().extend([web.clone(), peer]);
    let between = between(peer_pid, &engine.address(state, &web)?)?;
    drop(server);
    workspace::output(&mut engine.remove(state, &ids.take()))?;
    workspace::output(Command::new("ip").args(["link", "del", "bench0"]))?;

    Ok(json!({
        "ports": crowd.ports,
        "containers": crowd.containers,
        "publish_ms": publish_ms,
        "remove_ms": remove_ms,
        "busy_remove_ms": busy_remove_ms,
        "connect_us": alone.connect_us,
        "gbit": alone.gbit,
        "connect_with_ports": with_ports.connect_us,
        "gbit_with_ports": with_ports.gbit,
        "connect_with_containers": with_containers.connect_us,
        "gbit_with_containers": with_containers.gbit,
        "between": between,
    }))
}

/// What the way from a process to a container is beside two bridges that no engine made.
fn between(client: u32, address: &str) -> anyhow::Result<Value> {
    let (plain, routed) = (Bridge::new(Kind::Plain)?, Bridge::new(Kind::Routed)?);
    let paths = [
        (client, address),
        (plain.client(), BRIDGED[1]),
        (routed.client(), BRIDGED[1]),
    ];
    let [own, plain, routed] = traffic::measure(paths, PORT)?;
    let (own_of, routed_of) = (own.of(plain), routed.of(plain));
    Ok(json!({
        "gbit": own.gbit,
        "connect_us": own.connect_us,
        "gbit_of_plain": own_of.gbit,
        "connect_of_plain": own_of.connect_us,
        "routed_gbit_of_plain": routed_of.gbit,
        "routed_connect_of_plain": routed_of.connect_us,
    }))
}

/// The ratio of a path with something to the path without it: the best of some turns.
fn compare(
    turns: usize,
    measure: impl Fn() -> anyhow::Result<Path>,
    make: impl Fn() -> anyhow::Result<()>,
    remove: impl Fn() -> anyhow::Result<()>,
) -> anyhow::Result<Path> {
    let (mut with, mut without) = (Vec::new(), vec![measure()?]);
    for _ in 0..turns {
        make()?;
        with.push(measure()?);
        remove()?;
        without.push(measure()?);
    }
    Ok(Path::best(&with).of(Path::best(&without)))
}

/// The time that something takes, in milliseconds.
fn timed(act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    act()?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

/// Many ports that are published and taken back, on a container beside the one measured.
/// What is alive takes them while it runs; everybody else makes a container for them.
struct Ports<'a> {
    engine: Engine,
    state: &'a FilePath,
    range: String,
    holder: RefCell<Option<String>>,
}

impl<'a> Ports<'a> {
    fn new(engine: Engine, state: &'a FilePath, count: u16) -> anyhow::Result<Self> {
        let holder = match engine {
            Engine::Linkspan => Some(run(engine, state, &[])?),
            _ => None,
        };
        Ok(Self {
            engine,
            state,
            range: format!("{MORE}-{}", MORE + count - 1),
            holder: RefCell::new(holder),
        })
    }

    fn publish(&self) -> anyhow::Result<()> {
        let mapping = format!("{0}:{0}", self.range);
        let mut holder = self.holder.borrow_mut();
        if let (Engine::Linkspan, Some(id)) = (self.engine, holder.as_ref()) {
            return linkspan(&["port", "add", id, &mapping]);
        }
        *holder = Some(run(self.engine, self.state, &["-p", &mapping])?);
        Ok(())
    }

    fn remove(&self) -> anyhow::Result<()> {
        if self.engine == Engine::Linkspan {
            return linkspan(&["port", "rm", &self.range]);
        }
        self.end()
    }

    fn end(&self) -> anyhow::Result<()> {
        let ids: Vec<String> = self.holder.take().into_iter().collect();
        if ids.is_empty() {
            return Ok(());
        }
        workspace::output(&mut self.engine.remove(self.state, &ids)).map(drop)
    }
}

impl Drop for Ports<'_> {
    fn drop(&mut self) {
        // The sandbox tells of a container that stays.
        drop(self.end());
    }
}

fn linkspan(words: &[&str]) -> anyhow::Result<()> {
    workspace::output(Command::new("linkspan").args(words)).map(drop)
}

fn run(engine: Engine, state: &FilePath, flags: &[&str]) -> anyhow::Result<String> {
    let id = workspace::output(&mut engine.run_idle(state, flags))?;
    Ok(id.trim().to_owned())
}

/// How a bridge joins its two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With nothing special about it.
    Plain,
    /// The ends are isolated, and reach each other through the host's routes, with no rule
    /// on the way: what closes a network by default costs at least this.
    Routed,
}

/// Two namespaces on a bridge, which is in a namespace where no engine has rules.
struct Bridge {
    ends: [Helper; 2],
    _server: Helper,
    _middle: Helper,
}

impl Bridge {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        let middle = traffic::namespace()?;
        ip_in(middle.pid(), "link add plain type bridge")?;
        ip_in(middle.pid(), "link set plain up")?;
        let ends = [traffic::namespace()?, traffic::namespace()?];
        for (number, (end, address)) in ends.iter().zip(BRIDGED).enumerate() {
            let port = format!("port{number}");
            let pid = end.pid();
            ip_in(
                middle.pid(),
                &format!("link add {port} type veth peer name eth0 netns {pid}"),
            )?;
            ip_in(middle.pid(), &format!("link set {port} master plain up"))?;
            ip_in(pid, &format!("addr add {address}/24 dev eth0"))?;
            ip_in(pid, "link set eth0 up")?;
            if kind == Kind::Routed {
                let isolate = format!("link set {port} type bridge_slave isolated on");
                ip_in(middle.pid(), &isolate)?;
            }
        }
        if kind == Kind::Routed {
            ip_in(middle.pid(), &format!("addr add {GATEWAY}/24 dev plain"))?;
            set_in(middle.pid(), "ip_forward", "1")?;
            set_in(middle.pid(), "conf/plain/proxy_arp_pvlan", "1")?;
            for device in ["all", "plain"] {
                let setting = format!("conf/{device}/send_redirects");
                set_in(middle.pid(), &setting, "0")?;
            }
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
    let mut command = traffic::entering(pid);
    command.arg("ip").args(line.split(' '));
    workspace::output(&mut command).map(drop)
}

/// Writes a setting of IPv4 in the network namespace of a process.
fn set_in(pid: u32, setting: &str, value: &str) -> anyhow::Result<()> {
    let line = format!("echo {value} > /proc/sys/net/ipv4/{setting}");
    workspace::output(traffic::entering(pid).args(["sh", "-c", &line])).map(drop)
}
