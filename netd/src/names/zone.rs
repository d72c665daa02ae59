//! The names of one network. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use rpds::RedBlackTreeMapSync;

const LONGEST_LABEL: usize = 63;
const LONGEST_NAME: usize = 253;

/// A member of a network, with everything that it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Its name, which nobody else on the network can have.
    pub(crate) name: String,
    /// The first twelve digits of its id.
    pub(crate) short_id: String,
    /// The names that it was given beside its own.
    pub(crate) aliases: Vec<String>,
    /// Its host name.
    pub(crate) hostname: String,
    /// Its addresses.
    pub(crate) ips: Vec<IpAddr>,
}

/// Kinds of names, those that beat the others first.
const RANKS: usize = 4;

/// Who has a name: the addresses of each rank.
type Bearers = [BTreeSet<IpAddr>; RANKS];

/// The names of a network, both ways. Clones share what they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    hosts: RedBlackTreeMapSync<String, Host>,
    names: RedBlackTreeMapSync<String, Bearers>,
    reverse: RedBlackTreeMapSync<IpAddr, Name>,
    subnets: Vec<(IpAddr, u8)>,
}

/// What a zone knows of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// These addresses, of the family that was asked for.
    Addresses(Vec<IpAddr>),
    /// This name.
    Name(Name),
    /// The name is ours, but has nothing of that type.
    Nothing,
    /// The name is ours to tell, and nobody has it.
    NoSuchName,
    /// The name is not ours.
    Elsewhere,
}

impl Zone {
    /// The zone of a network with these subnets, and nobody in it.
    pub(crate) fn new(subnets: Vec<(IpAddr, u8)>) -> Self {
        Self {
            subnets,
            ..Self::default()
        }
    }

    /// Adds a member, or gives one that is known by its short id other names; whether
    /// anything is new.
    ///
    /// What identifies a member cannot be taken from it: a name beats a short id, that
    /// beats an alias, and that beats a host name. Where several are equal, all are told.
    pub(crate) fn insert(&mut self, host: Host) -> bool {
        if self.hosts.get(&host.short_id) == Some(&host) {
            return false;
        }
        self.remove(&host.short_id);
        self.each_name(&host, |bearers, ips| bearers.extend(ips));
        let called = [&host.name, &host.short_id]
            .into_iter()
            .find_map(|text| Name::from_ascii(normalize(text)?).ok());
        if let Some(mut name) = called {
            name.set_fqdn(true);
            for ip in &host.ips {
                self.reverse.insert_mut(*ip, name.clone());
            }
        }
        self.hosts.insert_mut(host.short_id.clone(), host);
        true
    }

    /// Removes a member; whether there was one.
    pub(crate) fn remove(&mut self, short_id: &str) -> bool {
        let Some(host) = self.hosts.get(short_id).cloned() else {
            return false;
        };
        self.hosts.remove_mut(short_id);
        self.each_name(&host, |bearers, ips| {
            bearers.retain(|ip| !ips.contains(ip));
        });
        for ip in &host.ips {
            self.reverse.remove_mut(ip);
        }
        true
    }

    /// Changes who has each of a member's names.
    fn each_name(&mut self, host: &Host, change: impl Fn(&mut BTreeSet<IpAddr>, &[IpAddr])) {
        let Host {
            name,
            short_id,
            aliases,
            hostname,
            ips,
        } = host;
        let ranked = [(0, name), (1, short_id), (3, hostname)]
            .into_iter()
            .chain(aliases.iter().map(|alias| (2, alias)));
        for (rank, text) in ranked {
            let Some(text) = normalize(text) else {
                continue;
            };
            let mut bearers = self.names.get(&text).cloned().unwrap_or_default();
            change(&mut bearers[rank], ips);
            if bearers.iter().all(BTreeSet::is_empty) {
                self.names.remove_mut(&text);
            } else {
                self.names.insert_mut(text, bearers);
            }
        }
    }

    /// Whether an address belongs to the network.
    pub(super) fn covers(&self, ip: IpAddr) -> bool {
        self.subnets
            .iter()
            .any(|(base, prefix)| shares_prefix(*base, ip, *prefix))
    }

