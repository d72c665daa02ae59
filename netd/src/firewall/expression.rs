//! nf_tables expressions, as far as our rules need them, and their encoding.
//!
//! Registers are counted in words of four bytes; the kernel has sixteen. A key of
//! several fields is loaded into neighbouring words, each field padded to whole words,
//! and looked up at once.

use crate::netlink::Message;

/// The number of the first four-byte register.
const FIRST_WORD: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const LIST_ELEMENT: u16 = 1;

/// The length of an interface name as the kernel compares it.
pub(crate) const IFNAME_LENGTH: usize = 16;

/// A register, counted in words.
pub(crate) type Register = u32;

/// What a packet says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// The name of the device it came in by.
    IncomingIfname,
    /// The name of the device it goes out by.
    OutgoingIfname,
    /// The address family, inside an `inet` table.
    AddressFamily,
    /// The transport protocol, after IPv6 extension headers.
    TransportProtocol,
    /// The state of its connection.
    ConnectionState,
    /// The status bits of its connection.
    ConnectionStatus,
    /// Which way it goes in its connection, [`ORIGINAL`] or [`REPLY`].
    ConnectionDirection,
    /// A number that nobody can choose, the same for every packet of its connection.
    ConnectionId,
    /// Whether its destination is local, by the routing table.
    DestinationType,
    /// Bytes of a header.
    Header(Base, u32, u32),
}

/// Which header an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// Ethernet.
    LinkLayer = 0,
    /// IPv4, IPv6 or ARP.
    Network = 1,
    /// TCP, UDP, SCTP or ICMP.
    Transport = 2,
}

/// The direction of the packet that opened a connection.
pub(crate) const ORIGINAL: u8 = 0;
/// The direction of what answers it.
pub(crate) const REPLY: u8 = 1;

/// Source address of an Ethernet frame.
pub(crate) const ETHER_SOURCE: Field = Field::Header(Base::LinkLayer, 6, 6);
/// Type of an Ethernet frame; of a tagged one, the type of the tag.
pub(crate) const ETHER_TYPE: Field = Field::Header(Base::LinkLayer, 12, 2);
/// Sender's hardware address in ARP.
pub(crate) const ARP_SENDER_MAC: Field = Field::Header(Base::Network, 8, 6);
/// Sender's protocol address in ARP.
pub(crate) const ARP_SENDER_IP: Field = Field::Header(Base::Network, 14, 4);
/// Source address of IPv4.
pub(crate) const IP4_SOURCE: Field = Field::Header(Base::Network, 12, 4);
/// Destination address of IPv4.
pub(crate) const IP4_DESTINATION: Field = Field::Header(Base::Network, 16, 4);
/// Source address of IPv6.
pub(crate) const IP6_SOURCE: Field = Field::Header(Base::Network, 8, 16);
/// Destination address of IPv6.
pub(crate) const IP6_DESTINATION: Field = Field::Header(Base::Network, 24, 16);
/// Source port of any transport.
pub(crate) const SOURCE_PORT: Field = Field::Header(Base::Transport, 0, 2);
/// Destination port of any transport.
pub(crate) const DESTINATION_PORT: Field = Field::Header(Base::Transport, 2, 2);
/// Message type of ICMP and ICMPv6.
pub(crate) const ICMP_TYPE: Field = Field::Header(Base::Transport, 0, 1);
/// Target address of a neighbour advertisement.
pub(crate) const NEIGHBOUR_TARGET: Field = Field::Header(Base::Transport, 8, 16);

impl Field {
    /// How many words of register the field takes.
    pub(crate) fn words(self) -> u32 {
        match self {
            Self::IncomingIfname | Self::OutgoingIfname => 4,
            Self::Header(_, _, length) => length.div_ceil(4),
            _ => 1,
        }
    }
}

