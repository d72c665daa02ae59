//! Between wire messages and domain types. What is refused here says which field is
//! wrong, in one sentence.

use std::net::IpAddr;
use std::str::FromStr;

use linkspan_proto::net_v1 as wire;

use super::NetworkInfo;
use crate::network::registry::LinkStatus;
use crate::network::traffic::{NetworkTraffic, PortStatus, Traffic};
use crate::network::{
    AttachRequest, DEFAULT_NETWORK, Egress, Endpoint, EndpointId, HostPort, InvalidValue, Link,
    MoveRequest, Name, Network, NetworkError, NetworkRequest, Policy, Port, PortMapping, Protocol,
    PublishedPort, Registry, UpdateRequest, WantedAddresses, subnet,
};

const LONGEST_HOSTNAME: usize = 253;
const MOST_PORTS: usize = 4096;

/// Reads a name or an id.
pub(super) fn parse<T: FromStr<Err = InvalidValue>>(text: &str) -> Result<T, NetworkError> {
    Ok(text.parse()?)
}

/// Reads the name of a network; none means the default one.
pub(super) fn network_name(text: &str) -> Result<Name, NetworkError> {
    let text = if text.is_empty() {
        DEFAULT_NETWORK
    } else {
        text
    };
    // What is no name is no network's name.
    text.parse().map_err(|_bad| NetworkError::NetworkNotFound {
        network: text.to_owned(),
    })
}

/// Reads a request to attach.
pub(super) fn attach_request(
    request: wire::AttachEndpointRequest,
) -> Result<AttachRequest, NetworkError> {
    let wire::AttachEndpointRequest {
        endpoint_id,
        name,
        hostname,
        network,
        exposed,
        port_mappings,
        links,
        host_access,
        sandbox_id,
        aliases,
        ipv4_address,
        ipv6_address,
        dns_servers,
    } = request;
    let network = network_name(&network)?;
    let id: EndpointId = parse(&endpoint_id)?;
    check_counts(&[
        exposed.len(),
        port_mappings.len(),
        links.len(),
        aliases.len(),
        dns_servers.len(),
    ])?;
    let hostname = if hostname.is_empty() {
        id.short().to_owned()
    } else {
        hostname
    };
    check_word("host name", &hostname)?;
    Ok(AttachRequest {
        id,
        network,
        sandbox: match sandbox_id.as_str() {
            "" => None,
            other => Some(parse(other)?),
        },
        name: parse(&name)?,
        wanted: WantedAddresses {
            ipv4: address(&ipv4_address)?,
            ipv6: address(&ipv6_address)?,
        },
        hostname,
        aliases: checked_aliases(aliases)?,
        exposed: sorted_ports(&exposed)?,
        mappings: all(&port_mappings, port_mapping)?,
        links: all(&links, link)?,
        host_access,
        dns_servers: all(&dns_servers, |text| {
            text.parse()
                .map_err(|_bad| invalid(format!("the name server {text:?} is no address")))
        })?,
    })
}

/// Reads a request to change an endpoint.
pub(super) fn update_request(
    request: wire::UpdateEndpointRequest,
) -> Result<UpdateRequest, NetworkError> {
    let wire::UpdateEndpointRequest {
        endpoint_id,
        port_mappings,
        links,
        exposed,
        aliases,
    } = request;
    check_counts(&[
        exposed.len(),
        port_mappings.len(),
        links.len(),
        aliases.len(),
    ])?;
    Ok(UpdateRequest {
        id: parse(&endpoint_id)?,
        mappings: all(&port_mappings, port_mapping)?,
        links: all(&links, link)?,
        exposed: sorted_ports(&exposed)?,
        aliases: checked_aliases(aliases)?,
    })
}

/// Reads a request to move a port.
pub(super) fn move_request(request: &wire::MovePortRequest) -> Result<MoveRequest, NetworkError> {
    let container = port(request.protocol(), request.container_port)?;
    Ok(MoveRequest {
        protocol: container.protocol,
        host_port: host_port(request.host_port)?,
        to: parse(&request.to_endpoint_id)?,
        container_port: container.number,
    })
}

