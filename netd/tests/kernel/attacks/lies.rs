//! What siblings and the host believe of a container that lies.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use super::stage::{HERE, Stage, output_of, play};
use super::wire::{
    ALL_NODES, ARP, BROADCAST, IPV4, IPV6, arp, checksum, ethernet, first_to_hear, group_mac,
    icmp6, ipv4, link_local,
};
use crate::heal::has as has_tool;
use crate::world::{DEADLINE, PATIENCE, any_like, inside, pings};

/// How many hardware addresses a bridge knows.
fn known(bridge: &str) -> usize {
    output_of(HERE, &format!("bridge fdb show br {bridge}"))
        .lines()
        .count()
}

/// N-03: a flood of hardware addresses does not make the bridge forget or flood.
#[test]
fn a_flood_of_hardware_addresses_leaves_the_bridge_as_it_is() {
    const TEST: &str = "a_flood_of_hardware_addresses_leaves_the_bridge_as_it_is";
    const FLOOD: u32 = 20_000;
    if !has_tool(TEST, "bridge") {
        return;
    }
    play(TEST, |_, stage| {
        let before = known(&stage.bridge);
        for number in 0..FLOOD {
            let [_, b, c, d] = number.to_be_bytes();
            let mac = [2, 0xf1, 0, b, c, d];
            let ip = stage.attacker.ipv4;
            let message = arp(false, (mac, ip), ([0; 6], ip));
            stage
                .attacker
                .wire
                .send(&ethernet(BROADCAST, mac, ARP, &message));
            // So that nobody's queue is full.
            if number % 200 == 0 {
                stage.settle(usize::try_from(number).unwrap());
            }
        }
        stage.settle(usize::MAX);
        let after = known(&stage.bridge);
        assert!(after == before || after > 1000, "{before}, {after}");
        vec![after > before]
    });
}

/// Sends a datagram from a namespace.
fn tell(netns: &str, to: SocketAddr, text: &'static [u8]) {
    inside(netns, move || {
        let any = any_like(to.ip());
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(text, to).unwrap();
    });
}

/// Whether what is sent to one arrives at the attacker, who has a few tries.
pub(super) fn steals(stage: &Stage, from: &str, to: SocketAddr, attack: impl Fn()) -> bool {
    const TRIES: usize = 3;
    let right = if from == HERE {
        &stage.victim.wire
    } else {
        &stage.host.wire
    };
    (0..TRIES).any(|number| {
        attack();
        stage.settle(number);
        stage.attacker.wire.take();
        right.take();
        tell(from, to, b"a secret");
        let wires = [&stage.attacker.wire, right];
        let first = first_to_hear(&wires, b"a secret", DEADLINE);
        first.expect("somebody hears it") == 0
    })
}

/// N-03: a sibling's way to the gateway does not lead to whoever claims to be it.
#[test]
fn nobody_becomes_the_gateway_by_arp() {
    play("nobody_becomes_the_gateway_by_arp", |_, stage| {
        let Stage {
            attacker,
            victim,
            host,
            ..
        } = stage;
        let to = SocketAddr::new(host.ipv4.into(), 9);
        vec![steals(stage, &victim.netns, to, || {
            assert!(pings(&victim.netns, &host.ipv4.to_string(), DEADLINE));
            for is_reply in [false, true] {
                let claim = (attacker.mac, host.ipv4);
                let frame = ethernet(victim.mac, attacker.mac, ARP, &arp(is_reply, claim, claim));
                attacker.wire.send(&frame);
            }
        })]
    });
}

/// N-02: nor by neighbour discovery.
#[test]
fn nobody_becomes_the_gateway_by_neighbour_discovery() {
    const TEST: &str = "nobody_becomes_the_gateway_by_neighbour_discovery";
    play(TEST, |_, stage| {
        let Stage {
            attacker,
            victim,
            host,
            ..
        } = stage;
        let to = SocketAddr::new(host.ipv6.into(), 9);
        vec![steals(stage, &victim.netns, to, || {
            assert!(pings(&victim.netns, &host.ipv6.to_string(), DEADLINE));
            let body = [
                &[0x20, 0, 0, 0],
                &host.ipv6.octets()[..],
                &[2, 1],
                &attacker.mac,
            ];
            for from in [attacker.ipv6, host.ipv6] {
                let packet = icmp6(136, from, victim.ipv6, &body.concat());
                let frame = ethernet(victim.mac, attacker.mac, IPV6, &packet);
                attacker.wire.send(&frame);
            }
        })]
    });
}

