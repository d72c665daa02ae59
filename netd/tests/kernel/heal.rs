//! Damage from outside, done with the tools that an administrator has: it is back within a
//! second, with one event, and what was closed stays closed.

use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use linkspan_proto::net_v1::{AttachEndpointRequest, Endpoint, Repair, WatchRepairsRequest};

use crate::lan;
use crate::world::{
    DEADLINE, World, dial, inside, link_to, plain, publish, reaches_tcp, serve_tcp, skip, tcp,
};

/// How long damage may last.
const LIMIT: Duration = Duration::from_secs(1);
/// How long a second event for the same damage is waited for.
pub(crate) const ECHO: Duration = Duration::from_millis(150);
/// How long what must not be reached is tried.
const SHORT: Duration = Duration::from_millis(100);

/// Hears of repairs from the start of the daemon on, until the daemon ends.
pub(crate) fn listen(world: &World) -> mpsc::Receiver<Repair> {
    let (sender, receiver) = mpsc::channel();
    let path = world.path().to_owned();
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        crate::world::ask_at(&path, async move |mut client| {
            let request = WatchRepairsRequest {
                after: Some(std::time::UNIX_EPOCH.into()),
            };
            let mut watch = client.watch_repairs(request).await.unwrap().into_inner();
            ready.send(()).unwrap();
            while let Ok(Some(message)) = watch.message().await {
                if sender.send(message.repair.unwrap()).is_err() {
                    return;
                }
            }
        });
    });
    is_ready.recv_timeout(DEADLINE).expect("the watch begins");
    receiver
}

/// Runs a line of a shell in the namespace of the calling thread.
pub(crate) fn shell(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
}

/// Whether a tool can be run; the test says that it was skipped if not.
pub(crate) fn has(test: &str, tool: &str) -> bool {
    let found = Command::new(tool).arg("-V").output().is_ok();
    if !found {
        skip(test, &format!("no {tool}"));
    }
    found
}

/// A source, its consumer, somebody else, and a host on the LAN.
pub(crate) struct Cast {
    pub(crate) db: Endpoint,
    pub(crate) web: Endpoint,
    pub(crate) other: Endpoint,
    pub(crate) lan: String,
}

impl Cast {
    pub(crate) fn enter(world: &World) -> Self {
        let lan = lan::connect(world);
        let db = world.attach(AttachEndpointRequest {
            exposed: vec![tcp(5432)],
            port_mappings: vec![publish("", 8080, 5432)],
            ..plain('a', "db")
        });
        let web = world.attach(AttachEndpointRequest {
            links: vec![link_to("db", "db")],
            ..plain('b', "web")
        });
        let other = world.attach(plain('c', "other"));
        serve_tcp(&db.netns_path, "::", 5432);
        Self {
            db,
            web,
            other,
            lan,
        }
    }

    /// What was open is open, and what was closed is closed.
    pub(crate) fn perform(&self, when: &str) {
        for ip in [&self.db.ipv4_address, &self.db.ipv6_address] {
            let web = &self.web.netns_path;
            assert!(
                reaches_tcp(web, ip, 5432, DEADLINE),
                "the link to {ip} {when}"
            );
            let other = &self.other.netns_path;
            assert!(
                !reaches_tcp(other, ip, 5432, SHORT),
                "no link to {ip} {when}"
            );
        }
        for ip in ["127.0.0.1", "::1"] {
            assert!(dial(ip, 8080, DEADLINE).is_ok(), "the port at {ip} {when}");
        }
        for ip in [lan::HOST4, lan::HOST6] {
            let published = inside(&self.lan, move || dial(ip, 8080, DEADLINE).is_ok());
            assert!(published, "the port at {ip} from the LAN {when}");
        }
        let own = self.db.ipv4_address.clone();
        let direct = inside(&self.lan, move || dial(&own, 5432, SHORT).is_ok());
        assert!(!direct, "no way around the port {when}");
    }

