//! `inspect`: everything about a container, an image or a network, in the shape that Docker's users know.
//!
//! Keys are never left out: a program that indexes them finds a zero value.

use std::collections::BTreeMap;
use std::process::ExitCode;

use linkspan_proto::net_v1::{Port, PortMapping};
use linkspan_proto::runtime_v1 as wire;
use serde_json::{Map, Value as Json, json};

use super::network;
use super::ps::{health_word, state_word};
use super::time::rfc3339;
use crate::args::InspectArguments;
use crate::client::Client;
use crate::error::is_not_found;
use crate::printer;
use crate::template::Format;

/// The network that is always there.
const DEFAULT_NETWORK: &str = "bridge";

/// Prints objects; one that does not exist makes the command fail, after the others.
pub(crate) async fn run(
    mut client: Client,
    arguments: InspectArguments,
) -> anyhow::Result<ExitCode> {
    let format = arguments.format.as_deref().filter(|text| !text.is_empty());
    let template = format
        .filter(|text| *text != "json")
        .map(Format::parse)
        .transpose()?;
    let mut objects = Vec::new();
    let mut missing = Vec::new();
    for name in arguments.names {
        match find(&mut client, &name, arguments.kind.as_deref()).await? {
            Some(object) => objects.push(object),
            None => missing.push(name),
        }
    }
    match (template, format) {
        (Some(template), _) => {
            for object in &objects {
                printer::line(&template.render(object)?)?;
            }
        }
        (None, Some(_json)) => printer::line(&Json::Array(objects).to_string())?,
        (None, None) => printer::line(&indented(&Json::Array(objects))?)?,
    }
    for name in &missing {
        printer::talk(&format!(
            "linkspan: no container, image or network has the id or name `{name}`"
        ));
    }
    Ok(if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn find(client: &mut Client, name: &str, kind: Option<&str>) -> anyhow::Result<Option<Json>> {
    if kind.is_none_or(|kind| kind == "container") {
        match client.container(name).await {
            Ok(container) => return Ok(Some(container_json(&container))),
            Err(status) if is_not_found(&status) => {}
            Err(status) => return Err(status.into()),
        }
    }
    if kind.is_none_or(|kind| kind == "image") {
        let request = wire::GetImageRequest {
            image: name.to_owned(),
        };
        match client.images.get_image(request).await {
            Ok(response) => return Ok(response.into_inner().image.map(|image| image_json(&image))),
            // A name that no image could have is one that does not exist.
            Err(status)
                if is_not_found(&status) || status.code() == tonic::Code::InvalidArgument => {}
            Err(status) => return Err(status.into()),
        }
    }
    if kind.is_none_or(|kind| kind == "network") {
        let request = wire::GetNetworkRequest {
            network: name.to_owned(),
        };
        match client.networks.get_network(request).await {
            Ok(response) => return Ok(Some(network::object(&response.into_inner()))),
            Err(status) if is_not_found(&status) => {}
            Err(status) => return Err(status.into()),
        }
    }
    Ok(None)
}

/// JSON with four spaces, as Docker indents it.
pub(super) fn indented(value: &Json) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    Ok(String::from_utf8(bytes)?)
}

fn container_json(container: &wire::Container) -> Json {
    let config = container.config.clone().unwrap_or_default();
    let host = container.host_config.clone().unwrap_or_default();
    let mut args: Vec<&String> = config.entrypoint.iter().chain(&config.command).collect();
    let path = if args.is_empty() {
        String::new()
    } else {
        args.remove(0).clone()
    };
    let state = state_word(container.state());
    json!({
        "Id": container.id,
        "Created": rfc3339(container.created_at.as_ref()),
        "Path": path,
        "Args": args,
        "State": {
            "Status": state,
            "Running": state == "running" || state == "paused",
            "Paused": state == "paused",
            "Restarting": false,
            "OOMKilled": container.oom_killed,
            "Dead": false,
            "Pid": container.pid,
            "ExitCode": container.exit_code,
            "Error": container.error,
            "StartedAt": rfc3339(container.started_at.as_ref()),
            "FinishedAt": rfc3339(container.finished_at.as_ref()),
            "Health": health_json(container),
        },
        "Image": container.image_id,
        "ResolvConfPath": container.resolv_conf_path,
        "HostnamePath": container.hostname_path,
        "HostsPath": container.hosts_path,
        "LogPath": container.log_path,
        "Name": format!("/{}", container.name),
        "RestartCount": container.restart_count,
        "Driver": "overlay",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_json(&container.name, &host),
        "Mounts": [],
        "Config": config_json(container, &config),
        "NetworkSettings": network_json(container),
    })
}

fn config_json(container: &wire::Container, config: &wire::ContainerConfig) -> Json {
    let exposed: Map<String, Json> = container
        .exposed_ports
        .iter()
        .map(|port| (port.to_string(), json!({})))
        .collect();
    let env: Vec<&String> = config.env.iter().chain(&config.private_env).collect();
    let labels: BTreeMap<_, _> = config.labels.iter().collect();
    json!({
        "Hostname": config.hostname,
        "Domainname": config.domainname,
        "User": config.user,
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "ExposedPorts": exposed,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.open_stdin,
        "Env": env,
        "Cmd": config.command,
        "Image": config.image,
        "Volumes": null,
        "WorkingDir": config.working_dir,
        "Entrypoint": if config.entrypoint.is_empty() { Json::Null } else { json!(config.entrypoint) },
        "OnBuild": null,
        "Labels": labels,
        "StopSignal": config.stop_signal,
        "StopTimeout": config.stop_timeout.as_ref().map(|timeout| timeout.seconds),
        "Healthcheck": config.health_check.as_ref().map(check_json),
    })
}

/// A health check as Docker's users know it: times in nanoseconds.
fn check_json(check: &wire::HealthCheck) -> Json {
    let nanoseconds = |time: &Option<prost_types::Duration>| {
        time.map_or(0, |time| {
            time.seconds * 1_000_000_000 + i64::from(time.nanos)
        })
    };
    json!({
        "Test": check.test,
        "Interval": nanoseconds(&check.interval),
        "Timeout": nanoseconds(&check.timeout),
        "StartPeriod": nanoseconds(&check.start_period),
        "StartInterval": nanoseconds(&check.start_interval),
        "Retries": check.retries,
    })
}

/// Null without a health check.
fn health_json(container: &wire::Container) -> Json {
    let Some(health) = &container.health else {
        return Json::Null;
    };
    let log: Vec<Json> = health
        .log
        .iter()
        .map(|probe| {
            json!({
                "Start": rfc3339(probe.started_at.as_ref()),
                "End": rfc3339(probe.ended_at.as_ref()),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })
        })
        .collect();
    json!({
        "Status": health_word(container),
        "FailingStreak": health.failing_streak,
        "Log": log,
    })
}

fn host_json(name: &str, host: &wire::HostConfig) -> Json {
    let links: Vec<String> = host
        .links
        .iter()
        .map(|link| format!("/{}:/{name}/{}", link.source, link.alias))
        .collect();
    let mut bindings: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for mapping in &host.port_mappings {
        bindings
            .entry(mapping.inner_port().to_string())
            .or_default()
            .push(binding(mapping));
    }
    let tmpfs: BTreeMap<_, _> = host.tmpfs.iter().collect();
    json!({
        "Binds": null,
        "LogConfig": {"Type": "cri", "Config": {}},
        "NetworkMode": host.network_mode,
        "PortBindings": bindings,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": host.auto_remove,
        "Links": links,
        "CapAdd": host.cap_add,
        "CapDrop": host.cap_drop,
        "Dns": host.dns,
        "DnsOptions": host.dns_options,
        "DnsSearch": host.dns_search,
        "ExtraHosts": host.extra_hosts,
        "GroupAdd": host.group_add,
        "Privileged": false,
        "PublishAllPorts": host.publish_all_ports,
        "ReadonlyRootfs": host.read_only_rootfs,
        "SecurityOpt": host.security_options,
        "Tmpfs": tmpfs,
        "ShmSize": if host.shm_size_bytes == 0 { 64 << 20 } else { host.shm_size_bytes },
        "Memory": host.memory_bytes,
        "MemorySwap": host.memory_swap_bytes,
        "NanoCpus": host.nano_cpus,
        "CpuShares": host.cpu_shares,
        "CpusetCpus": host.cpuset_cpus,
        "PidsLimit": if host.pids_limit == 0 { 2048 } else { host.pids_limit },
        "Init": host.init,
    })
}

fn network_json(container: &wire::Container) -> Json {
    let mut ports: BTreeMap<String, Json> = BTreeMap::new();
    if !container.networks.is_empty() {
        ports.extend(
            container
                .exposed_ports
                .iter()
                .map(|port: &Port| (port.to_string(), Json::Null)),
        );
    }
    for mapping in container.published() {
        let entry = ports
            .entry(mapping.inner_port().to_string())
            .or_insert(Json::Null);
        match entry.as_array_mut() {
            Some(list) => list.push(binding(mapping)),
            None => *entry = json!([binding(mapping)]),
        }
    }
    let there = |network: &str| {
        let found = container.networks.iter().find(|n| n.network == network);
        found.cloned().unwrap_or_default()
    };
    let host = container.host_config.as_ref();
    let networks: Map<String, Json> = host
        .iter()
        .flat_map(|host| &host.networks)
        .map(|config| {
            let endpoint = endpoint_json(container, config, &there(&config.network));
            (config.network.clone(), endpoint)
        })
        .collect();
    let own = json!({
        "Bridge": "",
        "SandboxID": container.id,
        "Ports": ports,
        "Networks": networks,
    });
    // Those of the default network only, as Docker has it.
    merged(own, addresses(&there(DEFAULT_NETWORK)))
}

fn endpoint_json(
    container: &wire::Container,
    config: &wire::NetworkConfig,
    settings: &wire::NetworkSettings,
) -> Json {
    let has_names = config.network != DEFAULT_NETWORK;
    let wants_address = !config.ipv4_address.is_empty() || !config.ipv6_address.is_empty();
    let own_names = [
        container.name.as_str(),
        container.id.get(..12).unwrap_or_default(),
    ];
    let names: Vec<&str> = own_names
        .into_iter()
        .chain(config.aliases.iter().map(String::as_str))
        .collect();
    let endpoint = json!({
        "IPAMConfig": if wants_address {
            json!({"IPv4Address": config.ipv4_address, "IPv6Address": config.ipv6_address})
        } else {
            Json::Null
        },
        "Links": null,
        "Aliases": if has_names { json!(config.aliases) } else { Json::Null },
        "DNSNames": if has_names { json!(names) } else { Json::Null },
        "NetworkID": config.network,
        "EndpointID": settings.endpoint_id,
    });
    merged(endpoint, addresses(settings))
}

fn addresses(settings: &wire::NetworkSettings) -> Json {
    json!({
        "Gateway": settings.ipv4_gateway,
        "IPAddress": settings.ipv4_address,
        "IPPrefixLen": settings.ipv4_prefix,
        "IPv6Gateway": settings.ipv6_gateway,
        "GlobalIPv6Address": settings.ipv6_address,
        "GlobalIPv6PrefixLen": settings.ipv6_prefix,
        "MacAddress": settings.mac_address,
    })
}

/// The fields of both objects.
fn merged(mut object: Json, more: Json) -> Json {
    if let (Some(fields), Json::Object(more)) = (object.as_object_mut(), more) {
        fields.extend(more);
    }
    object
}

fn binding(mapping: &PortMapping) -> Json {
    let port = match (mapping.host_port, mapping.host_port_end) {
        (0, _) => String::new(),
        (first, 0) => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    json!({"HostIp": mapping.host_ip, "HostPort": port})
}

fn image_json(image: &wire::Image) -> Json {
    let exposed: Map<String, Json> = image
        .exposed_ports
        .iter()
        .map(|port| (port.to_string(), json!({})))
        .collect();
    let labels: BTreeMap<_, _> = image.labels.iter().collect();
    json!({
        "Id": image.id,
        "RepoTags": image.references,
        "RepoDigests": [],
        "Parent": "",
        "Comment": "",
        "Created": rfc3339(image.created_at.as_ref()),
        "Author": "",
        "Config": {
            "User": image.user,
            "ExposedPorts": exposed,
            "Env": image.env,
            "Cmd": image.command,
            "WorkingDir": image.working_dir,
            "Entrypoint": if image.entrypoint.is_empty() { Json::Null } else { json!(image.entrypoint) },
            "Labels": labels,
            "StopSignal": image.stop_signal,
        },
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size_bytes,
        "RootFS": {"Type": "layers", "Layers": image.layers},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows S12, S13, S14, S26 and S27.
    #[test]
    fn a_container_has_the_keys_that_dockers_users_index() {
        let mut container = wire::Container {
            name: "web".to_owned(),
            ..Default::default()
        };
        let link = |source: &str| wire::LinkConfig {
            source: source.to_owned(),
            alias: "db".to_owned(),
            ..Default::default()
        };
        assert_eq!(container_json(&container)["HostConfig"]["Links"], json!([]));
        container.host_config = Some(wire::HostConfig {
            links: vec![link("db")],
            ..Default::default()
        });
        let object = container_json(&container);
        assert_eq!(object["Name"], "/web");
        assert_eq!(object["HostConfig"]["Links"], json!(["/db:/web/db"]));
        assert_eq!(object["NetworkSettings"]["Ports"], json!({}));
        assert_eq!(object["State"]["Running"], false);
    }
}
