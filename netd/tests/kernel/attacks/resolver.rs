//! Clients that stall or flood the server for names of a user network (C-05).

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use linkspan_proto::net_v1::Endpoint;

use super::questions::{Cast, ask, ask_by_stream, is_answered, question, serve_naively};
use super::stage::shell_in;
use super::wire::{IPV4, Wire, checksum, ethernet, ipv4};
use crate::heal::has;
use crate::world::{DEADLINE, PATIENCE, World, inside, spawn_inside};

const TCP: u8 = 6;
/// How long one that is not kept from its answer may wait, beside a flood on two cores.
const PROMPT: Duration = Duration::from_millis(100);

/// Opens connections and says half of a length on each.
fn stall(attacker: &Endpoint, server: IpAddr, count: usize) -> Vec<TcpStream> {
    inside(&attacker.netns_path, move || {
        let open = |_| {
            let mut stream = TcpStream::connect((server, 53)).unwrap();
            // Those above the limit are closed by the server.
            drop(stream.write_all(&[0]));
            stream
        };
        (0..count).map(open).collect()
    })
}

/// C-05: a client that stalls its connections keeps nobody else from an answer, as it does
/// with a server that serves one after another.
#[test]
fn connections_that_stall_keep_no_other_client_waiting() {
    World::run(
        "connections_that_stall_keep_no_other_client_waiting",
        |world| {
            let cast = Cast::enter(world);
            serve_naively(&cast.naive);
            let victim = &cast.victim.netns_path;
            let message = question("victim");
            let ask_naive =
                |patience| ask_by_stream(victim, cast.naive_server(), &message, patience).is_some();
            assert!(ask_naive(DEADLINE), "it works by itself");
            let stalled = stall(&cast.attacker, cast.naive_server(), 1);
            assert!(!ask_naive(PATIENCE), "one connection stops a naive server");
            drop(stalled);

            let _stalled = stall(&cast.attacker, cast.server(), 64);
            for _question in 0..100 {
                let start = Instant::now();
                let reply = ask_by_stream(victim, cast.server(), &message, DEADLINE);
                assert!(is_answered(reply.as_ref(), &cast.victim));
                assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
            }
        },
    );
}

/// How many connections of the host at port 53 are half open.
fn half_open() -> usize {
    let text = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let lines = text.lines().map(|line| line.split_whitespace());
    lines
        .filter(|line| {
            let words: Vec<_> = line.clone().collect();
            words[1].ends_with(":0035") && words[3] == "03"
        })
        .count()
}

/// C-05: connections that are never finished keep nobody else from an answer.
#[test]
fn half_open_connections_keep_no_other_client_waiting() {
    const TEST: &str = "half_open_connections_keep_no_other_client_waiting";
    if !has(TEST, "nft") {
        return;
    }
    World::run(TEST, |world| {
        let cast = Cast::enter(world);
        let netns = &cast.attacker.netns_path;
        // The attacker's kernel would say that it knows of nothing.
        shell_in(
            netns,
            "nft 'table ip mute { chain in { type filter hook input priority 0; \
             tcp sport 53 drop; }; }'",
        );
        let wire = Wire::open(netns, "eth0");
        let from: Ipv4Addr = cast.attacker.ipv4_address.parse().unwrap();
        let to: Ipv4Addr = cast.attacker.ipv4_gateway.parse().unwrap();
        let [.., a, b, c, d] = to.to_ipv6_mapped().octets();
        for port in 20_000..21_000_u16 {
            let pseudo = [&from.octets()[..], &to.octets(), &[0, TCP, 0, 20]].concat();
            let mut syn = [port.to_be_bytes(), 53_u16.to_be_bytes()].concat();
            syn.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
            let sum = checksum(&[&pseudo, &syn[..]].concat()).to_be_bytes();
            syn[16..18].copy_from_slice(&sum);
            let packet = ipv4(TCP, from, to, &syn);
            let gateway = [0x02, 0x42, a, b, c, d];
            wire.send(&ethernet(gateway, wire.mac(), IPV4, &packet));
        }
        let message = question("victim");
        let victim = &cast.victim.netns_path;
        for _question in 0..20 {
            let reply = ask_by_stream(victim, cast.server(), &message, DEADLINE);
            assert!(is_answered(reply.as_ref(), &cast.victim));
        }
        assert!(half_open() > 50, "the queue was full: {}", half_open());
    });
}

/// A flood of questions that goes on until it is stopped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl Flood {
    fn begin(attacker: &Endpoint, server: IpAddr) -> Self {
        const BURST: usize = 100;
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (until, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let message = question("victim");
        let thread = spawn_inside(&attacker.netns_path, move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let mut answers = 0;
            while !until.load(Ordering::Relaxed) {
                for _question in 0..BURST {
                    if socket.send_to(&message, (server, 53)).is_ok() {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
                loop {
                    match socket.recv(&mut [0; 512]) {
                        Ok(_) => answers += 1,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(_refused) => {}
                    }
                }
            }
            answers
        });
        Self { stop, sent, thread }
    }

    /// Ends it: how many were sent, and answered.
    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.thread.join().unwrap();
        (self.sent.load(Ordering::Relaxed), answers)
    }
}

/// C-05: a flood of one client is cut off at what a client may ask, and does not show to
/// another.
#[test]
fn a_flood_of_questions_is_not_felt_by_another_client() {
    const ENOUGH: u64 = 20_000;
    World::run(
        "a_flood_of_questions_is_not_felt_by_another_client",
        |world| {
            let cast = Cast::enter(world);
            let victim = cast.victim.netns_path.clone();
            let ask_all = || {
                let message = question("victim");
                let mut times: Vec<_> = (0..200)
                    .map(|_| {
                        let start = Instant::now();
                        let reply = ask(&victim, cast.server(), &message, PATIENCE);
                        assert!(is_answered(reply.as_ref(), &cast.victim));
                        start.elapsed()
                    })
                    .collect();
                times.sort_unstable();
                times[198]
            };
            let quiet = ask_all();
            let begin = Instant::now();
            let flood = Flood::begin(&cast.attacker, cast.server());
            let mut beside = ask_all();
            while flood.sent.load(Ordering::Relaxed) < ENOUGH {
                assert!(begin.elapsed() < DEADLINE, "the flood goes on");
                beside = beside.max(ask_all());
            }
            let (sent, answers) = flood.end();
            let seconds = begin.elapsed().as_secs() + 1;
            println!("{sent} sent, {answers} answered; p99 {quiet:?} alone, {beside:?} beside it");
            // A client has 5,000 in each second that it asks in.
            assert!(
                answers <= 5_000 * (seconds + 1) && answers < sent,
                "{answers} in {seconds} s"
            );
            assert!(beside < quiet + PROMPT, "{quiet:?}, {beside:?}");
        },
    );
}
