//! The texts of `-p` and `--expose`.
//!
//! `[[IP:][HOSTPORT[-END]]:]PORT[-END][/PROTOCOL]`; an IPv6 address stands in brackets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::bail;
use linkspan_proto::net::protocol_from_name;
use linkspan_proto::net_v1::{Port, PortMapping, Protocol};

/// A range of ports; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
}

impl Range {
    fn len(self) -> u16 {
        self.last - self.first + 1
    }
}

/// Parses every text of a flag.
pub(crate) fn parse_all<T>(
    texts: &[String],
    parse: fn(&str) -> anyhow::Result<Vec<T>>,
) -> anyhow::Result<Vec<T>> {
    let mut all = Vec::new();
    for text in texts {
        all.extend(parse(text)?);
    }
    Ok(all)
}

/// Reads the text of `--expose`.
pub(crate) fn parse_expose(text: &str) -> anyhow::Result<Vec<Port>> {
    let (numbers, protocol) = split_protocol(text)?;
    let range = parse_range(numbers, text, "port")?;
    Ok((range.first..=range.last)
        .map(|number| Port::of(protocol, number))
        .collect())
}

/// Reads the text of `-p`.
pub(crate) fn parse_publish(text: &str) -> anyhow::Result<Vec<PortMapping>> {
    let (body, protocol) = split_protocol(text)?;
    let (host_ip, host, container) = split_address(body, text)?;
    if container.is_empty() {
        bail!("`{text}` names no container port");
    }
    let container = parse_range(container, text, "container port")?;
    let mapping = |number: u16, host_port: u16, host_port_end: u16| PortMapping {
        protocol: protocol.into(),
        container_port: number.into(),
        host_port: host_port.into(),
        host_port_end: host_port_end.into(),
        host_ip: host_ip.clone(),
    };
    if host.is_empty() || host == "0" {
        return Ok((container.first..=container.last)
            .map(|number| mapping(number, 0, 0))
            .collect());
    }
    let host = parse_range(host, text, "host port")?;
    if container.len() == 1 && host.len() > 1 {
        return Ok(vec![mapping(container.first, host.first, host.last)]);
    }
    if container.len() != host.len() {
        bail!(
            "`{text}` maps {} container ports to {} host ports; the ranges must have the same length",
            container.len(),
            host.len()
        );
    }
    Ok((container.first..=container.last)
        .zip(host.first..)
        .map(|(number, host)| mapping(number, host, 0))
        .collect())
}

/// Reads the argument of `linkspan port`: `NUMBER[/PROTOCOL]`.
pub(crate) fn parse_one(text: &str) -> anyhow::Result<Port> {
    match parse_expose(text)?.as_slice() {
        [port] => Ok(*port),
        _ => bail!("`{text}` is a range; name one port"),
    }
}

fn split_protocol(text: &str) -> anyhow::Result<(&str, Protocol)> {
    let Some((body, name)) = text.split_once('/') else {
        return Ok((text, Protocol::Tcp));
    };
    if name.is_empty() {
        return Ok((body, Protocol::Tcp));
    }
    match protocol_from_name(name) {
        Some(protocol) => Ok((body, protocol)),
        None => bail!("`{text}` has the unknown protocol `{name}`; known are tcp, udp and sctp"),
    }
}

/// Splits into address, host port and container port.
fn split_address<'a>(body: &'a str, text: &str) -> anyhow::Result<(String, &'a str, &'a str)> {
    if let Some(rest) = body.strip_prefix('[') {
        let Some((address, ports)) = rest.split_once("]:") else {
            bail!("`{text}` has no `]:` after the IPv6 address");
        };
        let Ok(address) = address.parse::<Ipv6Addr>() else {
            bail!("`{text}` has the invalid IPv6 address `{address}`");
        };
        let Some((host, container)) = ports.split_once(':') else {
            bail!("`{text}` names no container port; expected [IPv6]:HOSTPORT:PORT");
        };
        if container.contains(':') {
            bail!("`{text}` has too many colons");
        }
        return Ok((address.to_string(), host, container));
    }
    let parts: Vec<&str> = body.split(':').collect();
    match parts.as_slice() {
        [container] => Ok((String::new(), "", container)),
        [host, container] => Ok((String::new(), host, container)),
        ["", host, container] => Ok((String::new(), host, container)),
        [address, host, container] => match address.parse::<Ipv4Addr>() {
            Ok(address) => Ok((IpAddr::V4(address).to_string(), host, container)),
            Err(_) => bail!("`{text}` has the invalid IP address `{address}`"),
        },
        _ => bail!(
            "`{text}` has too many colons; an IPv6 address stands in brackets, such as [::1]:8080:80"
        ),
    }
}

