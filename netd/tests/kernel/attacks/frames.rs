//! What a container with a raw socket puts on the wire.

use std::net::Ipv4Addr;

use super::stage::Stage;
use super::wire::{
    ALL_NODES, ARP, BROADCAST, ICMPV6, IPV4, IPV6, Mac, UDP, arp, ethernet, group_mac, has, icmp6,
    ipv4, ipv6, link_local, summed6, udp, udp6,
};
use crate::heal::{has as has_tool, shell};
use crate::limit::dropped;
use crate::world::World;

const BRIDGE_GROUP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];
const NEAREST_BRIDGE: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
const FOREIGN: &str = "foreign_ethertype";

/// A frame that no container may send, and the rule that drops it; none if it is the bridge
/// itself that hands it on to nobody.
struct Case {
    what: &'static str,
    rule: Option<&'static str>,
    frame: Vec<u8>,
}

/// Frames that lie about who sends them.
fn forgeries(stage: &Stage, text: &[u8]) -> Vec<Case> {
    let Stage {
        attacker,
        victim,
        host,
        ..
    } = stage;
    let mut cases = Vec::new();
    let mut case = |what, rule, frame| {
        cases.push(Case {
            what,
            rule: Some(rule),
            frame,
        });
    };
    let marked = |message: Vec<u8>| [&message, text].concat();
    let own = attacker.mac;
    for (what, is_reply, ip) in [
        ("gratuitous ARP for the gateway", false, host.ipv4),
        ("ARP reply for the gateway", true, host.ipv4),
        ("ARP reply for the sibling", true, victim.ipv4),
        (
            "proxy ARP for a stranger",
            true,
            Ipv4Addr::new(192, 0, 2, 99),
        ),
    ] {
        let message = marked(arp(is_reply, (own, ip), (own, ip)));
        case(what, "arp_spoofed", ethernet(BROADCAST, own, ARP, &message));
    }
    let message = marked(arp(true, (victim.mac, attacker.ipv4), (own, host.ipv4)));
    let frame = ethernet(BROADCAST, own, ARP, &message);
    case("own address at another's MAC", "arp_spoofed_sender", frame);

    let hello = udp(1, 9, text);
    let hello4 = |from| ipv4(UDP, from, Ipv4Addr::BROADCAST, &hello);
    let stray = [2, 0xde, 0xad, 0, 0, 1];
    for (what, mac, ip) in [
        ("IPv4 of the sibling", own, victim.ipv4),
        ("IPv4 of the gateway", own, host.ipv4),
        ("MAC of the sibling", victim.mac, attacker.ipv4),
        ("MAC of nobody", stray, attacker.ipv4),
        ("MAC and IPv4 of the sibling", victim.mac, victim.ipv4),
    ] {
        let frame = ethernet(BROADCAST, mac, IPV4, &hello4(ip));
        case(what, "ipv4_spoofed", frame);
    }
    for (what, mac, ip) in [
        ("IPv6 of the sibling", own, victim.ipv6),
        (
            "link-local address of the sibling",
            own,
            link_local(victim.mac),
        ),
        ("MAC of the sibling with IPv6", victim.mac, attacker.ipv6),
    ] {
        let packet = udp6((ip, 1), (ALL_NODES, 9), text);
        let frame = ethernet(group_mac(ALL_NODES), mac, IPV6, &packet);
        case(what, "ipv6_spoofed", frame);
    }
    for (what, ip) in [("gateway", host.ipv6), ("sibling", victim.ipv6)] {
        let body = [&[0x20, 0, 0, 0], &ip.octets()[..], &[2, 1], &own, text].concat();
        let packet = icmp6(136, attacker.ipv6, ALL_NODES, &body);
        let frame = ethernet(group_mac(ALL_NODES), own, IPV6, &packet);
        case(what, "neighbour_spoofed", frame);
    }
    cases
}

