//! Probes that never stop, while somebody reloads other firewalls or netd is killed: nothing
//! that was closed is open for a moment, and nothing that was open is lost.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linkspan_proto::net_v1::AttachEndpointRequest;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::heal::{Cast, has, listen, shell};
use crate::lan;
use crate::world::{DEADLINE, World, dial, link_to, plain, spawn_inside, tcp};

/// Fifty probes a second.
const PERIOD: Duration = Duration::from_millis(20);
/// A first packet that is lost is sent again after a second.
const LOST: Duration = Duration::from_millis(800);
const ROUNDS: usize = 200;

/// Probes that run until they are dropped.
struct Probes {
    stop: Arc<AtomicBool>,
    counts: Vec<(&'static str, Arc<AtomicUsize>)>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Probes {
    /// Dials the link and the published port, and what is closed.
    fn begin(cast: &Cast) -> Self {
        let mut probes = Self {
            stop: Arc::default(),
            counts: Vec::new(),
            threads: Vec::new(),
        };
        let Cast {
            db,
            web,
            other,
            lan: neighbour,
        } = cast;
        probes.add("link", &web.netns_path, &db.ipv4_address, 5432, true);
        probes.add("link6", &web.netns_path, &db.ipv6_address, 5432, true);
        probes.add("port", neighbour, lan::HOST4, 8080, true);
        probes.add("no link", &other.netns_path, &db.ipv4_address, 5432, false);
        probes.add("no link6", &other.netns_path, &db.ipv6_address, 5432, false);
        probes.add("no way", neighbour, &db.ipv4_address, 5432, false);
        probes
    }

    fn add(&mut self, name: &'static str, netns: &str, ip: &str, port: u16, is_open: bool) {
        let (stop, ip) = (Arc::clone(&self.stop), ip.to_owned());
        let count = Arc::new(AtomicUsize::new(0));
        self.counts.push((name, Arc::clone(&count)));
        self.threads.push(spawn_inside(netns, move || {
            let mut wrong = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let patience = if is_open { LOST } else { PERIOD };
                let result = dial(&ip, port, patience);
                if result.is_ok() != is_open {
                    wrong.push(format!("{name}: {:?}", result.err()));
                }
                count.fetch_add(1, Ordering::Relaxed);
                let pause = PERIOD.saturating_sub(start.elapsed()).as_millis();
                poll(&mut [], PollTimeout::try_from(pause).unwrap()).unwrap();
            }
            wrong
        }));
    }

    /// Waits until each has probed some more.
    fn go_on(&self, more: usize) {
        let before: Vec<_> = self
            .counts
            .iter()
            .map(|(_, count)| count.load(Ordering::Relaxed))
            .collect();
        let deadline = Instant::now() + DEADLINE;
        for ((name, count), before) in self.counts.iter().zip(before) {
            while count.load(Ordering::Relaxed) < before + more {
                assert!(Instant::now() < deadline, "{name} goes on");
                poll(&mut [], PollTimeout::from(2_u8)).unwrap();
            }
        }
    }

    /// Ends them; nothing was wrong.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let wrong: Vec<_> = self
            .threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        for (name, count) in &self.counts {
            println!("{name}: {} probes", count.load(Ordering::Relaxed));
        }
        assert!(wrong.is_empty(), "{}: {wrong:?}", wrong.len());
    }
}

/// F-21: everything that other programs do to the rules while netd runs.
#[test]
fn nothing_opens_and_nothing_is_lost_while_others_flush_and_reload() {
    const TEST: &str = "nothing_opens_and_nothing_is_lost_while_others_flush_and_reload";
    if !has(TEST, "nft") {
        return;
    }
    let mut lines = vec![
        "nft flush ruleset",
        "printf 'flush ruleset\\ntable inet filter { chain forward { type filter hook forward priority 0; policy accept; }\\n}\\n' | nft -f -",
        "nft delete table inet linkspan && exit 1 || true",
        "nft flush chain inet linkspan link && exit 1 || true",
    ];
    if has(TEST, "iptables") {
        lines.extend([
            "iptables -F && iptables -X && iptables -t nat -F",
            "iptables-save | iptables-restore",
        ]);
    }
    World::run(TEST, move |world| {
        let cast = Cast::enter(world);
        let repairs = listen(world);
        let probes = Probes::begin(&cast);
        probes.go_on(2);
        for round in 0..ROUNDS {
            shell(lines[round % lines.len()]);
            if round % 10 == 0 {
                probes.go_on(1);
            }
        }
        probes.go_on(5);
        probes.end();
        shell("nft flush ruleset");
        cast.perform("at last");
        assert!(repairs.try_recv().is_err(), "nothing was damaged");
        println!("{ROUNDS} rounds of {} commands", lines.len());
    });
}

/// What the kernel's monitor of tables tells.
struct Generations(Child);

impl Generations {
    fn watch() -> Self {
        let child = Command::new("nft")
            .arg("monitor")
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    /// How many transactions there were.
    fn count(mut self) -> usize {
        self.0.kill().unwrap();
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter(|line| line.contains("new generation"))
            .count()
    }
}

/// I-13 to I-16 with 400 endpoints: a new netd compares, and writes one transaction.
#[test]
fn a_restart_with_four_hundred_endpoints_is_not_felt() {
    const TEST: &str = "a_restart_with_four_hundred_endpoints_is_not_felt";
    const ENDPOINTS: usize = 400;
    if !has(TEST, "nft") {
        return;
    }
    World::run(TEST, |world| {
        let cast = Cast::enter(world);
        world.ask(async |mut client| {
            for number in 3..ENDPOINTS {
                let request = AttachEndpointRequest {
                    endpoint_id: format!("{number:010x}{}", "0".repeat(54)),
                    name: format!("c{number}"),
                    exposed: vec![tcp(80)],
                    links: vec![link_to("db", "db")],
                    ..plain('0', "")
                };
                client.attach_endpoint(request).await.unwrap();
            }
        });
        let probes = Probes::begin(&cast);
        probes.go_on(5);
        for _ in 0..3 {
            world.kill();
            probes.go_on(5);
            let generations = Generations::watch();
            poll(&mut [], PollTimeout::from(200_u8)).unwrap();
            let start = Instant::now();
            world.start();
            println!("ready after {:?}", start.elapsed());
            let repairs = listen(world);
            probes.go_on(5);
            assert_eq!(generations.count(), 1, "one transaction");
            assert!(repairs.try_recv().is_err(), "nothing was damaged");
        }
        probes.end();
    });
}

/// F-18: more changes than the monitor's socket holds are made up for by a look at
/// everything.
#[test]
fn damage_in_a_flood_of_changes_is_found() {
    const TEST: &str = "damage_in_a_flood_of_changes_is_found";
    const FLOOD: usize = 40_000;
    if !has(TEST, "ip") {
        return;
    }
    World::run(TEST, |world| {
        let cast = Cast::enter(world);
        let repairs = listen(world);
        shell("ip link add f0 type veth peer name f1");
        let path = world.path().join("flood");
        let changes: String = (0..FLOOD)
            .map(|number| format!("link set f0 alias a{number}\n"))
            .collect();
        std::fs::write(&path, changes).unwrap();
        world.signal(Signal::SIGSTOP);
        shell(&format!("ip -batch {}", path.display()));
        shell("ip link set lkaaaaaaaaaa nomaster");
        world.signal(Signal::SIGCONT);
        let repair = repairs.recv_timeout(Duration::from_secs(1)).unwrap();
        assert_eq!(repair.endpoint_name, "db");
        cast.perform("after the flood");
    });
}