    /// The addresses that the source's own device has.
    fn addresses(&self) -> String {
        inside(&self.db.netns_path, || {
            let shown = Command::new("ip")
                .args(["-o", "address", "show", "dev", "eth0", "scope", "global"])
                .output();
            let text = String::from_utf8(shown.unwrap().stdout).unwrap();
            let words = text.split_whitespace().filter(|word| word.contains('/'));
            words.collect::<Vec<_>>().join(" ")
        })
    }
}

/// Does damage, and wants it repaired in time with one event.
fn damage_and_wait(
    repairs: &mpsc::Receiver<Repair>,
    line: &str,
    (subject, text): (&str, &str),
) -> Duration {
    let start = Instant::now();
    shell(line);
    let repair = repairs.recv_timeout(LIMIT).expect(line);
    let took = start.elapsed();
    assert!(
        repair.subject == subject && repair.damage.contains(text),
        "`{line}`: {repair:?}"
    );
    let second = repairs.recv_timeout(ECHO);
    assert_eq!(
        second,
        Err(RecvTimeoutError::Timeout),
        "`{line}`: {repair:?}"
    );
    took
}

const BRIDGE: &str = "bridge linkspan0";
const PORT: &str = "bridge port lkaaaaaaaaaa";
const CONF4: &str = "/proc/sys/net/ipv4/conf/linkspan0";
const CONF6: &str = "/proc/sys/net/ipv6/conf/linkspan0";

/// Command, subject of the event, part of its text.
const DEVICES: &[(&str, &str, &str)] = &[
    ("ip link del linkspan0", BRIDGE, "deleted"),
    ("ip link set linkspan0 down", BRIDGE, "down"),
    ("ip link set linkspan0 name br9", BRIDGE, "renamed to br9"),
    ("ip link set linkspan0 alias mine", BRIDGE, "alias changed"),
    (
        "ip link set linkspan0 address 02:00:00:00:00:01",
        BRIDGE,
        "hardware address changed",
    ),
    (
        "ip link set linkspan0 type bridge stp_state 1",
        BRIDGE,
        "stp_state changed",
    ),
    (
        "ip link set linkspan0 type bridge mcast_snooping 1",
        BRIDGE,
        "mcast_snooping changed",
    ),
    (
        "ip addr del 172.17.0.1/16 dev linkspan0",
        BRIDGE,
        "address 172.17.0.1/16 missing",
    ),
    (
        "ip -6 addr del fd17:6c69:6e6b::1/64 dev linkspan0",
        BRIDGE,
        "address fd17:6c69:6e6b::1/64 missing",
    ),
    (
        "ip route del 172.17.0.0/16 dev linkspan0",
        BRIDGE,
        "route 172.17.0.0/16 missing",
    ),
    (
        "ip -6 route del fd17:6c69:6e6b::/64 dev linkspan0",
        BRIDGE,
        "route fd17:6c69:6e6b::/64 missing",
    ),
    (
        "ip route del local 172.17.0.1 dev linkspan0 table local",
        BRIDGE,
        "route local 172.17.0.1/32 missing",
    ),
    (
        "ip -6 route del local ::1 dev linkspan0 table local",
        BRIDGE,
        "route local ::1/128 missing",
    ),
    ("ip link del lkaaaaaaaaaa", PORT, "deleted"),
    ("ip link set lkaaaaaaaaaa down", PORT, "down"),
    (
        "ip link set lkaaaaaaaaaa nomaster",
        PORT,
        "taken from its bridge",
    ),
    (
        "ip link set lkaaaaaaaaaa name veth9",
        PORT,
        "renamed to veth9",
    ),
    ("ip link set lkaaaaaaaaaa alias mine", PORT, "alias changed"),
    (
        "bridge link set dev lkaaaaaaaaaa isolated off",
        PORT,
        "isolated changed",
    ),
    (
        "bridge link set dev lkaaaaaaaaaa learning on",
        PORT,
        "learning changed",
    ),
    (
        "bridge link set dev lkaaaaaaaaaa flood on",
        PORT,
        "flood changed",
    ),
    (
        "bridge link set dev lkaaaaaaaaaa mcast_flood on",
        PORT,
        "mcast_flood changed",
    ),
    (
        "bridge link set dev lkaaaaaaaaaa guard off",
        PORT,
        "guard changed",
    ),
    (
        "bridge fdb del 02:42:ac:11:00:02 dev lkaaaaaaaaaa master",
        PORT,
        "forwarding entry missing",
    ),
    (
        "bridge fdb replace 02:42:ac:11:00:02 dev lkbbbbbbbbbb master static",
        PORT,
        "forwarding entry missing",
    ),
    (
        "ip neigh del 172.17.0.2 dev linkspan0",
        PORT,
        "neighbour 172.17.0.2 missing",
    ),
    (
        "ip neigh replace 172.17.0.2 lladdr 02:00:00:00:00:09 nud permanent dev linkspan0",
        PORT,
        "neighbour 172.17.0.2 missing",
    ),
    (
        "ip -6 neigh del fd17:6c69:6e6b::2 dev linkspan0",
        PORT,
        "neighbour fd17:6c69:6e6b::2 missing",
    ),
];

