//! What a device should be and what it is: the difference is the damage. Pure.
//!
//! Only what should be there is looked for. What somebody added beside it, such as another
//! address of a bridge, is his own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::netlink::address::Address;
use crate::netlink::route::{OwnRoute, Target};

/// A bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BridgeState {
    /// The name.
    pub(crate) name: String,
    /// The stamp.
    pub(crate) alias: String,
    /// Whether it was brought up.
    pub(crate) is_up: bool,
    /// The hardware address.
    pub(crate) mac: Vec<u8>,
    /// The names of settings of bridges that are wrong.
    pub(crate) wrong_flags: Vec<&'static str>,
    /// The addresses.
    pub(crate) addresses: BTreeSet<Address>,
    /// The routes that lead through it.
    pub(crate) routes: BTreeSet<OwnRoute>,
    /// Settings below `/proc/sys/net`.
    pub(crate) settings: BTreeMap<String, String>,
}

/// A bridge port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortState {
    /// The name.
    pub(crate) name: String,
    /// The stamp.
    pub(crate) alias: String,
    /// Whether it was brought up.
    pub(crate) is_up: bool,
    /// The bridge that it belongs to.
    pub(crate) master: Option<u32>,
    /// The names of settings of ports that are wrong.
    pub(crate) wrong_flags: Vec<&'static str>,
    /// Whether the bridge looks for the hardware address behind it.
    pub(crate) is_forwarded: bool,
    /// The addresses of which the bridge knows the hardware address.
    pub(crate) resolved: BTreeSet<IpAddr>,
    /// Settings below `/proc/sys/net`.
    pub(crate) settings: BTreeMap<String, String>,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Damage {
    /// It is not there.
    Gone,
    /// It has another name.
    Renamed(String),
    /// The stamp is another.
    Unstamped,
    /// It was brought down.
    Down,
    /// It has another hardware address.
    HardwareAddress,
    /// It is no port of its bridge.
    Released,
    /// A setting of the bridge or the port is another.
    Flag(&'static str),
    /// The bridge does not look for the hardware address behind the port.
    Forwarding,
    /// The bridge does not know the hardware address of an address.
    Neighbour(IpAddr),
    /// An address is missing.
    Address(Address),
    /// A route is missing.
    Route(OwnRoute),
    /// A setting below `/proc/sys/net` has another value.
    Setting {
        /// Its path.
        key: String,
        /// The value that was found.
        value: String,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => write!(f, "deleted"),
            Self::Renamed(name) => write!(f, "renamed to {name}"),
            Self::Unstamped => write!(f, "alias changed"),
            Self::Down => write!(f, "down"),
            Self::HardwareAddress => write!(f, "hardware address changed"),
            Self::Released => write!(f, "taken from its bridge"),
            Self::Flag(name) => write!(f, "{name} changed"),
            Self::Forwarding => write!(f, "forwarding entry missing"),
            Self::Neighbour(ip) => write!(f, "neighbour {ip} missing"),
            Self::Address(Address { ip, prefix }) => write!(f, "address {ip}/{prefix} missing"),
            Self::Route(OwnRoute {
                target,
                destination,
                prefix,
            }) => {
                let local = match target {
                    Target::Host => "local ",
                    Target::Link => "",
                };
                write!(f, "route {local}{destination}/{prefix} missing")
            }
            Self::Setting { key, value } => write!(f, "net/{key} was {value}"),
        }
    }
}

/// All of some damage, in one line.
pub(crate) fn summary(damages: &[Damage]) -> String {
    let texts: Vec<_> = damages.iter().map(Damage::to_string).collect();
    texts.join(", ")
}

/// What is wrong with a bridge.
pub(crate) fn of_bridge(wanted: &BridgeState, found: Option<&BridgeState>) -> Vec<Damage> {
    let Some(found) = found else {
        return vec![Damage::Gone];
    };
    let mut damages = named(&wanted.name, &found.name, wanted.alias == found.alias);
    if !found.is_up {
        damages.push(Damage::Down);
    }
    if wanted.mac != found.mac {
        damages.push(Damage::HardwareAddress);
    }
    damages.extend(found.wrong_flags.iter().copied().map(Damage::Flag));
    let addresses = wanted.addresses.difference(&found.addresses);
    damages.extend(addresses.copied().map(Damage::Address));
    let routes = wanted.routes.difference(&found.routes);
    damages.extend(routes.copied().map(Damage::Route));
    damages.extend(of_settings(&wanted.settings, &found.settings));
    damages
}

/// What is wrong with a bridge port.
pub(crate) fn of_port(wanted: &PortState, found: Option<&PortState>) -> Vec<Damage> {
    let Some(found) = found else {
        return vec![Damage::Gone];
    };
    let mut damages = named(&wanted.name, &found.name, wanted.alias == found.alias);
    if !found.is_up {
        damages.push(Damage::Down);
    }
    if wanted.master == found.master {
        damages.extend(found.wrong_flags.iter().copied().map(Damage::Flag));
        if !found.is_forwarded {
            damages.push(Damage::Forwarding);
        }
    } else {
        // What is no port has neither flags nor an entry.
        damages.push(Damage::Released);
    }
    let unresolved = wanted.resolved.difference(&found.resolved);
    damages.extend(unresolved.copied().map(Damage::Neighbour));
    damages.extend(of_settings(&wanted.settings, &found.settings));
    damages
}

