//! What somebody may have changed, as far as the kernel's notifications tell. Pure.
//!
//! A notification says only where to look: what is wrong there, if anything, comes from a
//! comparison. Notifications of what is not ours are passed by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::model::ALIAS_PREFIX;
use crate::firewall::table::TABLE;
use crate::netlink::link::Device;
use crate::netlink::message::{attribute, text, u32_at};
use crate::netlink::route;

const NEW_NETCONF: u16 = 80;
const DELETE_NETCONF: u16 = 81;
const NFTABLES: u16 = 10;

const IFLA_IFNAME: u16 = 3;
const IFLA_IFALIAS: u16 = 20;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const RTA_OIF: u16 = 4;
const NETCONFA_IFINDEX: u16 = 1;
/// Every table of nf_tables messages comes first, by name.
const NFTA_TABLE: u16 = 1;

/// Where to look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// At everything: notifications were lost.
    pub(crate) everything: bool,
    /// At the tables.
    pub(crate) firewall: bool,
    /// At the settings of the host and of all bridges.
    pub(crate) settings: bool,
    /// At these devices.
    pub(crate) devices: BTreeSet<String>,
    /// At what bridges know of these addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

impl Touched {
    /// Whether there is nothing to look at.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Looks there as well.
    pub(crate) fn merge(&mut self, other: Self) {
        let Self {
            everything,
            firewall,
            settings,
            devices,
            addresses,
        } = other;
        self.everything |= everything;
        self.firewall |= firewall;
        self.settings |= settings;
        self.devices.extend(devices);
        self.addresses.extend(addresses);
    }
}

/// The devices of ours that there are: by index, with the name that they had first.
#[derive(Debug, Default)]
pub(crate) struct Devices(BTreeMap<u32, String>);

impl Devices {
    /// Learns what there is.
    pub(crate) fn learn(&mut self, devices: &[Device]) {
        let ours = devices
            .iter()
            .filter(|device| device.alias.starts_with(ALIAS_PREFIX));
        for device in ours {
            self.0
                .entry(device.index)
                .or_insert_with(|| device.name.clone());
        }
    }

    /// Takes in a notification of rtnetlink.
    pub(crate) fn hear(&mut self, kind: u16, payload: &[u8], touched: &mut Touched) {
        // One that is cut off says nothing.
        let _understood = match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.hear_link(kind, payload, touched),
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.touch(u32_at(payload, 4), touched),
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => self.hear_neighbour(payload, touched),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
                let rest = payload.get(12..).unwrap_or_default();
                let index = attribute(rest, RTA_OIF).and_then(|value| u32_at(value, 0));
                self.touch(index, touched)
            }
            NEW_NETCONF | DELETE_NETCONF => {
                let rest = payload.get(4..).unwrap_or_default();
                let index = attribute(rest, NETCONFA_IFINDEX).and_then(|value| u32_at(value, 0));
                // What is of no device is of all.
                if index.is_some_and(|index| i32::try_from(index).is_err()) {
                    touched.settings = true;
                }
                self.touch(index, touched)
            }
            _ => None,
        };
    }

    fn hear_link(&mut self, kind: u16, payload: &[u8], touched: &mut Touched) -> Option<()> {
        let index = u32_at(payload, 4)?;
        let rest = payload.get(16..)?;
        let name = attribute(rest, IFLA_IFNAME).map(text)?;
        let is_stamped = attribute(rest, IFLA_IFALIAS)
            .is_some_and(|alias| text(alias).starts_with(ALIAS_PREFIX));
        if is_stamped {
            self.0.entry(index).or_insert(name);
        }
        self.touch(Some(index), touched);
        // A bridge tells likewise, as its own family, that a port has left it.
        if kind == libc::RTM_DELLINK && payload.first() == Some(&0) {
            self.0.remove(&index);
        }
        Some(())
    }

    fn hear_neighbour(&self, payload: &[u8], touched: &mut Touched) -> Option<()> {
        let index = u32_at(payload, 4)?;
        let rest = payload.get(12..)?;
        if i32::from(*payload.first()?) == libc::AF_BRIDGE {
            // Our hardware addresses end with the IPv4 address; it may be behind any port now.
            if let Some([2, 0x42, a, b, c, d]) = attribute(rest, NDA_LLADDR) {
                touched.addresses.insert([*a, *b, *c, *d].into());
            }
        } else if self.0.contains_key(&index) {
            touched
                .addresses
                .extend(attribute(rest, NDA_DST).and_then(route::ip));
        }
        Some(())
    }

    fn touch(&self, index: Option<u32>, touched: &mut Touched) -> Option<()> {
        let name = self.0.get(&index?)?;
        touched.devices.insert(name.clone());
        Some(())
    }
}