/// Reads a request to make a network.
pub(super) fn network_request(
    request: wire::CreateNetworkRequest,
) -> Result<NetworkRequest, NetworkError> {
    let policy = match request.policy() {
        wire::NetworkPolicy::Isolated => Policy::Isolated,
        wire::NetworkPolicy::Open | wire::NetworkPolicy::Unspecified => Policy::Open,
    };
    let wire::CreateNetworkRequest {
        name,
        ipv4_subnet,
        ipv6_subnet,
        ipv4_gateway,
        ipv4_range,
        policy: _,
        internal,
        labels,
    } = request;
    let subnet4 = |text: &str| match text {
        "" => Ok(None),
        text => subnet::parse_ipv4(text).map(Some),
    };
    Ok(NetworkRequest {
        name: parse(&name)?,
        ipv4: subnet4(&ipv4_subnet)?,
        ipv6: match ipv6_subnet.as_str() {
            "" => None,
            text => Some(subnet::parse_ipv6(text)?),
        },
        gateway: address(&ipv4_gateway)?,
        range: subnet4(&ipv4_range)?,
        policy,
        egress: if internal {
            Egress::Internal
        } else {
            Egress::Open
        },
        labels: labels.into_iter().collect(),
    })
}

/// Writes a network.
pub(super) fn network(
    network: &Network,
    registry: &Registry,
    info: &NetworkInfo,
    traffic: &NetworkTraffic,
) -> wire::Network {
    let Network {
        name,
        bridge_name,
        subnets,
        range,
        policy,
        egress,
        labels,
        created_seconds,
    } = network;
    let gateway = subnets.gateway();
    let count = registry.count_on(name);
    wire::Network {
        name: name.to_string(),
        bridge_name: bridge_name.clone(),
        ipv4_subnet: subnets.ipv4.to_string(),
        ipv4_gateway: gateway.ipv4.to_string(),
        ipv6_subnet: subnets.ipv6.to_string(),
        ipv6_gateway: gateway.ipv6.to_string(),
        endpoint_count: u32::try_from(count).unwrap_or(u32::MAX),
        quarantine: prost_types::Duration::try_from(info.config.quarantine).ok(),
        policy: match policy {
            Policy::Open => wire::NetworkPolicy::Open,
            Policy::Isolated => wire::NetworkPolicy::Isolated,
        }
        .into(),
        internal: *egress == Egress::Internal,
        ipv4_range: range.map(|range| range.to_string()).unwrap_or_default(),
        labels: labels.clone().into_iter().collect(),
        created_at: created_seconds.map(|seconds| prost_types::Timestamp {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        sent_packets: traffic.sent.packets,
        sent_bytes: traffic.sent.bytes,
        received_packets: traffic.received.packets,
        received_bytes: traffic.received.bytes,
    }
}

/// Writes an endpoint.
pub(super) fn endpoint(
    endpoint: &Endpoint,
    registry: &Registry,
    info: &NetworkInfo,
) -> wire::Endpoint {
    let Endpoint {
        id,
        network,
        sandbox,
        ifname,
        name,
        hostname,
        aliases,
        addresses,
        exposed,
        published,
        links: _,
        host: _,
        dns_servers: _,
    } = endpoint;
    let written = wire::Endpoint {
        id: id.to_string(),
        name: name.to_string(),
        hostname: hostname.clone(),
        network: network.to_string(),
        mac_address: addresses.mac().to_string(),
        ipv4_address: addresses.ipv4.to_string(),
        ipv6_address: addresses.ipv6.to_string(),
        netns_path: info
            .config
            .netns_directory()
            .join(sandbox.as_str())
            .display()
            .to_string(),
        published: published.iter().map(published_port).collect(),
        exposed: exposed.iter().copied().map(wire_port).collect(),
        ifname: ifname.clone(),
        sandbox_id: sandbox.to_string(),
        aliases: aliases.clone(),
        ..wire::Endpoint::default()
    };
    let Some(found) = registry.find_network(network) else {
        return written;
    };
    let gateway = found.subnets.gateway();
    wire::Endpoint {
        ipv4_prefix: found.subnets.ipv4.prefix.into(),
        ipv4_gateway: gateway.ipv4.to_string(),
        ipv6_prefix: found.subnets.ipv6.prefix.into(),
        ipv6_gateway: gateway.ipv6.to_string(),
        ..written
    }
}

/// Writes all endpoints, by name.
pub(super) fn endpoints(registry: &Registry, info: &NetworkInfo) -> Vec<wire::Endpoint> {
    registry
        .by_name()
        .map(|found| endpoint(found, registry, info))
        .collect()
}

/// Writes a link, whether it is open, and what passed.
pub(super) fn link_status((status, traffic): (LinkStatus, Traffic)) -> wire::LinkStatus {
    let LinkStatus {
        consumer_name,
        link,
        network,
        open,
    } = status;
    let Link {
        alias,
        source_name,
        ports,
    } = link;
    wire::LinkStatus {
        consumer_name: consumer_name.to_string(),
        link: Some(wire::Link {
            alias,
            source_name: source_name.to_string(),
            ports: ports.into_iter().map(wire_port).collect(),
        }),
        open: open.is_some(),
        network: match open {
            Some(_) => network.to_string(),
            None => String::new(),
        },
        traffic: open.is_some().then(|| wire_traffic(traffic)),
        open_ports: open
            .map(|open| open.ports)
            .unwrap_or_default()
            .into_iter()
            .map(wire_port)
            .collect(),
    }
}

/// Writes a run of published ports and what passed.
pub(super) fn port_status(status: &PortStatus) -> wire::PublishedPort {
    let PortStatus {
        endpoint,
        run,
        traffic,
    } = status;
    let last = (run.last != run.first.host_port).then_some(run.last);
    wire::PublishedPort {
        name: endpoint.name.to_string(),
        endpoint_id: endpoint.id.to_string(),
        mapping: Some(published_port(&run.first)),
        traffic: Some(wire_traffic(*traffic)),
        host_port_end: last.map_or(0, u32::from),
    }
}

fn wire_traffic(traffic: Traffic) -> wire::Traffic {
    let Traffic {
        passed,
        connections,
        open_connections,
    } = traffic;
    wire::Traffic {
        packets: passed.packets,
        bytes: passed.bytes,
        connections,
        open_connections,
    }
}

fn all<Wire, T>(
    wire: &[Wire],
    read: impl Fn(&Wire) -> Result<T, NetworkError>,
) -> Result<Vec<T>, NetworkError> {
    wire.iter().map(read).collect()
}

fn check_counts(counts: &[usize]) -> Result<(), NetworkError> {
    if counts.iter().any(|count| *count > MOST_PORTS) {
        return Err(invalid(format!(
            "an endpoint has at most {MOST_PORTS} exposed ports, mappings, links and aliases each"
        )));
    }
    Ok(())
}

fn check_word(what: &str, text: &str) -> Result<(), NetworkError> {
    let legal = !text.is_empty()
        && text.len() <= LONGEST_HOSTNAME
        && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if legal {
        Ok(())
    } else {
        Err(invalid(format!(
            "the {what} {text:?} must have 1 to {LONGEST_HOSTNAME} characters and no spaces"
        )))
    }
}

fn checked_aliases(aliases: Vec<String>) -> Result<Vec<String>, NetworkError> {
    for alias in &aliases {
        check_word("network alias", alias)?;
    }
    Ok(aliases)
}

fn address<Ip: FromStr>(text: &str) -> Result<Option<Ip>, NetworkError> {
    if text.is_empty() {
        return Ok(None);
    }
    let family = if size_of::<Ip>() == 4 { "IPv4" } else { "IPv6" };
    text.parse()
        .map(Some)
        .map_err(|_bad| invalid(format!("{text:?} is no {family} address")))
}

fn host_port(number: u32) -> Result<u16, NetworkError> {
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(invalid(format!(
            "host port {number} must be from 1 to 65535"
        ))),
    }
}

fn link(link: &wire::Link) -> Result<Link, NetworkError> {
    let wire::Link {
        alias,
        source_name,
        ports,
    } = link;
    check_word("link alias", alias)?;
    Ok(Link {
        alias: alias.clone(),
        source_name: parse(source_name)?,
        ports: sorted_ports(ports)?,
    })
}

fn port_mapping(mapping: &wire::PortMapping) -> Result<PortMapping, NetworkError> {
    let wire::PortMapping {
        protocol: _,
        container_port,
        host_port: first_port,
        host_port_end,
        host_ip,
    } = mapping;
    let port = port(mapping.protocol(), *container_port)?;
    let number = host_port;
    let host_port = match (*first_port, *host_port_end) {
        (0, 0) => HostPort::Any,
        (0, _) => {
            return Err(invalid(
                "a range of host ports needs its first port".to_owned(),
            ));
        }
        (only, 0) => HostPort::OneOf(number(only)?..=number(only)?),
        (first, last) if first <= last => HostPort::OneOf(number(first)?..=number(last)?),
        (first, last) => {
            return Err(invalid(format!(
                "the range of host ports {first}-{last} is backwards"
            )));
        }
    };
    let host_ip = if host_ip.is_empty() {
        None
    } else {
        let parsed: IpAddr = host_ip
            .parse()
            .map_err(|_bad| invalid(format!("host address {host_ip:?} is no IP address")))?;
        Some(parsed.to_canonical())
    };
    Ok(PortMapping {
        port,
        host_port,
        host_ip,
    })
}

fn sorted_ports(ports: &[wire::Port]) -> Result<Vec<Port>, NetworkError> {
    let mut sorted = ports
        .iter()
        .map(|wire| port(wire.protocol(), wire.number))
        .collect::<Result<Vec<_>, _>>()?;
    sorted.sort_unstable();
    sorted.dedup();
    Ok(sorted)
}

/// A port of the wire.
pub(super) fn port(protocol: wire::Protocol, number: u32) -> Result<Port, NetworkError> {
    let protocol = match protocol {
        wire::Protocol::Tcp => Protocol::Tcp,
        wire::Protocol::Udp => Protocol::Udp,
        wire::Protocol::Sctp => Protocol::Sctp,
        wire::Protocol::Unspecified => {
            return Err(invalid(format!(
                "port {number} needs a protocol: tcp, udp or sctp"
            )));
        }
    };
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(Port { protocol, number }),
        _ => Err(invalid(format!(
            "container port {number} must be from 1 to 65535"
        ))),
    }
}

