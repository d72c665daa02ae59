//! Subnets: which addresses they have, which overlap, and which are free. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::model::{Addresses, InvalidValue};

/// The smallest subnet that is of any use has a gateway and one container.
const LONGEST_PREFIX: u8 = 30;
/// The offsets of a subnet are kept in 32 bits, and so are the containers of an engine.
const SHORTEST_PREFIX: u8 = 8;
/// IPv6 subnets hold every offset of an IPv4 one.
const LONGEST_PREFIX6: u8 = 96;

/// A subnet of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet<Ip> {
    /// The first address.
    pub(crate) base: Ip,
    /// The length of the prefix.
    pub(crate) prefix: u8,
}

impl<Ip: fmt::Display> fmt::Display for Subnet<Ip> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl<Ip: Into<IpAddr> + Copy> Subnet<Ip> {
    /// Whether a route with a destination would lead to some of the same addresses. A
    /// default route does not count.
    pub(crate) fn overlaps(&self, destination: IpAddr, prefix: u8) -> bool {
        let shorter = self.prefix.min(prefix);
        let same_family = self.base.into().is_ipv4() == destination.is_ipv4();
        same_family
            && shorter > 0
            && network(self.base.into(), shorter) == network(destination, shorter)
    }

    /// Whether an address is in it.
    pub(crate) fn contains(&self, ip: Ip) -> bool {
        network(self.base.into(), self.prefix) == network(ip.into(), self.prefix)
    }
}

/// The leading bits of an address.
fn network(ip: IpAddr, prefix: u8) -> u128 {
    let (bits, width) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    bits.checked_shr(width - u32::from(prefix)).unwrap_or(0)
}

/// The subnets of a network. One offset serves both families: container 5 of
/// 172.17.0.0/16 is also number 5 of the IPv6 subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnets {
    /// The IPv4 subnet.
    pub(crate) ipv4: Subnet<Ipv4Addr>,
    /// The IPv6 subnet.
    pub(crate) ipv6: Subnet<Ipv6Addr>,
    /// The offset of the gateway.
    pub(crate) gateway: u32,
}

impl Subnets {
    /// The offset of the gateway, unless a user wants another.
    pub(crate) const GATEWAY: u32 = 1;

    /// The addresses at an offset.
    pub(crate) fn at(&self, offset: u32) -> Addresses {
        let ipv4 = Ipv4Addr::from_bits(self.ipv4.base.to_bits() + offset);
        let ipv6 = Ipv6Addr::from_bits(self.ipv6.base.to_bits() + u128::from(offset));
        Addresses { ipv4, ipv6 }
    }

    /// The addresses of the gateway.
    pub(crate) fn gateway(&self) -> Addresses {
        self.at(self.gateway)
    }

    /// Whether an address is in one of them.
    pub(crate) fn contain(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.ipv4.contains(ip),
            IpAddr::V6(ip) => self.ipv6.contains(ip),
        }
    }

    /// The offsets that may be used at all; one of them is the gateway's.
    pub(crate) fn offsets(&self) -> RangeInclusive<u32> {
        let size = 1_u32 << (32 - self.ipv4.prefix);
        1..=size - 2
    }

    /// The offset of an IPv4 address, if it may be used.
    pub(crate) fn offset_of(&self, ip: Ipv4Addr) -> Option<u32> {
        let offset = ip.to_bits().checked_sub(self.ipv4.base.to_bits())?;
        self.offsets().contains(&offset).then_some(offset)
    }

    /// The offset of an IPv6 address, if it may be used.
    pub(crate) fn offset_of6(&self, ip: Ipv6Addr) -> Option<u32> {
        let offset = ip.to_bits().checked_sub(self.ipv6.base.to_bits())?;
        let offset = u32::try_from(offset).ok()?;
        self.offsets().contains(&offset).then_some(offset)
    }

    /// The offsets of a part of the IPv4 subnet.
    pub(crate) fn offsets_of(&self, range: Subnet<Ipv4Addr>) -> RangeInclusive<u32> {
        let first = range.base.to_bits() - self.ipv4.base.to_bits();
        let last = first + (u32::MAX >> range.prefix);
        let all = self.offsets();
        first.max(*all.start())..=last.min(*all.end())
    }
}

/// What is particular to the subnets of a family.
struct Form<Ip> {
    family: &'static str,
    prefixes: RangeInclusive<u8>,
    width: u8,
    example: &'static str,
    private: &'static str,
    from_bits: fn(u128) -> Ip,
}

const FORM4: Form<Ipv4Addr> = Form {
    family: "IPv4",
    prefixes: SHORTEST_PREFIX..=LONGEST_PREFIX,
    width: 32,
    example: "10.5.0.0/24",
    private: "10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
    from_bits: |bits| Ipv4Addr::from_bits(u32::try_from(bits).expect("32 bits of an address")),
};

