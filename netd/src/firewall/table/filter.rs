//! The rules that decide what passes: raw, forward and input.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rule::End::{Destination, Source};
use super::{
    Chain, FORWARD, HostAccess, INPUT, Layout, OUTPUT, PREROUTING, Passage, Rule, SetName, Transit,
    base, regular,
};
use crate::firewall::expression::{
    DESTINATION_PORT, Family, Field, ICMP_TYPE, IP4_DESTINATION, IP4_SOURCE, IP6_DESTINATION,
    IP6_SOURCE, ORIGINAL, REPLY, SOURCE_PORT, Sense::Is,
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

/// Where clouds tell machines their secrets: 169.254.169.254, 169.254.170.2 and others. No
/// router forwards to link-local addresses (RFC 3927, section 7).
const METADATA4: Subnet<Ipv4Addr> = Subnet {
    base: Ipv4Addr::new(169, 254, 0, 0),
    prefix: 16,
};
const METADATA6: Subnet<Ipv6Addr> = Subnet {
    base: Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    prefix: 128,
};
const LOOPBACK4: Subnet<Ipv4Addr> = Subnet {
    base: Ipv4Addr::new(127, 0, 0, 0),
    prefix: 8,
};
const LOOPBACK6: Subnet<Ipv6Addr> = Subnet {
    base: Ipv6Addr::LOCALHOST,
    prefix: 128,
};

const DNS: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Whether an address is closed to containers since it may be cloud metadata.
pub(crate) fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => METADATA4.contains(ip),
        IpAddr::V6(ip) => METADATA6.contains(ip),
    }
}

/// The chains, those that others go to first.
pub(super) fn chains(layout: &Layout) -> Vec<Chain> {
    vec![
        regular("link", link()),
        regular("between", between()),
        regular("from_container", from_container()),
        regular("to_container", to_container()),
        regular("to_host", to_host(layout)),
        base("raw", "filter", PREROUTING, RAW_PRIORITY, raw()),
        base(
            "forward",
            "filter",
            FORWARD,
            FILTER_PRIORITY,
            forward(layout.transit),
        ),
        base(
            "input",
            "filter",
            INPUT,
            FILTER_PRIORITY,
            vec![Rule::new().iif_ours(Is).goto("to_host")],
        ),
        base("output", "filter", OUTPUT, FILTER_PRIORITY, output()),
    ]
}

/// `route_localnet` on our bridges would let others at the host's loopback services, and
/// the gateways' addresses are the host's too: neither is for anyone outside. What goes
/// straight to a container is dropped on its way there.
fn raw() -> Vec<Rule> {
    let rule = Rule::new;
    vec![
        rule().iif("lo").accept(),
        rule()
            .in_subnet4(Destination, LOOPBACK4)
            .drop("to_loopback"),
        rule().in_subnet4(Source, LOOPBACK4).drop("from_loopback"),
        rule()
            .in_subnet6(Destination, LOOPBACK6)
            .drop("to_loopback6"),
        rule().in_subnet6(Source, LOOPBACK6).drop("from_loopback6"),
        rule().iif_ours(Is).accept(),
        rule()
            .family(Family::Ipv4)
            .lookup(&[IP4_DESTINATION], Is, SetName::Gateways4)
            .drop("to_gateway"),
        rule()
            .family(Family::Ipv6)
            .lookup(&[IP6_DESTINATION], Is, SetName::Gateways6)
            .drop("to_gateway6"),
    ]
}

/// A host that forwards only for our sake is no router for others.
fn forward(transit: Transit) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new().iif_ours(Is).oif_ours(Is).goto("between"),
        Rule::new().iif_ours(Is).goto("from_container"),
        Rule::new().oif_ours(Is).goto("to_container"),
    ];
    for (passage, family, label) in [
        (transit.ipv4, Family::Ipv4, "transit"),
        (transit.ipv6, Family::Ipv6, "transit6"),
    ] {
        if passage == Passage::Closed {
            rules.push(Rule::new().family(family).drop(label));
        }
    }
    rules
}

/// From a bridge of ours to one of ours.
fn between() -> Vec<Rule> {
    let (ends4, ends6) = ([IP4_SOURCE, IP4_DESTINATION], [IP6_SOURCE, IP6_DESTINATION]);
    vec![
        passes(ORIGINAL, Family::Ipv4, ends4, SetName::Peers4),
        passes(REPLY, Family::Ipv4, ends4, SetName::Peers4),
        passes(ORIGINAL, Family::Ipv6, ends6, SetName::Peers6),
        passes(REPLY, Family::Ipv6, ends6, SetName::Peers6),
        replies(),
        invalid(),
        Rule::new()
            .lookup(
                &[Field::IncomingIfname, Field::OutgoingIfname],
                Is,
                SetName::Open,
            )
            .accept(),
        Rule::new().goto("link"),
    ]
}

/// Counts what passes over a link, by who opened the connection and to whom: one lookup for
/// a packet, since it goes one way.
fn passes(direction: u8, family: Family, ends: [Field; 2], set: SetName) -> Rule {
    let [source, destination] = ends;
    let pair = match direction {
        ORIGINAL => [source, destination],
        _ => [destination, source],
    };
    Rule::new()
        .equals(Field::ConnectionDirection, &[direction])
        .family(family)
        .lookup(&pair, Is, set)
}