/// F-24: a device, an address, a route, a flag or an entry.
#[test]
fn a_damaged_device_is_whole_again_within_a_second() {
    const TEST: &str = "a_damaged_device_is_whole_again_within_a_second";
    if !has(TEST, "ip") || !has(TEST, "bridge") {
        return;
    }
    World::run(TEST, |world| {
        let cast = Cast::enter(world);
        let repairs = listen(world);
        let addresses = cast.addresses();
        cast.perform("at first");
        let mut worst = Duration::ZERO;
        for (line, subject, text) in DEVICES {
            let took = damage_and_wait(&repairs, line, (subject, text));
            println!("{took:?} {line}");
            worst = worst.max(took);
            cast.perform(&format!("after `{line}`"));
            assert_eq!(cast.addresses(), addresses, "after `{line}`");
        }
        println!("{} kinds of damage, worst {worst:?}", DEVICES.len());
    });
}

/// N-05, F-24: a setting.
#[test]
fn a_setting_that_was_changed_is_set_back_within_a_second() {
    const TEST: &str = "a_setting_that_was_changed_is_set_back_within_a_second";
    World::run(TEST, |world| {
        let cast = Cast::enter(world);
        let repairs = listen(world);
        let mut settings: Vec<(String, &str, &str)> = Vec::new();
        for (key, value) in [
            ("forwarding", "0"),
            ("proxy_arp_pvlan", "0"),
            ("route_localnet", "0"),
            ("send_redirects", "1"),
            ("accept_redirects", "1"),
        ] {
            settings.push((format!("{CONF4}/{key}"), value, BRIDGE));
        }
        for (key, value) in [
            ("disable_ipv6", "1"),
            ("accept_ra", "2"),
            ("autoconf", "1"),
            ("accept_redirects", "1"),
            ("accept_dad", "1"),
            ("forwarding", "0"),
        ] {
            settings.push((format!("{CONF6}/{key}"), value, BRIDGE));
        }
        for (key, value, subject) in [
            ("ipv4/neigh/linkspan0/proxy_delay", "80", BRIDGE),
            ("ipv6/conf/all/disable_ipv6", "1", BRIDGE),
            ("ipv6/conf/lkaaaaaaaaaa/disable_ipv6", "0", PORT),
            ("ipv4/ip_forward", "0", "host"),
            ("ipv6/conf/all/forwarding", "0", "host"),
            ("bridge/bridge-nf-call-ip6tables", "1", "host"),
        ] {
            settings.push((format!("/proc/sys/net/{key}"), value, subject));
        }
        for (path, value, subject) in &settings {
            let line = format!("echo {value} > {path}");
            let took = damage_and_wait(&repairs, &line, (subject, " was "));
            println!("{took:?} {line}");
            if path.ends_with("conf/all/disable_ipv6") {
                // The whole host has no IPv6 now, which is not netd's to decide. To give it
                // back gives it to the ports as well.
                shell(&format!(
                    "echo 0 > {path}; ip -6 addr add 2001:db8::1/64 dev uplink"
                ));
                while repairs.recv_timeout(ECHO).is_ok() {}
            }
            cast.perform(&format!("after `{line}`"));
        }
        println!("{} settings", settings.len());
    });
}

