//! Open links: elements keyed by both addresses, so that a link opens one way only.

use super::{Elements, SetName, key};
use crate::network::{Addresses, Port};

/// A link of which both ends are attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenLink {
    /// The end that may connect.
    pub(crate) consumer: Addresses,
    /// The end that is connected to.
    pub(crate) source: Addresses,
    /// The ports that are open.
    pub(crate) ports: Vec<Port>,
}

/// The elements that let the consumer reach the source, on the ports and by echo request.
pub(crate) fn elements(link: &OpenLink) -> Elements {
    let from4 = link.consumer.ipv4.octets();
    let from6 = link.consumer.ipv6.octets();
    let to4 = link.source.ipv4.octets();
    let to6 = link.source.ipv6.octets();
    let mut elements = Elements::from([
        ((SetName::Peers4, key(&[&from4, &to4])), Vec::new()),
        ((SetName::Peers6, key(&[&from6, &to6])), Vec::new()),
    ]);
    for port in &link.ports {
        let protocol = [port.protocol.number()];
        let number = port.number.to_be_bytes();
        let ipv4 = key(&[&from4, &to4, &protocol, &number]);
        let ipv6 = key(&[&from6, &to6, &protocol, &number]);
        elements.insert((SetName::Links4, ipv4), Vec::new());
        elements.insert((SetName::Links6, ipv6), Vec::new());
    }
    elements
}
