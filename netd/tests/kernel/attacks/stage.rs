//! Where attacks are played: an attacker, a victim and the host between them, once on a
//! plain bridge that nobody guards and once on netd's.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use super::wire::{ARP, BROADCAST, Mac, Wire, arp, ethernet};
use crate::heal::{has, shell};
use crate::lan::pin_new_netns;
use crate::world::{DEADLINE, PATIENCE, World, inside, pings, plain};

/// The namespace of whoever looks: the engine's host.
pub(crate) const HERE: &str = "/proc/thread-self/ns/net";
/// The bridge that nobody guards.
const PLAIN: &str = "plain0";

/// One that is on the bridge.
#[derive(Debug)]
pub(crate) struct Party {
    pub(crate) netns: String,
    pub(crate) mac: Mac,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
    pub(crate) wire: Wire,
}

impl Party {
    fn new(netns: &str, ifname: &str, ipv4: &str, ipv6: &str) -> Self {
        let wire = Wire::open(netns, ifname);
        Self {
            netns: netns.to_owned(),
            mac: wire.mac(),
            ipv4: ipv4.parse().unwrap(),
            ipv6: ipv6.parse().unwrap(),
            wire,
        }
    }
}

/// A bridge and who is on it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) attacker: Party,
    pub(crate) victim: Party,
    pub(crate) host: Party,
    pub(crate) bridge: String,
}

impl Stage {
    /// A bridge as anybody makes it.
    pub(crate) fn plain(world: &World) -> Self {
        shell(&format!(
            "ip link add {PLAIN} type bridge mcast_snooping 0 && ip addr add 10.77.0.1/24 dev {PLAIN} && \
             ip -6 addr add fd77::1/64 dev {PLAIN} && ip link set {PLAIN} up"
        ));
        let party = |number: u8| {
            let netns = pin_new_netns(&world.path().join(format!("plain{number}")));
            let [ipv4, ipv6] = [format!("10.77.0.{number}"), format!("fd77::{number}")];
            shell(&format!(
                "ip link add port{number} master {PLAIN} type veth \
                 peer name eth0 address 02:77:00:00:00:0{number} netns {netns} && \
                 ip link set port{number} up"
            ));
            shell_in(
                &netns,
                &format!(
                    "echo 0 0 > /proc/sys/net/ipv4/ping_group_range && \
                     ip link set lo up && ip addr add {ipv4}/24 dev eth0 && \
                     ip -6 addr add {ipv6}/64 dev eth0 && ip link set eth0 up && \
                     ip route add default via 10.77.0.1 && ip -6 route add default via fd77::1"
                ),
            );
            Party::new(&netns, "eth0", &ipv4, &ipv6)
        };
        Self {
            attacker: party(2),
            victim: party(3),
            host: Party::new(HERE, PLAIN, "10.77.0.1", "fd77::1"),
            bridge: PLAIN.to_owned(),
        }
    }

    /// Takes the plain bridge down.
    pub(crate) fn strike(self) {
        assert_eq!(self.bridge, PLAIN);
        shell(&format!(
            "ip link del port2 && ip link del port3 && ip link del {PLAIN}"
        ));
    }

    /// Two containers without a link.
    pub(crate) fn guarded(world: &World) -> Self {
        let [attacker, victim] = [('a', "attacker"), ('b', "victim")]
            .map(|(digit, name)| world.attach(plain(digit, name)));
        let party = |endpoint: &linkspan_proto::net_v1::Endpoint| {
            let (ipv4, ipv6) = (&endpoint.ipv4_address, &endpoint.ipv6_address);
            Party::new(&endpoint.netns_path, "eth0", ipv4, ipv6)
        };
        let (gateway4, gateway6) = (&attacker.ipv4_gateway, &attacker.ipv6_gateway);
        Self {
            attacker: party(&attacker),
            victim: party(&victim),
            host: Party::new(HERE, "linkspan0", gateway4, gateway6),
            bridge: "linkspan0".to_owned(),
        }
    }

    /// Sends something honest after everything else, and waits until the host has it: what
    /// was sent before is then decided. Returns what the host heard until then.
    pub(crate) fn settle(&self, number: usize) -> Vec<Vec<u8>> {
        let text = format!("settled {number};");
        let own = (self.attacker.mac, self.attacker.ipv4);
        let question = arp(false, own, ([0; 6], self.host.ipv4));
        let payload = [&question, text.as_bytes()].concat();
        let frame = ethernet(BROADCAST, self.attacker.mac, ARP, &payload);
        self.attacker.wire.send(&frame);
        self.host.wire.take_until(text.as_bytes())
    }

    /// Both containers still have the host.
    pub(crate) fn assert_well(&self) {
        for party in [&self.attacker, &self.victim] {
            for gateway in [self.host.ipv4.to_string(), self.host.ipv6.to_string()] {
                assert_has(&party.netns, &gateway);
            }
        }
    }
}

/// The host answers a namespace. The kernel may still drop what a device sends or gets in
/// the first moment after it was brought up, and nobody sends an echo request again.
pub(crate) fn assert_has(netns: &str, gateway: &str) {
    let tries = DEADLINE.as_millis() / PATIENCE.as_millis();
    let answered = (0..tries).any(|_| pings(netns, gateway, PATIENCE));
    assert!(answered, "{netns} to {gateway}");
}

/// Plays an attack where it must succeed, and then where it must not. It may have several
/// parts, and says of each whether it succeeded.
pub(crate) fn play(
    test: &'static str,
    attack: impl Fn(&World, &Stage) -> Vec<bool> + Send + 'static,
) {
    play_with(test, |_| (), move |world, stage, ()| attack(world, stage));
}

/// Likewise, with something that is there all the while.
pub(crate) fn play_with<T>(
    test: &'static str,
    set_up: impl FnOnce(&World) -> T + Send + 'static,
    attack: impl Fn(&World, &Stage, &T) -> Vec<bool> + Send + 'static,
) {
    if !has(test, "ip") {
        return;
    }
    World::bare(test, move |world| {
        let scenery = set_up(world);
        let plain = Stage::plain(world);
        plain.assert_well();
        let results = attack(world, &plain, &scenery);
        assert!(
            !results.is_empty() && results.iter().all(|success| *success),
            "all of it succeeds where nobody guards: {results:?}"
        );
        plain.strike();
        world.start();
        let guarded = Stage::guarded(world);
        guarded.assert_well();
        let results = attack(world, &guarded, &scenery);
        assert!(
            results.iter().all(|success| !success),
            "nothing of it succeeds with netd: {results:?}"
        );
        guarded.assert_well();
        world.stop();
    });
}

/// Runs a line of a shell in a namespace.
pub(crate) fn shell_in(netns: &str, line: &str) {
    let line = line.to_owned();
    inside(netns, move || shell(&line));
}

/// What a line of a shell prints in a namespace.
pub(crate) fn output_of(netns: &str, line: &str) -> String {
    let words = line.to_owned();
    inside(netns, move || {
        let output = Command::new("sh").args(["-c", &words]).output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    })
}
