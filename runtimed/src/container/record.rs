//! What is remembered of a container: the durable record and the row of a run.
//!
//! These are the persisted types. They carry a version, and are apart from the wire
//! types; `convert` goes between the two. A reader must accept every older version;
//! a field that is new has a default, so that an older reader ignores it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::health::HealthCheck;
use super::network::{self, DEFAULT_NETWORK, NetworkConfig, NetworkMode};
use crate::port::Port;

/// What stands for the host's address in `--add-host`.
pub(crate) const HOST_GATEWAY: &str = "host-gateway";
/// The version of the records that this build writes.
pub(crate) const RECORD_VERSION: u32 = 1;

/// A container, as long as it exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    /// 64 lower-case hexadecimal digits.
    pub(crate) id: String,
    pub(crate) name: String,
    /// Whether the engine chose the name; such a name never comes back.
    pub(crate) generated_name: bool,
    /// The image as the user knows it, with its tag.
    pub(crate) image: String,
    pub(crate) image_id: String,
    /// The unpacked layers, uppermost first.
    pub(crate) lower_dirs: Vec<String>,
    /// Nanoseconds since 1970.
    pub(crate) created_at_ns: i64,
    pub(crate) config: Config,
    pub(crate) host: HostSettings,
    /// The request that made it; repeated requests get the same container.
    #[serde(default)]
    pub(crate) request_id: String,
    /// Whether it is given up when its first start fails.
    #[serde(default)]
    pub(crate) discard_on_start_failure: bool,
    #[serde(default)]
    pub(crate) last_run: Option<LastRun>,
    /// Why the last start failed.
    #[serde(default)]
    pub(crate) error: String,
    /// What a shell would give for that failure; 0 while there is none.
    #[serde(default)]
    pub(crate) start_exit_code: i32,
    /// What links and ports were before a change that is under way: if netd refuses the
    /// change, or nobody lived to ask it, this comes back.
    #[serde(default)]
    pub(crate) before_change: Option<Openings>,
    /// Removal has begun and must be finished.
    #[serde(default)]
    pub(crate) deleting: bool,
}

/// What runs, with the image's defaults filled in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    /// The user's variables, then those of the image that the user did not give.
    /// A name without `=` removes a variable.
    pub(crate) env: Vec<String>,
    /// The names in `env` that never cross a link.
    pub(crate) private_env: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) user: String,
    pub(crate) hostname: String,
    pub(crate) domainname: String,
    pub(crate) tty: bool,
    pub(crate) open_stdin: bool,
    pub(crate) labels: BTreeMap<String, String>,
    /// What the image and `--expose` say, ascending; [`Record::exposed`] adds the rest.
    pub(crate) exposed: Vec<Port>,
    pub(crate) stop_signal: String,
    pub(crate) stop_timeout_ms: Option<u64>,
    /// None means the image's; older records have none, and no check.
    #[serde(default)]
    pub(crate) health_check: Option<HealthCheck>,
}

/// How it runs on this host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HostSettings {
    pub(crate) links: Vec<Link>,
    pub(crate) port_mappings: Vec<PortMapping>,
    pub(crate) publish_all: bool,
    pub(crate) auto_remove: bool,
    pub(crate) extra_hosts: Vec<String>,
    pub(crate) memory_bytes: i64,
    pub(crate) memory_swap_bytes: i64,
    pub(crate) nano_cpus: i64,
    pub(crate) pids_limit: i64,
    pub(crate) cpu_shares: u64,
    pub(crate) cpuset_cpus: String,
    pub(crate) read_only_rootfs: bool,
    pub(crate) tmpfs: BTreeMap<String, String>,
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    pub(crate) security_options: Vec<String>,
    pub(crate) group_add: Vec<String>,
    pub(crate) shm_size_bytes: i64,
    pub(crate) dns: Vec<String>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) dns_options: Vec<String>,
    pub(crate) init: bool,
    /// Older records are of containers on the default network.
    #[serde(default)]
    pub(crate) network_mode: NetworkMode,
    #[serde(default = "network::default_networks")]
    pub(crate) networks: Vec<NetworkConfig>,
}

