//! Wire values to and from the types of [`super::record`]. No policy.

mod health;

use std::time::Duration;

use linkspan_proto::net_v1;
use linkspan_proto::runtime_v1::{self as wire, ContainerState};
use linkspan_proto::time::{from_unix_nanos, timestamp};
use nix::sys::signal::Signal;

use super::create::Request;
use super::launch::run_paths;
use super::network::{self, NO_NETWORK, NetworkConfig, NetworkMode};
use super::record::{Config, HostSettings, Link, LinkWait, NetworkSettings, PortMapping, Record};
use super::state::State;
use super::{ContainerError, Result, View};
use crate::engine::Engine;
use crate::port::{Port, PortError};

/// The longest that a link may wait: a year, so that no clock overflows.
const MAX_TIMEOUT_MS: u64 = 365 * 24 * 3600 * 1000;

/// A mapping for the wire.
pub(crate) fn mapping_to_wire(mapping: &PortMapping) -> net_v1::PortMapping {
    let port = mapping.container.to_wire();
    net_v1::PortMapping {
        protocol: port.protocol,
        container_port: port.number,
        host_port: mapping.host_port.into(),
        host_port_end: mapping.host_port_end.into(),
        host_ip: mapping.host_ip.clone(),
    }
}

/// A mapping from the wire.
pub(crate) fn mapping_from_wire(
    mapping: &net_v1::PortMapping,
) -> std::result::Result<PortMapping, PortError> {
    let host_port = |number: u32| {
        // Checked through a port, so that the error names the value.
        let port = net_v1::Port {
            protocol: mapping.protocol,
            number: number.max(1),
        };
        Port::from_wire(&port).map(|port| if number == 0 { 0 } else { port.number })
    };
    Ok(PortMapping {
        container: Port::from_wire(&mapping.inner_port())?,
        host_port: host_port(mapping.host_port)?,
        host_port_end: host_port(mapping.host_port_end)?,
        host_ip: mapping.host_ip.clone(),
    })
}

/// The number of a signal that is written as `SIGTERM`, `TERM`, `15` or `RTMIN+3`.
pub(crate) fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse().ok()?
        };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    format!("SIG{bare}")
        .parse::<Signal>()
        .ok()
        .map(|signal| signal as i32)
}

/// A request to make a container.
pub(crate) fn create_request(request: wire::CreateContainerRequest) -> Result<Request> {
    let invalid = |what, rule: &str| ContainerError::Invalid {
        what,
        rule: rule.to_owned(),
    };
    let config = request
        .config
        .ok_or_else(|| invalid("request", "config is missing"))?;
    let host = request.host_config.unwrap_or_default();
    let stop_timeout = config
        .stop_timeout
        .as_ref()
        .map(linkspan_proto::time::duration);
    let stop_timeout_ms = match stop_timeout {
        None => None,
        Some(Some(duration)) => Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        Some(None) => return Err(invalid("stop timeout", "it is negative")),
    };
    let mut env = config.env;
    let private_env: Vec<String> = config
        .private_env
        .iter()
        .map(|entry| {
            entry
                .split_once('=')
                .map_or(entry.as_str(), |(name, _)| name)
                .to_owned()
        })
        .collect();
    env.extend(config.private_env);
    let exposed = config
        .exposed_ports
        .iter()
        .map(Port::from_wire)
        .collect::<std::result::Result<_, _>>()?;
    Ok(Request {
        name: request.name,
        image: config.image,
        has_entrypoint: config.has_entrypoint,
        request_id: request.request_id,
        discard_on_start_failure: request.discard_on_start_failure,
        host: host_settings(host)?,
        config: Config {
            entrypoint: config.entrypoint,
            command: config.command,
            env,
            private_env,
            working_dir: config.working_dir,
            user: config.user,
            hostname: config.hostname,
            domainname: config.domainname,
            tty: config.tty,
            open_stdin: config.open_stdin,
            labels: config.labels.into_iter().collect(),
            exposed,
            stop_signal: config.stop_signal,
            stop_timeout_ms,
            health_check: config
                .health_check
                .map(health::check_from_wire)
                .transpose()?,
        },
    })
}

/// A link from the wire.
pub(crate) fn link_from_wire(link: wire::LinkConfig) -> Result<Link> {
    let invalid = |rule: &str| ContainerError::Invalid {
        what: "link",
        rule: rule.to_owned(),
    };
    let wait = match wire::LinkWait::try_from(link.wait) {
        Ok(wire::LinkWait::Unspecified) => LinkWait::Nothing,
        Ok(wire::LinkWait::Started) => LinkWait::Started,
        Ok(wire::LinkWait::Port) => LinkWait::Port,
        Ok(wire::LinkWait::Healthy) => LinkWait::Healthy,
        Err(_unknown) => {
            return Err(invalid(
                "it waits for something that this engine does not know",
            ));
        }
    };
    let timeout_ms = match link.timeout.as_ref().map(linkspan_proto::time::duration) {
        None => 0,
        Some(Some(timeout)) => u64::try_from(timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1),
        Some(None) => return Err(invalid("its timeout is negative")),
    };
    let ports = link.ports.iter().map(Port::from_wire);
    Ok(Link {
        source: link.source,
        alias: link.alias,
        env: if link.env.is_empty() {
            "all".to_owned()
        } else {
            link.env
        },
        ports: ports.collect::<std::result::Result<_, _>>()?,
        wait,
        timeout_ms: timeout_ms.min(MAX_TIMEOUT_MS),
    })
}

