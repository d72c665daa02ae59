//! Where the network of a container comes from, and what follows from the networks that
//! it is on: which endpoint publishes, which name server it asks, what a change does.
//!
//! ```text
//! networks   a namespace of its own, an endpoint on each network    netd makes them
//!            none of them: only loopback in it                      netd makes it
//! host       the namespace of the host
//! container  the namespace of another container, and its files
//! ```
//!
//! Pure. What acts on it is [`super::attachment`].

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use linkspan_proto::net_v1;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record::{HostSettings, NetworkSettings, Record};
use super::{ContainerError, Result};

/// The network that is always there.
pub(crate) const DEFAULT_NETWORK: &str = "bridge";
/// Another word for it.
const DEFAULT_ALIAS: &str = "default";
/// How a user says that a container has no network.
pub(crate) const NO_NETWORK: &str = "none";
/// Before the container in a mode that shares its network.
const CONTAINER_PREFIX: &str = "container:";
/// The most names that a container may have on a network beside its own.
const MAX_ALIASES: usize = 64;

/// Where the network namespace of a container comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NetworkMode {
    /// It has its own, with an endpoint on each of its networks.
    #[default]
    Networks,
    /// The host's.
    Host,
    /// That of the container with this id.
    Container(String),
}

impl NetworkMode {
    /// The mode as a user writes it; empty when the networks tell.
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Networks => String::new(),
            Self::Host => "host".to_owned(),
            Self::Container(id) => format!("{CONTAINER_PREFIX}{id}"),
        }
    }
}

/// A network that a container is on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkConfig {
    pub(crate) network: String,
    /// The names beside its own by which members of the network find it.
    pub(crate) aliases: Vec<String>,
    /// None means any.
    pub(crate) ipv4: Option<Ipv4Addr>,
    /// None means the one that goes with the IPv4 address.
    pub(crate) ipv6: Option<Ipv6Addr>,
}

impl NetworkConfig {
    /// A network, and nothing special about it.
    pub(crate) fn on(network: &str) -> Self {
        Self {
            network: network.to_owned(),
            ..Self::default()
        }
    }
}

/// The networks of a container for which nobody said anything.
pub(crate) fn default_networks() -> Vec<NetworkConfig> {
    vec![NetworkConfig::on(DEFAULT_NETWORK)]
}

/// Reads a mode and the networks of a request. A container in the mode is as the user
/// named it.
pub(crate) fn parse(
    mode: &str,
    networks: Vec<NetworkConfig>,
) -> Result<(NetworkMode, Vec<NetworkConfig>)> {
    let special = match mode {
        "host" => Some(NetworkMode::Host),
        NO_NETWORK => Some(NetworkMode::Networks),
        _ => mode
            .strip_prefix(CONTAINER_PREFIX)
            .map(|container| NetworkMode::Container(container.to_owned())),
    };
    if let Some(special) = special {
        return if networks.is_empty() {
            Ok((special, networks))
        } else {
            Err(invalid(format!(
                "`{mode}` goes with no other network, no address and no alias"
            )))
        };
    }
    let mut networks = match (mode, networks.is_empty()) {
        ("", true) => default_networks(),
        (mode, true) => vec![NetworkConfig::on(mode)],
        // A response, sent back: the mode repeats the first network.
        (_, false) => networks,
    };
    let mut seen = BTreeSet::new();
    for config in &mut networks {
        judge(config)?;
        if !seen.insert(config.network.clone()) {
            return Err(invalid(format!("`{}` is named twice", config.network)));
        }
    }
    Ok((NetworkMode::Networks, networks))
}

/// Refuses a network whose name or names cannot be.
pub(crate) fn judge(config: &mut NetworkConfig) -> Result<()> {
    if config.network == DEFAULT_ALIAS {
        DEFAULT_NETWORK.clone_into(&mut config.network);
    }
    let special = ["host", NO_NETWORK].contains(&config.network.as_str())
        || config.network.starts_with(CONTAINER_PREFIX);
    if special {
        return Err(invalid(format!(
            "`{}` goes with no other network",
            config.network
        )));
    }
    if config.network == DEFAULT_NETWORK && !config.aliases.is_empty() {
        return Err(invalid(format!(
            "`{DEFAULT_NETWORK}` has no names, so no alias; make a network of your own: linkspan network create"
        )));
    }
    if config.aliases.len() > MAX_ALIASES {
        return Err(invalid(format!(
            "a container has at most {MAX_ALIASES} aliases on a network"
        )));
    }
    for alias in &config.aliases {
        super::link::validate_alias("network", alias)?;
    }
    Ok(())
}