impl HostSettings {
    /// Whether it asks for ports of the host.
    pub(crate) fn publishes(&self) -> bool {
        self.publish_all || !self.port_mappings.is_empty()
    }
}

/// A link as it is kept: by the name of its source, so that it follows a source that
/// is made again under that name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) source: String,
    pub(crate) alias: String,
    /// `all`, `none`, or a pattern.
    pub(crate) env: String,
    /// The ports that it opens; none means all that the source exposes.
    #[serde(default)]
    pub(crate) ports: Vec<Port>,
    /// What a start of the consumer waits for.
    #[serde(default)]
    pub(crate) wait: LinkWait,
    /// How long it waits; 0 means the default.
    #[serde(default)]
    pub(crate) timeout_ms: u64,
}

/// What the start of a consumer waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LinkWait {
    /// For nothing: a source that is down refuses the start.
    #[default]
    Nothing,
    /// Until the source runs.
    Started,
    /// Until it listens on every tcp port that the link opens.
    Port,
    /// Until its health check says that it works.
    Healthy,
}

/// What a container opens: what a live change replaces as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Openings {
    pub(crate) links: Vec<Link>,
    pub(crate) port_mappings: Vec<PortMapping>,
    pub(crate) publish_all: bool,
    #[serde(default = "network::default_networks")]
    pub(crate) networks: Vec<NetworkConfig>,
}

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortMapping {
    pub(crate) container: Port,
    /// 0 lets netd choose.
    pub(crate) host_port: u16,
    /// The end of a range to choose from; 0 when there is none.
    pub(crate) host_port_end: u16,
    /// Empty means all addresses.
    pub(crate) host_ip: String,
}

/// How the last run went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastRun {
    pub(crate) started_at_ns: i64,
    /// 0 while it runs.
    pub(crate) finished_at_ns: i64,
    pub(crate) exit_code: i32,
    pub(crate) oom_killed: bool,
    /// The addresses that it had on the default network; links of others to a source that
    /// is down use them.
    pub(crate) addresses: Option<Addresses>,
    /// Those that it had on other networks.
    #[serde(default)]
    pub(crate) more_addresses: BTreeMap<String, Addresses>,
    /// The ports that it had; those that netd chose stay with the name.
    #[serde(default)]
    pub(crate) published: Vec<PortMapping>,
}

/// The addresses of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Option<Ipv6Addr>,
}

/// A run in progress. Kept only while the machine is up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) version: u32,
    pub(crate) container_id: String,
    pub(crate) phase: RunPhase,
    pub(crate) started_at_ns: i64,
    /// The first process as this host sees it; 0 until it runs.
    pub(crate) pid: i32,
    /// A handle of that process, which no other process ever gets.
    #[serde(default)]
    pub(crate) process: Option<Vec<u8>>,
    /// Of an older build, which knew one network only; read, and never written.
    #[serde(default, skip_serializing)]
    pub(crate) network: Option<NetworkSettings>,
    /// What netd gave on each network, in the order of the record. An older build sees
    /// none here, and takes the run for one that was not finished.
    #[serde(default)]
    pub(crate) networks: Vec<NetworkSettings>,
    /// The resolver configuration as the engine wrote it last.
    #[serde(default)]
    pub(crate) resolv_conf: String,
    /// The environment of the first process, which exec gets too.
    pub(crate) env: Vec<String>,
    /// The lines of the hosts file that the engine owns.
    pub(crate) hosts_lines: Vec<HostsLine>,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RunPhase {
    /// Side effects may exist; nothing is promised yet.
    Starting,
    /// The first process runs.
    Running,
}

/// What netd gave to a run on one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkSettings {
    #[serde(default)]
    pub(crate) endpoint_id: String,
    pub(crate) network: String,
    pub(crate) mac_address: String,
    pub(crate) ipv4_address: Ipv4Addr,
    pub(crate) ipv4_prefix: u32,
    pub(crate) ipv4_gateway: String,
    pub(crate) ipv6_address: Option<Ipv6Addr>,
    pub(crate) ipv6_prefix: u32,
    pub(crate) ipv6_gateway: String,
    pub(crate) netns_path: String,
    pub(crate) published: Vec<PortMapping>,
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// Whether the ports of the container are published here.
    #[serde(default)]
    pub(crate) publishes: bool,
}