/// Whether a comparison or a lookup must hold or must fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sense {
    /// It must hold.
    Is,
    /// It must fail.
    IsNot,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is discarded.
    Drop,
    /// It leaves this base chain unharmed.
    Accept,
    /// It goes on in another chain and does not come back.
    Goto(&'static str),
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Loads a field into a register.
    Load(Field, Register),
    /// Goes on if a register, masked if a mask is given, compares.
    Compare(Register, Sense, Vec<u8>),
    /// Masks a register in place.
    Mask(Register, Vec<u8>),
    /// Goes on if a set has the key at a register.
    Lookup(&'static str, Register, Sense),
    /// Goes on if a map has the key at the first register; its value goes to the second.
    Map(&'static str, Register, Register),
    /// Rewrites the destination to the address at a register, and to the port at another if
    /// there is one.
    DestinationNat(Family, Register, Option<Register>),
    /// Rewrites the source to an address of the outgoing device.
    Masquerade,
    /// Notes the connection at the element of the key at a register, which comes to be if
    /// need be; goes on if more than a number are noted there.
    CountConnections(&'static str, Register, u32),
    /// Counts packets and bytes.
    Counter,
    /// Decides.
    Verdict(Verdict),
}

/// An address family, by its number in netfilter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Both IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ipv4 = 2,
    /// Ethernet bridges.
    Bridge = 7,
    /// IPv6.
    Ipv6 = 10,
}

impl Family {
    /// The number.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }
}

impl Expression {
    /// Appends the expression to the list of a rule.
    pub(crate) fn encode(&self, list: &mut Message) {
        list.nest(LIST_ELEMENT, |element| self.encode_bare(element));
    }

    /// Writes the expression where only one is expected.
    pub(crate) fn encode_bare(&self, element: &mut Message) {
        match self {
            Self::Load(field, register) => load(element, *field, *register),
            Self::Compare(register, sense, value) => named(element, "cmp", |data| {
                data.put_be32(1, FIRST_WORD + register)
                    .put_be32(2, u32::from(*sense == Sense::IsNot))
                    .nest(3, |inner| {
                        inner.put(DATA_VALUE, value);
                    });
            }),
            Self::Mask(register, mask) => named(element, "bitwise", |data| {
                data.put_be32(1, FIRST_WORD + register)
                    .put_be32(2, FIRST_WORD + register)
                    .put_be32(
                        3,
                        u32::try_from(mask.len()).expect("a mask fits the registers"),
                    )
                    .nest(4, |inner| {
                        inner.put(DATA_VALUE, mask);
                    })
                    .nest(5, |inner| {
                        inner.put(DATA_VALUE, &vec![0; mask.len()]);
                    });
            }),
            Self::Lookup(set, register, sense) => named(element, "lookup", |data| {
                data.put_text(1, set).put_be32(2, FIRST_WORD + register);
                if *sense == Sense::IsNot {
                    data.put_be32(5, 1);
                }
            }),
            Self::Map(map, key, value) => named(element, "lookup", |data| {
                data.put_text(1, map)
                    .put_be32(2, FIRST_WORD + key)
                    .put_be32(3, FIRST_WORD + value);
            }),
            Self::DestinationNat(family, address, port) => named(element, "nat", |data| {
                const DESTINATION: u32 = 1;
                data.put_be32(1, DESTINATION)
                    .put_be32(2, u32::from(family.number()))
                    .put_be32(3, FIRST_WORD + address);
                if let Some(port) = port {
                    data.put_be32(5, FIRST_WORD + port);
                }
            }),
            Self::Masquerade => named(element, "masq", |_| {}),
            Self::CountConnections(set, register, limit) => named(element, "dynset", |data| {
                const ADD: u32 = 0;
                const OVER: u32 = 1;
                data.put_text(1, set)
                    .put_be32(3, ADD)
                    .put_be32(4, FIRST_WORD + register)
                    .nest(7, |inner| {
                        named(inner, "connlimit", |data| {
                            data.put_be32(1, *limit).put_be32(2, OVER);
                        });
                    });
            }),
            Self::Counter => named(element, "counter", |_| {}),
            Self::Verdict(verdict) => named(element, "immediate", |data| {
                data.put_be32(1, VERDICT_REGISTER)
                    .nest(2, |inner| encode_verdict(inner, verdict));
            }),
        }
    }
}

fn load(element: &mut Message, field: Field, register: Register) {
    let target = FIRST_WORD + register;
    let mut meta = |key: u32| {
        named(element, "meta", |data| {
            data.put_be32(1, target).put_be32(2, key);
        });
    };
    match field {
        Field::IncomingIfname => meta(6),
        Field::OutgoingIfname => meta(7),
        Field::AddressFamily => meta(15),
        Field::TransportProtocol => meta(16),
        Field::ConnectionState => connection(element, target, 0),
        Field::ConnectionDirection => connection(element, target, 1),
        Field::ConnectionStatus => connection(element, target, 2),
        Field::ConnectionId => connection(element, target, 23),
        Field::DestinationType => named(element, "fib", |data| {
            const RESULT_ADDRESS_TYPE: u32 = 3;
            const BY_DESTINATION: u32 = 2;
            data.put_be32(1, target)
                .put_be32(2, RESULT_ADDRESS_TYPE)
                .put_be32(3, BY_DESTINATION);
        }),
        Field::Header(base, offset, length) => named(element, "payload", |data| {
            data.put_be32(1, target)
                .put_be32(2, base as u32)
                .put_be32(3, offset)
                .put_be32(4, length);
        }),
    }
}

fn connection(element: &mut Message, target: u32, key: u32) {
    named(element, "ct", |data| {
        data.put_be32(1, target).put_be32(2, key);
    });
}

fn named(element: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    element
        .put_text(EXPRESSION_NAME, name)
        .nest(EXPRESSION_DATA, fill);
}

fn encode_verdict(inner: &mut Message, verdict: &Verdict) {
    const GOTO: i32 = -4;
    inner.nest(DATA_VERDICT, |data| {
        let code = match verdict {
            Verdict::Drop => 0,
            Verdict::Accept => 1,
            Verdict::Goto(_) => GOTO,
        };
        data.put(VERDICT_CODE, &code.to_be_bytes());
        if let Verdict::Goto(chain) = verdict {
            data.put_text(VERDICT_CHAIN, chain);
        }
    });
}
