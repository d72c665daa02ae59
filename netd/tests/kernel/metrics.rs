//! Metrics, read by a parser that knows the format and not who wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use linkspan_proto::net_v1::{AttachEndpointRequest, ListLinksRequest, ListNetworksRequest};

use crate::world::{
    DEADLINE, PATIENCE, World, dial, link_to, plain, publish, reaches_tcp, serve_tcp, tcp,
};

type Labels = BTreeMap<String, String>;

/// A family of an OpenMetrics text.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: String,
    help: String,
    samples: BTreeMap<Labels, u64>,
}

/// Reads OpenMetrics 1.0 as the specification says, and panics at what it does not say.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text
        .strip_suffix("# EOF\n")
        .expect("the text ends by # EOF");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(metadata) = line.strip_prefix("# ") {
            let mut words = metadata.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            let value = words.next().expect("metadata has a value").to_owned();
            if name != current {
                let old = families.insert(name.to_owned(), Family::default());
                assert!(old.is_none(), "{name} is one block");
                name.clone_into(&mut current);
            }
            let family = families.get_mut(name).unwrap();
            assert!(family.samples.is_empty(), "metadata comes first: {line}");
            let place = match what {
                "TYPE" => &mut family.kind,
                "UNIT" => &mut family.unit,
                "HELP" => &mut family.help,
                other => panic!("what is {other}?"),
            };
            assert!(place.is_empty(), "once only: {line}");
            *place = value;
            continue;
        }
        let (name, labels, value) = sample(line);
        let family = families.get_mut(&current).expect("a family is described");
        let expected = match family.kind.as_str() {
            "counter" => format!("{current}_total"),
            "gauge" => current.clone(),
            other => panic!("{current} is a {other}"),
        };
        assert_eq!(name, expected);
        let old = family.samples.insert(labels, value);
        assert!(old.is_none(), "twice: {line}");
    }
    for (name, family) in &families {
        assert!(!family.help.is_empty(), "{name} has a help text");
        assert!(name.ends_with(&family.unit), "{name} ends by its unit");
    }
    families
}

/// The name, the labels and the value of a sample.
fn sample(line: &str) -> (String, Labels, u64) {
    let is_name = |text: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let (name, mut rest) = line.split_at(line.find(['{', ' ']).expect("a value"));
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").expect("a label and its value");
            assert!(is_name(label), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').expect("one space before the value");
    (name.to_owned(), labels, value.parse().expect("a number"))
}

/// A value up to its quotation mark, without its escapes, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('"' | '\\'))) => escaped,
                other => panic!("{other:?} is escaped"),
            }),
            plain => value.push(plain),
        }
    }
    panic!("no end of the value: {text}")
}

/// Asks, and returns the head and the body of the answer.
fn ask(mut stream: impl Read + Write, request: &str) -> (String, String) {
    write!(stream, "{request} HTTP/1.1\r\nHost: netd\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (head.to_ascii_lowercase(), body.to_owned())
}

fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> u64 {
    let owned = labels.iter();
    let labels: BTreeSet<_> = owned
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
    let mut found = family.samples.iter().filter(|(all, _)| {
        let all: BTreeSet<_> = all
            .iter()
            .map(|(one, other)| (one.clone(), other.clone()))
            .collect();
        labels.is_subset(&all)
    });
    let (_, value) = found
        .next()
        .unwrap_or_else(|| panic!("no {name} of {labels:?}"));
    assert!(found.next().is_none(), "one {name} of {labels:?}");
    *value
}

/// Two containers, a link, a published port, and something of each that passes or not.
fn talk(world: &World) {
    let db = world.attach(AttachEndpointRequest {
        exposed: vec![tcp(5432)],
        port_mappings: vec![publish("", 8080, 5432)],
        ..plain('a', "db")
    });
    let web = world.attach(AttachEndpointRequest {
        links: vec![link_to("db", "db")],
        ..plain('b', "web")
    });
    serve_tcp(&db.netns_path, "::", 5432);
    let ip = &db.ipv4_address;
    assert!(reaches_tcp(&web.netns_path, ip, 5432, DEADLINE));
    assert!(!reaches_tcp(
        &db.netns_path,
        &web.ipv4_address,
        80,
        PATIENCE
    ));
    dial("127.0.0.1", 8080, DEADLINE).expect("the port is published");
}

/// The counters of links, ports, networks and rules are told as OpenMetrics, and they are
/// those of the interface.
#[test]
fn metrics_are_what_was_counted() {
    const PORT: u16 = 9600;
    let place = format!("127.0.0.1:{PORT}");
    World::with_flags(
        "metrics_are_what_was_counted",
        &["--metrics", &place],
        |world| {
            talk(world);
            let metrics = || {
                ask(
                    TcpStream::connect(("127.0.0.1", PORT)).unwrap(),
                    "GET /metrics",
                )
            };
            let (head, body) = metrics();
            assert!(head.starts_with("http/1.1 200 "), "{head}");
            let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
            assert!(head.lines().any(|line| line == kind), "{head}");
            let families = parse(&body);
            let link = [("consumer", "web"), ("source", "db"), ("network", "bridge")];
            assert_eq!(value(&families, "linkspan_link_connections", &link), 1);
            let packets = value(&families, "linkspan_link_packets", &link);
            let links = world.ask(async |mut client| {
                let links = client.list_links(ListLinksRequest {}).await.unwrap();
                links.into_inner().links
            });
            assert_eq!(links[0].traffic.as_ref().unwrap().packets, packets);
            assert!(value(&families, "linkspan_link_bytes", &link) > packets);
            let port = [
                ("endpoint", "db"),
                ("host_port", "8080"),
                ("host_ip", "0.0.0.0"),
            ];
            assert_eq!(value(&families, "linkspan_port_connections", &port), 1);
            let dropped = [("rule", "no_link")];
            assert!(value(&families, "linkspan_dropped_packets", &dropped) > 0);
            assert_eq!(value(&families, "linkspan_endpoints", &[]), 2);
            let network = [("network", "bridge")];
            assert_eq!(value(&families, "linkspan_network_endpoints", &network), 2);
            let sent = [("network", "bridge"), ("direction", "sent")];
            let sent = value(&families, "linkspan_network_packets", &sent);
            let networks = world.ask(async |mut client| {
                let networks = client.list_networks(ListNetworksRequest {}).await.unwrap();
                networks.into_inner().networks
            });
            assert!(0 < sent && sent <= networks[0].sent_packets);
            assert!(networks[0].received_bytes > networks[0].received_packets);
            for (request, status) in [("GET /", "404"), ("POST /metrics", "405")] {
                let stream = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
                let (head, _) = ask(stream, request);
                assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
            }
        },
    );
}

/// Readers that say nothing do not keep netd from others, nor from stopping.
#[test]
fn a_silent_reader_of_metrics_keeps_nobody() {
    World::bare("a_silent_reader_of_metrics_keeps_nobody", |world| {
        let socket = world.path().join("run/metrics.sock");
        world.add_flags(&["--metrics", &format!("unix:{}", socket.display())]);
        world.start();
        let silent = [(); 3].map(|()| UnixStream::connect(&socket).unwrap());
        let (head, body) = ask(UnixStream::connect(&socket).unwrap(), "GET /metrics");
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        parse(&body);
        world.attach(plain('a', "web"));
        world.stop();
        drop(silent);
    });
}
