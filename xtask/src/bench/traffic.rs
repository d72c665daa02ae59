//! The two ends of a measured path, each a process in a network namespace of its own: a
//! server that takes everything, and a client that says how long it took.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::workspace;

/// How many connections a latency is the median of.
const CONNECTIONS: usize = 500;
/// How long a throughput is measured.
const STREAM: Duration = Duration::from_millis(300);
/// How often either is measured; what counts is the best.
const ROUNDS: usize = 11;
/// How long a peer may take.
const DEADLINE: Duration = Duration::from_secs(10);
const CHUNK_BYTES: usize = 256 << 10;

/// What is measured on a path.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Path {
    /// The median time of a new connection, in microseconds.
    pub(super) connect_us: f64,
    /// What one connection carries, in billions of bits a second.
    pub(super) gbit: f64,
}

impl Path {
    /// How much each is of another.
    pub(super) fn of(self, other: Self) -> Self {
        Self {
            connect_us: self.connect_us / other.connect_us,
            gbit: self.gbit / other.gbit,
        }
    }

    /// The best of each: what disturbs a measurement only makes it worse, and on a machine
    /// that is shared it does so for seconds on end.
    pub(super) fn best(all: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| all.iter().map(value);
        Self {
            connect_us: of(|path| path.connect_us).fold(f64::INFINITY, f64::min),
            gbit: of(|path| path.gbit).fold(0.0, f64::max),
        }
    }
}

/// A process that goes on until it is dropped.
#[derive(Debug)]
pub(super) struct Helper(Child);

impl Helper {
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A process that holds a new network namespace with nothing but `lo`.
pub(super) fn namespace() -> anyhow::Result<Helper> {
    let child = Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up; echo; exec sleep 100000",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("run unshare")?;
    ready(child)
}

/// Takes all that is sent to a port in the namespace of a process.
pub(super) fn server(pid: u32, port: u16) -> anyhow::Result<Helper> {
    let child = within(pid, &["--serve", &port.to_string()])?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("run the server")?;
    ready(child)
}

/// Paths, each from the namespace of a process to an address: measured by turns, since the
/// machine drifts.
pub(super) fn measure<const N: usize>(
    paths: [(u32, &str); N],
    port: u16,
) -> anyhow::Result<[Path; N]> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        for (pid, address) in paths {
            rounds.push(measure_once(pid, address, port)?);
        }
    }
    Ok(std::array::from_fn(|number| {
        let own: Vec<Path> = rounds.iter().skip(number).step_by(N).copied().collect();
        Path::best(&own)
    }))
}

fn measure_once(pid: u32, address: &str, port: u16) -> anyhow::Result<Path> {
    let place = SocketAddr::new(address.parse().context("an address")?, port).to_string();
    let text = workspace::output(&mut within(pid, &["--probe", &place])?)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || {
        numbers
            .next()
            .context("the probe says nothing")?
            .context("a number")
    };
    Ok(Path {
        connect_us: next()?,
        gbit: next()?,
    })
}

/// Waits until a helper has written its line.
fn ready(mut child: Child) -> anyhow::Result<Helper> {
    let stdout = child.stdout.take();
    let helper = Helper(child);
    let mut byte = [0];
    stdout
        .context("a pipe")?
        .read_exact(&mut byte)
        .context("the helper ended")?;
    Ok(helper)
}

/// This program in the network namespace of a process.
fn within(pid: u32, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = entering(pid);
    command
        .arg(std::env::current_exe().context("find this program")?)
        .arg("bench")
        .args(arguments);
    Ok(command)
}

/// A command in the network namespace of a process, still without its words.
pub(super) fn entering(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net"));
    command
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Keeps this process on one CPU, the server on another than the client: where the scheduler
/// happens to put the two makes a difference of a fifth.
fn stay_on(side: Side) -> anyhow::Result<()> {
    let allowed = sched_getaffinity(None).context("which CPUs there are")?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let cpu = match side {
        Side::Client => cpus.next(),
        Side::Server => cpus.next_back(),
    };
    let mut own = CpuSet::new();
    own.set(cpu.context("a CPU")?);
    sched_setaffinity(None, &own).context("stay on a CPU")
}

/// The server's side; never ends.
#[expect(clippy::print_stdout, reason = "the line says that it listens")]
pub(crate) fn serve(port: u16) -> anyhow::Result<()> {
    stay_on(Side::Server)?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("listen")?;
    println!("ready");
    let mut buffer = vec![0; CHUNK_BYTES];
    // One client at a time; a thread for each would be slower than its connections come.
    for stream in listener.incoming() {
        let mut stream = stream.context("accept")?;
        while matches!(stream.read(&mut buffer), Ok(length) if length > 0) {}
    }
    Ok(())
}

/// The client's side: the median of many connections, and what one carries.
#[expect(clippy::print_stdout, reason = "the result is the output")]
pub(crate) fn probe(place: &str) -> anyhow::Result<()> {
    stay_on(Side::Client)?;
    let place: SocketAddr = place.parse().context("an address")?;
    let connect = || TcpStream::connect_timeout(&place, DEADLINE).context("connect");
    let mut times = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let begin = Instant::now();
        let stream = connect()?;
        times.push(begin.elapsed());
        // A connection that is waited out takes its port along for a minute, and the search
        // for a free one would be what is measured.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        drop(stream);
    }
    times.sort();
    let median = times[times.len() / 2].as_secs_f64() * 1e6;
    let mut stream = connect()?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let chunk = vec![0; CHUNK_BYTES];
    let (begin, mut bytes) = (Instant::now(), 0_u32);
    let mut chunks = 0.0;
    while begin.elapsed() < STREAM {
        stream.write_all(&chunk).context("send")?;
        bytes = u32::try_from(chunk.len()).unwrap_or(bytes);
        chunks += 1.0;
    }
    let bits = chunks * f64::from(bytes) * 8.0;
    println!("{median} {}", bits / begin.elapsed().as_secs_f64() / 1e9);
    Ok(())
}
