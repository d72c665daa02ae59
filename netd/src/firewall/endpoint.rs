//! Who may send as whom: each bridge port is pinned to its hardware and IP addresses.

use std::net::IpAddr;

use super::{Elements, SetName, ifname, key};
use crate::network::Addresses;

/// The elements that let a bridge port send at all, and only as itself.
pub(crate) fn elements(port: &str, addresses: &Addresses) -> Elements {
    let port = ifname(port);
    let mac = addresses.mac().octets();
    Elements::from([
        ((SetName::Ports, key(&[&port])), Vec::new()),
        (
            (
                SetName::Pins4,
                key(&[&port, &mac, &addresses.ipv4.octets()]),
            ),
            Vec::new(),
        ),
        (
            (
                SetName::Pins6,
                key(&[&port, &mac, &addresses.ipv6.octets()]),
            ),
            Vec::new(),
        ),
        (
            (
                SetName::Pins6,
                key(&[&port, &mac, &addresses.mac().link_local().octets()]),
            ),
            Vec::new(),
        ),
    ])
}

/// The bytes of an address, and which of two names its family has.
pub(super) fn of_family<T>(ip: IpAddr, ipv4: T, ipv6: T) -> (Vec<u8>, T) {
    match ip {
        IpAddr::V4(ip) => (ip.octets().to_vec(), ipv4),
        IpAddr::V6(ip) => (ip.octets().to_vec(), ipv6),
    }
}
