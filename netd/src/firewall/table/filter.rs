//! The rules that decide what passes: raw, forward and input.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::rule::End::{Destination, Source};
use super::{
    Chain, FORWARD, HostAccess, INPUT, Layout, OUTPUT, PREROUTING, Rule, SetName, base, regular,
};
use crate::firewall::expression::{
    DESTINATION_PORT, Family, Field, ICMP_TYPE, IP4_DESTINATION, IP4_SOURCE, IP6_DESTINATION,
    IP6_SOURCE,
    Sense::{Is, IsNot},
};
use crate::network::Subnet;

const RAW_PRIORITY: i32 = -300;
const FILTER_PRIORITY: i32 = 0;

const STATE_INVALID: u32 = 1;
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATUS_DESTINATION_NAT: u32 = 1 << 5;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const REDIRECT: u8 = 5;
const REDIRECT_V6: u8 = 137;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

const METADATA4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const METADATA6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
const LOOPBACK4: Subnet<Ipv4Addr> = Subnet {
    base: Ipv4Addr::new(127, 0, 0, 0),
    prefix: 8,
};
const LOOPBACK6: Subnet<Ipv6Addr> = Subnet {
    base: Ipv6Addr::LOCALHOST,
    prefix: 128,
};
const LINK_LOCAL6: Subnet<Ipv6Addr> = Subnet {
    base: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
    prefix: 10,
};

/// The chains, those that others go to first.
pub(super) fn chains(layout: &Layout) -> Vec<Chain> {
    let bridge = layout.bridge_name.as_str();
    vec![
        regular("link", link()),
        regular("from_container", from_container(bridge)),
        regular("to_container", to_container()),
        regular("to_host", to_host(layout)),
        base("raw", "filter", PREROUTING, RAW_PRIORITY, raw(layout)),
        base(
            "forward",
            "filter",
            FORWARD,
            FILTER_PRIORITY,
            vec![
                Rule::new().iif(Is, bridge).goto("from_container"),
                Rule::new().oif(Is, bridge).goto("to_container"),
            ],
        ),
        base(
            "input",
            "filter",
            INPUT,
            FILTER_PRIORITY,
            vec![Rule::new().iif(Is, bridge).goto("to_host")],
        ),
        base("output", "filter", OUTPUT, FILTER_PRIORITY, output(bridge)),
    ]
}

/// `route_localnet` on the bridge would let others at the host's loopback services, and
/// a route on a neighbouring host would lead around the published ports: neither passes.
fn raw(layout: &Layout) -> Vec<Rule> {
    let bridge = layout.bridge_name.as_str();
    let subnets = &layout.subnets;
    let foreign = || Rule::new().iif(IsNot, "lo");
    let outside = || Rule::new().iif(IsNot, "lo").iif(IsNot, bridge);
    let inside = || Rule::new().iif(Is, bridge);
    vec![
        foreign().in_subnet4(Destination, Is, LOOPBACK4).drop(),
        foreign().in_subnet4(Source, Is, LOOPBACK4).drop(),
        foreign().in_subnet6(Destination, Is, LOOPBACK6).drop(),
        foreign().in_subnet6(Source, Is, LOOPBACK6).drop(),
        outside().in_subnet4(Destination, Is, subnets.ipv4).drop(),
        outside().in_subnet6(Destination, Is, subnets.ipv6).drop(),
        inside().in_subnet4(Source, IsNot, subnets.ipv4).drop(),
        inside()
            .in_subnet6(Source, IsNot, subnets.ipv6)
            .not_in_subnet6(Source, LINK_LOCAL6)
            .drop(),
    ]
}

fn from_container(bridge: &str) -> Vec<Rule> {
    vec![
        replies(),
        Rule::new()
            .any_bit(Field::ConnectionState, STATE_INVALID)
            .drop(),
        Rule::new().oif(Is, bridge).goto("link"),
        Rule::new()
            .family(Family::Ipv4)
            .equals(IP4_DESTINATION, &METADATA4.octets())
            .drop(),
        Rule::new()
            .family(Family::Ipv6)
            .equals(IP6_DESTINATION, &METADATA6.octets())
            .drop(),
        Rule::new().accept(),
    ]
}

