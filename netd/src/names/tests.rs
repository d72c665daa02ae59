//! The server as its clients see it, in a network namespace with nothing but `lo`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nix::sched::CloneFlags;
use tokio::sync::watch;

use super::zone::tests::{host, zone_of};
use super::{ServedNetwork, zone};
use crate::netlink::address::Address;
use crate::netlink::{NetlinkSocket, address, link};

const DEADLINE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_millis(300);
const LOOPBACK_INDEX: u32 = 1;
/// The id of every question of a test.
const ID: u16 = 7;
const OUTSIDE: &str = "127.0.0.53";

/// What a test has in its hands: the networks that are served, and a directory with the
/// host's `resolv.conf`.
struct World {
    networks: watch::Sender<Arc<Vec<ServedNetwork>>>,
    directory: tempfile::TempDir,
}

/// Runs a test in a namespace of its own, with the server in it.
fn in_new_namespace(test: &'static str, scenario: impl FnOnce(&World) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP {test}: it needs root");
        return;
    }
    let outcome = thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let mut socket = NetlinkSocket::open(libc::NETLINK_ROUTE).unwrap();
        socket.execute(vec![link::start(LOOPBACK_INDEX)]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        ask_servers(directory.path(), &[OUTSIDE]);
        let path = directory.path().join("resolv.conf");
        let (networks, latest) = watch::channel(Arc::new(Vec::new()));
        let server = super::spawn(latest, path).unwrap();
        scenario(&World {
            networks,
            directory,
        });
        server.join().unwrap();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn ask_servers(directory: &Path, servers: &[&str]) {
    let text: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    let new = directory.join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, directory.join("resolv.conf")).unwrap();
}