/// Frames by which a container would be a router, a server or a switch.
fn roles(stage: &Stage, text: &[u8]) -> Vec<Case> {
    let attacker = &stage.attacker;
    let own = attacker.mac;
    let own6 = link_local(own);
    let mut cases = Vec::new();
    let mut case = |what, rule, frame| cases.push(Case { what, rule, frame });
    for (kind, what, rule) in [
        (134, "router advertisement", "router_advertisement"),
        (130, "multicast listener query", "multicast_query"),
        (137, "redirect", "redirect"),
    ] {
        let packet = icmp6(kind, own6, ALL_NODES, &[&[0; 36], text].concat());
        let frame = ethernet(group_mac(ALL_NODES), own, IPV6, &packet);
        case(what, Some(rule), frame);
        // The same behind an extension header that says nothing.
        let message = [&[kind, 0, 0, 0], &[0; 36][..], text].concat();
        let message = summed6(ICMPV6, own6, ALL_NODES, message, 2);
        let options = [ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        let packet = ipv6(60, own6, ALL_NODES, &[&options, &message[..]].concat());
        let frame = ethernet(group_mac(ALL_NODES), own, IPV6, &packet);
        case(what, Some(rule), frame);
    }
    let offer = udp(67, 68, text);
    let packet = ipv4(UDP, attacker.ipv4, Ipv4Addr::BROADCAST, &offer);
    let frame = ethernet(BROADCAST, own, IPV4, &packet);
    case("DHCP offer", Some("dhcp_server"), frame);
    let packet = udp6((own6, 547), (ALL_NODES, 546), text);
    let frame = ethernet(group_mac(ALL_NODES), own, IPV6, &packet);
    case("DHCPv6 reply", Some("dhcpv6_server"), frame);
    let query = ipv4(2, attacker.ipv4, Ipv4Addr::new(224, 0, 0, 1), text);
    let frame = ethernet([1, 0, 0x5e, 0, 0, 1], own, IPV4, &query);
    case("IGMP query", Some("igmp"), frame);

    let inner = ipv4(UDP, attacker.ipv4, Ipv4Addr::BROADCAST, &udp(1, 9, text));
    let tagged = [&[0, 7], &IPV4.to_be_bytes()[..], &inner].concat();
    case(
        "VLAN tag",
        Some(FOREIGN),
        ethernet(BROADCAST, own, 0x8100, &tagged),
    );
    let twice = [&[0, 7, 0x81, 0], &tagged[..]].concat();
    case(
        "two tags",
        Some(FOREIGN),
        ethernet(BROADCAST, own, 0x88a8, &twice),
    );
    let length = u16::try_from(38 + text.len()).unwrap();
    let bpdu = [&[0x42, 0x42, 3], &[0; 35][..], text].concat();
    let frame = ethernet(BRIDGE_GROUP, own, length, &bpdu);
    case("spanning tree BPDU", Some(FOREIGN), frame);
    case("LLDP", None, ethernet(NEAREST_BRIDGE, own, 0x88cc, text));
    for (what, kind) in [
        ("LLDP to all", 0x88cc),
        ("PAUSE to all", 0x8808),
        ("PPPoE discovery", 0x8863),
        ("MPLS", 0x8847),
        ("EAPOL", 0x888e),
        ("RARP", 0x8035),
        ("loopback", 0x9000),
    ] {
        case(what, Some(FOREIGN), ethernet(BROADCAST, own, kind, text));
    }
    cases
}

/// Sends each frame; those that reached somebody.
fn reached(world: Option<&World>, stage: &Stage) -> (usize, Vec<&'static str>) {
    // LLDP passes a bridge only if somebody wants it.
    if world.is_none() {
        shell(&format!(
            "ip link set {} type bridge group_fwd_mask 0x4000",
            stage.bridge
        ));
    }
    let mut reached = Vec::new();
    let count = forgeries(stage, b"").len() + roles(stage, b"").len();
    for number in 0..count {
        let text = format!("frame {number};");
        let mut cases = forgeries(stage, text.as_bytes());
        cases.extend(roles(stage, text.as_bytes()));
        let Case { what, rule, frame } = &cases[number];
        let watched = world.zip(*rule);
        let before = watched.map(|(world, rule)| dropped(world, rule));
        stage.attacker.wire.send(frame);
        let heard = stage.settle(number);
        let is_heard = heard.iter().any(|frame| has(frame, text.as_bytes()))
            || stage.victim.wire.has_heard(text.as_bytes());
        if is_heard {
            reached.push(*what);
        }
        if let Some((world, rule)) = watched {
            let now = dropped(world, rule);
            assert_eq!(Some(now), before.map(|before| before + 1), "{what}: {rule}");
        }
    }
    (count, reached)
}

/// N-02, N-03, N-16: what no container may say reaches neither the host nor a sibling, and is
/// counted; on a plain bridge each of the frames arrives.
#[test]
fn a_frame_that_no_container_may_send_reaches_nobody() {
    const TEST: &str = "a_frame_that_no_container_may_send_reaches_nobody";
    if !has_tool(TEST, "ip") {
        return;
    }
    World::bare(TEST, |world| {
        let plain = Stage::plain(world);
        let (count, arrived) = reached(None, &plain);
        assert_eq!(arrived.len(), count, "all of them arrive: {arrived:?}");
        plain.strike();
        world.start();
        let guarded = Stage::guarded(world);
        assert_eq!(reached(Some(world), &guarded), (count, Vec::new()));
        guarded.assert_well();
        world.stop();
    });
}

/// N-16: of all values of the field that says what a frame is, three pass.
#[test]
fn of_all_kinds_of_frames_three_pass() {
    World::run("of_all_kinds_of_frames_three_pass", |world| {
        let stage = Stage::guarded(world);
        let own = stage.attacker.mac;
        let before = dropped(world, FOREIGN);
        let foreign = (0..=u16::MAX).filter(|kind| ![ARP, IPV4, IPV6].contains(kind));
        for kind in foreign {
            let text = b"of another kind";
            stage
                .attacker
                .wire
                .send(&ethernet(BROADCAST, own, kind, text));
        }
        let heard = stage.settle(0);
        let text = b"of another kind";
        assert!(!heard.iter().any(|frame| has(frame, text)));
        assert!(!stage.victim.wire.has_heard(text));
        assert_eq!(dropped(world, FOREIGN) - before, 65_536 - 3);
        stage.assert_well();
    });
}