/// Takes in a notification of nf_tables that somebody else than the owner caused.
pub(crate) fn hear_firewall(kind: u16, payload: &[u8], touched: &mut Touched) {
    let table = payload
        .get(4..)
        .and_then(|rest| attribute(rest, NFTA_TABLE));
    if kind >> 8 == NFTABLES && table.is_some_and(|name| text(name) == TABLE) {
        touched.firewall = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Message;

    const AF_BRIDGE: u8 = 7;

    /// The payload of a message.
    fn payload(fixed: &[u8], fill: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::new(0, 0, fixed);
        fill(&mut message);
        message.body().to_vec()
    }

    fn link(family: u8, index: u32, name: &str, alias: Option<&str>) -> Vec<u8> {
        let mut fixed = [0; 16];
        fixed[0] = family;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        payload(&fixed, |message| {
            message.put_text(IFLA_IFNAME, name);
            if let Some(alias) = alias {
                message.put_text(IFLA_IFALIAS, alias);
            }
        })
    }

    fn neighbour(family: u8, index: u32, kind: u16, value: &[u8]) -> Vec<u8> {
        let mut fixed = [0; 12];
        fixed[0] = family;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        payload(&fixed, |message| {
            message.put(kind, value);
        })
    }

    fn known() -> Devices {
        Devices(BTreeMap::from([
            (7, "linkspan0".to_owned()),
            (9, "lkaaaaaaaaaa".to_owned()),
        ]))
    }

    fn heard(devices: &mut Devices, kind: u16, payload: &[u8]) -> Touched {
        let mut touched = Touched::default();
        devices.hear(kind, payload, &mut touched);
        touched
    }

    fn device(name: &str) -> Touched {
        Touched {
            devices: [name.to_owned()].into(),
            ..Touched::default()
        }
    }

    #[test]
    fn a_device_of_ours_is_known_by_its_stamp_and_then_by_its_index() {
        let mut devices = Devices::default();
        let (new, gone) = (libc::RTM_NEWLINK, libc::RTM_DELLINK);
        let foreign = link(0, 3, "eth0", Some("uplink"));
        assert!(heard(&mut devices, new, &foreign).is_empty());
        let stamped = link(0, 9, "lkaaaaaaaaaa", Some("linkspan:a"));
        assert_eq!(heard(&mut devices, new, &stamped), device("lkaaaaaaaaaa"));
        let renamed = link(0, 9, "veth9", None);
        assert_eq!(heard(&mut devices, new, &renamed), device("lkaaaaaaaaaa"));
        let released = link(AF_BRIDGE, 9, "veth9", None);
        assert_eq!(heard(&mut devices, gone, &released), device("lkaaaaaaaaaa"));
        assert_eq!(heard(&mut devices, gone, &renamed), device("lkaaaaaaaaaa"));
        assert!(heard(&mut devices, new, &renamed).is_empty(), "forgotten");
    }

    #[test]
    fn a_hardware_address_of_ours_is_noticed_behind_any_port() {
        let mut devices = known();
        let mac = [2, 0x42, 172, 17, 0, 2];
        let entry = neighbour(AF_BRIDGE, 99, NDA_LLADDR, &mac);
        let touched = heard(&mut devices, libc::RTM_NEWNEIGH, &entry);
        assert_eq!(touched.addresses, ["172.17.0.2".parse().unwrap()].into());
        let foreign = neighbour(AF_BRIDGE, 99, NDA_LLADDR, &[6, 1, 2, 3, 4, 5]);
        assert!(heard(&mut devices, libc::RTM_NEWNEIGH, &foreign).is_empty());
    }

    #[test]
    fn a_neighbour_counts_only_on_our_devices() {
        let mut devices = known();
        for (index, counts) in [(7, true), (3, false)] {
            let entry = neighbour(2, index, NDA_DST, &[172, 17, 0, 2]);
            let touched = heard(&mut devices, libc::RTM_DELNEIGH, &entry);
            assert_eq!(!touched.is_empty(), counts);
        }
    }

    #[test]
    fn settings_of_all_devices_are_looked_at_and_those_of_others_are_not() {
        let mut devices = known();
        for (index, expected) in [
            (
                u32::MAX,
                Touched {
                    settings: true,
                    ..Touched::default()
                },
            ),
            (7, device("linkspan0")),
            (3, Touched::default()),
        ] {
            let message = payload(&[0; 4], |message| {
                message.put_u32(NETCONFA_IFINDEX, index);
            });
            assert_eq!(heard(&mut devices, NEW_NETCONF, &message), expected);
        }
    }

    #[test]
    fn only_tables_of_our_name_are_looked_at() {
        for (name, is_ours) in [("linkspan", true), ("linkspan2", false), ("filter", false)] {
            let message = payload(&[0; 4], |message| {
                message.put_text(NFTA_TABLE, name);
            });
            let mut touched = Touched::default();
            hear_firewall(NFTABLES << 8 | 13, &message, &mut touched);
            assert_eq!(touched.firewall, is_ours, "{name}");
        }
    }

    #[test]
    fn what_is_cut_off_says_nothing() {
        let mut devices = known();
        for kind in [
            libc::RTM_NEWLINK,
            libc::RTM_NEWADDR,
            libc::RTM_NEWNEIGH,
            libc::RTM_NEWROUTE,
            NEW_NETCONF,
        ] {
            assert!(heard(&mut devices, kind, &[0; 3]).is_empty());
        }
    }
}
