//! The three files that every container gets from the engine: hosts, hostname, resolv.conf.
//!
//! Written anew at each start, in the directory of the run, and bound into the container. A
//! container that shares the network of another has that one's files.

use std::net::IpAddr;
use std::path::Path;

use super::link::ResolvedLink;
use super::network::{self, NetworkMode};
use super::record::{HOST_GATEWAY, NetworkSettings, Record, Run};
use super::spec::RunPaths;
use super::{ContainerError, Result, attachment, hosts, launch, resolver};
use crate::engine::Engine;

/// The host's own table of names.
const HOST_HOSTS: &str = "/etc/hosts";

/// Writes the files, remembers in the run what belongs to the engine, and gives the paths
/// of those that the container is to have.
pub(crate) fn write(
    engine: &Engine,
    record: &Record,
    paths: RunPaths,
    run: &mut Run,
    links: &[ResolvedLink],
) -> Result<RunPaths> {
    if let NetworkMode::Container(id) = &record.host.network_mode {
        let owner = attachment::shared(engine, record, id)?;
        let theirs = launch::run_paths(engine, &owner.record.id);
        return Ok(RunPaths {
            hosts: theirs.hosts,
            hostname: theirs.hostname,
            resolv_conf: theirs.resolv_conf,
            ..paths
        });
    }
    let own = hosts::own_lines(record, &run.networks);
    let others: Vec<_> = links.iter().flat_map(ResolvedLink::hosts_lines).collect();
    let gateway = run
        .networks
        .first()
        .map(|first| first.ipv4_gateway.as_str());
    let mut extra = Vec::new();
    for entry in &record.host.extra_hosts {
        extra.push(extra_host(entry, gateway.unwrap_or("127.0.0.1"))?);
    }
    let hosts = match record.host.network_mode {
        NetworkMode::Host if extra.is_empty() => {
            std::fs::read_to_string(HOST_HOSTS).unwrap_or_default()
        }
        _ => hosts::render(&own, &extra, &others),
    };
    run.resolv_conf = resolv_conf(record, &run.networks);
    run.hosts_lines = own.into_iter().chain(others).collect();
    let contents = [
        (&paths.hosts, hosts),
        (&paths.hostname, format!("{}\n", record.hostname())),
        (&paths.resolv_conf, run.resolv_conf.clone()),
    ];
    for (path, text) in contents {
        std::fs::write(path, text).map_err(|source| ContainerError::Files {
            act: format!("write `{path}`"),
            source,
        })?;
    }
    Ok(paths)
}

/// The resolver configuration of a container on these networks.
pub(crate) fn resolv_conf(record: &Record, networks: &[NetworkSettings]) -> String {
    let host = &record.host;
    let wanted = resolver::Wanted {
        servers: &host.dns,
        search: &host.dns_search,
        options: &host.dns_options,
    };
    match host.network_mode {
        NetworkMode::Host => resolver::of_host(wanted),
        _ => resolver::render(
            &resolver::host_configuration(),
            wanted,
            network::name_server(networks),
        ),
    }
}

/// Puts another text into a file of a running container, in place: the container has this
/// inode mounted. What the container wrote itself is left alone.
pub(crate) fn replace(path: &Path, old: &str, new: &str) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    if std::fs::read_to_string(path)? != old {
        return Ok(false);
    }
    let file = std::fs::File::options().write(true).open(path)?;
    // Written first and cut last: a reader in between sees no empty file.
    file.write_all_at(new.as_bytes(), 0)?;
    file.set_len(new.len() as u64)?;
    Ok(true)
}

/// Reads `NAME:ADDRESS`, where `host-gateway` stands for the gateway.
pub(crate) fn extra_host(entry: &str, gateway: &str) -> Result<(String, IpAddr)> {
    let invalid = |rule: String| ContainerError::Invalid {
        what: "--add-host",
        rule,
    };
    let (name, address) = entry
        .split_once([':', '='])
        .ok_or_else(|| invalid(format!("`{entry}` is not NAME:ADDRESS")))?;
    let valid = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !valid {
        return Err(invalid(format!("`{name}` is no host name")));
    }
    let text = if address == HOST_GATEWAY {
        gateway
    } else {
        address
    };
    let text = text.trim_start_matches('[').trim_end_matches(']');
    let address = text
        .parse()
        .map_err(|_e| invalid(format!("`{text}` is no IP address")))?;
    Ok((name.to_owned(), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_host_is_a_name_and_an_address() {
        let host = |entry| extra_host(entry, "172.17.0.1").map(|(n, a)| format!("{n} {a}"));
        assert_eq!(host("db:10.0.0.1").unwrap(), "db 10.0.0.1");
        assert_eq!(host("db:::1").unwrap(), "db ::1");
        assert_eq!(host("h:host-gateway").unwrap(), "h 172.17.0.1");
        for bad in ["a", ":1.1.1.1", "a b:1.1.1.1", "a:zzz", "a\n:1.1.1.1"] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }
}