fn wire_protocol(protocol: Protocol) -> wire::Protocol {
    match protocol {
        Protocol::Tcp => wire::Protocol::Tcp,
        Protocol::Udp => wire::Protocol::Udp,
        Protocol::Sctp => wire::Protocol::Sctp,
    }
}

fn wire_port(port: Port) -> wire::Port {
    wire::Port::of(wire_protocol(port.protocol), port.number)
}

fn published_port(published: &PublishedPort) -> wire::PortMapping {
    let PublishedPort {
        port,
        host_ip,
        host_port,
    } = published;
    wire::PortMapping {
        protocol: wire_protocol(port.protocol).into(),
        container_port: port.number.into(),
        host_port: u32::from(*host_port),
        host_port_end: 0,
        host_ip: host_ip.to_string(),
    }
}

/// A value that cannot be.
pub(super) fn invalid(sentence: String) -> NetworkError {
    NetworkError::Invalid(InvalidValue(sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_port: u32, host_port_end: u32, host_ip: &str) -> wire::PortMapping {
        wire::PortMapping {
            protocol: wire::Protocol::Tcp.into(),
            container_port: 80,
            host_port,
            host_port_end,
            host_ip: host_ip.to_owned(),
        }
    }

    /// S6–S9: every form of a mapping.
    #[test]
    fn every_form_of_a_mapping_is_read() {
        let any = port_mapping(&mapping(0, 0, "")).unwrap();
        assert_eq!((any.host_port, any.host_ip), (HostPort::Any, None));
        let one = port_mapping(&mapping(8080, 0, "127.0.0.1")).unwrap();
        assert_eq!(one.host_port, HostPort::OneOf(8080..=8080));
        assert_eq!(one.host_ip, Some("127.0.0.1".parse().unwrap()));
        let range = port_mapping(&mapping(8080, 8082, "::1")).unwrap();
        assert_eq!(range.host_port, HostPort::OneOf(8080..=8082));
    }

    #[test]
    fn a_mapping_that_cannot_be_is_refused_in_one_sentence() {
        for (wrong, word) in [
            (mapping(70000, 0, ""), "70000"),
            (mapping(8082, 8080, ""), "backwards"),
            (mapping(0, 8080, ""), "first port"),
            (mapping(80, 0, "localhost"), "localhost"),
            (
                wire::PortMapping {
                    container_port: 0,
                    ..mapping(80, 0, "")
                },
                "container port 0",
            ),
            (
                wire::PortMapping {
                    protocol: 0,
                    ..mapping(80, 0, "")
                },
                "protocol",
            ),
        ] {
            let sentence = port_mapping(&wrong).unwrap_err().to_string();
            assert!(sentence.contains(word), "{sentence}");
        }
    }

    #[test]
    fn exposed_ports_are_sorted_tcp_first_and_each_once() {
        let of = wire::Port::of;
        let ports = [
            of(wire::Protocol::Udp, 53),
            of(wire::Protocol::Tcp, 5432),
            of(wire::Protocol::Tcp, 80),
            of(wire::Protocol::Tcp, 80),
        ];
        let sorted: Vec<_> = sorted_ports(&ports)
            .unwrap()
            .into_iter()
            .map(wire_port)
            .collect();
        assert_eq!(sorted, [ports[2], ports[1], ports[0]]);
    }
}