    /// Looks a question up.
    pub(super) fn look_up(&self, name: &Name, kind: RecordType) -> Found {
        let Some(text) = text_of(name) else {
            return Found::Elsewhere;
        };
        if text == "localhost" || text.ends_with(".localhost") {
            return Found::NoSuchName;
        }
        if text.ends_with(".arpa") {
            return self.look_up_reverse(name, kind);
        }
        let bearers = self.names.get(&text);
        let Some(ips) = bearers.and_then(|ranks| ranks.iter().find(|ips| !ips.is_empty())) else {
            return Found::Elsewhere;
        };
        let of_kind: Vec<_> = ips
            .iter()
            .copied()
            .filter(|ip| match kind {
                RecordType::A => ip.is_ipv4(),
                RecordType::AAAA => ip.is_ipv6(),
                _ => false,
            })
            .collect();
        if of_kind.is_empty() {
            Found::Nothing
        } else {
            Found::Addresses(of_kind)
        }
    }

    fn look_up_reverse(&self, name: &Name, kind: RecordType) -> Found {
        let Ok(asked) = name.parse_arpa_name() else {
            return Found::Elsewhere;
        };
        let is_ours = self.subnets.iter().any(|(base, prefix)| {
            *prefix <= asked.prefix_len() && shares_prefix(*base, asked.addr(), *prefix)
        });
        let is_address = asked.prefix_len() == asked.max_prefix_len();
        match self.reverse.get(&asked.addr()) {
            _ if !is_ours => Found::Elsewhere,
            // A name between the subnet and its addresses: somebody walks the tree.
            _ if !is_address => Found::Nothing,
            None => Found::NoSuchName,
            Some(found) if kind == RecordType::PTR => Found::Name(found.clone()),
            Some(_) => Found::Nothing,
        }
    }
}

/// A name as the zone keeps it; none if no question can ask for it.
fn normalize(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_name = text.len() <= LONGEST_NAME && text.split('.').all(is_label);
    is_name.then(|| text.to_ascii_lowercase())
}

/// A name of the wire as the zone keeps it; none if the zone cannot have it.
fn text_of(name: &Name) -> Option<String> {
    let labels: Option<Vec<_>> = name
        .iter()
        // A dot inside a label is no separator.
        .map(|label| {
            str::from_utf8(label)
                .ok()
                .filter(|text| !text.contains('.'))
        })
        .collect();
    normalize(&labels?.join("."))
}

