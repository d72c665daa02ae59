//! From the model to nf_tables messages. Pure: the same model gives the same bytes.

use super::expression::{Expression, Family};
use super::table::{Chain, Counting, DataType, Layout, Rule, SetName, TABLE, chains};
use super::{Difference, Elements};
use crate::hash;
use crate::netlink::Message;

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
pub(super) const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_SET: u16 = SUBSYSTEM | 9;
const GET_SET: u16 = SUBSYSTEM | 10;
pub(super) const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
const DESTROY_ELEMENT: u16 = SUBSYSTEM | 30;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

pub(super) const TABLE_USERDATA: u16 = 6;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const RULE_USERDATA: u16 = 7;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const ELEMENT_LIST: u16 = 3;
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const ELEMENT_KEY_END: u16 = 10;
pub(super) const DATA_VALUE: u16 = 1;
const NAME: u16 = 1;
const COMMENT: u8 = 0;
/// A message holds this many elements: their list must stay below 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Whether the kernel lets only one socket write a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// The table belongs to a socket, and stays when the socket is closed.
    Owned,
    /// Anyone with the privilege may write it: what kernels before 6.9 offer.
    Shared,
}

impl Ownership {
    pub(super) fn flags(self) -> u32 {
        const OWNER: u32 = 2;
        const PERSIST: u32 = 4;
        match self {
            Self::Owned => OWNER | PERSIST,
            Self::Shared => 0,
        }
    }
}

/// Both tables.
pub(super) const FAMILIES: [Family; 2] = [Family::Bridge, Family::Inet];

/// Wraps messages into one transaction.
pub(super) fn transaction(messages: Vec<Message>) -> Vec<Message> {
    const NFTABLES: [u8; 4] = [0, 0, 0, 10];
    let mut batch = Vec::with_capacity(messages.len() + 2);
    batch.push(Message::new(BATCH_BEGIN, 0, &NFTABLES));
    batch.extend(messages);
    if let Some(last) = batch.pop() {
        batch.push(last.acknowledged());
    }
    batch.push(Message::new(BATCH_END, 0, &NFTABLES));
    batch
}

/// Makes the tables, or takes them over if they are there.
pub(super) fn tables(ownership: Ownership, stamp: &str) -> Vec<Message> {
    FAMILIES
        .into_iter()
        .map(|family| {
            let mut message = Message::new(NEW_TABLE, libc::NLM_F_CREATE, &fixed(family));
            message
                .put_text(NAME, TABLE)
                .put_be32(TABLE_FLAGS, ownership.flags())
                .put(TABLE_USERDATA, &comment(stamp));
            message
        })
        .collect()
}

/// Deletes the table of a family.
pub(super) fn delete_table(family: Family) -> Message {
    let mut message = Message::new(DELETE_TABLE, 0, &fixed(family));
    message.put_text(NAME, TABLE);
    message
}

/// Asks for the table of a family.
pub(super) fn get_table(family: Family) -> Message {
    let mut message = Message::new(GET_TABLE, 0, &fixed(family));
    message.put_text(NAME, TABLE);
    message
}

/// Asks for the elements of a set.
pub(super) fn get_elements(set: SetName) -> Message {
    let mut message = Message::new(GET_ELEMENT, libc::NLM_F_DUMP, &fixed(set.family()));
    message.put_text(1, TABLE).put_text(2, set.as_str());
    message
}

/// Asks for the chains of a family, of whichever table.
pub(super) fn get_chains(family: Family) -> Message {
    Message::new(GET_CHAIN, libc::NLM_F_DUMP, &fixed(family))
}

/// Asks for the sets of a family's table.
pub(super) fn get_sets(family: Family) -> Message {
    let mut message = Message::new(GET_SET, libc::NLM_F_DUMP, &fixed(family));
    message.put_text(1, TABLE);
    message
}

/// Asks for the rules of a family's table.
pub(super) fn get_rules(family: Family) -> Message {
    let mut message = Message::new(GET_RULE, libc::NLM_F_DUMP, &fixed(family));
    message.put_text(1, TABLE);
    message
}

/// The fixed sets, chains and rules, without their tables.
pub(super) fn skeleton(layout: &Layout) -> Vec<Message> {
    let chains = chains(layout);
    let mut messages: Vec<_> = SetName::ALL
        .into_iter()
        .zip(1..)
        .map(|(set, id)| new_set(set, id))
        .collect();
    messages.extend(chains.iter().map(new_chain));
    for chain in &chains {
        messages.extend(chain.rules.iter().map(|rule| new_rule(chain, rule)));
    }
    messages
}

/// A text that is different for different fixed parts, and the same across builds.
pub(super) fn stamp(layout: &Layout) -> String {
    let skeleton = skeleton(layout);
    let bytes = skeleton.iter().flat_map(|message| message.body());
    let digest = hash::stable(bytes.copied());
    format!("written by linkspan-netd, rules {digest:016x}")
}

/// The user data that nft(8) shows as a comment.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![
        COMMENT,
        u8::try_from(text.len() + 1).expect("comments are short"),
    ];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

/// The text of a comment in user data.
pub(super) fn label_of(userdata: &[u8]) -> Option<String> {
    let (kind, rest) = userdata.split_first()?;
    let text = rest.get(1..1 + usize::from(*rest.first()?))?;
    (*kind == COMMENT).then(|| crate::netlink::message::text(text))
}