const FORM6: Form<Ipv6Addr> = Form {
    family: "IPv6",
    prefixes: 1..=LONGEST_PREFIX6,
    width: 128,
    example: "fd00:5::/64",
    private: "fd00::/8",
    from_bits: Ipv6Addr::from_bits,
};

/// Reads an IPv4 subnet such as `10.5.0.0/24`.
pub(crate) fn parse_ipv4(text: &str) -> Result<Subnet<Ipv4Addr>, InvalidValue> {
    parse(text, &FORM4)
}

/// Reads an IPv6 subnet such as `fd00:5::/64`.
pub(crate) fn parse_ipv6(text: &str) -> Result<Subnet<Ipv6Addr>, InvalidValue> {
    parse(text, &FORM6)
}

fn parse<Ip>(text: &str, form: &Form<Ip>) -> Result<Subnet<Ip>, InvalidValue>
where
    Ip: FromStr + Into<IpAddr> + Copy + PartialEq + fmt::Display,
{
    let wrong = || {
        InvalidValue(format!(
            "the subnet {text:?} must be an {} address and a prefix length from {} to {}, such as {}",
            form.family,
            form.prefixes.start(),
            form.prefixes.end(),
            form.example
        ))
    };
    let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let base: Ip = base.parse().map_err(|_bad| wrong())?;
    let prefix = prefix.parse().map_err(|_bad| wrong())?;
    if !form.prefixes.contains(&prefix) {
        return Err(wrong());
    }
    let first = (form.from_bits)(network(base.into(), prefix) << (form.width - prefix));
    if first != base {
        return Err(InvalidValue(format!(
            "the subnet {text:?} has bits beyond its prefix; did you mean {first}/{prefix}?"
        )));
    }
    if is_special(base.into()) {
        return Err(InvalidValue(format!(
            "the subnet {text:?} is reserved for another purpose; take one from {}",
            form.private
        )));
    }
    Ok(Subnet { base, prefix })
}

fn is_special(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    is_link_local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_seen_in_both_directions() {
        let subnet = parse_ipv4("172.17.0.0/16").unwrap();
        for (destination, prefix, expected) in [
            ("172.17.0.0", 16, true),
            ("172.17.5.0", 24, true),
            ("172.16.0.0", 12, true),
            ("172.18.0.0", 16, false),
            ("0.0.0.0", 0, false),
            ("fd00::", 8, false),
        ] {
            let found = subnet.overlaps(destination.parse().unwrap(), prefix);
            assert_eq!(found, expected, "{destination}/{prefix}");
        }
        let six = parse_ipv6("fd00:5::/64").unwrap();
        assert!(six.overlaps("fd00::".parse().unwrap(), 16));
        assert!(!six.overlaps("fd00:6::".parse().unwrap(), 64));
    }

    #[test]
    fn a_subnet_that_cannot_be_is_refused_in_one_sentence() {
        for (text, word) in [
            ("10.5.0.0", "prefix length"),
            ("10.5.0.0/31", "from 8 to 30"),
            ("10.5.0.0/7", "from 8 to 30"),
            ("10.5.0.1/24", "did you mean 10.5.0.0/24"),
            ("localhost/24", "IPv4 address"),
            ("127.0.0.0/8", "reserved"),
            ("224.0.0.0/8", "reserved"),
            ("fd00::/64", "IPv4 address"),
        ] {
            let sentence = parse_ipv4(text).unwrap_err().to_string();
            assert!(sentence.contains(word), "{text}: {sentence}");
        }
        for (text, word) in [
            ("fd00::1/64", "did you mean fd00::/64"),
            ("fd00::/97", "from 1 to 96"),
            ("fe80::/64", "reserved"),
            ("10.0.0.0/8", "IPv6 address"),
        ] {
            let sentence = parse_ipv6(text).unwrap_err().to_string();
            assert!(sentence.contains(word), "{text}: {sentence}");
        }
    }

    #[test]
    fn a_part_of_a_subnet_has_its_own_offsets() {
        let subnets = Subnets {
            ipv4: parse_ipv4("10.5.0.0/16").unwrap(),
            ipv6: parse_ipv6("fd00:5::/64").unwrap(),
            gateway: 1,
        };
        let part = parse_ipv4("10.5.8.0/24").unwrap();
        assert_eq!(subnets.offsets_of(part), 0x800..=0x8ff);
        let whole = parse_ipv4("10.5.0.0/16").unwrap();
        assert_eq!(subnets.offsets_of(whole), 1..=0xfffe);
        assert_eq!(subnets.offset_of6("fd00:5::7".parse().unwrap()), Some(7));
        assert_eq!(subnets.offset_of6("fd00:6::7".parse().unwrap()), None);
    }
}
