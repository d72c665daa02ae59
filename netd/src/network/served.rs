//! What the name server is told: the user networks and what their members are called.

use std::net::IpAddr;

use super::model::{Egress, Endpoint, Network};
use super::registry::Registry;
use super::{ChangeKind, Name};
use crate::names::{Host, ServedNetwork, Zone};

/// The networks that have names.
pub(crate) fn networks(registry: &Registry) -> Vec<ServedNetwork> {
    registry
        .networks()
        .filter(|network| network.is_users())
        .map(|network| served(network, registry))
        .collect()
}

/// Brings what is served after a change; whether that made a difference.
pub(crate) fn follow(
    served: &mut Vec<ServedNetwork>,
    registry: &Registry,
    kind: &ChangeKind,
) -> bool {
    let mut change = |network: &Name, change: &dyn Fn(&mut Zone) -> bool| {
        served
            .iter_mut()
            .find(|served| served.name == network.as_str())
            .is_some_and(|served| change(&mut served.zone))
    };
    match kind {
        ChangeKind::Attached(endpoint) => {
            change(&endpoint.network, &|zone| zone.insert(host(endpoint)))
        }
        ChangeKind::Detached(endpoint) => change(&endpoint.network, &|zone| {
            zone.remove(endpoint.sandbox.short())
        }),
        ChangeKind::Networks => {
            *served = networks(registry);
            true
        }
        ChangeKind::Sandboxes => false,
    }
}

fn served(network: &Network, registry: &Registry) -> ServedNetwork {
    let gateway = network.subnets.gateway();
    let subnets = network.subnets;
    let mut zone = Zone::new(vec![
        (IpAddr::from(subnets.ipv4.base), subnets.ipv4.prefix),
        (IpAddr::from(subnets.ipv6.base), subnets.ipv6.prefix),
    ]);
    for endpoint in registry.members_of(&network.name) {
        zone.insert(host(endpoint));
    }
    ServedNetwork {
        name: network.name.to_string(),
        gateways: vec![gateway.ipv4.into(), gateway.ipv6.into()],
        internal: network.egress == Egress::Internal,
        zone,
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
