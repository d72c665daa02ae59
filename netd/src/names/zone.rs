//! The names of one network. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};

const LONGEST_LABEL: usize = 63;
const LONGEST_NAME: usize = 253;

/// A member of a network, with everything that it is called.
#[derive(Debug, Clone)]
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

/// The names of a network, both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    names: BTreeMap<String, Vec<IpAddr>>,
    reverse: BTreeMap<IpAddr, Name>,
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
    /// The zone of a network with these subnets and members.
    ///
    /// What identifies a member cannot be taken from it: a name beats a short id, that
    /// beats an alias, and that beats a host name. Where several are equal, all are told.
    pub(crate) fn new(subnets: Vec<(IpAddr, u8)>, hosts: &[Host]) -> Self {
        let mut zone = Self {
            names: BTreeMap::new(),
            reverse: BTreeMap::new(),
            subnets,
        };
        zone.add(hosts, |host| vec![&host.name]);
        zone.add(hosts, |host| vec![&host.short_id]);
        zone.add(hosts, |host| host.aliases.iter().collect());
        zone.add(hosts, |host| vec![&host.hostname]);
        for host in hosts {
            let called = [&host.name, &host.short_id]
                .into_iter()
                .find_map(|text| Name::from_ascii(normalize(text)?).ok());
            if let Some(mut name) = called {
                name.set_fqdn(true);
                let named = host.ips.iter().map(|ip| (*ip, name.clone()));
                zone.reverse.extend(named);
            }
        }
        zone
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
        let Some(ips) = self.names.get(&text) else {
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

    /// Adds names of one rank. A name that a higher rank has is left alone.
    fn add<'a>(&mut self, hosts: &'a [Host], names_of: impl Fn(&'a Host) -> Vec<&'a String>) {
        let mut rank: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for host in hosts {
            for name in names_of(host)
                .into_iter()
                .filter_map(|text| normalize(text))
            {
                rank.entry(name).or_default().extend(&host.ips);
            }
        }
        for (name, ips) in rank {
            self.names
                .entry(name)
                .or_insert_with(|| ips.into_iter().collect());
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
        let zone = Zone::new(
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
        let zone = Zone::new(subnets(), &[only4]);
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
        let zone = Zone::new(subnets(), &[thief, host("db", 2)]);
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
        let zone = Zone::new(subnets(), &[shared("b", 3), shared("a", 2)]);
        let found = look_up(&zone, "pool.", RecordType::A);
        assert_eq!(ips(&found), ["10.5.0.2", "10.5.0.3"]);
    }

    #[test]
    fn addresses_of_the_network_are_its_own_to_name() {
        let zone = Zone::new(subnets(), &[host("db", 2)]);
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
        let zone = Zone::new(subnets(), &[host("a.b", 2)]);
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
