//! What becomes of the bytes of a question. Pure.
//!
//! A reply without answers is never longer than its question: nobody can use the server
//! to multiply traffic.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::view::Sight;
use super::zone::Found;

/// The length of a DNS header.
pub(super) const HEADER_LENGTH: usize = 12;
/// What everybody takes over UDP.
const SMALLEST_ROOM: u16 = 512;
/// What passes every path unfragmented; what we take, and the most that we send, over UDP.
const LARGEST_DATAGRAM: u16 = 1232;
/// Names follow their containers at once.
const TTL: u32 = 0;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What is to be done with a question.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask a server outside.
    Forward(Box<Forward>),
    /// Say nothing.
    Ignore,
}

/// A question for a server outside, and what its asker can take.
#[derive(Debug, Clone)]
pub(super) struct Forward {
    request: Message,
    /// The question on the wire; the id is for the sender to fill in.
    question: Vec<u8>,
    /// The longest reply that the asker takes.
    room: usize,
    /// The servers that the asker wants asked; none means the host's.
    servers: Vec<SocketAddr>,
}

/// What a server outside said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quality {
    /// An answer, or that there is none.
    Good,
    /// An answer that did not fit.
    CutOff,
    /// That it cannot or will not tell.
    Failure,
}

/// Judges a question of somebody who sees this.
pub(super) fn answer(sight: &Sight<'_>, bytes: &[u8], transport: Transport) -> Verdict {
    const IS_RESPONSE: u8 = 0x80;
    let Some(header) = bytes.get(..HEADER_LENGTH) else {
        return Verdict::Ignore;
    };
    if header[2] & IS_RESPONSE != 0 {
        return Verdict::Ignore;
    }
    if OpCode::from_u8((header[2] >> 3) & 0x0f) != OpCode::Query {
        return Verdict::Reply(bare(header, ResponseCode::NotImp));
    }
    let request = is_plain(header)
        .then(|| Message::from_vec(bytes).ok())
        .flatten();
    let asked = request.and_then(|request| Asked::of(bytes, request, transport));
    let Some(asked) = asked else {
        return Verdict::Reply(bare(header, ResponseCode::FormErr));
    };
    let query = &asked.query;
    let is_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    let (code, answers) = if asked.edns_version() != 0 {
        (ResponseCode::BADVERS, Vec::new())
    } else if query.query_class() != DNSClass::IN || is_transfer {
        (ResponseCode::Refused, Vec::new())
    } else {
        match sight.look_up(query.name(), query.query_type()) {
            Found::Addresses(ips) => (ResponseCode::NoError, asked.address_records(ips)),
            Found::Name(name) => {
                let record = asked.record(RData::PTR(PTR(name)));
                (ResponseCode::NoError, vec![record])
            }
            Found::Nothing => (ResponseCode::NoError, Vec::new()),
            Found::NoSuchName => (ResponseCode::NXDomain, Vec::new()),
            Found::Elsewhere if sight.is_internal() => (ResponseCode::NXDomain, Vec::new()),
            Found::Elsewhere => return asked.forward(sight.servers()),
        }
    };
    Verdict::Reply(asked.reply(code, answers, sight.is_internal()))
}

/// Whether a header announces one question and no answers, and no more beside them than
/// EDNS and a signature. A parser makes room for what is announced.
fn is_plain(header: &[u8]) -> bool {
    const ADDITIONAL: u8 = 2;
    header[4..10] == [0, 1, 0, 0, 0, 0] && header[10] == 0 && header[11] <= ADDITIONAL
}

/// A reply that the server will not do what was asked for, just now.
pub(super) fn refuse(question: &[u8]) -> Option<Vec<u8>> {
    let header = question.get(..HEADER_LENGTH)?;
    Some(bare(header, ResponseCode::Refused))
}

/// A question that can be understood.
struct Asked<'a> {
    bytes: &'a [u8],
    request: Message,
    query: Query,
    /// The longest reply that the asker takes.
    room: usize,
}

impl<'a> Asked<'a> {
    fn of(bytes: &'a [u8], request: Message, transport: Transport) -> Option<Self> {
        let query = request.queries.first()?.clone();
        let room = match (transport, &request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => SMALLEST_ROOM,
            (Transport::Udp, Some(edns)) => {
                edns.max_payload().clamp(SMALLEST_ROOM, LARGEST_DATAGRAM)
            }
        };
        Some(Self {
            bytes,
            request,
            query,
            room: room.into(),
        })
    }