fn network(gateway: &str, internal: bool) -> ServedNetwork {
    let subnets = vec![
        (Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        (Ipv6Addr::LOCALHOST.into(), 128),
    ];
    ServedNetwork {
        name: format!("at {gateway}"),
        gateways: vec![gateway.parse().unwrap()],
        internal,
        zone: zone_of(subnets, &[host("db", 2)]),
        views: Default::default(),
    }
}

impl World {
    /// Serves networks; returns when there are answers.
    fn serve(&self, networks: Vec<ServedNetwork>) {
        let places: Vec<IpAddr> = networks
            .iter()
            .flat_map(|network| network.gateways.clone())
            .collect();
        self.networks.send_replace(Arc::new(networks));
        for place in places {
            let start = Instant::now();
            while ask(place, "db.", RecordType::A, PATIENCE).is_none() {
                assert!(start.elapsed() < DEADLINE, "answers at {place}");
                thread::yield_now();
            }
        }
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = ID;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn client(from: &str, server: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind(from).unwrap();
    socket.connect((server, 53)).unwrap();
    socket
}

fn ask(server: IpAddr, name: &str, kind: RecordType, patience: Duration) -> Option<Message> {
    let from = if server.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    };
    ask_from(from, server, name, kind, patience)
}

fn ask_from(
    from: &str,
    server: IpAddr,
    name: &str,
    kind: RecordType,
    patience: Duration,
) -> Option<Message> {
    let socket = client(from, server);
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(&question(name, kind)).ok()?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

fn ask_by_stream(stream: &mut TcpStream, name: &str) -> std::io::Result<Message> {
    let question = question(name, RecordType::A);
    stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes())?;
    stream.write_all(&question)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(Message::from_vec(&bytes).unwrap())
}

fn connect(server: IpAddr) -> TcpStream {
    let place = SocketAddr::new(server, 53);
    let stream = TcpStream::connect_timeout(&place, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn addresses(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

/// A server of the outside: answers everything with its own address, by datagram with
/// `records` of them cut off where they do not fit, by stream in full.
fn outside(ip: &str, records: usize) -> mpsc::Receiver<Vec<u8>> {
    let place = SocketAddr::new(ip.parse().unwrap(), 53);
    let socket = UdpSocket::bind(place).unwrap();
    let listener = std::net::TcpListener::bind(place).unwrap();
    let (tell, told) = mpsc::channel();
    let respond = move |question: &[u8]| {
        let mut message = Message::from_vec(question).unwrap().into_response();
        let name = message.queries[0].name().clone();
        for _ in 0..records {
            message.add_answer(Record::from_rdata(
                name.clone(),
                60,
                RData::from(place.ip()),
            ));
        }
        message
    };
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let mut message = respond(&buffer[..length]);
            if message.to_vec().unwrap().len() > 512 {
                message = message.truncate();
                message.answers.clear();
            }
            drop(socket.send_to(&message.to_vec().unwrap(), peer));
            drop(tell.send(buffer[..length].to_vec()));
        }
    });
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question).unwrap();
            let reply = respond(&question).to_vec().unwrap();
            let length = u16::try_from(reply.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
    told
}

#[test]
fn members_get_answers_over_both_transports_and_families_while_the_network_is_there() {
    in_new_namespace("members_get_answers", |world| {
        world.serve(vec![network("127.0.0.1", false), network("::1", false)]);
        for server in ["127.0.0.1", "::1"] {
            let server = server.parse().unwrap();
            let reply = ask(server, "DB.", RecordType::AAAA, DEADLINE).unwrap();
            assert_eq!(addresses(&reply), ["fd05::2"]);
            let mut stream = connect(server);
            for _ in 0..3 {
                let reply = ask_by_stream(&mut stream, "db.").unwrap();
                assert_eq!(addresses(&reply), ["10.5.0.2"]);
            }
        }
        let mut open = connect("::1".parse().unwrap());
        world.serve(vec![network("127.0.0.1", false)]);
        let ended = open.read(&mut [0]).unwrap();
        assert_eq!(ended, 0, "connections to a network that is gone are closed");
        let reply = ask("::1".parse().unwrap(), "db.", RecordType::A, PATIENCE);
        assert_eq!(reply, None);
    });
}

#[test]
fn an_address_that_is_not_there_yet_is_listened_at() {
    in_new_namespace("an_address_that_is_not_there_yet", |world| {
        let later = "10.5.0.1".parse().unwrap();
        let mut early = network("127.0.0.1", false);
        early.gateways.insert(0, later);
        early.zone = zone_of(
            [
                vec![(Ipv4Addr::new(127, 0, 0, 0).into(), 8)],
                zone::tests::subnets(),
            ]
            .concat(),
            &[host("db", 2)],
        );
        world.networks.send_replace(Arc::new(vec![early]));
        let here = "127.0.0.1".parse().unwrap();
        let start = Instant::now();
        while ask(here, "db.", RecordType::A, PATIENCE).is_none() {
            assert!(start.elapsed() < DEADLINE, "answers where it can");
        }
        let mut socket = NetlinkSocket::open(libc::NETLINK_ROUTE).unwrap();
        let address = Address {
            ip: later,
            prefix: 24,
        };
        let add = address::add(LOOPBACK_INDEX, address);
        socket.execute(vec![add]).unwrap();
        let reply = ask_from("10.5.0.1:0", later, "db.", RecordType::A, DEADLINE);
        assert_eq!(addresses(&reply.unwrap()), ["10.5.0.2"]);
    });
}

/// C-05: nothing that is asked on an internal network leaves the host.
#[test]
fn questions_of_an_internal_network_stay_here() {
    in_new_namespace("questions_of_an_internal_network_stay_here", |world| {
        let seen = outside(OUTSIDE, 1);
        world.serve(vec![
            network("127.0.0.1", true),
            network("127.0.0.2", false),
        ]);
        let name = "secret.attacker.test.";
        let inner = ask("127.0.0.1".parse().unwrap(), name, RecordType::A, DEADLINE);
        assert_eq!(
            inner.unwrap().metadata.response_code,
            ResponseCode::NXDomain
        );
        let mut stream = connect("127.0.0.1".parse().unwrap());
        let inner = ask_by_stream(&mut stream, name).unwrap();
        assert_eq!(inner.metadata.response_code, ResponseCode::NXDomain);
        assert!(seen.recv_timeout(PATIENCE).is_err(), "nobody outside heard");
        let outer = ask("127.0.0.2".parse().unwrap(), name, RecordType::A, DEADLINE);
        assert_eq!(addresses(&outer.unwrap()), [OUTSIDE]);
        seen.recv_timeout(DEADLINE)
            .expect("the same question, from a network with a way out");
    });
}

#[test]
fn forwarded_questions_have_new_ids_and_follow_the_file_of_servers() {
    in_new_namespace("forwarded_questions_follow_the_file", |world| {
        let seen = outside(OUTSIDE, 1);
        let _other = outside("127.0.0.54", 1);
        world.serve(vec![network("127.0.0.1", false)]);
        let server = "127.0.0.1".parse().unwrap();
        let mut ids = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let reply = ask(server, "example.com.", RecordType::A, DEADLINE).unwrap();
            assert_eq!(addresses(&reply), [OUTSIDE]);
            assert_eq!(reply.metadata.id, ID, "the asker's own");
            ids.insert(seen.recv_timeout(DEADLINE).unwrap()[..2].to_vec());
        }
        assert!(ids.len() > 4, "{ids:?}");
        ask_servers(world.directory.path(), &["127.0.0.54"]);
        let start = Instant::now();
        loop {
            let reply = ask(server, "example.com.", RecordType::A, DEADLINE).unwrap();
            if addresses(&reply) == ["127.0.0.54"] {
                break;
            }
            assert!(start.elapsed() < DEADLINE, "the new server is asked");
        }
    });
}

#[test]
fn a_server_that_is_silent_or_refuses_is_passed_by() {
    in_new_namespace("a_server_that_is_silent_is_passed_by", |world| {
        let silent = UdpSocket::bind("127.0.0.60:53").unwrap();
        let _other = outside("127.0.0.54", 1);
        // Nobody is at the first: its port is unreachable.
        ask_servers(
            world.directory.path(),
            &["127.0.0.61", "127.0.0.60", "127.0.0.54"],
        );
        world.serve(vec![network("127.0.0.1", false)]);
        let server = "127.0.0.1".parse().unwrap();
        let start = Instant::now();
        let mut reply = ask(server, "example.com.", RecordType::A, DEADLINE).unwrap();
        while addresses(&reply) != ["127.0.0.54"] {
            assert!(start.elapsed() < DEADLINE, "the third server is asked");
            reply = ask(server, "example.com.", RecordType::A, DEADLINE).unwrap();
        }
        let start = Instant::now();
        let reply = ask(server, "example.com.", RecordType::A, DEADLINE).unwrap();
        assert_eq!(addresses(&reply), ["127.0.0.54"]);
        assert!(
            start.elapsed() < PATIENCE,
            "the one that answered is asked first"
        );
        ask_servers(world.directory.path(), &["127.0.0.60"]);
        let start = Instant::now();
        loop {
            let reply = ask(server, "example.com.", RecordType::A, DEADLINE).unwrap();
            if reply.metadata.response_code == ResponseCode::ServFail {
                break;
            }
            assert!(start.elapsed() < DEADLINE, "there is an answer in any case");
        }
        drop(silent);
    });
}

#[test]
fn an_answer_that_does_not_fit_comes_by_stream() {
    in_new_namespace("an_answer_that_does_not_fit_comes_by_stream", |world| {
        let _server = outside(OUTSIDE, 100);
        world.serve(vec![network("127.0.0.1", false)]);
        let server = "127.0.0.1".parse().unwrap();
        let short = ask(server, "example.com.", RecordType::A, DEADLINE).unwrap();
        assert!(short.metadata.truncation && short.answers.is_empty());
        let whole = ask_by_stream(&mut connect(server), "example.com.").unwrap();
        assert_eq!(whole.answers.len(), 100);
    });
}

/// C-05: whoever stalls, stalls nobody else.
#[test]
fn stalled_and_flooding_clients_block_nobody() {
    in_new_namespace("stalled_and_flooding_clients_block_nobody", |world| {
        let _silent = UdpSocket::bind((OUTSIDE, 53)).unwrap();
        world.serve(vec![network("127.0.0.1", false)]);
        let server = "127.0.0.1".parse().unwrap();
        // All that one client may have, each with half a question.
        let stalled: Vec<_> = (0..64)
            .filter_map(|_| {
                let mut stream = connect(server);
                stream.write_all(&[0]).ok()?;
                Some(stream)
            })
            .collect();
        // And more questions for outside than may wait.
        let flood = client("127.0.0.1:0", server);
        for _ in 0..1_000 {
            drop(flood.send(&question("slow.example.com.", RecordType::A)));
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let start = Instant::now();
            let reply = ask(server, "db.", RecordType::A, DEADLINE).unwrap();
            assert_eq!(addresses(&reply), ["10.5.0.2"]);
            slowest = slowest.max(start.elapsed());
        }
        assert!(slowest < PATIENCE, "{slowest:?}");
        // The stalled client is the only one without a connection.
        let from_other = rustix_stream("127.0.0.9", server);
        let reply = ask_by_stream(&mut { from_other }, "db.").unwrap();
        assert_eq!(addresses(&reply), ["10.5.0.2"]);
        drop(stalled);
    });
}

/// A connection from an address of choice.
fn rustix_stream(from: &str, server: IpAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let from = SocketAddr::new(from.parse().unwrap(), 0);
    rustix::net::bind(&socket, &from).unwrap();
    rustix::net::connect(&socket, &SocketAddr::new(server, 53)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// C-06: answers go to members only.
#[test]
fn whoever_is_no_member_gets_no_answer() {
    in_new_namespace("whoever_is_no_member_gets_no_answer", |world| {
        let mut elsewhere = network("127.0.0.3", false);
        elsewhere.zone = zone_of(
            vec![(Ipv4Addr::new(10, 5, 0, 0).into(), 24)],
            &[host("db", 2)],
        );
        world.serve(vec![network("127.0.0.1", false)]);
        let served = vec![network("127.0.0.1", false), elsewhere];
        world.networks.send_replace(Arc::new(served));
        let start = Instant::now();
        while TcpStream::connect("127.0.0.3:53").is_err() {
            assert!(start.elapsed() < DEADLINE, "somebody listens");
        }
        let server = "127.0.0.3".parse().unwrap();
        assert_eq!(ask(server, "db.", RecordType::A, PATIENCE), None);
        ask_by_stream(&mut connect(server), "db.").unwrap_err();
    });
}