/// A link for the wire.
pub(crate) fn link_to_wire(link: &Link) -> wire::LinkConfig {
    let wait = match link.wait {
        LinkWait::Nothing => wire::LinkWait::Unspecified,
        LinkWait::Started => wire::LinkWait::Started,
        LinkWait::Port => wire::LinkWait::Port,
        LinkWait::Healthy => wire::LinkWait::Healthy,
    };
    let timeout = Duration::from_millis(link.timeout_ms);
    wire::LinkConfig {
        source: link.source.clone(),
        alias: link.alias.clone(),
        env: link.env.clone(),
        ports: link.ports.iter().map(|port| port.to_wire()).collect(),
        wait: wait.into(),
        timeout: (link.timeout_ms != 0)
            .then(|| prost_types::Duration::try_from(timeout).ok())
            .flatten(),
    }
}

/// A network of a container from the wire.
pub(crate) fn network_from_wire(config: wire::NetworkConfig) -> Result<NetworkConfig> {
    fn address<T: std::str::FromStr>(text: &str) -> Result<Option<T>> {
        let parsed = (!text.is_empty()).then(|| text.parse()).transpose();
        parsed.map_err(|_bad| ContainerError::Invalid {
            what: "network",
            rule: format!("`{text}` is no address of its family"),
        })
    }
    Ok(NetworkConfig {
        network: config.network,
        aliases: config.aliases,
        ipv4: address(&config.ipv4_address)?,
        ipv6: address(&config.ipv6_address)?,
    })
}

/// A network of a container for the wire.
fn network_to_wire(config: &NetworkConfig) -> wire::NetworkConfig {
    let text = |address: Option<String>| address.unwrap_or_default();
    wire::NetworkConfig {
        network: config.network.clone(),
        aliases: config.aliases.clone(),
        ipv4_address: text(config.ipv4.map(|ip| ip.to_string())),
        ipv6_address: text(config.ipv6.map(|ip| ip.to_string())),
    }
}

fn host_settings(host: wire::HostConfig) -> Result<HostSettings> {
    let mappings = host.port_mappings.iter().map(mapping_from_wire);
    for (what, value) in [
        ("memory limit", host.memory_bytes),
        ("number of CPUs", host.nano_cpus),
        ("size of /dev/shm", host.shm_size_bytes),
    ] {
        if value < 0 {
            return Err(ContainerError::Invalid {
                what,
                rule: format!("{value} is negative"),
            });
        }
    }
    let networks = host.networks.into_iter().map(network_from_wire);
    let (network_mode, networks) =
        network::parse(&host.network_mode, networks.collect::<Result<_>>()?)?;
    Ok(HostSettings {
        network_mode,
        networks,
        links: host
            .links
            .into_iter()
            .map(link_from_wire)
            .collect::<Result<_>>()?,
        port_mappings: mappings.collect::<std::result::Result<_, _>>()?,
        publish_all: host.publish_all_ports,
        auto_remove: host.auto_remove,
        extra_hosts: host.extra_hosts,
        memory_bytes: host.memory_bytes,
        memory_swap_bytes: host.memory_swap_bytes,
        nano_cpus: host.nano_cpus,
        pids_limit: host.pids_limit,
        cpu_shares: host.cpu_shares,
        cpuset_cpus: host.cpuset_cpus,
        read_only_rootfs: host.read_only_rootfs,
        tmpfs: host.tmpfs.into_iter().collect(),
        cap_add: host.cap_add,
        cap_drop: host.cap_drop,
        security_options: host.security_options,
        group_add: host.group_add,
        shm_size_bytes: host.shm_size_bytes,
        dns: host.dns,
        dns_search: host.dns_search,
        dns_options: host.dns_options,
        init: host.init,
    })
}

/// A container for the wire.
pub(crate) fn container_to_wire(engine: &Engine, view: &View) -> wire::Container {
    let record = &view.record;
    let last = record.last_run.clone().unwrap_or_default();
    let time = |nanos: i64| (nanos != 0).then(|| timestamp(from_unix_nanos(nanos)));
    let paths = run_paths(engine, &record.id);
    wire::Container {
        id: record.id.clone(),
        name: record.name.clone(),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        config: Some(config_to_wire(record)),
        host_config: Some(host_to_wire(&record.host)),
        state: state_to_wire(view.state).into(),
        pid: view.run.as_ref().map_or(0, |run| run.pid),
        exit_code: match (view.state, record.start_exit_code) {
            (State::Running, _) | (_, 0) => last.exit_code,
            (_, failed) => failed,
        },
        error: record.error.clone(),
        oom_killed: last.oom_killed,
        created_at: time(record.created_at_ns),
        started_at: time(last.started_at_ns),
        finished_at: time(last.finished_at_ns),
        networks: view
            .run
            .iter()
            .flat_map(|run| &run.networks)
            .map(settings_to_wire)
            .collect(),
        exposed_ports: exposed_to_wire(record),
        restart_count: 0,
        log_path: paths.log,
        hosts_path: paths.hosts,
        hostname_path: paths.hostname,
        resolv_conf_path: paths.resolv_conf,
        health: view.health.as_ref().map(health::to_wire),
    }
}