/// The messages that change elements: removals first, so that a key can get a new value.
pub(super) fn difference(difference: &Difference) -> Vec<Message> {
    let Difference { removed, added } = difference;
    let mut messages = elements(DELETE_ELEMENT, 0, removed);
    messages.extend(elements(NEW_ELEMENT, libc::NLM_F_CREATE, added));
    messages
}

/// The messages that remove elements which may not be there.
pub(super) fn destruction(doomed: &Elements) -> Vec<Message> {
    elements(DESTROY_ELEMENT, 0, doomed)
}

fn elements(kind: u16, flags: i32, elements: &Elements) -> Vec<Message> {
    let all: Vec<_> = elements.iter().collect();
    all.chunk_by(|((one, _), _), ((other, _), _)| one == other)
        .flat_map(|of_one_set| of_one_set.chunks(ELEMENTS_PER_MESSAGE))
        .map(|chunk| {
            let set = chunk[0].0.0;
            let mut message = Message::new(kind, flags, &fixed(set.family()));
            message
                .put_text(1, TABLE)
                .put_text(2, set.as_str())
                .nest(ELEMENT_LIST, |list| {
                    for ((_, key), value) in chunk {
                        element(list, set, key, value);
                    }
                });
            message
        })
        .collect()
}

fn element(list: &mut Message, set: SetName, key: &[u8], value: &[u8]) {
    let (key, end) = if set.has_intervals() {
        key.split_at(key.len() / 2)
    } else {
        (key, &[][..])
    };
    list.nest(LIST_ELEMENT, |element| {
        element.nest(ELEMENT_KEY, |data| {
            data.put(DATA_VALUE, key);
        });
        if !end.is_empty() {
            element.nest(ELEMENT_KEY_END, |data| {
                data.put(DATA_VALUE, end);
            });
        }
        if !value.is_empty() {
            element.nest(ELEMENT_DATA, |data| {
                data.put(DATA_VALUE, value);
            });
        }
    });
}

fn new_set(set: SetName, id: u32) -> Message {
    const INTERVAL: u32 = 4;
    const MAP: u32 = 8;
    const DYNAMIC: u32 = 0x20;
    const CONCATENATION: u32 = 0x80;
    const SIZE: u16 = 1;
    let mut flags = 0;
    if !set.value().is_empty() {
        flags |= MAP;
    }
    if set.has_intervals() {
        flags |= INTERVAL | CONCATENATION;
    }
    if set.dynamic_size().is_some() {
        flags |= DYNAMIC;
    }
    let mut message = Message::new(NEW_SET, libc::NLM_F_CREATE, &fixed(set.family()));
    message
        .put_text(1, TABLE)
        .put_text(2, set.as_str())
        .put_be32(3, flags)
        .put_be32(4, type_number(set.key()))
        .put_be32(5, length(set.key()));
    if !set.value().is_empty() {
        message
            .put_be32(6, type_number(set.value()))
            .put_be32(7, length(set.value()));
    }
    if set.has_intervals() {
        message.nest(9, |description| {
            describe_fields(description, set.key());
        });
    }
    if let Some(size) = set.dynamic_size() {
        message.nest(9, |description| {
            description.put_be32(SIZE, size);
        });
    }
    message.put_be32(10, id);
    if set.key() == [DataType::Ifname] {
        message.put(13, &HOST_ENDIAN_KEY);
    }
    if set.counting() == Counting::Packets {
        message.nest(17, |nested| Expression::Counter.encode_bare(nested));
    }
    message
}

/// How long each field is: an interval of several fields is one of each of them.
fn describe_fields(description: &mut Message, fields: &[DataType]) {
    const CONCATENATION: u16 = 2;
    const FIELD_LENGTH: u16 = 1;
    description.nest(CONCATENATION, |list| {
        for field in fields {
            list.nest(LIST_ELEMENT, |element| {
                element.put_be32(FIELD_LENGTH, field.width());
            });
        }
    });
}

/// Tells nft(8) to show a key as text; the kernel does not look at it.
const HOST_ENDIAN_KEY: [u8; 6] = [0, 4, 1, 0, 0, 0];

/// nft's number of a concatenation: six bits a field.
fn type_number(fields: &[DataType]) -> u32 {
    fields
        .iter()
        .fold(0, |number, field| (number << 6) | *field as u32)
}

fn length(fields: &[DataType]) -> u32 {
    fields.iter().map(|field| field.length()).sum()
}

fn new_chain(chain: &Chain) -> Message {
    const ACCEPT: u32 = 1;
    let mut message = Message::new(NEW_CHAIN, libc::NLM_F_CREATE, &fixed(chain.family));
    message.put_text(1, TABLE).put_text(3, chain.name);
    if let Some(hook) = chain.hook {
        message
            .nest(4, |data| {
                data.put_be32(1, hook.number)
                    .put(2, &hook.priority.to_be_bytes());
            })
            .put_be32(5, ACCEPT)
            .put_text(7, hook.kind);
    }
    message
}

fn new_rule(chain: &Chain, rule: &Rule) -> Message {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    let mut message = Message::new(NEW_RULE, flags, &fixed(chain.family));
    message
        .put_text(1, TABLE)
        .put_text(2, chain.name)
        .nest(RULE_EXPRESSIONS, |list| {
            for expression in rule.expressions() {
                expression.encode(list);
            }
        });
    if let Some(label) = rule.label() {
        message.put(RULE_USERDATA, &comment(label));
    }
    message
}

/// `struct nfgenmsg`.
fn fixed(family: Family) -> [u8; 4] {
    [family.number(), 0, 0, 0]
}