fn shares_prefix(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            let differing = one.to_bits() ^ other.to_bits();
            u32::from(prefix) <= differing.leading_zeros()
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            let differing = one.to_bits() ^ other.to_bits();
            u32::from(prefix) <= differing.leading_zeros()
        }
        _ => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::names) fn host(name: &str, last: u8) -> Host {
        Host {
            name: name.to_owned(),
            short_id: format!("{last:012x}"),
            aliases: Vec::new(),
            hostname: format!("{last:012x}"),
            ips: vec![
                IpAddr::from([10, 5, 0, last]),
                IpAddr::from([0xfd05, 0, 0, 0, 0, 0, 0, u16::from(last)]),
            ],
        }
    }

    /// A zone with members.
    pub(in crate::names) fn zone_of(subnets: Vec<(IpAddr, u8)>, hosts: &[Host]) -> Zone {
        let mut zone = Zone::new(subnets);
        for host in hosts {
            assert!(zone.insert(host.clone()), "{host:?} is new");
        }
        zone
    }

    pub(in crate::names) fn subnets() -> Vec<(IpAddr, u8)> {
        vec![
            ("10.5.0.0".parse().unwrap(), 24),
            ("fd05::".parse().unwrap(), 64),
        ]
    }

    fn look_up(zone: &Zone, name: &str, kind: RecordType) -> Found {
        zone.look_up(&Name::from_ascii(name).unwrap(), kind)
    }

    fn ips(found: &Found) -> Vec<String> {
        match found {
            Found::Addresses(ips) => ips.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_is_found_by_everything_that_it_is_called() {
        let zone = zone_of(
            subnets(),
            &[Host {
                aliases: vec!["Cache".to_owned(), "kv.example".to_owned()],
                hostname: "box".to_owned(),
                ..host("db", 2)
            }],
        );
        for name in [
            "db.",
            "DB.",
            "cache.",
            "kv.example.",
            "000000000002.",
            "box.",
        ] {
            let found = look_up(&zone, name, RecordType::A);
            assert_eq!(ips(&found), ["10.5.0.2"], "{name}");
            let found = look_up(&zone, name, RecordType::AAAA);
            assert_eq!(ips(&found), ["fd05::2"], "{name}");
            assert_eq!(look_up(&zone, name, RecordType::MX), Found::Nothing);
        }
        assert_eq!(look_up(&zone, "web.", RecordType::A), Found::Elsewhere);
    }

    #[test]
    fn a_name_of_one_family_has_nothing_of_the_other() {
        let mut only4 = host("db", 2);
        only4.ips.truncate(1);
        let zone = zone_of(subnets(), &[only4]);
        assert_eq!(look_up(&zone, "db.", RecordType::AAAA), Found::Nothing);
    }

    /// C-04: nobody takes what identifies another, and nobody takes `localhost`.
    #[test]
    fn a_name_cannot_be_taken_by_an_alias_or_a_host_name() {
        let thief = Host {
            aliases: vec!["db".to_owned(), "LOCALHOST".to_owned()],
            hostname: "x.localhost".to_owned(),
            ..host("thief", 3)
        };
        let zone = zone_of(subnets(), &[thief, host("db", 2)]);
        assert_eq!(ips(&look_up(&zone, "db.", RecordType::A)), ["10.5.0.2"]);
        for name in ["localhost.", "x.localhost."] {
            let found = look_up(&zone, name, RecordType::A);
            assert_eq!(found, Found::NoSuchName, "{name}");
        }
    }

    #[test]
    fn all_who_share_an_alias_are_told() {
        let shared = |name: &str, last| Host {
            aliases: vec!["pool".to_owned()],
            ..host(name, last)
        };
        let zone = zone_of(subnets(), &[shared("b", 3), shared("a", 2)]);
        let found = look_up(&zone, "pool.", RecordType::A);
        assert_eq!(ips(&found), ["10.5.0.2", "10.5.0.3"]);
    }

    #[test]
    fn a_member_that_goes_leaves_its_names_to_others() {
        let thief = Host {
            aliases: vec!["db".to_owned()],
            ..host("thief", 3)
        };
        let mut zone = zone_of(subnets(), &[thief.clone(), host("db", 2)]);
        assert!(!zone.insert(thief), "nothing is new");
        assert!(zone.remove("000000000002"));
        assert!(!zone.remove("000000000002"), "it is gone");
        assert_eq!(ips(&look_up(&zone, "db.", RecordType::A)), ["10.5.0.3"]);
        assert!(zone.insert(host("other", 3)), "it has other names");
        assert_eq!(look_up(&zone, "db.", RecordType::A), Found::Elsewhere);
        assert_eq!(look_up(&zone, "thief.", RecordType::A), Found::Elsewhere);
        let asked = "3.0.5.10.in-addr.arpa.";
        let found = look_up(&zone, asked, RecordType::PTR);
        assert_eq!(found, Found::Name(Name::from_ascii("other.").unwrap()));
        assert!(zone.remove("000000000003"));
        let empty = look_up(&zone, asked, RecordType::PTR);
        assert_eq!(empty, Found::NoSuchName);
        assert!(zone.names.is_empty() && zone.hosts.is_empty());
    }

    #[test]
    fn addresses_of_the_network_are_its_own_to_name() {
        let zone = zone_of(subnets(), &[host("db", 2)]);
        let name = |found| match found {
            Found::Name(name) => name.to_ascii(),
            other => panic!("{other:?}"),
        };
        let known = look_up(&zone, "2.0.5.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(name(known), "db.");
        let six = format!("2.{}5.0.d.f.ip6.arpa.", "0.".repeat(27));
        assert_eq!(name(look_up(&zone, &six, RecordType::PTR)), "db.");
        for (asked, expected) in [
            ("3.0.5.10.in-addr.arpa.", Found::NoSuchName),
            ("0.5.10.in-addr.arpa.", Found::Nothing),
            ("5.10.in-addr.arpa.", Found::Elsewhere),
            ("2.0.6.10.in-addr.arpa.", Found::Elsewhere),
            ("x.in-addr.arpa.", Found::Elsewhere),
        ] {
            assert_eq!(look_up(&zone, asked, RecordType::PTR), expected, "{asked}");
        }
        let other_type = look_up(&zone, "2.0.5.10.in-addr.arpa.", RecordType::A);
        assert_eq!(other_type, Found::Nothing);
    }

    #[test]
    fn a_dot_inside_a_label_does_not_make_two() {
        let zone = zone_of(subnets(), &[host("a.b", 2)]);
        let one_label = Name::from_labels([&b"a.b"[..]]).unwrap();
        assert_eq!(zone.look_up(&one_label, RecordType::A), Found::Elsewhere);
        assert_eq!(ips(&look_up(&zone, "a.b.", RecordType::A)), ["10.5.0.2"]);
    }

    #[test]
    fn names_that_nobody_can_ask_for_are_left_out() {
        for text in ["", "a..b", "a.", "é", &"a".repeat(64), &"a.".repeat(127)] {
            assert_eq!(normalize(text), None, "{text}");
        }
    }
}
