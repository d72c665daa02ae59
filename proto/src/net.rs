//! Network values of the wire and their textual forms.

use std::fmt;

use crate::net_v1::{Port, PortMapping, Protocol};
use crate::runtime_v1::Container;

/// The lower-case name of a protocol, as in `5432/tcp`; none when it was not given.
pub fn protocol_name(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Unspecified => None,
        Protocol::Tcp => Some("tcp"),
        Protocol::Udp => Some("udp"),
        Protocol::Sctp => Some("sctp"),
    }
}

/// The protocol with this name, in any case.
pub fn protocol_from_name(name: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|p| protocol_name(*p).is_some_and(|known| known.eq_ignore_ascii_case(name)))
}

impl fmt::Display for Port {
    /// Writes `5432/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            self.number,
            protocol_name(self.protocol()).unwrap_or("?")
        )
    }
}

impl Port {
    /// A port of a protocol.
    pub fn of(protocol: Protocol, number: u16) -> Self {
        Self {
            protocol: protocol.into(),
            number: number.into(),
        }
    }
}

impl PortMapping {
    /// The port inside the container.
    pub fn inner_port(&self) -> Port {
        Port {
            protocol: self.protocol,
            number: self.container_port,
        }
    }
}

impl Container {
    /// The ports of the host that lead to it, on whichever network.
    pub fn published(&self) -> impl Iterator<Item = &PortMapping> {
        self.networks.iter().flat_map(|network| &network.published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_names_in_any_case() {
        assert_eq!(protocol_from_name("UDP"), Some(Protocol::Udp));
        assert_eq!(protocol_from_name("icmp"), None);
        assert_eq!(Port::of(Protocol::Sctp, 9).to_string(), "9/sctp");
    }
}
