//! Messages that are to confuse the server for names, or to make it talk to others (C-06).

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream, UdpSocket};

use super::questions::{Cast, ask, ask_by_stream, header, is_answered, question, serve_naively};
use super::wire::{IPV4, UDP, Wire, ethernet, ipv4, udp};
use crate::lan::{self, HOST4};
use crate::world::{DEADLINE, PATIENCE, World, inside};

/// Messages that no client sends.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let good = question("victim");
    let with = |at: usize, bytes: &[u8]| {
        let mut message = good.clone();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    let one = [0, 1, 0, 0, 0, 0, 0, 0];
    let named = |name: &[u8]| [&header(one)[..], name, &[0, 1, 0, 1]].concat();
    let long = [&[64][..], &[b'a'; 64], &[0]].concat();
    let deep = [&[1, b'a'].repeat(200)[..], &[0]].concat();
    let option = |length: u16| {
        let data = [0, 0, 41, 0xff, 0xff, 0, 0, 0, 0].to_vec();
        let mut message = [&with(10, &[0, 1])[..], &data, &length.to_be_bytes()].concat();
        message.resize(message.len() + usize::from(length.min(1000)), 0xff);
        message
    };
    vec![
        ("nothing", Vec::new()),
        ("half a header", good[..6].to_vec()),
        ("a header", header([0; 8])),
        ("a name that points at itself", named(&[0xc0, 12])),
        (
            "two names that point at each other",
            named(&[0xc0, 14, 0xc0, 12]),
        ),
        ("a name that points behind the end", named(&[0xff, 0xff])),
        ("a label of 64", named(&long)),
        ("a name of 400", named(&deep)),
        (
            "a name without an end",
            [&header(one)[..], &[63], &[b'a'; 20]].concat(),
        ),
        ("65,535 questions announced", with(4, &[0xff, 0xff])),
        ("65,535 of everything announced", with(4, &[0xff; 8])),
        ("a response", with(2, &[0x81])),
        ("a response that is refused", with(2, &[0x81, 5])),
        ("a notification", with(2, &[0x21])),
        ("an update", with(2, &[0x29])),
        ("an opcode of nobody", with(2, &[0x79])),
        ("a class of nobody", with(good.len() - 2, &[0xfe, 0xfe])),
        ("everything", with(good.len() - 4, &[0, 255])),
        ("a transfer", with(good.len() - 4, &[0, 252])),
        ("an option that is cut off", option(60_000)),
        ("an option of 1,000", option(1_000)),
        (
            "two questions",
            [&with(4, &[0, 2])[..], &good[12..]].concat(),
        ),
        ("a tail", [&good[..], &[0xff; 400]].concat()),
        ("64 KiB of zeroes", vec![0; 65_000]),
        ("64 KiB of ones", vec![0xff; 65_000]),
    ]
}

/// How much a server says to a datagram before it answers what is asked after it.
fn told_by_datagram(netns: &str, server: IpAddr, message: &[u8]) -> usize {
    const AFTER: [u8; 2] = [0x5e, 0x5e];
    let message = message.to_vec();
    let mut after = question("victim");
    after[..2].copy_from_slice(&AFTER);
    inside(netns, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.send_to(&message, (server, 53)).unwrap();
        socket.send_to(&after, (server, 53)).unwrap();
        let mut buffer = vec![0; 65_536];
        let replies = std::iter::from_fn(|| {
            let length = socket.recv(&mut buffer).expect("the server is well");
            (!buffer.starts_with(&AFTER)).then_some(length)
        });
        replies.sum()
    })
}

/// How much a server says on a connection until it closes it.
fn told_by_stream(netns: &str, server: IpAddr, message: &[u8]) -> usize {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let message = [&length, message].concat();
    inside(netns, move || {
        let mut stream = TcpStream::connect((server, 53)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The server may have had enough before all of it has come.
        drop(stream.write_all(&message));
        drop(stream.shutdown(Shutdown::Write));
        let mut told = Vec::new();
        match stream.read_to_end(&mut told) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("it is not closed"),
            _closed => told.len(),
        }
    })
}

/// The messages that are answered with more than was asked.
fn amplified(cast: &Cast, server: IpAddr) -> Vec<&'static str> {
    let netns = &cast.attacker.netns_path;
    garbage()
        .into_iter()
        .filter(|(_, message)| {
            told_by_datagram(netns, server, message) > message.len()
                || told_by_stream(netns, server, message) > 2 + message.len()
        })
        .map(|(what, _)| what)
        .collect()
}

/// C-06: no message stops the server, and none is answered with more than was asked.
#[test]
fn no_message_confuses_the_server_or_is_multiplied() {
    World::run("no_message_confuses_the_server_or_is_multiplied", |world| {
        let cast = Cast::enter(world);
        serve_naively(&cast.naive);
        let naive = amplified(&cast, cast.naive_server());
        // Twice nothing is nothing, and twice 64 KiB is more than a datagram.
        assert_eq!(naive.len(), garbage().len() - 3, "{naive:?}");
        assert_eq!(amplified(&cast, cast.server()), [""; 0]);
        let reply = ask_by_stream(
            &cast.victim.netns_path,
            cast.server(),
            &question("victim"),
            DEADLINE,
        );
        assert!(is_answered(reply.as_ref(), &cast.victim));
    });
}

/// C-06: answers go to whoever asks on the bridge, and to nobody in whose name somebody asks.
#[test]
fn nobody_makes_the_server_talk_to_others() {
    World::run("nobody_makes_the_server_talk_to_others", |world| {
        let cast = Cast::enter(world);
        let lan = lan::connect(world);
        lan::route_through_host(&lan, "172.16.0.0/12");
        let message = question("victim");
        for server in [cast.server(), HOST4.parse().unwrap()] {
            assert_eq!(ask(&lan, server, &message, PATIENCE), None, "{server}");
            assert_eq!(ask_by_stream(&lan, server, &message, PATIENCE), None);
        }
        let attacker = Wire::open(&cast.attacker.netns_path, "eth0");
        let victim = Wire::open(&cast.victim.netns_path, "eth0");
        let IpAddr::V4(server) = cast.server() else {
            panic!("the server's address is IPv4");
        };
        let [.., a, b, c, d] = server.to_ipv6_mapped().octets();
        let told = b"\xab\xcd\x85";
        let ask_as = |ip: &str| {
            let packet = ipv4(UDP, ip.parse().unwrap(), server, &udp(999, 53, &message));
            let frame = ethernet([2, 0x42, a, b, c, d], attacker.mac(), IPV4, &packet);
            attacker.send(&frame);
        };
        ask_as(&cast.victim.ipv4_address);
        assert!(!victim.hears(told, PATIENCE), "in the name of the victim");
        ask_as(&cast.attacker.ipv4_address);
        assert!(attacker.hears(told, DEADLINE), "in its own name");
    });
}
