//! Networks: which bridges are ours, and what may pass between, into and out of them.

use super::{Elements, SetName, ifname, key};
use crate::network::{Egress, Network, Policy};

/// The elements that a network adds, before it has any endpoint.
pub(crate) fn elements(network: &Network) -> Elements {
    let bridge = ifname(&network.bridge_name);
    let gateway = network.subnets.gateway();
    let mut elements = Elements::from([
        ((SetName::Bridges, key(&[&bridge])), Vec::new()),
        (
            (SetName::Gateways4, key(&[&gateway.ipv4.octets()])),
            Vec::new(),
        ),
        (
            (SetName::Gateways6, key(&[&gateway.ipv6.octets()])),
            Vec::new(),
        ),
    ]);
    if network.policy == Policy::Open {
        let both = key(&[&bridge, &bridge]);
        elements.insert((SetName::Open, both), Vec::new());
    }
    if network.egress == Egress::Internal {
        elements.insert((SetName::Internal, key(&[&bridge])), Vec::new());
    }
    if network.is_users() {
        let ipv4 = key(&[&bridge, &gateway.ipv4.octets()]);
        let ipv6 = key(&[&bridge, &gateway.ipv6.octets()]);
        elements.insert((SetName::Resolvers4, ipv4), Vec::new());
        elements.insert((SetName::Resolvers6, ipv6), Vec::new());
    }
    elements
}
