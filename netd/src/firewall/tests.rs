//! The pure half of the firewall: elements of a model, and differences between two.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use proptest::prelude::*;

use super::render;
use super::{Difference, Elements, HostAccess, Layout, Passage, SetName, Transit};
use crate::network::{
    Addresses, Endpoint, EndpointId, Link, Port, Protocol, PublishedPort, Registry, Subnet, Subnets,
};

fn subnets() -> Subnets {
    Subnets {
        ipv4: Subnet {
            base: "172.17.0.0".parse().unwrap(),
            prefix: 16,
        },
        ipv6: Subnet {
            base: "fd17::".parse().unwrap(),
            prefix: 64,
        },
        gateway: 1,
    }
}

fn endpoint(number: u8, source: Option<u8>) -> Arc<Endpoint> {
    let port = Port {
        protocol: Protocol::Tcp,
        number: 80,
    };
    let addresses: Addresses = subnets().at(u32::from(number) + 2);
    let link = |source: u8| Link {
        alias: "alias".to_owned(),
        source_name: format!("n{source}").parse().unwrap(),
        ports: Vec::new(),
    };
    let id: EndpointId = format!("{number:010x}{:054}", 0).parse().unwrap();
    Arc::new(Endpoint {
        sandbox: id.clone(),
        id,
        network: "bridge".parse().unwrap(),
        ifname: "eth0".to_owned(),
        aliases: Vec::new(),
        name: format!("n{number}").parse().unwrap(),
        hostname: "host".to_owned(),
        addresses,
        exposed: vec![port],
        published: vec![PublishedPort {
            port,
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: 8000 + u16::from(number),
        }],
        links: source.map(link).into_iter().collect(),
        host: None,
        dns_servers: Vec::new(),
    })
}

fn registry(endpoints: &[Arc<Endpoint>]) -> Registry {
    let mut registry = Registry::default();
    for endpoint in endpoints {
        registry.insert(endpoint);
    }
    registry
}

/// S29, S48: without a link no element lets one container at another.
#[test]
fn a_link_is_the_only_source_of_link_elements() {
    let of_links = |registry: &Registry| {
        let sets: BTreeSet<_> = registry
            .elements()
            .into_keys()
            .map(|(set, _)| set)
            .collect();
        let links = [
            SetName::Links4,
            SetName::Links6,
            SetName::Peers4,
            SetName::Peers6,
        ];
        links.map(|set| sets.contains(&set))
    };
    assert_eq!(
        of_links(&registry(&[endpoint(1, None), endpoint(2, None)])),
        [false; 4]
    );
    assert_eq!(
        of_links(&registry(&[endpoint(1, None), endpoint(2, Some(3))])),
        [false; 4]
    );
    assert_eq!(
        of_links(&registry(&[endpoint(1, None), endpoint(2, Some(1))])),
        [true; 4]
    );
}

#[test]
fn the_stamp_changes_with_the_rules_only() {
    let layout = Layout {
        host_access: HostAccess::Deny,
        max_connections: None,
        transit: Transit::OPEN,
    };
    let open = Layout {
        host_access: HostAccess::Allow,
        ..layout
    };
    let limited = Layout {
        max_connections: NonZeroU32::new(1024),
        ..layout
    };
    let no_router = Layout {
        transit: Transit {
            ipv4: Passage::Closed,
            ..layout.transit
        },
        ..layout
    };
    assert_eq!(render::stamp(&layout), render::stamp(&Layout { ..layout }));
    assert_ne!(render::stamp(&layout), render::stamp(&no_router));
    assert_ne!(render::stamp(&layout), render::stamp(&open));
    assert_ne!(render::stamp(&layout), render::stamp(&limited));
}

#[test]
fn a_thousand_elements_are_several_messages_of_one_transaction() {
    let elements: Elements = (0..1000_u32)
        .map(|number| {
            (
                (SetName::Published4, number.to_be_bytes().repeat(2)),
                vec![0; 8],
            )
        })
        .collect();
    let difference = Difference::between(&Elements::new(), &elements);
    assert_eq!(render::difference(&difference).len(), 3);
}

fn elements() -> impl Strategy<Value = Elements> {
    let set = prop::sample::select(&SetName::ALL[..]);
    let key = (set, prop::collection::vec(0_u8..3, 1));
    let value = prop::collection::vec(0_u8..2, 0..2);
    prop::collection::btree_map(key, value, 0..30)
}

proptest! {
    /// What is removed was there, and removing and then adding gives what is desired.
    #[test]
    fn prop_a_difference_leads_from_one_state_to_the_other(
        current in elements(),
        desired in elements(),
    ) {
        let Difference { removed, added } = Difference::between(&current, &desired);
        let mut state = current;
        for (key, value) in &removed {
            prop_assert_eq!(state.remove(key), Some(value.clone()));
        }
        for (key, value) in added {
            prop_assert_eq!(state.insert(key, value), None);
        }
        prop_assert_eq!(state, desired);
    }

    /// Attaching adds exactly the elements of an endpoint, and detaching takes exactly
    /// those away: the owner never has to render the whole.
    #[test]
    fn prop_elements_of_an_endpoint_are_what_it_changes(
        sources in prop::collection::vec(prop::option::of(0_u8..6), 1..6),
        chosen in any::<prop::sample::Index>(),
    ) {
        let all: Vec<_> = sources
            .iter()
            .zip(0..)
            .map(|(source, number)| endpoint(number, source.filter(|source| *source != number)))
            .collect();
        let chosen = chosen.get(&all);
        let with = registry(&all);
        let mut without = with.clone();
        without.remove(&chosen.id);
        let Difference { removed, added } =
            Difference::between(&without.elements(), &with.elements());
        prop_assert!(removed.is_empty());
        prop_assert_eq!(added, with.elements_of(chosen));
    }
}