/// Command, part of the event's text.
const TABLES: &[(&str, &str)] = &[
    ("nft delete table inet linkspan", "table deleted"),
    ("nft delete table bridge linkspan", "table deleted"),
    ("nft flush ruleset", "table deleted"),
    ("nft flush chain inet linkspan link", "rules changed"),
    (
        "nft insert rule inet linkspan between accept",
        "rules changed",
    ),
    (
        "nft add chain bridge linkspan forward '{ policy drop ; }'",
        "rules changed",
    ),
    (
        "nft add element inet linkspan links4 '{ 172.17.0.4 . 172.17.0.2 . tcp . 5432 }'",
        "elements added",
    ),
    (
        "nft delete element inet linkspan links4 '{ 172.17.0.3 . 172.17.0.2 . tcp . 5432 }'",
        "elements removed",
    ),
    ("nft flush set bridge linkspan ports", "elements removed"),
];

/// The kernel refuses it for a table that persists.
const DORMANT: (&str, &str) = (
    "nft add table inet linkspan '{ flags dormant ; }'",
    "rules changed",
);

/// F-23: tables that others may write, as on a kernel that knows no owners.
#[test]
fn tables_that_others_changed_are_whole_again_within_a_second() {
    const TEST: &str = "tables_that_others_changed_are_whole_again_within_a_second";
    if !has(TEST, "nft") {
        return;
    }
    World::with_flags(TEST, &["--firewall-tables", "shared"], |world| {
        let cast = Cast::enter(world);
        let repairs = listen(world);
        for (line, text) in TABLES.iter().chain(&[DORMANT]) {
            let took = damage_and_wait(&repairs, line, ("firewall", text));
            println!("{took:?} {line}");
            cast.perform(&format!("after `{line}`"));
        }
    });
}

/// F-22 to F-24: what was damaged while netd was away is found at its start, and told.
#[test]
fn damage_while_netd_was_away_is_repaired_at_its_start() {
    const TEST: &str = "damage_while_netd_was_away_is_repaired_at_its_start";
    if !has(TEST, "nft") || !has(TEST, "ip") {
        return;
    }
    World::run(TEST, |world| {
        let cast = Cast::enter(world);
        let tables = TABLES.iter().map(|(line, text)| (*line, "firewall", *text));
        // A bridge of another name is not netd's any more: its start refuses the overlap.
        let devices = DEVICES
            .iter()
            .filter(|(line, ..)| !line.ends_with("name br9"));
        for (line, subject, text) in tables.chain(devices.copied()) {
            world.kill();
            shell(line);
            world.start();
            let repairs = listen(world);
            let told = repairs.recv_timeout(LIMIT).expect(line);
            assert!(
                told.subject == subject && told.damage.contains(text),
                "`{line}`: {told:?}"
            );
            assert_eq!(
                repairs.recv_timeout(ECHO),
                Err(RecvTimeoutError::Timeout),
                "`{line}`: {told:?}"
            );
            cast.perform(&format!("after `{line}` and a start"));
        }
    });
}

/// netd's own work is no damage.
#[test]
fn nothing_is_repaired_when_nothing_is_damaged() {
    World::run("nothing_is_repaired_when_nothing_is_damaged", |world| {
        let repairs = listen(world);
        let cast = Cast::enter(world);
        for _ in 0..20 {
            let more = world.attach(AttachEndpointRequest {
                port_mappings: vec![publish("", 0, 80)],
                links: vec![link_to("db", "db")],
                ..plain('d', "more")
            });
            world.detach(&more);
        }
        for endpoint in [&cast.web, &cast.other, &cast.db] {
            world.detach(endpoint);
        }
        world.kill();
        world.start();
        let again = listen(world);
        let _alone = world.attach(plain('e', "alone"));
        for repairs in [repairs, again] {
            let told: Vec<_> = std::iter::from_fn(|| repairs.recv_timeout(ECHO).ok()).collect();
            assert_eq!(told, []);
        }
    });
}