fn from_container() -> Vec<Rule> {
    let [counted4, counted6] = published_from();
    let mut rules = vec![counted4, counted6, replies(), invalid()];
    rules.extend([
        Rule::new()
            .lookup(&[Field::IncomingIfname], Is, SetName::Internal)
            .drop("internal"),
        Rule::new()
            .in_subnet4(Destination, METADATA4)
            .drop("metadata"),
        Rule::new()
            .in_subnet6(Destination, METADATA6)
            .drop("metadata6"),
        Rule::new().accept(),
    ]);
    rules
}

/// Counts what a published port answers.
fn published_from() -> [Rule; 2] {
    let port = [Field::TransportProtocol, SOURCE_PORT];
    [
        published(Family::Ipv4, IP4_SOURCE, port, SetName::Traffic4),
        published(Family::Ipv6, IP6_SOURCE, port, SetName::Traffic6),
    ]
}

/// Counts what is sent to a published port.
fn published_to() -> [Rule; 2] {
    let port = [Field::TransportProtocol, DESTINATION_PORT];
    [
        published(Family::Ipv4, IP4_DESTINATION, port, SetName::Traffic4),
        published(Family::Ipv6, IP6_DESTINATION, port, SetName::Traffic6),
    ]
}

/// Counts what passes through a published port, by its place in the container: an element
/// that is found counts, and nothing is decided.
fn published(family: Family, address: Field, port: [Field; 2], set: SetName) -> Rule {
    Rule::new()
        .any_bit(Field::ConnectionStatus, STATUS_DESTINATION_NAT)
        .family(family)
        .lookup(&[&[address][..], &port[..]].concat(), Is, set)
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
        Rule::new().drop("no_link"),
    ]
}

/// From outside: only what came through a published port.
fn to_container() -> Vec<Rule> {
    let [counted4, counted6] = published_to();
    vec![
        counted4,
        counted6,
        replies(),
        Rule::new()
            .any_bit(Field::ConnectionStatus, STATUS_DESTINATION_NAT)
            .accept(),
        Rule::new().drop("not_published"),
    ]
}

fn to_host(layout: &Layout) -> Vec<Rule> {
    let icmp6 = |kind: u8| Rule::new().protocol(ICMPV6).equals(ICMP_TYPE, &[kind]);
    let ipv4 = || Rule::new().family(Family::Ipv4);
    let ipv6 = || Rule::new().family(Family::Ipv6);
    let [counted4, counted6] = published_from();
    let mut rules = vec![
        counted4,
        counted6,
        replies(),
        icmp6(NEIGHBOUR_SOLICITATION).accept(),
        icmp6(NEIGHBOUR_ADVERTISEMENT).accept(),
        ipv4()
            .lookup(&[IP4_DESTINATION], Is, SetName::Gateways4)
            .protocol(ICMP)
            .equals(ICMP_TYPE, &[ECHO_REQUEST])
            .accept(),
        ipv6()
            .lookup(&[IP6_DESTINATION], Is, SetName::Gateways6)
            .protocol(ICMPV6)
            .equals(ICMP_TYPE, &[ECHO_REQUEST_V6])
            .accept(),
    ];
    for protocol in [UDP, TCP] {
        let names = || {
            Rule::new()
                .protocol(protocol)
                .equals(DESTINATION_PORT, &DNS.to_be_bytes())
        };
        rules.extend([
            names()
                .family(Family::Ipv4)
                .lookup(
                    &[Field::IncomingIfname, IP4_DESTINATION],
                    Is,
                    SetName::Resolvers4,
                )
                .accept(),
            names()
                .family(Family::Ipv6)
                .lookup(
                    &[Field::IncomingIfname, IP6_DESTINATION],
                    Is,
                    SetName::Resolvers6,
                )
                .accept(),
        ]);
    }
    // Containers to which the host was declared; nobody else is a peer of the gateway.
    rules.extend([
        ipv4()
            .lookup(&[IP4_SOURCE, IP4_DESTINATION], Is, SetName::Peers4)
            .accept(),
        ipv6()
            .lookup(&[IP6_SOURCE, IP6_DESTINATION], Is, SetName::Peers6)
            .accept(),
    ]);
    rules.push(match layout.host_access {
        HostAccess::Allow => Rule::new().accept(),
        HostAccess::Deny => Rule::new().drop("to_host"),
    });
    rules
}

/// Containers are neighbours of each other by address, not by wire: the way through the
/// host is the right one, and the host does not advise against it. The settings that
/// would say so are shared with other devices, or do not exist.
fn output() -> Vec<Rule> {
    let redirect = |protocol: u8, kind: u8, label| {
        Rule::new()
            .oif_ours(Is)
            .protocol(protocol)
            .equals(ICMP_TYPE, &[kind])
            .drop(label)
    };
    // What the host's own clients send passes here, and never the forward chain.
    let [counted4, counted6] = published_to();
    vec![
        counted4,
        counted6,
        redirect(ICMP, REDIRECT, "own_redirect"),
        redirect(ICMPV6, REDIRECT_V6, "own_redirect6"),
    ]
}

fn invalid() -> Rule {
    Rule::new()
        .any_bit(Field::ConnectionState, STATE_INVALID)
        .drop("invalid")
}

fn replies() -> Rule {
    Rule::new()
        .any_bit(Field::ConnectionState, STATE_ESTABLISHED | STATE_RELATED)
        .accept()
}
