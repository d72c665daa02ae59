//! Who may send as whom: each bridge port is pinned to its hardware and IP addresses.

use std::net::IpAddr;

use super::table::SHARES;
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

/// The elements that the kernel may have added for connections of a container.
pub(super) fn counted(addresses: &Addresses) -> Elements {
    let shares = (0..SHARES).map(u32::to_ne_bytes);
    shares
        .flat_map(|share| {
            let ipv4 = key(&[&addresses.ipv4.octets(), &share]);
            let ipv6 = key(&[&addresses.ipv6.octets(), &share]);
            [(SetName::Connections4, ipv4), (SetName::Connections6, ipv6)]
        })
        .map(|place| (place, Vec::new()))
        .collect()
}

/// The bytes of an address, and which of two names its family has.
pub(super) fn of_family<T>(ip: IpAddr, ipv4: T, ipv6: T) -> (Vec<u8>, T) {
    match ip {
        IpAddr::V4(ip) => (ip.octets().to_vec(), ipv4),
        IpAddr::V6(ip) => (ip.octets().to_vec(), ipv6),
    }
}
