//! Who may send as whom: each bridge port is pinned to its hardware and IP addresses.

use std::net::IpAddr;

use super::expression::IFNAME_LENGTH;
use super::{Elements, SetName, key};
use crate::network::Addresses;

/// The elements that let a bridge port send at all, and only as itself.
pub(crate) fn elements(ifname: &str, addresses: &Addresses) -> Elements {
    let mut port = [0; IFNAME_LENGTH];
    port[..ifname.len()].copy_from_slice(ifname.as_bytes());
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
