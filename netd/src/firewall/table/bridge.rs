//! The rules of the bridge table: what a container may put on the wire.

use super::{Chain, FORWARD, Hook, PREROUTING, Rule, SetName};
use crate::firewall::expression::{
    ARP_SENDER_IP, ARP_SENDER_MAC, ETHER_SOURCE, ETHER_TYPE, Family, Field, ICMP_TYPE, IP4_SOURCE,
    IP6_SOURCE, NEIGHBOUR_TARGET, SOURCE_PORT,
    Sense::{Is, IsNot},
};

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const MULTICAST_QUERY: u8 = 130;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;

/// The chain that every frame from a bridge port passes first.
pub(super) fn prerouting() -> Chain {
    let pinned4 = |sense, mac, ip| {
        Rule::new().lookup(&[Field::IncomingIfname, mac, ip], sense, SetName::Pins4)
    };
    let pinned6 = |ip| {
        Rule::new().lookup(
            &[Field::IncomingIfname, ETHER_SOURCE, ip],
            IsNot,
            SetName::Pins6,
        )
    };
    let ethernet = |kind: [u8; 2]| Rule::new().equals(ETHER_TYPE, &kind);
    let after = |condition: Rule, then: Rule| {
        let mut rule = condition;
        rule.expressions.extend(then.expressions);
        rule
    };
    let icmp6 = |kind: u8| ethernet(IPV6).protocol(ICMPV6).equals(ICMP_TYPE, &[kind]);
    let server = |kind: [u8; 2], port: u16, label| {
        ethernet(kind)
            .protocol(UDP)
            .equals(SOURCE_PORT, &port.to_be_bytes())
            .drop(label)
    };
    Chain {
        family: Family::Bridge,
        name: "prerouting",
        hook: Some(Hook {
            kind: "filter",
            number: PREROUTING,
            priority: -300,
        }),
        rules: vec![
            // Most packets by far: one lookup, and none of the rules below is about them.
            after(
                ethernet(IPV4).protocol(TCP),
                pinned4(Is, ETHER_SOURCE, IP4_SOURCE),
            )
            .accept(),
            Rule::new()
                .lookup(&[Field::IncomingIfname], IsNot, SetName::Ports)
                .accept(),
            after(ethernet(ARP), pinned4(IsNot, ETHER_SOURCE, ARP_SENDER_IP)).drop("arp_spoofed"),
            after(ethernet(ARP), pinned4(IsNot, ARP_SENDER_MAC, ARP_SENDER_IP))
                .drop("arp_spoofed_sender"),
            ethernet(ARP).accept(),
            after(ethernet(IPV4), pinned4(IsNot, ETHER_SOURCE, IP4_SOURCE)).drop("ipv4_spoofed"),
            ethernet(IPV4).protocol(IGMP).drop("igmp"),
            server(IPV4, DHCP_SERVER, "dhcp_server"),
            ethernet(IPV4).accept(),
            after(ethernet(IPV6), pinned6(IP6_SOURCE)).drop("ipv6_spoofed"),
            icmp6(ROUTER_ADVERTISEMENT).drop("router_advertisement"),
            icmp6(MULTICAST_QUERY).drop("multicast_query"),
            icmp6(REDIRECT).drop("redirect"),
            after(icmp6(NEIGHBOUR_ADVERTISEMENT), pinned6(NEIGHBOUR_TARGET))
                .drop("neighbour_spoofed"),
            server(IPV6, DHCPV6_SERVER, "dhcpv6_server"),
            ethernet(IPV6).accept(),
            // VLAN tags, spanning tree, pause frames and whatever else there is.
            Rule::new().drop("foreign_ethertype"),
        ],
    }
}

/// The chain that a frame passes which the bridge would hand from one port to another. Ports
/// are isolated, so there is none; this holds when somebody takes the isolation away.
pub(super) fn forward() -> Chain {
    let rule = Rule::new()
        .lookup(&[Field::IncomingIfname], Is, SetName::Ports)
        .lookup(&[Field::OutgoingIfname], Is, SetName::Ports)
        .drop("not_isolated");
    Chain {
        family: Family::Bridge,
        name: "forward",
        hook: Some(Hook {
            kind: "filter",
            number: FORWARD,
            priority: -300,
        }),
        rules: vec![rule],
    }
}