    fn edns_version(&self) -> u8 {
        self.request.edns.as_ref().map_or(0, Edns::version)
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.query.name().clone(), TTL, data)
    }

    /// The addresses, each asker's question beginning with another one.
    fn address_records(&self, mut ips: Vec<IpAddr>) -> Vec<Record> {
        let first = usize::from(self.request.metadata.id) % ips.len().max(1);
        ips.rotate_left(first);
        ips.into_iter()
            .map(|ip| self.record(RData::from(ip)))
            .collect()
    }

    fn reply(&self, code: ResponseCode, answers: Vec<Record>, internal: bool) -> Vec<u8> {
        let mut reply = response_to(&self.request, code);
        reply.metadata.authoritative =
            matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        reply.metadata.recursion_available = !internal;
        reply.insert_answers(answers);
        let mut bytes = reply.to_vec().unwrap_or_default();
        if bytes.len() > self.room {
            reply.answers.clear();
            reply.metadata.truncation = true;
            bytes = reply.to_vec().unwrap_or_default();
        }
        // The question's name may have been compressed as ours cannot be.
        let grows = reply.answers.is_empty() && bytes.len() > self.bytes.len();
        if bytes.is_empty() || grows {
            return bare(&self.bytes[..HEADER_LENGTH], code);
        }
        bytes
    }

    fn forward(self, servers: &[SocketAddr]) -> Verdict {
        let mut message = Message::query();
        message.metadata.recursion_desired = self.request.metadata.recursion_desired;
        message.metadata.authentic_data = self.request.metadata.authentic_data;
        message.metadata.checking_disabled = self.request.metadata.checking_disabled;
        message.add_query(self.query);
        if let Some(edns) = &self.request.edns {
            message.set_edns(our_edns(edns));
        }
        match message.to_vec() {
            Ok(question) => Verdict::Forward(Box::new(Forward {
                request: self.request,
                question,
                room: self.room,
                servers: servers.to_vec(),
            })),
            Err(_too_long) => {
                Verdict::Reply(bare(&self.bytes[..HEADER_LENGTH], ResponseCode::FormErr))
            }
        }
    }
}

impl Forward {
    /// The servers that the asker wants asked; none means the host's.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// The question on the wire, under an id.
    pub(super) fn question(&self, id: [u8; 2]) -> Vec<u8> {
        let mut bytes = self.question.clone();
        bytes[..2].copy_from_slice(&id);
        bytes
    }

    /// Whether the asker takes more than servers outside may send in a datagram.
    pub(super) fn has_more_room(&self) -> bool {
        self.room > usize::from(LARGEST_DATAGRAM)
    }

    /// What a response to this question under this id says; none if it is no such thing.
    pub(super) fn judge(&self, response: &[u8], id: [u8; 2]) -> Option<Quality> {
        const RESPONSE_TO_QUERY: u8 = 0x80;
        const TRUNCATED: u8 = 0x02;
        let header = response.get(..HEADER_LENGTH)?;
        if header[..2] != id || header[2] & 0xf8 != RESPONSE_TO_QUERY {
            return None;
        }
        let code = ResponseCode::from(0, header[3] & 0x0f);
        let is_final = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        match header[4..6] {
            // Servers that understood nothing repeat nothing.
            [0, 0] if !is_final => return Some(Quality::Failure),
            [0, 1] => {}
            _ => return None,
        }
        let mut decoder = BinDecoder::new(response);
        decoder.read_slice(HEADER_LENGTH).ok()?;
        let echoed = Query::read(&mut decoder).ok()?;
        let asked = self.request.queries.first()?;
        if echoed.name() != asked.name()
            || echoed.query_type() != asked.query_type()
            || echoed.query_class() != asked.query_class()
        {
            return None;
        }
        Some(match header[2] & TRUNCATED {
            _ if !is_final => Quality::Failure,
            0 => Quality::Good,
            _ => Quality::CutOff,
        })
    }

    /// A response as the asker gets it.
    pub(super) fn relay(&self, mut response: Vec<u8>) -> Vec<u8> {
        if response.len() > self.room {
            let mut short = response_to(&self.request, ResponseCode::NoError);
            short.metadata.recursion_available = true;
            short.metadata.truncation = true;
            return short.to_vec().unwrap_or_default();
        }
        response[..2].copy_from_slice(&self.request.metadata.id.to_be_bytes());
        response
    }

    /// What the asker gets when no server answered.
    pub(super) fn failure(&self) -> Vec<u8> {
        let mut failed = response_to(&self.request, ResponseCode::ServFail);
        failed.metadata.recursion_available = true;
        failed.to_vec().unwrap_or_default()
    }
}

/// A response without records: the question as it was asked, and EDNS if it had that.
fn response_to(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.metadata.response_code = code;
    response.add_queries(request.queries.iter().cloned());
    if let Some(edns) = &request.edns {
        let mut edns = our_edns(edns);
        edns.set_rcode_high(code.high());
        response.set_edns(edns);
    }
    response
}

fn our_edns(theirs: &Edns) -> Edns {
    let mut ours = Edns::new();
    ours.set_max_payload(LARGEST_DATAGRAM)
        .set_version(0)
        .set_dnssec_ok(theirs.flags().dnssec_ok);
    ours
}

/// A reply that is a header and nothing else.
fn bare(header: &[u8], code: ResponseCode) -> Vec<u8> {
    const RESPONSE: u8 = 0x80;
    const KEPT: u8 = 0x79;
    let mut bytes = vec![0; HEADER_LENGTH];
    bytes[..2].copy_from_slice(&header[..2]);
    bytes[2] = RESPONSE | header[2] & KEPT;
    bytes[3] = code.low();
    bytes
}

#[cfg(test)]
mod tests;