fn exposed_to_wire(record: &Record) -> Vec<net_v1::Port> {
    record.exposed().iter().map(|port| port.to_wire()).collect()
}

fn state_to_wire(state: State) -> ContainerState {
    match state {
        State::Created => ContainerState::Created,
        State::Running => ContainerState::Running,
        State::Stopped => ContainerState::Stopped,
        State::Deleting => ContainerState::Deleting,
    }
}

fn config_to_wire(record: &Record) -> wire::ContainerConfig {
    let config = &record.config;
    let is_private = |entry: &&String| {
        let name = entry
            .split_once('=')
            .map_or(entry.as_str(), |(name, _)| name);
        config.private_env.iter().any(|private| private == name)
    };
    wire::ContainerConfig {
        image: record.image.clone(),
        command: config.command.clone(),
        entrypoint: config.entrypoint.clone(),
        has_entrypoint: !config.entrypoint.is_empty(),
        env: config
            .env
            .iter()
            .filter(|entry| !is_private(entry))
            .cloned()
            .collect(),
        private_env: config.env.iter().filter(is_private).cloned().collect(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        hostname: record.hostname().to_owned(),
        domainname: config.domainname.clone(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        labels: config.labels.clone().into_iter().collect(),
        exposed_ports: exposed_to_wire(record),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config
            .stop_timeout_ms
            .and_then(|ms| prost_types::Duration::try_from(Duration::from_millis(ms)).ok()),
        health_check: config.health_check.as_ref().map(health::check_to_wire),
    }
}

fn host_to_wire(host: &HostSettings) -> wire::HostConfig {
    wire::HostConfig {
        links: host.links.iter().map(link_to_wire).collect(),
        port_mappings: host.port_mappings.iter().map(mapping_to_wire).collect(),
        publish_all_ports: host.publish_all,
        auto_remove: host.auto_remove,
        extra_hosts: host.extra_hosts.clone(),
        network_mode: match (&host.network_mode, host.networks.first()) {
            (NetworkMode::Networks, Some(first)) => first.network.clone(),
            (NetworkMode::Networks, None) => NO_NETWORK.to_owned(),
            (mode, _) => mode.word(),
        },
        networks: host.networks.iter().map(network_to_wire).collect(),
        memory_bytes: host.memory_bytes,
        memory_swap_bytes: host.memory_swap_bytes,
        nano_cpus: host.nano_cpus,
        pids_limit: host.pids_limit,
        cpu_shares: host.cpu_shares,
        cpuset_cpus: host.cpuset_cpus.clone(),
        read_only_rootfs: host.read_only_rootfs,
        tmpfs: host.tmpfs.clone().into_iter().collect(),
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        security_options: host.security_options.clone(),
        group_add: host.group_add.clone(),
        shm_size_bytes: host.shm_size_bytes,
        dns: host.dns.clone(),
        dns_search: host.dns_search.clone(),
        dns_options: host.dns_options.clone(),
        init: host.init,
    }
}

/// What a run has on a network, for the wire.
pub(crate) fn settings_to_wire(network: &NetworkSettings) -> wire::NetworkSettings {
    wire::NetworkSettings {
        network: network.network.clone(),
        mac_address: network.mac_address.clone(),
        ipv4_address: network.ipv4_address.to_string(),
        ipv4_prefix: network.ipv4_prefix,
        ipv4_gateway: network.ipv4_gateway.clone(),
        ipv6_address: network
            .ipv6_address
            .map(|a| a.to_string())
            .unwrap_or_default(),
        ipv6_prefix: network.ipv6_prefix,
        ipv6_gateway: network.ipv6_gateway.clone(),
        published: network.published.iter().map(mapping_to_wire).collect(),
        endpoint_id: network.endpoint_id.clone(),
        aliases: network.aliases.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_by_name_and_number() {
        assert_eq!(parse_signal("TERM"), Some(15));
        assert_eq!(parse_signal("sigkill"), Some(9));
        assert_eq!(parse_signal("RTMIN+3"), Some(37));
        for bad in ["", "0", "65", "SIGFOO", "-1", "RTMIN+99"] {
            assert_eq!(parse_signal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_mapping_survives_the_wire() {
        let mapping = PortMapping {
            container: "53/udp".parse().unwrap(),
            host_port: 8000,
            host_port_end: 8005,
            host_ip: "127.0.0.1".to_owned(),
        };
        assert_eq!(
            mapping_from_wire(&mapping_to_wire(&mapping)).unwrap(),
            mapping
        );
        let mut wire = mapping_to_wire(&mapping);
        wire.host_port = 70000;
        mapping_from_wire(&wire).unwrap_err();
    }
}