/// The settings that have another value. One that the kernel does not have is not wrong.
pub(crate) fn of_settings<'a>(
    wanted: &'a BTreeMap<String, String>,
    found: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Damage> + 'a {
    wanted.iter().filter_map(|(key, value)| {
        let found = found.get(key)?;
        (found != value).then(|| Damage::Setting {
            key: key.clone(),
            value: found.clone(),
        })
    })
}

fn named(wanted: &str, found: &str, is_stamped: bool) -> Vec<Damage> {
    let renamed = (wanted != found).then(|| Damage::Renamed(found.to_owned()));
    let unstamped = (!is_stamped).then_some(Damage::Unstamped);
    renamed.into_iter().chain(unstamped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done to the state, and what is said of it.
    type Case<S> = (fn(&mut S), &'static str);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(target: Target, destination: &str, prefix: u8) -> OwnRoute {
        OwnRoute {
            target,
            destination: ip(destination),
            prefix,
        }
    }

    fn address(text: &str, prefix: u8) -> Address {
        Address {
            ip: ip(text),
            prefix,
        }
    }

    fn bridge() -> BridgeState {
        BridgeState {
            name: "linkspan0".to_owned(),
            alias: "linkspan:bridge".to_owned(),
            is_up: true,
            mac: vec![2, 0x42, 172, 17, 0, 1],
            wrong_flags: Vec::new(),
            addresses: [address("172.17.0.1", 16), address("fd17::1", 64)].into(),
            routes: [
                route(Target::Link, "172.17.0.0", 16),
                route(Target::Host, "::1", 128),
            ]
            .into(),
            settings: [("ipv4/conf/linkspan0/forwarding".to_owned(), "1".to_owned())].into(),
        }
    }

    fn port() -> PortState {
        PortState {
            name: "lkaaaaaaaaaa".to_owned(),
            alias: "linkspan:a".to_owned(),
            is_up: true,
            master: Some(7),
            wrong_flags: Vec::new(),
            is_forwarded: true,
            resolved: [ip("172.17.0.2"), ip("fd17::2")].into(),
            settings: BTreeMap::new(),
        }
    }

    #[test]
    fn a_bridge_that_is_as_it_should_be_has_no_damage() {
        let mut found = bridge();
        found.addresses.insert(address("192.0.2.9", 24));
        found.routes.insert(route(Target::Link, "192.0.2.0", 24));
        assert_eq!(of_bridge(&bridge(), Some(&found)), []);
    }

    #[test]
    fn each_damage_of_a_bridge_is_told_once() {
        let mut cases: Vec<Case<BridgeState>> = Vec::new();
        let mut case = |act: fn(&mut BridgeState), text| cases.push((act, text));
        case(|found| found.name = "br9".to_owned(), "renamed to br9");
        case(|found| found.alias.clear(), "alias changed");
        case(|found| found.is_up = false, "down");
        case(|found| found.mac[5] = 9, "hardware address changed");
        case(
            |found| found.wrong_flags.push("stp_state"),
            "stp_state changed",
        );
        case(
            |found| {
                found.addresses.pop_first();
            },
            "address 172.17.0.1/16 missing",
        );
        case(
            |found| {
                found.routes.pop_first();
            },
            "route 172.17.0.0/16 missing",
        );
        case(
            |found| {
                found.routes.pop_last();
            },
            "route local ::1/128 missing",
        );
        case(
            |found| {
                found
                    .settings
                    .insert("ipv4/conf/linkspan0/forwarding".to_owned(), "0".to_owned());
            },
            "net/ipv4/conf/linkspan0/forwarding was 0",
        );
        for (act, text) in cases {
            let mut found = bridge();
            act(&mut found);
            assert_eq!(summary(&of_bridge(&bridge(), Some(&found))), text);
        }
        assert_eq!(summary(&of_bridge(&bridge(), None)), "deleted");
    }

    #[test]
    fn each_damage_of_a_port_is_told_once() {
        let mut cases: Vec<Case<PortState>> = Vec::new();
        let mut case = |act: fn(&mut PortState), text| cases.push((act, text));
        case(|_found| {}, "");
        case(|found| found.name = "veth9".to_owned(), "renamed to veth9");
        case(|found| found.alias.clear(), "alias changed");
        case(|found| found.is_up = false, "down");
        case(
            |found| found.wrong_flags.push("isolated"),
            "isolated changed",
        );
        case(
            |found| found.is_forwarded = false,
            "forwarding entry missing",
        );
        case(
            |found| {
                found.resolved.pop_first();
            },
            "neighbour 172.17.0.2 missing",
        );
        for (act, text) in cases {
            let mut found = port();
            act(&mut found);
            assert_eq!(summary(&of_port(&port(), Some(&found))), text);
        }
        assert_eq!(summary(&of_port(&port(), None)), "deleted");
    }

    #[test]
    fn what_is_no_port_is_not_blamed_for_what_only_ports_have() {
        for master in [None, Some(8)] {
            let found = PortState {
                master,
                is_forwarded: false,
                wrong_flags: vec!["isolated"],
                ..port()
            };
            assert_eq!(of_port(&port(), Some(&found)), [Damage::Released]);
        }
    }

    #[test]
    fn a_setting_that_the_kernel_does_not_have_is_not_wrong() {
        let mut found = bridge();
        found.settings.clear();
        assert_eq!(of_bridge(&bridge(), Some(&found)), []);
    }
}
