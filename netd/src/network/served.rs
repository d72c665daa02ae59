//! What the name server is told: the user networks and what their members are called.

use std::net::IpAddr;

use super::model::{Egress, Endpoint, Network};
use super::registry::Registry;
use crate::names::{Host, ServedNetwork, Zone};

/// The networks that have names.
pub(crate) fn networks(registry: &Registry) -> Vec<ServedNetwork> {
    registry
        .networks()
        .filter(|network| network.is_users())
        .map(|network| served(network, registry))
        .collect()
}

fn served(network: &Network, registry: &Registry) -> ServedNetwork {
    let gateway = network.subnets.gateway();
    let subnets = network.subnets;
    let hosts: Vec<_> = registry
        .members_of(&network.name)
        .map(|endpoint| host(endpoint))
        .collect();
    ServedNetwork {
        name: network.name.to_string(),
        gateways: vec![gateway.ipv4.into(), gateway.ipv6.into()],
        internal: network.egress == Egress::Internal,
        zone: Zone::new(
            vec![
                (IpAddr::from(subnets.ipv4.base), subnets.ipv4.prefix),
                (IpAddr::from(subnets.ipv6.base), subnets.ipv6.prefix),
            ],
            &hosts,
        ),
    }
}

fn host(endpoint: &Endpoint) -> Host {
    Host {
        name: endpoint.name.to_string(),
        // The first endpoint of a container has the container's id.
        short_id: endpoint.sandbox.short().to_owned(),
        aliases: endpoint.aliases.clone(),
        hostname: endpoint.hostname.clone(),
        ips: vec![
            endpoint.addresses.ipv4.into(),
            endpoint.addresses.ipv6.into(),
        ],
    }
}