/// From container to container: only what a link opens.
fn link() -> Vec<Rule> {
    let ends4 = [IP4_SOURCE, IP4_DESTINATION];
    let ends6 = [IP6_SOURCE, IP6_DESTINATION];
    let port = [Field::TransportProtocol, DESTINATION_PORT];
    let ipv4 = || Rule::new().family(Family::Ipv4);
    let ipv6 = || Rule::new().family(Family::Ipv6);
    vec![
        ipv4()
            .lookup(&[&ends4[..], &port[..]].concat(), Is, SetName::Links4)
            .accept(),
        ipv6()
            .lookup(&[&ends6[..], &port[..]].concat(), Is, SetName::Links6)
            .accept(),
        ipv4()
            .protocol(ICMP)
            .equals(ICMP_TYPE, &[ECHO_REQUEST])
            .lookup(&ends4, Is, SetName::Peers4)
            .accept(),
        ipv6()
            .protocol(ICMPV6)
            .equals(ICMP_TYPE, &[ECHO_REQUEST_V6])
            .lookup(&ends6, Is, SetName::Peers6)
            .accept(),
        Rule::new().drop(),
    ]
}

/// From outside: only what came through a published port.
fn to_container() -> Vec<Rule> {
    vec![
        replies(),
        Rule::new()
            .any_bit(Field::ConnectionStatus, STATUS_DESTINATION_NAT)
            .accept(),
        Rule::new().drop(),
    ]
}

fn to_host(layout: &Layout) -> Vec<Rule> {
    let gateway = layout.subnets.gateway();
    let icmp6 = |kind: u8| Rule::new().protocol(ICMPV6).equals(ICMP_TYPE, &[kind]);
    let mut rules = vec![
        replies(),
        icmp6(NEIGHBOUR_SOLICITATION).accept(),
        icmp6(NEIGHBOUR_ADVERTISEMENT).accept(),
        Rule::new()
            .family(Family::Ipv4)
            .equals(IP4_DESTINATION, &gateway.ipv4.octets())
            .protocol(ICMP)
            .equals(ICMP_TYPE, &[ECHO_REQUEST])
            .accept(),
        Rule::new()
            .family(Family::Ipv6)
            .equals(IP6_DESTINATION, &gateway.ipv6.octets())
            .protocol(ICMPV6)
            .equals(ICMP_TYPE, &[ECHO_REQUEST_V6])
            .accept(),
    ];
    // Containers to which the host was declared; nobody else is a peer of the gateway.
    rules.push(
        Rule::new()
            .family(Family::Ipv4)
            .lookup(&[IP4_SOURCE, IP4_DESTINATION], Is, SetName::Peers4)
            .accept(),
    );
    rules.push(
        Rule::new()
            .family(Family::Ipv6)
            .lookup(&[IP6_SOURCE, IP6_DESTINATION], Is, SetName::Peers6)
            .accept(),
    );
    rules.push(match layout.host_access {
        HostAccess::Allow => Rule::new().accept(),
        HostAccess::Deny => Rule::new().drop(),
    });
    rules
}

/// Containers are neighbours of each other by address, not by wire: the way through the
/// host is the right one, and the host does not advise against it. The settings that
/// would say so are shared with other devices, or do not exist.
fn output(bridge: &str) -> Vec<Rule> {
    let redirect = |protocol: u8, kind: u8| {
        Rule::new()
            .oif(Is, bridge)
            .protocol(protocol)
            .equals(ICMP_TYPE, &[kind])
            .drop()
    };
    vec![redirect(ICMP, REDIRECT), redirect(ICMPV6, REDIRECT_V6)]
}

fn replies() -> Rule {
    Rule::new()
        .any_bit(Field::ConnectionState, STATE_ESTABLISHED | STATE_RELATED)
        .accept()
}