fn parse_range(numbers: &str, text: &str, what: &str) -> anyhow::Result<Range> {
    let port = |number: &str| -> anyhow::Result<u16> {
        match number.parse::<u16>() {
            Ok(port) if port != 0 && number.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
            _ => bail!(
                "`{text}` has the invalid {what} `{number}`; it must be a number from 1 to 65535"
            ),
        }
    };
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let range = Range {
        first: port(first)?,
        last: port(last)?,
    };
    if range.last < range.first {
        bail!("`{text}` has the invalid {what} `{numbers}`: the range ends before it begins");
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let show = |m: PortMapping| {
            format!(
                "{}|{}-{}|{}",
                m.host_ip,
                m.host_port,
                m.host_port_end,
                m.inner_port()
            )
        };
        parse_publish(text).unwrap().into_iter().map(show).collect()
    }

    /// Rows S6, S7, S8 and S9.
    #[test]
    fn every_form_of_the_manual_is_read() {
        for (text, expected) in [
            ("5432", vec!["|0-0|5432/tcp"]),
            ("80:5000", vec!["|80-0|5000/tcp"]),
            (":5432", vec!["|0-0|5432/tcp"]),
            ("::5432", vec!["|0-0|5432/tcp"]),
            ("127.0.0.1:80:5000", vec!["127.0.0.1|80-0|5000/tcp"]),
            ("127.0.0.1::5000", vec!["127.0.0.1|0-0|5000/tcp"]),
            ("[::1]:8080:80/UDP", vec!["::1|8080-0|80/udp"]),
            ("[::1]::80", vec!["::1|0-0|80/tcp"]),
            ("8080:80/sctp", vec!["|8080-0|80/sctp"]),
            ("8080-8081:80-81", vec!["|8080-0|80/tcp", "|8081-0|81/tcp"]),
            ("8080-8082:80", vec!["|8080-8082|80/tcp"]),
            ("80-81", vec!["|0-0|80/tcp", "|0-0|81/tcp"]),
            ("080:080", vec!["|80-0|80/tcp"]),
            ("0:80", vec!["|0-0|80/tcp"]),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused_in_words() {
        for (text, part) in [
            ("80/icmp", "protocol"),
            ("70000:80", "host port `70000`"),
            ("80:70000", "container port `70000`"),
            ("-1:80", "host port"),
            ("a:80", "host port `a`"),
            ("127.0.0.1:5432", "host port `127.0.0.1`"),
            ("8081-8080:80-81", "before it begins"),
            (" 80:80", "host port ` 80`"),
            ("0x50:80", "host port `0x50`"),
            ("localhost:80:80", "IP address `localhost`"),
            ("256.1.1.1:80:80", "IP address"),
            ("::1:80:80", "colons"),
            ("80:80:80:80", "colons"),
            ("8080:", "no container port"),
            ("", "no container port"),
            ("8080-8082:80-81", "same length"),
            ("[::1:80:80", "]:"),
            ("[zz]:80:80", "IPv6"),
            ("80:0", "container port `0`"),
            ("80:80/tcp/udp", "protocol"),
        ] {
            let error = parse_publish(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        parse_expose("80:80").unwrap_err();
        parse_expose("90-80").unwrap_err();
    }

    proptest! {
        #[test]
        fn prop_no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            parse_publish(&text).ok();
            parse_expose(&text).ok();
        }
    }
}
