//! A rule, written as a chain of conditions that ends in what is done.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::firewall::expression::{
    Expression, Family, Field, IP4_DESTINATION, IP4_SOURCE, IP6_DESTINATION, IP6_SOURCE, Sense,
    Verdict,
};
use crate::firewall::table::SetName;
use crate::network::Subnet;

/// A rule of a chain. It counts what it drops, under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(super) expressions: Vec<Expression>,
    label: Option<&'static str>,
}

/// Which address of a packet is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

impl Rule {
    pub(super) fn new() -> Self {
        Self {
            expressions: Vec::new(),
            label: None,
        }
    }

    /// What the rule does.
    pub(crate) fn expressions(&self) -> &[Expression] {
        &self.expressions
    }

    /// Under which name it counts what it drops.
    pub(crate) fn label(&self) -> Option<&'static str> {
        self.label
    }

    pub(super) fn iif_ours(self, sense: Sense) -> Self {
        self.lookup(&[Field::IncomingIfname], sense, SetName::Bridges)
    }

    pub(super) fn oif_ours(self, sense: Sense) -> Self {
        self.lookup(&[Field::OutgoingIfname], sense, SetName::Bridges)
    }

    pub(super) fn iif(self, ifname: &str) -> Self {
        self.equals(Field::IncomingIfname, &crate::firewall::ifname(ifname))
    }

    pub(super) fn family(self, family: Family) -> Self {
        self.equals(Field::AddressFamily, &[family.number()])
    }

    pub(super) fn protocol(self, number: u8) -> Self {
        self.equals(Field::TransportProtocol, &[number])
    }

    pub(super) fn equals(mut self, field: Field, value: &[u8]) -> Self {
        self.expressions.push(Expression::Load(field, 0));
        self.expressions
            .push(Expression::Compare(0, Sense::Is, value.to_vec()));
        self
    }

    /// Holds if any of the bits of a number in machine order is set.
    pub(super) fn any_bit(mut self, field: Field, bits: u32) -> Self {
        self.expressions.push(Expression::Load(field, 0));
        self.expressions
            .push(Expression::Mask(0, bits.to_ne_bytes().to_vec()));
        self.expressions
            .push(Expression::Compare(0, Sense::IsNot, vec![0; 4]));
        self
    }

    pub(super) fn in_subnet4(self, end: End, subnet: Subnet<Ipv4Addr>) -> Self {
        let field = if end == End::Source {
            IP4_SOURCE
        } else {
            IP4_DESTINATION
        };
        let mask = u32::MAX
            .checked_shl(32 - u32::from(subnet.prefix))
            .unwrap_or(0);
        self.family(Family::Ipv4)
            .masked(field, &mask.to_be_bytes(), &subnet.base.octets())
    }

    pub(super) fn in_subnet6(self, end: End, subnet: Subnet<Ipv6Addr>) -> Self {
        let field = if end == End::Source {
            IP6_SOURCE
        } else {
            IP6_DESTINATION
        };
        let mask = u128::MAX
            .checked_shl(128 - u32::from(subnet.prefix))
            .unwrap_or(0);
        self.family(Family::Ipv6)
            .masked(field, &mask.to_be_bytes(), &subnet.base.octets())
    }

    pub(super) fn lookup(mut self, fields: &[Field], sense: Sense, set: SetName) -> Self {
        self.load_all(fields);
        self.expressions
            .push(Expression::Lookup(set.as_str(), 0, sense));
        self
    }

    /// Rewrites the destination to what a map has for the fields: an address and a port,
    /// or an address alone.
    pub(super) fn destination_nat(
        mut self,
        fields: &[Field],
        family: Family,
        map: SetName,
    ) -> Self {
        self.load_all(fields);
        self.expressions.push(Expression::Map(map.as_str(), 0, 0));
        let words = if family == Family::Ipv4 { 1 } else { 4 };
        let port = (map.value().len() == 2).then_some(words);
        self.expressions
            .push(Expression::DestinationNat(family, 0, port));
        self
    }

    pub(super) fn masquerade(mut self) -> Self {
        self.expressions.push(Expression::Masquerade);
        self
    }

    /// Holds if the sender has more connections than a number in the share of this one.
    pub(super) fn exceeds(mut self, source: Field, set: SetName, shares: u32, limit: u32) -> Self {
        let share = source.words();
        self.load_all(&[source, Field::ConnectionId]);
        let mask = (shares - 1).to_ne_bytes().to_vec();
        self.expressions.push(Expression::Mask(share, mask));
        self.expressions
            .push(Expression::CountConnections(set.as_str(), 0, limit));
        self
    }

    pub(super) fn accept(mut self) -> Self {
        self.expressions.push(Expression::Verdict(Verdict::Accept));
        self
    }

    pub(super) fn drop(mut self, label: &'static str) -> Self {
        self.label = Some(label);
        self.expressions.push(Expression::Counter);
        self.expressions.push(Expression::Verdict(Verdict::Drop));
        self
    }

    pub(super) fn goto(mut self, chain: &'static str) -> Self {
        self.expressions
            .push(Expression::Verdict(Verdict::Goto(chain)));
        self
    }

    fn masked(mut self, field: Field, mask: &[u8], value: &[u8]) -> Self {
        self.expressions.push(Expression::Load(field, 0));
        self.expressions.push(Expression::Mask(0, mask.to_vec()));
        self.expressions
            .push(Expression::Compare(0, Sense::Is, value.to_vec()));
        self
    }

    fn load_all(&mut self, fields: &[Field]) {
        let mut register = 0;
        for field in fields {
            self.expressions.push(Expression::Load(*field, register));
            register += field.words();
        }
    }
}