/// A line of a hosts file that belongs to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostsLine {
    /// The alias of the link, or `@` and the network whose address of the container it is.
    pub(crate) alias: String,
    /// The line as it stands in the file, without its end.
    pub(crate) text: String,
}

impl Record {
    /// The first twelve digits of the id, which people see.
    pub(crate) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The host name: the configured one, or the short id.
    pub(crate) fn hostname(&self) -> &str {
        if self.config.hostname.is_empty() {
            self.short_id()
        } else {
            &self.config.hostname
        }
    }

    /// The command and its arguments.
    pub(crate) fn args(&self) -> Vec<String> {
        self.config
            .entrypoint
            .iter()
            .chain(&self.config.command)
            .cloned()
            .collect()
    }

    /// The variables of this container that a link may carry: those that were
    /// configured, without HOME, PATH and the private ones.
    pub(crate) fn shareable_env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config
            .env
            .iter()
            .filter_map(|entry| entry.split_once('='))
            .filter(|(name, _)| {
                *name != "HOME"
                    && *name != "PATH"
                    && !self.config.private_env.iter().any(|p| p == name)
            })
    }

    /// Whether the user declared the host to this container.
    pub(crate) fn reaches_host(&self) -> bool {
        self.host
            .extra_hosts
            .iter()
            .any(|entry| entry.ends_with(HOST_GATEWAY))
    }

    /// Every port that links to this container may open: those of the image, those of
    /// `--expose`, and the inner side of every published one. Ascending.
    pub(crate) fn exposed(&self) -> Vec<Port> {
        let published = self.host.port_mappings.iter().map(|m| m.container);
        let all: BTreeSet<Port> = self
            .config
            .exposed
            .iter()
            .copied()
            .chain(published)
            .collect();
        all.into_iter().collect()
    }

    /// The ports to ask netd for: those given, and with `publish_all` one for each
    /// exposed port that no mapping names.
    pub(crate) fn wanted_mappings(&self) -> Vec<PortMapping> {
        let mut mappings = self.host.port_mappings.clone();
        if self.host.publish_all {
            let named = |port: &&Port| !mappings.iter().any(|m| m.container == **port);
            let more: Vec<PortMapping> = self
                .config
                .exposed
                .iter()
                .filter(named)
                .map(|port| PortMapping::anywhere(*port))
                .collect();
            mappings.extend(more);
        }
        mappings
    }

    /// The links and ports as they are.
    pub(crate) fn openings(&self) -> Openings {
        Openings {
            links: self.host.links.clone(),
            port_mappings: self.host.port_mappings.clone(),
            publish_all: self.host.publish_all,
            networks: self.host.networks.clone(),
        }
    }

    /// Replaces the links and ports.
    pub(crate) fn set_openings(&mut self, openings: Openings) {
        let Openings {
            links,
            port_mappings,
            publish_all,
            networks,
        } = openings;
        self.host.links = links;
        self.host.port_mappings = port_mappings;
        self.host.publish_all = publish_all;
        self.host.networks = networks;
    }
}

impl LastRun {
    /// The addresses that it had on a network.
    pub(crate) fn addresses_on(&self, network: &str) -> Option<Addresses> {
        if network == DEFAULT_NETWORK {
            self.addresses
        } else {
            self.more_addresses.get(network).copied()
        }
    }

    /// Remembers what a run has.
    pub(crate) fn remember(&mut self, run: &Run) {
        self.started_at_ns = run.started_at_ns;
        self.addresses = run.addresses_on(DEFAULT_NETWORK);
        self.more_addresses = run
            .networks
            .iter()
            .filter(|network| network.network != DEFAULT_NETWORK)
            .map(|network| (network.network.clone(), network.addresses()))
            .collect();
        self.published = run.published().to_vec();
    }
}