/// N-03: a sibling's hardware address does not move to whoever sends from it.
#[test]
fn nobody_takes_the_hardware_address_of_a_sibling() {
    const TEST: &str = "nobody_takes_the_hardware_address_of_a_sibling";
    play(TEST, |_, stage| {
        let Stage {
            attacker, victim, ..
        } = stage;
        let to = SocketAddr::new(victim.ipv4.into(), 9);
        vec![steals(stage, HERE, to, || {
            assert!(pings(&victim.netns, &stage.host.ipv4.to_string(), DEADLINE));
            for (mac, ip) in [(victim.mac, attacker.ipv4), (victim.mac, victim.ipv4)] {
                let message = arp(false, (mac, ip), ([0; 6], ip));
                attacker.wire.send(&ethernet(BROADCAST, mac, ARP, &message));
            }
        })]
    });
}

/// N-02: neither the host nor a sibling takes an address or a route that a container offers.
#[test]
fn nobody_takes_a_router_advertisement_of_a_container() {
    const TEST: &str = "nobody_takes_a_router_advertisement_of_a_container";
    play(TEST, |_, stage| {
        let own = link_local(stage.attacker.mac);
        let prefix = [0x20, 0x01, 0x0d, 0xb8, 0x0b, 0xad, 0, 0];
        let option = [
            &[3, 4, 64, 0xc0],
            &[0, 0, 1, 0][..],
            &[0, 0, 1, 0],
            &[0; 4],
            &prefix,
            &[0; 8],
        ];
        let body = [&[64, 0, 7, 8], &[0; 8][..], &option.concat()].concat();
        let packet = icmp6(134, own, ALL_NODES, &body);
        let frame = ethernet(group_mac(ALL_NODES), stage.attacker.mac, IPV6, &packet);
        stage.attacker.wire.send(&frame);
        stage.settle(0);
        stage.settle(1);
        let taken = [HERE, &stage.victim.netns].iter().any(|netns| {
            let taken = output_of(
                netns,
                "cat /proc/self/net/if_inet6 /proc/self/net/ipv6_route",
            );
            taken.contains("20010db80bad")
        });
        vec![taken]
    });
}

/// N-03: a sibling does not change its routes because a container says that it is the
/// gateway.
#[test]
fn nobody_is_redirected_by_a_container() {
    play("nobody_is_redirected_by_a_container", |_, stage| {
        let Stage {
            attacker,
            victim,
            host,
            ..
        } = stage;
        let outside = Ipv4Addr::new(203, 0, 113, 9);
        let said = ipv4(1, victim.ipv4, outside, &[0; 8]);
        let mut message = [&[5, 1, 0, 0], &attacker.ipv4.octets()[..], &said].concat();
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let packet = ipv4(1, host.ipv4, victim.ipv4, &message);
        let frame = ethernet(victim.mac, attacker.mac, IPV4, &packet);
        // The first one only makes the victim ask who its new gateway is.
        let redirected = (0..3).any(|number| {
            attacker.wire.send(&frame);
            stage.settle(number);
            let way = output_of(&victim.netns, &format!("ip route get {outside}"));
            way.contains(&format!("via {}", attacker.ipv4))
        });
        vec![redirected]
    });
}

/// N-16: what a container says to everybody, siblings do not hear.
#[test]
fn nobody_hears_what_a_sibling_says_to_everybody() {
    play(
        "nobody_hears_what_a_sibling_says_to_everybody",
        |_, stage| {
            let groups = [
                "255.255.255.255",
                "224.0.0.251",
                "224.0.0.252",
                "239.255.255.250",
            ];
            let groups6 = ["ff02::1", "ff02::fb", "ff02::1:3"];
            let mut heard = Vec::new();
            for group in groups.iter().chain(&groups6) {
                let to = SocketAddr::new(group.parse().unwrap(), 5353);
                tell(&stage.victim.netns, to, b"to everybody");
                assert!(stage.host.wire.hears(b"to everybody", DEADLINE), "{group}");
                heard.push(stage.attacker.wire.hears(b"to everybody", PATIENCE));
            }
            heard
        },
    );
}
