//! The rules that translate addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::rule::End::Source;
use super::{Chain, OUTPUT, POSTROUTING, PREROUTING, Rule, SetName, base};
use crate::firewall::expression::{
    DESTINATION_PORT, Family, Field, IP4_DESTINATION, IP6_DESTINATION,
    Sense::{Is, IsNot},
};
use crate::network::Subnet;

const DESTINATION_PRIORITY: i32 = -100;
const SOURCE_PRIORITY: i32 = 100;
/// `RTN_LOCAL`: the destination is an address of this host.
const LOCAL: u32 = 2;

/// The chains.
pub(super) fn chains() -> Vec<Chain> {
    // A container does not reach published ports of others by way of the host: what is
    // published is for the outside, and between containers there are links.
    let mut prerouting = vec![Rule::new().iif_ours(Is).accept()];
    prerouting.extend(published());
    vec![
        base(
            "nat_prerouting",
            "nat",
            PREROUTING,
            DESTINATION_PRIORITY,
            prerouting,
        ),
        base(
            "nat_output",
            "nat",
            OUTPUT,
            DESTINATION_PRIORITY,
            published(),
        ),
        base(
            "nat_postrouting",
            "nat",
            POSTROUTING,
            SOURCE_PRIORITY,
            postrouting(),
        ),
    ]
}

fn published() -> Vec<Rule> {
    let local = |family| {
        Rule::new()
            .family(family)
            .equals(Field::DestinationType, &LOCAL.to_ne_bytes())
    };
    let port = [Field::TransportProtocol, DESTINATION_PORT];
    let at = |address| [&[address][..], &port[..]].concat();
    let (four, six) = (Family::Ipv4, Family::Ipv6);
    vec![
        local(four).destination_nat(&at(IP4_DESTINATION), four, SetName::HostPublished4),
        local(four).destination_nat(&port, four, SetName::Published4),
        local(four).destination_nat(&at(IP4_DESTINATION), four, SetName::HostRanges4),
        local(four).destination_nat(&port, four, SetName::Ranges4),
        local(six).destination_nat(&at(IP6_DESTINATION), six, SetName::HostPublished6),
        local(six).destination_nat(&port, six, SetName::Published6),
        local(six).destination_nat(&at(IP6_DESTINATION), six, SetName::HostRanges6),
        local(six).destination_nat(&port, six, SetName::Ranges6),
    ]
}

fn postrouting() -> Vec<Rule> {
    let loopback4 = Subnet {
        base: Ipv4Addr::new(127, 0, 0, 0),
        prefix: 8,
    };
    let loopback6 = Subnet {
        base: Ipv6Addr::LOCALHOST,
        prefix: 128,
    };
    let inward = || Rule::new().oif_ours(Is);
    vec![
        inward().in_subnet4(Source, loopback4).masquerade(),
        inward().in_subnet6(Source, loopback6).masquerade(),
        Rule::new().iif_ours(Is).oif_ours(IsNot).masquerade(),
    ]
}