/// Refuses networks that do not exist.
pub(crate) fn check_known(networks: &[NetworkConfig], known: &[net_v1::Network]) -> Result<()> {
    let missing = networks
        .iter()
        .find(|config| !known.iter().any(|known| known.name == config.network));
    match missing {
        None => Ok(()),
        Some(config) => Err(ContainerError::NetworkNotFound {
            network: config.network.clone(),
        }),
    }
}

/// The identity of a container's endpoint on a network.
pub(crate) fn endpoint_id(container_id: &str, network: &str) -> String {
    if network == DEFAULT_NETWORK {
        return container_id.to_owned();
    }
    let digest = Sha256::digest(format!("{container_id}/{network}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The network on which a container publishes its ports: the first that leads outside.
pub(crate) fn publisher<'a>(
    networks: &'a [NetworkConfig],
    known: &[net_v1::Network],
) -> Option<&'a str> {
    let is_internal = |name: &str| {
        known
            .iter()
            .any(|network| network.internal && network.name == name)
    };
    networks
        .iter()
        .map(|config| config.network.as_str())
        .find(|name| !is_internal(name))
}

/// A warning about ports that nothing publishes, since no network leads outside.
pub(crate) fn check_published(host: &HostSettings, known: &[net_v1::Network]) -> Option<String> {
    let nowhere = !host.networks.is_empty() && publisher(&host.networks, known).is_none();
    (host.publishes() && nowhere).then(|| {
        "published ports are without effect on internal networks; connect the container to one that leads outside"
            .to_owned()
    })
}

/// Whether a container is on nothing but the default network, about which there is
/// nothing to find out.
pub(crate) fn is_plain(networks: &[NetworkConfig]) -> bool {
    networks
        .iter()
        .all(|config| config.network == DEFAULT_NETWORK)
}

/// What turns the endpoints of a container into those that it should have.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan<'a> {
    /// The endpoints that go.
    pub(crate) detached: Vec<&'a NetworkSettings>,
    /// The networks in the order of the record, with whether the endpoint is there.
    pub(crate) kept: Vec<(&'a NetworkConfig, bool)>,
}

/// Compares the networks of a record with the endpoints that are there.
pub(crate) fn plan<'a>(record: &'a Record, current: &'a [NetworkSettings]) -> Plan<'a> {
    let wanted = &record.host.networks;
    Plan {
        detached: current
            .iter()
            .filter(|there| !wanted.iter().any(|config| config.network == there.network))
            .collect(),
        kept: wanted
            .iter()
            .map(|config| {
                let is_there = current.iter().any(|there| there.network == config.network);
                (config, is_there)
            })
            .collect(),
    }
}

/// The name servers of the networks that have names: the gateway of the first.
pub(crate) fn name_server(networks: &[NetworkSettings]) -> Option<&str> {
    networks
        .iter()
        .find(|network| network.network != DEFAULT_NETWORK)
        .map(|network| network.ipv4_gateway.as_str())
}

/// Refuses what a container that shares a network cannot have, and gives warnings about
/// what is without effect.
pub(crate) fn check_shared(record: &mut Record) -> Result<Vec<String>> {
    let host = &record.host;
    let mode = match &host.network_mode {
        NetworkMode::Networks if !host.networks.is_empty() => return Ok(Vec::new()),
        NetworkMode::Networks => NO_NETWORK,
        NetworkMode::Host => "host",
        NetworkMode::Container(_) => "container",
    };
    let conflict = |what: &str| {
        Err(invalid(format!(
            "{what} cannot be used with --network {mode}"
        )))
    };
    if !host.links.is_empty() {
        return conflict("--link");
    }
    let publishes = host.publishes();
    if matches!(host.network_mode, NetworkMode::Container(_)) {
        let resolver = [&host.dns, &host.dns_search, &host.dns_options];
        let given = [
            ("-p and -P", publishes),
            ("--hostname", !record.config.hostname.is_empty()),
            ("--add-host", !host.extra_hosts.is_empty()),
            ("--dns", resolver.iter().any(|given| !given.is_empty())),
        ];
        if let Some((what, _)) = given.iter().find(|(_, given)| *given) {
            return conflict(what);
        }
    }
    if !publishes {
        return Ok(Vec::new());
    }
    record.host.publish_all = false;
    record.host.port_mappings.clear();
    Ok(vec![format!(
        "published ports are without effect with --network {mode}"
    )])
}

fn invalid(rule: String) -> ContainerError {
    ContainerError::Invalid {
        what: "network",
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    fn network(name: &str, internal: bool) -> net_v1::Network {
        net_v1::Network {
            name: name.to_owned(),
            internal,
            ..Default::default()
        }
    }

    fn settings(network: &str) -> NetworkSettings {
        NetworkSettings {
            network: network.to_owned(),
            ipv4_gateway: format!("gateway of {network}"),
            ..NetworkSettings::default()
        }
    }

    #[test]
    fn a_mode_or_networks_are_read_and_never_both() {
        let on = |names: &[&str]| names.iter().map(|name| NetworkConfig::on(name)).collect();
        let networks = |mode, names: &[&str]| parse(mode, on(names)).unwrap();
        for mode in ["", "bridge", "default"] {
            let expected = (NetworkMode::Networks, default_networks());
            assert_eq!(networks(mode, &[]), expected, "{mode:?}");
        }
        assert_eq!(networks("a", &[]).1, on(&["a"]));
        assert_eq!(networks("a", &["a", "b"]).1, on(&["a", "b"]));
        assert_eq!(networks("host", &[]), (NetworkMode::Host, Vec::new()));
        assert_eq!(networks("none", &[]), (NetworkMode::Networks, Vec::new()));
        let shared = NetworkMode::Container("web".to_owned());
        assert_eq!(networks("container:web", &[]).0, shared);
        for (mode, names) in [
            ("host", &["a"][..]),
            ("", &["a", "host"]),
            ("", &["a", "a"]),
            ("", &["bridge", "default"]),
        ] {
            parse(mode, on(names)).unwrap_err();
        }
    }

    #[test]
    fn an_alias_needs_a_network_with_names_and_is_a_host_name() {
        let with = |network: &str, alias: &str| NetworkConfig {
            aliases: vec![alias.to_owned()],
            ..NetworkConfig::on(network)
        };
        judge(&mut with("front", "www")).unwrap();
        judge(&mut with("bridge", "www")).unwrap_err();
        judge(&mut with("front", "a b")).unwrap_err();
        judge(&mut with("front", "a\n1.2.3.4 b")).unwrap_err();
    }

    #[test]
    fn an_endpoint_has_an_id_for_each_network_and_keeps_the_containers_on_the_default_one() {
        let id = record("web").id;
        assert_eq!(endpoint_id(&id, "bridge"), id);
        let [one, other] = ["front", "back"].map(|network| endpoint_id(&id, network));
        assert_eq!((one.len(), other.len()), (64, 64));
        assert_ne!(one[..10], other[..10]);
        assert_eq!(one, endpoint_id(&id, "front"));
    }

    #[test]
    fn the_first_network_that_leads_outside_publishes() {
        let networks = [NetworkConfig::on("inner"), NetworkConfig::on("front")];
        let known = [network("inner", true), network("front", false)];
        assert_eq!(publisher(&networks, &known), Some("front"));
        assert_eq!(publisher(&networks[..1], &known), None);
        let mut host = HostSettings {
            publish_all: true,
            networks: networks[..1].to_vec(),
            ..HostSettings::default()
        };
        let warning = check_published(&host, &known).unwrap();
        assert!(warning.contains("without effect"), "{warning}");
        host.networks = networks.to_vec();
        assert_eq!(check_published(&host, &known), None);
        host.publish_all = false;
        host.networks.truncate(1);
        assert_eq!(check_published(&host, &known), None);
    }

    #[test]
    fn a_change_touches_only_what_differs() {
        let mut record = record("web");
        record.host.networks = vec![NetworkConfig::on("b"), NetworkConfig::on("c")];
        let current = [settings("a"), settings("b")];
        let plan = plan(&record, &current);
        assert_eq!(plan.detached, [&current[0]]);
        let kept: Vec<_> = plan
            .kept
            .iter()
            .map(|(config, there)| (config.network.as_str(), *there))
            .collect();
        assert_eq!(kept, [("b", true), ("c", false)]);
    }

    #[test]
    fn names_are_asked_at_the_first_network_that_has_some() {
        let networks = [settings("bridge"), settings("front"), settings("back")];
        assert_eq!(name_server(&networks), Some("gateway of front"));
        assert_eq!(name_server(&networks[..1]), None);
    }

    #[test]
    fn what_a_shared_network_cannot_have_is_refused_by_name() {
        let mut record = record("web");
        record.host.network_mode = NetworkMode::Container("x".to_owned());
        record.config.hostname = "me".to_owned();
        let error = check_shared(&mut record).unwrap_err().to_string();
        assert!(error.contains("--hostname") && error.contains("--network container"));
        record.host.network_mode = NetworkMode::Host;
        record.host.publish_all = true;
        assert_eq!(check_shared(&mut record).unwrap().len(), 1);
        assert!(!record.host.publish_all);
    }
}
