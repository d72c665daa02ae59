//! Which subnet a network gets: the one that was asked for, if nothing else has it, or the
//! first of many that is free. Choosing is pure; only [`occupied`] asks the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::{NetworkError, device};
use super::model::Name;
use super::subnet::Subnet;
use crate::netlink::{NetlinkSocket, link, route};

/// A subnet that somebody has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Occupied {
    /// The first address.
    pub(crate) base: IpAddr,
    /// The length of the prefix.
    pub(crate) prefix: u8,
    /// Who has it.
    pub(crate) holder: Holder,
}

/// Who has a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A route of the host leads to this device.
    Device(String),
    /// A network of ours.
    Network(Name),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(name) => write!(f, "the device {name} already routes"),
            Self::Network(name) => write!(f, "the network \"{name}\" has"),
        }
    }
}

/// What the routes of the host occupy, without those of devices that are ours.
pub(crate) fn occupied(
    socket: &mut NetlinkSocket,
    is_ours: impl Fn(&str) -> bool,
) -> Result<Vec<Occupied>, NetworkError> {
    let devices = link::list(socket).map_err(device("list devices"))?;
    let routes = route::list(socket).map_err(device("list routes"))?;
    let name_of = |index| {
        devices
            .iter()
            .find(|device| device.index == index)
            .map_or_else(|| "none".to_owned(), |device| device.name.clone())
    };
    Ok(routes
        .into_iter()
        .map(|route| Occupied {
            base: route.destination,
            prefix: route.prefix,
            holder: Holder::Device(name_of(route.index)),
        })
        .filter(|route| match &route.holder {
            Holder::Device(name) => !is_ours(name),
            Holder::Network(_) => true,
        })
        .collect())
}

/// The subnet that was asked for, unless it is occupied, or the first candidate that is not.
pub(crate) fn choose<Ip>(
    given: Option<Subnet<Ip>>,
    mut candidates: impl Iterator<Item = Subnet<Ip>>,
    occupied: &[Occupied],
) -> Result<Subnet<Ip>, NetworkError>
where
    Ip: Into<IpAddr> + Copy + std::fmt::Display,
{
    let in_the_way = |subnet: &Subnet<Ip>| {
        occupied
            .iter()
            .find(|other| subnet.overlaps(other.base, other.prefix))
    };
    match given {
        Some(subnet) => match in_the_way(&subnet) {
            None => Ok(subnet),
            Some(other) => Err(NetworkError::SubnetOverlaps {
                subnet: subnet.to_string(),
                other: format!("{}/{}", other.base, other.prefix),
                holder: other.holder.clone(),
            }),
        },
        None => candidates
            .find(|subnet| in_the_way(subnet).is_none())
            .ok_or(NetworkError::SubnetsExhausted),
    }
}

/// The subnets for the default network, in the order of preference.
pub(crate) fn default_candidates() -> impl Iterator<Item = Subnet<Ipv4Addr>> {
    (17..=31).map(|second| Subnet {
        base: Ipv4Addr::new(172, second, 0, 0),
        prefix: 16,
    })
}

/// The subnets for networks that users make, in the order of preference.
pub(crate) fn user_candidates() -> impl Iterator<Item = Subnet<Ipv4Addr>> {
    let large = (18..=31).map(|second| Subnet {
        base: Ipv4Addr::new(172, second, 0, 0),
        prefix: 16,
    });
    let middle = (0..=15).map(|part| Subnet {
        base: Ipv4Addr::new(192, 168, part * 16, 0),
        prefix: 20,
    });
    let small = (128..=255).flat_map(|second| {
        (0..=15).map(move |part| Subnet {
            base: Ipv4Addr::new(10, second, part * 16, 0),
            prefix: 20,
        })
    });
    large.chain(middle).chain(small)
}

/// The IPv6 subnets for networks that users make: neighbours of the default network's.
pub(crate) fn user_candidates6(
    default: Subnet<Ipv6Addr>,
) -> impl Iterator<Item = Subnet<Ipv6Addr>> {
    (1..=u128::from(u16::MAX)).map(move |number| Subnet {
        base: Ipv6Addr::from_bits(default.base.to_bits() ^ (number << 64)),
        prefix: 64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::subnet;

    fn occupied_by(text: &str, holder: &str) -> Occupied {
        let subnet = subnet::parse_ipv4(text).unwrap();
        Occupied {
            base: subnet.base.into(),
            prefix: subnet.prefix,
            holder: Holder::Device(holder.to_owned()),
        }
    }

    #[test]
    fn the_first_subnet_that_nothing_overlaps_is_chosen() {
        let taken = [
            occupied_by("172.18.0.0/16", "br-1"),
            occupied_by("172.19.7.0/24", "vpn"),
        ];
        let chosen = choose(None, user_candidates(), &taken).unwrap();
        assert_eq!(chosen.to_string(), "172.20.0.0/16");
        let all = [occupied_by("172.16.0.0/12", "vpn")];
        let next = choose(None, user_candidates(), &all).unwrap();
        assert_eq!(next.to_string(), "192.168.0.0/20");
    }

    #[test]
    fn a_subnet_that_is_taken_is_refused_with_its_holder() {
        let given = subnet::parse_ipv4("172.19.0.0/16").unwrap();
        let refused = choose(
            Some(given),
            user_candidates(),
            &[occupied_by("172.19.7.0/24", "vpn")],
        );
        let sentence = refused.unwrap_err().to_string();
        assert_eq!(
            sentence,
            "the subnet 172.19.0.0/16 overlaps 172.19.7.0/24, which the device vpn already routes; give another with --subnet"
        );
    }

    #[test]
    fn subnets_can_run_out() {
        let all =
            ["172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"].map(|text| occupied_by(text, "vpn"));
        let refused = choose(None, user_candidates(), &all);
        assert!(matches!(refused, Err(NetworkError::SubnetsExhausted)));
    }

    #[test]
    fn ipv6_candidates_are_neighbours_that_do_not_overlap() {
        let default = subnet::parse_ipv6("fd17:6c69:6e6b::/64").unwrap();
        let mut candidates = user_candidates6(default);
        assert_eq!(
            candidates.next().unwrap().to_string(),
            "fd17:6c69:6e6b:1::/64"
        );
        assert!(candidates.all(|next| !next.overlaps(default.base.into(), default.prefix)));
    }
}
