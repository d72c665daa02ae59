//! Questions of every kind, and of none.

use hickory_proto::op::MessageType;
use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::super::zone::Host;
use super::super::zone::tests::{host, subnets, zone_of};
use super::*;
use crate::names::ServedNetwork;

fn network(internal: bool) -> ServedNetwork {
    let many = (10..60).map(|last| Host {
        aliases: vec!["pool".to_owned()],
        ..host(&format!("member-{last}"), last)
    });
    let hosts: Vec<_> = [host("db", 2)].into_iter().chain(many).collect();
    ServedNetwork {
        name: "back".to_owned(),
        gateways: Vec::new(),
        internal,
        zone: zone_of(subnets(), &hosts),
        views: Default::default(),
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn replied(network: &ServedNetwork, question: &[u8], transport: Transport) -> Message {
    match answer(&Sight::of(network, None, &[]), question, transport) {
        Verdict::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn ask(question: &Message) -> Message {
    replied(&network(false), &question.to_vec().unwrap(), Transport::Udp)
}

fn forwarded(question: &Message, transport: Transport) -> Box<Forward> {
    match answer(
        &Sight::of(&network(false), None, &[]),
        &question.to_vec().unwrap(),
        transport,
    ) {
        Verdict::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_is_answered_as_it_was_written_and_not_to_be_kept() {
    let reply = ask(&question("dB.", RecordType::A));
    assert_eq!(reply.metadata.id, 0x1234);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    let [record] = &reply.answers[..] else {
        panic!("{reply}")
    };
    assert_eq!(record.name.to_ascii(), "dB.");
    assert_eq!(reply.queries[0].name().to_ascii(), "dB.");
    assert_eq!(record.ttl, 0);
    assert_eq!(record.data, RData::from(IpAddr::from([10, 5, 0, 2])));
}

#[test]
fn other_types_of_a_name_that_is_there_are_empty_answers() {
    for kind in [
        RecordType::MX,
        RecordType::ANY,
        RecordType::SOA,
        RecordType::HTTPS,
    ] {
        let reply = ask(&question("db.", kind));
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.answers.is_empty(), "{kind}");
    }
}

#[test]
fn what_is_not_a_plain_question_is_refused_in_twelve_bytes() {
    let plain = question("db.", RecordType::A).to_vec().unwrap();
    for (offset, byte, code) in [
        (2, 0x28, ResponseCode::NotImp),
        (5, 2, ResponseCode::FormErr),
        (5, 0, ResponseCode::FormErr),
        (4, 0xff, ResponseCode::FormErr),
        (6, 0xff, ResponseCode::FormErr),
        (8, 0xff, ResponseCode::FormErr),
        (10, 0xff, ResponseCode::FormErr),
        (12, 0xc0, ResponseCode::FormErr),
    ] {
        let mut bytes = plain.clone();
        bytes[offset] = byte;
        let Verdict::Reply(reply) = answer(
            &Sight::of(&network(false), None, &[]),
            &bytes,
            Transport::Udp,
        ) else {
            panic!("no reply to {byte} at {offset}");
        };
        assert_eq!(reply.len(), HEADER_LENGTH);
        assert_eq!(reply[3], code.low(), "{byte} at {offset}");
    }
    let mut chaos = question("db.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask(&chaos).metadata.response_code, ResponseCode::Refused);
    let transfer = ask(&question("db.", RecordType::AXFR));
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn responses_and_fragments_get_no_answer() {
    let mut bytes = question("db.", RecordType::A).to_vec().unwrap();
    bytes[2] |= 0x80;
    for bytes in [&bytes[..], &bytes[..11], &[]] {
        let verdict = answer(
            &Sight::of(&network(false), None, &[]),
            bytes,
            Transport::Udp,
        );
        assert!(matches!(verdict, Verdict::Ignore), "{verdict:?}");
    }
}

#[test]
fn what_does_not_fit_is_cut_off_and_whole_on_a_connection() {
    let mut pool = question("pool.", RecordType::AAAA);
    let short = ask(&pool);
    assert!(short.metadata.truncation && short.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(65_000);
    pool.set_edns(edns);
    assert!(
        ask(&pool).metadata.truncation,
        "more than we send in a datagram"
    );
    let bytes = pool.to_vec().unwrap();
    let whole = replied(&network(false), &bytes, Transport::Tcp);
    assert_eq!(whole.answers.len(), 50);
    assert!(!whole.metadata.truncation);
}

#[test]
fn edns_is_answered_with_edns_of_version_zero() {
    let mut asked = question("db.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1).set_max_payload(4096);
    asked.set_edns(edns);
    let reply = ask(&asked);
    // The parser has another name for the same number.
    assert_eq!(
        u16::from(reply.metadata.response_code),
        u16::from(ResponseCode::BADVERS)
    );
    let edns = reply.edns.unwrap();
    assert_eq!((edns.version(), edns.max_payload()), (0, LARGEST_DATAGRAM));
    assert!(ask(&question("db.", RecordType::A)).edns.is_none());
}

/// C-05: nothing is ever asked outside for an internal network.
#[test]
fn an_internal_network_forwards_nothing() {
    for name in [
        "example.com.",
        "secret.attacker.test.",
        "1.0.0.8.in-addr.arpa.",
    ] {
        for kind in [RecordType::A, RecordType::TXT, RecordType::PTR] {
            let bytes = question(name, kind).to_vec().unwrap();
            let reply = replied(&network(true), &bytes, Transport::Udp);
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
            assert!(!reply.metadata.recursion_available);
        }
    }
}

#[test]
fn only_a_response_to_the_very_question_is_taken() {
    let asked = question("example.com.", RecordType::A);
    let forward = forwarded(&asked, Transport::Udp);
    let id = [7, 8];
    let mut good = Message::from_vec(&forward.question(id))
        .unwrap()
        .into_response();
    let judge = |message: &Message| forward.judge(&message.to_vec().unwrap(), id);
    assert_eq!(judge(&good), Some(Quality::Good));
    good.metadata.truncation = true;
    assert_eq!(judge(&good), Some(Quality::CutOff));
    good.metadata.response_code = ResponseCode::ServFail;
    assert_eq!(judge(&good), Some(Quality::Failure));
    let mut other_id = good.clone();
    other_id.metadata.id = 1;
    let mut other_name = good.clone();
    other_name.queries = question("example.org.", RecordType::A).queries;
    let mut other_type = good.clone();
    other_type.queries = question("example.com.", RecordType::MX).queries;
    let mut no_response = good.clone();
    no_response.metadata.message_type = MessageType::Query;
    for wrong in [other_id, other_name, other_type, no_response] {
        assert_eq!(judge(&wrong), None, "{wrong}");
    }
    let relayed = forward.relay(good.to_vec().unwrap());
    assert_eq!(relayed[..2], 0x1234_u16.to_be_bytes());
}

#[test]
fn a_response_that_the_asker_cannot_take_is_cut_off() {
    let forward = forwarded(&question("example.com.", RecordType::A), Transport::Udp);
    let relayed = forward.relay(vec![0; 513]);
    let message = Message::from_vec(&relayed).unwrap();
    assert!(message.metadata.truncation);
    assert_eq!(message.metadata.id, 0x1234);
    assert!(!forward.has_more_room());
    let stream = forwarded(&question("example.com.", RecordType::A), Transport::Tcp);
    assert!(stream.has_more_room());
}

fn any_question() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        Just(vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        Just(vec![1, b'a', 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]),
        proptest::collection::vec(any::<u8>(), 0..16),
    ];
    (header, proptest::collection::vec(any::<u8>(), 0..600))
        .prop_map(|(header, rest)| [header, rest].concat())
}

proptest! {
    /// C-06: whatever comes, there is no panic, and no reply without answers that is
    /// longer than the question.
    #[test]
    fn prop_any_bytes_are_survived_and_never_multiplied(bytes in any_question()) {
        for transport in [Transport::Udp, Transport::Tcp] {
            match answer(&Sight::of(&network(false), None, &[]), &bytes, transport) {
                Verdict::Reply(reply) => {
                    let answers = u16::from_be_bytes([reply[6], reply[7]]);
                    prop_assert!(answers > 0 || reply.len() <= bytes.len());
                }
                Verdict::Forward(forward) => {
                    let _judged = forward.judge(&bytes, [bytes[0], bytes[1]]);
                    prop_assert!(forward.failure().len() >= HEADER_LENGTH);
                }
                Verdict::Ignore => {}
            }
        }
    }

    /// C-06: no response of a server outside is a danger.
    #[test]
    fn prop_any_response_is_survived(bytes in any_question()) {
        let forward = forwarded(&question("example.com.", RecordType::A), Transport::Udp);
        let id = [bytes.first().copied().unwrap_or(0), bytes.get(1).copied().unwrap_or(0)];
        if forward.judge(&bytes, id).is_some() {
            prop_assert!(forward.relay(bytes).len() <= forward.room);
        }
    }
}
