//! Between wire messages and domain types. What is refused here says which field is
//! wrong, in one sentence.

use std::net::IpAddr;
use std::str::FromStr;

use linkspan_proto::net_v1 as wire;

use super::NetworkInfo;
use crate::network::registry::LinkStatus;
use crate::network::{
    AttachRequest, DEFAULT_NETWORK, Endpoint, EndpointId, HostPort, InvalidValue, Link,
    NetworkError, Port, PortMapping, Protocol, PublishedPort, Registry,
};

const LONGEST_HOSTNAME: usize = 253;
const MOST_PORTS: usize = 4096;

/// Reads a name or an id.
pub(super) fn parse<T: FromStr<Err = InvalidValue>>(text: &str) -> Result<T, NetworkError> {
    Ok(text.parse()?)
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
        sandbox_id: _,
        aliases: _,
        ipv4_address: _,
        ipv6_address: _,
    } = request;
    if !network.is_empty() && network != DEFAULT_NETWORK {
        return Err(NetworkError::NetworkNotFound { network });
    }
    let id: EndpointId = parse(&endpoint_id)?;
    for count in [exposed.len(), port_mappings.len(), links.len()] {
        if count > MOST_PORTS {
            return Err(invalid(format!(
                "an endpoint has at most {MOST_PORTS} exposed ports, mappings and links each"
            )));
        }
    }
    let hostname = if hostname.is_empty() {
        id.short().to_owned()
    } else {
        hostname
    };
    if hostname.len() > LONGEST_HOSTNAME
        || hostname
            .chars()
            .any(|c| c.is_whitespace() || c.is_control())
    {
        return Err(invalid(format!(
            "the host name must have at most {LONGEST_HOSTNAME} characters and no spaces"
        )));
    }
    Ok(AttachRequest {
        id,
        name: parse(&name)?,
        hostname,
        exposed: sorted_ports(&exposed)?,
        mappings: port_mappings
            .iter()
            .map(port_mapping)
            .collect::<Result<_, _>>()?,
        links: links.iter().map(link).collect::<Result<_, _>>()?,
        host_access,
    })
}

/// Writes an endpoint.
pub(super) fn endpoint(endpoint: &Endpoint, info: &NetworkInfo) -> wire::Endpoint {
    let Endpoint {
        id,
        name,
        hostname,
        addresses,
        exposed,
        published,
        links: _,
        host: _,
    } = endpoint;
    let gateway = info.subnets.gateway();
    wire::Endpoint {
        id: id.to_string(),
        name: name.to_string(),
        hostname: hostname.clone(),
        network: DEFAULT_NETWORK.to_owned(),
        mac_address: addresses.mac().to_string(),
        ipv4_address: addresses.ipv4.to_string(),
        ipv4_prefix: info.subnets.ipv4.prefix.into(),
        ipv4_gateway: gateway.ipv4.to_string(),
        ipv6_address: addresses.ipv6.to_string(),
        ipv6_prefix: info.subnets.ipv6.prefix.into(),
        ipv6_gateway: gateway.ipv6.to_string(),
        netns_path: info
            .config
            .netns_directory()
            .join(id.as_str())
            .display()
            .to_string(),
        published: published.iter().map(published_port).collect(),
        exposed: exposed.iter().copied().map(wire_port).collect(),
        ifname: String::new(),
        sandbox_id: String::new(),
        aliases: Vec::new(),
    }
}

/// Writes all endpoints, by name.
pub(super) fn endpoints(registry: &Registry, info: &NetworkInfo) -> Vec<wire::Endpoint> {
    registry
        .by_name()
        .map(|found| endpoint(found, info))
        .collect()
}

/// Writes a link and whether it is open.
pub(super) fn link_status(status: LinkStatus) -> wire::LinkStatus {
    let LinkStatus {
        consumer_name,
        link,
        open_ports,
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
        network: String::new(),
        traffic: None,
        open: open_ports.is_some(),
        open_ports: open_ports
            .unwrap_or_default()
            .into_iter()
            .map(wire_port)
            .collect(),
    }
}

fn link(link: &wire::Link) -> Result<Link, NetworkError> {
    let wire::Link {
        alias,
        source_name,
        ports,
    } = link;
    let legal = !alias.is_empty()
        && alias.len() <= LONGEST_HOSTNAME
        && !alias.chars().any(|c| c.is_whitespace() || c.is_control());
    if !legal {
        return Err(invalid(format!(
            "the link alias {alias:?} must have 1 to {LONGEST_HOSTNAME} characters and no spaces"
        )));
    }
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
        host_port,
        host_port_end,
        host_ip,
    } = mapping;
    let port = port(mapping.protocol(), *container_port)?;
    let number = |value: u32| match u16::try_from(value) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(invalid(format!(
            "host port {value} must be from 1 to 65535"
        ))),
    };
    let host_port = match (*host_port, *host_port_end) {
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

fn port(protocol: wire::Protocol, number: u32) -> Result<Port, NetworkError> {
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

fn invalid(sentence: String) -> NetworkError {
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
