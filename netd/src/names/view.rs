//! What one member of a network sees: the names of its links, those of the network where it
//! asks, and those of the other networks that it is on. Pure.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};

use super::ServedNetwork;
use super::zone::{Found, Zone};

/// What a member sees beside the names of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// What its open links are called, which only it knows.
    pub(crate) links: Zone,
    /// The names of the other networks that it is on, in the order of its devices.
    pub(crate) others: Vec<String>,
    /// The servers that it wants asked for names of the outside; none means the host's.
    pub(crate) servers: Vec<SocketAddr>,
}

/// Everything that the asker of a question sees.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    network: &'a ServedNetwork,
    view: Option<&'a View>,
    others: Vec<&'a Zone>,
}

impl<'a> Sight<'a> {
    /// What a member of a network sees, among all networks.
    pub(super) fn of(
        network: &'a ServedNetwork,
        view: Option<&'a Arc<View>>,
        all: &'a [ServedNetwork],
    ) -> Self {
        let names = view.map_or(&[][..], |view| &view.others);
        let others = names.iter().filter_map(|name| {
            let other = all.iter().find(|other| other.name == *name)?;
            Some(&other.zone)
        });
        Self {
            network,
            view: view.map(Arc::as_ref),
            others: others.collect(),
        }
    }

    /// Whether nothing is asked of servers outside.
    pub(super) fn is_internal(&self) -> bool {
        self.network.internal
    }

    /// The servers to ask for names of the outside; none means the host's.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        self.view.map_or(&[], |view| &view.servers)
    }

    /// Looks a question up: what the asker declared itself comes first.
    pub(super) fn look_up(&self, name: &Name, kind: RecordType) -> Found {
        let links = self.view.map(|view| &view.links);
        let zones = links
            .into_iter()
            .chain([&self.network.zone])
            .chain(self.others.iter().copied());
        zones
            .map(|zone| zone.look_up(name, kind))
            .find(|found| *found != Found::Elsewhere)
            .unwrap_or(Found::Elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::zone::tests::{host, subnets, zone_of};
    use super::*;

    fn network(name: &str, members: &[(&str, u8)]) -> ServedNetwork {
        let hosts: Vec<_> = members
            .iter()
            .map(|(name, last)| host(name, *last))
            .collect();
        ServedNetwork {
            name: name.to_owned(),
            gateways: Vec::new(),
            internal: false,
            zone: zone_of(subnets(), &hosts),
            views: Default::default(),
        }
    }

    fn address(found: Found) -> IpAddr {
        match found {
            Found::Addresses(ips) => ips[0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_link_comes_before_the_network_and_that_before_the_others() {
        let front = network("front", &[("web", 2), ("db", 3)]);
        let all = [front.clone(), network("back", &[("db", 4), ("cache", 5)])];
        let look_up = |view: Option<&Arc<View>>, name: &str| {
            let name = Name::from_ascii(name).unwrap();
            Sight::of(&front, view, &all).look_up(&name, RecordType::A)
        };
        let last = |found| match address(found) {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        assert_eq!(look_up(None, "cache"), Found::Elsewhere);
        let view = Arc::new(View {
            others: vec!["back".to_owned(), "gone".to_owned()],
            ..View::default()
        });
        assert_eq!(last(look_up(Some(&view), "cache")), 5);
        assert_eq!(last(look_up(Some(&view), "db")), 3);
        let view = Arc::new(View {
            links: zone_of(Vec::new(), &[host("db", 9)]),
            ..View::default()
        });
        assert_eq!(last(look_up(Some(&view), "db")), 9);
        assert_eq!(look_up(Some(&view), "localhost"), Found::NoSuchName);
    }
}