impl Run {
    /// The run as this build knows it, from a row that any build wrote.
    pub(crate) fn upgraded(mut self) -> Self {
        if let Some(old) = self.network.take() {
            self.networks.push(NetworkSettings {
                endpoint_id: self.container_id.clone(),
                publishes: true,
                ..old
            });
        }
        self
    }

    /// The endpoint at which the ports are published.
    pub(crate) fn publisher(&self) -> Option<&NetworkSettings> {
        self.networks.iter().find(|network| network.publishes)
    }

    /// The ports of the host that lead to it.
    pub(crate) fn published(&self) -> &[PortMapping] {
        self.publisher().map_or(&[], |network| &network.published)
    }

    /// The addresses that it has on a network.
    pub(crate) fn addresses_on(&self, network: &str) -> Option<Addresses> {
        let found = self.networks.iter().find(|there| there.network == network);
        found.map(NetworkSettings::addresses)
    }

    /// Takes what netd says of one endpoint now.
    pub(crate) fn update(&mut self, settings: NetworkSettings) {
        let known = self
            .networks
            .iter_mut()
            .find(|known| known.endpoint_id == settings.endpoint_id);
        if let Some(known) = known {
            *known = NetworkSettings {
                publishes: known.publishes,
                ..settings
            };
        }
    }
}

impl PortMapping {
    /// The port on all addresses, at a number that netd chooses.
    pub(crate) fn anywhere(container: Port) -> Self {
        Self {
            container,
            host_port: 0,
            host_port_end: 0,
            host_ip: String::new(),
        }
    }
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            endpoint_id: String::new(),
            network: String::new(),
            mac_address: String::new(),
            ipv4_address: Ipv4Addr::UNSPECIFIED,
            ipv4_prefix: 0,
            ipv4_gateway: String::new(),
            ipv6_address: None,
            ipv6_prefix: 0,
            ipv6_gateway: String::new(),
            netns_path: String::new(),
            published: Vec::new(),
            aliases: Vec::new(),
            publishes: false,
        }
    }
}

impl NetworkSettings {
    /// The addresses.
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses {
            ipv4: self.ipv4_address,
            ipv6: self.ipv6_address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_and_a_run_of_the_first_version_are_read() {
        let text = r#"{"source":"db","alias":"db","env":"all"}"#;
        let link: Link = serde_json::from_str(text).unwrap();
        assert_eq!((link.wait, link.ports.len()), (LinkWait::Nothing, 0));
        let text = r#"{"started_at_ns":1,"finished_at_ns":2,"exit_code":0,"oom_killed":false,
            "addresses":null}"#;
        let run: LastRun = serde_json::from_str(text).unwrap();
        assert!(run.published.is_empty());
    }

    #[test]
    fn a_run_of_a_build_that_knew_one_network_is_read() {
        let text = r#"{"version":1,"container_id":"c","phase":"Running","started_at_ns":1,
            "pid":2,"env":[],"hosts_lines":[],"network":{"network":"bridge",
            "mac_address":"m","ipv4_address":"172.17.0.2","ipv4_prefix":16,
            "ipv4_gateway":"172.17.0.1","ipv6_address":null,"ipv6_prefix":64,
            "ipv6_gateway":"","netns_path":"/n","published":[]}}"#;
        let run: Run = serde_json::from_str::<Run>(text).unwrap().upgraded();
        assert!(run.network.is_none() && run.addresses_on("bridge").is_some());
        let publisher = run.publisher().unwrap();
        assert_eq!(publisher.endpoint_id, "c");
        let again: Run = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
        assert_eq!(again.upgraded(), run);
    }

    #[test]
    fn a_published_port_is_exposed_as_long_as_it_is_published() {
        let mut record = crate::container::tests::record("web");
        record.config.exposed = vec!["80/tcp".parse().unwrap()];
        let mapping = PortMapping::anywhere("53/udp".parse().unwrap());
        record.host.port_mappings = vec![mapping];
        assert_eq!(record.exposed().len(), 2);
        record.host.port_mappings.clear();
        assert_eq!(record.exposed(), record.config.exposed);
    }
}
