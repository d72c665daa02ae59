//! Published ports: each is one element of a map from where it is on the host to where
//! it is in a container.

use super::endpoint::of_family;
use super::{Elements, SetName, key};
use crate::network::{Addresses, PublishedPort};

/// The element that opens a published port to a container with these addresses.
pub(crate) fn elements(published: &PublishedPort, addresses: &Addresses) -> Elements {
    let protocol = [published.port.protocol.number()];
    let host_port = published.host_port.to_be_bytes();
    let (target, _) = of_family(addresses.like(published.host_ip), (), ());
    let value = key(&[&target, &published.port.number.to_be_bytes()]);
    let element = if published.host_ip.is_unspecified() {
        let (_, map) = of_family(published.host_ip, SetName::Published4, SetName::Published6);
        (map, key(&[&protocol, &host_port]))
    } else {
        let (address, map) = of_family(
            published.host_ip,
            SetName::HostPublished4,
            SetName::HostPublished6,
        );
        (map, key(&[&address, &protocol, &host_port]))
    };
    Elements::from([(element, value)])
}
