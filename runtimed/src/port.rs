//! Ports as the engine thinks of them: a protocol and a number that is not zero.
//!
//! Written and read as `5432/tcp`, in records as in images.

use std::fmt;
use std::str::FromStr;

use linkspan_proto::net::{protocol_from_name, protocol_name};
use linkspan_proto::net_v1;
use serde::{Deserialize, Serialize};

/// A port of a container. Ordered by number; tcp comes first among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Port {
    /// The number; never zero.
    pub(crate) number: u16,
    /// The transport.
    pub(crate) protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Sctp,
    Udp,
}

/// A port that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid port `{text}`: expected NUMBER[/tcp|udp|sctp] with a number from 1 to 65535")]
pub(crate) struct PortError {
    text: String,
}

impl Protocol {
    /// The lower-case name.
    pub(crate) fn name(self) -> &'static str {
        protocol_name(self.to_wire()).unwrap_or_default()
    }

    fn to_wire(self) -> net_v1::Protocol {
        match self {
            Self::Tcp => net_v1::Protocol::Tcp,
            Self::Sctp => net_v1::Protocol::Sctp,
            Self::Udp => net_v1::Protocol::Udp,
        }
    }

    fn from_wire(protocol: net_v1::Protocol) -> Option<Self> {
        match protocol {
            net_v1::Protocol::Unspecified => None,
            net_v1::Protocol::Tcp => Some(Self::Tcp),
            net_v1::Protocol::Sctp => Some(Self::Sctp),
            net_v1::Protocol::Udp => Some(Self::Udp),
        }
    }
}

impl Port {
    /// The wire form.
    pub(crate) fn to_wire(self) -> net_v1::Port {
        net_v1::Port::of(self.protocol.to_wire(), self.number)
    }

    /// The port that a wire value stands for.
    pub(crate) fn from_wire(port: &net_v1::Port) -> Result<Self, PortError> {
        let invalid = || PortError {
            text: port.to_string(),
        };
        let protocol = Protocol::from_wire(port.protocol()).ok_or_else(invalid)?;
        match u16::try_from(port.number) {
            Ok(number) if number != 0 => Ok(Self { number, protocol }),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.name())
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

impl TryFrom<String> for Port {
    type Error = PortError;

    fn try_from(text: String) -> Result<Self, PortError> {
        text.parse()
    }
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let invalid = || PortError {
            text: text.to_owned(),
        };
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = protocol_from_name(protocol).and_then(Protocol::from_wire);
        match (number.parse::<u16>(), protocol) {
            (Ok(number), Some(protocol)) if number != 0 => Ok(Self { number, protocol }),
            _ => Err(invalid()),
        }
    }
}

/// Reads what an image exposes, where a range such as `5000-5001/tcp` is allowed.
pub(crate) fn parse_exposed(text: &str) -> Result<Vec<Port>, PortError> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let Some((first, last)) = numbers.split_once('-') else {
        return text.parse().map(|port| vec![port]);
    };
    let first: Port = format!("{first}/{protocol}").parse()?;
    let last: Port = format!("{last}/{protocol}").parse()?;
    if last.number < first.number {
        return Err(PortError {
            text: text.to_owned(),
        });
    }
    Ok((first.number..=last.number)
        .map(|number| Port { number, ..first })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_number_comes_first_and_tcp_wins_a_tie() {
        let mut ports: Vec<Port> = ["5432", "53/udp", "53/tcp"]
            .iter()
            .map(|t| t.parse().unwrap())
            .collect();
        ports.sort();
        assert_eq!(
            ports.iter().map(Port::to_string).collect::<Vec<_>>(),
            ["53/tcp", "53/udp", "5432/tcp"]
        );
    }

    #[test]
    fn a_port_that_cannot_be_is_refused() {
        for text in ["", "0", "65536", "80/icmp", "a", "80/tcp/udp", "-1"] {
            assert!(text.parse::<Port>().is_err(), "{text}");
        }
        parse_exposed("90-80").unwrap_err();
        assert_eq!(parse_exposed("5000-5001").unwrap().len(), 2);
    }
}
