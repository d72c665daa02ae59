//! What the kernel counted, read from its messages.

use std::collections::BTreeMap;

use super::render;
use crate::netlink::message::{attribute, attributes};

const ELEMENT_EXPRESSION: u16 = 7;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counter {
    /// Packets.
    pub(crate) packets: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

impl std::ops::AddAssign for Counter {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// The counters of a set, by key.
pub(crate) type Counters = BTreeMap<Vec<u8>, Counter>;

/// What an element has counted.
pub(super) fn of_element(element: &[u8]) -> Option<Counter> {
    of_expression(attribute(element, ELEMENT_EXPRESSION)?)
}

/// The name of a rule and what it has counted; none if it has no name.
pub(super) fn of_rule(rule: &[u8]) -> Option<(String, Counter)> {
    let label = render::label_of(attribute(rule, render::RULE_USERDATA)?)?;
    let expressions = attribute(rule, render::RULE_EXPRESSIONS)?;
    let counter = attributes(expressions).find_map(|(_, expression)| of_expression(expression))?;
    Some((label, counter))
}

/// Whether an expression counts, and is therefore never the same.
pub(super) fn is_counter(expression: &[u8]) -> bool {
    attribute(expression, EXPRESSION_NAME) == Some(b"counter\0")
}

fn of_expression(expression: &[u8]) -> Option<Counter> {
    if !is_counter(expression) {
        return None;
    }
    let data = attribute(expression, EXPRESSION_DATA)?;
    let number = |kind| {
        let bytes = <[u8; 8]>::try_from(attribute(data, kind)?).ok()?;
        Some(u64::from_be_bytes(bytes))
    };
    Some(Counter {
        packets: number(COUNTER_PACKETS)?,
        bytes: number(COUNTER_BYTES)?,
    })
}
