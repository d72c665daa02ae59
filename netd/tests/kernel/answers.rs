//! What netd answers: explanations that agree with packets, and names.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use linkspan_proto::net_v1::{
    AttachEndpointRequest, CreateNetworkRequest, ExplainRequest, ExplainResponse, Protocol,
};
use tonic::Code;

use crate::world::{
    DEADLINE, PATIENCE, World, any_like, inside, link_to, pings, plain, publish, reaches_tcp,
    serve_tcp, tcp,
};

fn create(world: &World, name: &str, internal: bool) {
    let request = CreateNetworkRequest {
        name: name.to_owned(),
        internal,
        ..Default::default()
    };
    world.ask(async |mut client| client.create_network(request).await.expect("create"));
}

fn on(network: &str, request: AttachEndpointRequest) -> AttachEndpointRequest {
    AttachEndpointRequest {
        network: network.to_owned(),
        ..request
    }
}

fn explain(
    world: &World,
    from: &str,
    to: &str,
    port: u32,
) -> Result<ExplainResponse, tonic::Status> {
    let protocol = if port == 0 {
        Protocol::Unspecified
    } else {
        Protocol::Tcp
    };
    let request = ExplainRequest {
        from: from.to_owned(),
        to: to.to_owned(),
        protocol: protocol.into(),
        port,
    };
    world.ask(async |mut client| Ok(client.explain(request).await?.into_inner()))
}

/// Decision 4: what is explained is what packets do, for every pair, port and echo.
#[test]
fn an_explanation_agrees_with_packets() {
    World::run("an_explanation_agrees_with_packets", |world| {
        create(world, "front", false);
        let db = world.attach(AttachEndpointRequest {
            exposed: vec![tcp(5432), tcp(5433), tcp(5434)],
            ..plain('a', "db")
        });
        let web = world.attach(AttachEndpointRequest {
            links: vec![link_to("db", "webdb")],
            ..plain('b', "web")
        });
        let one = world.attach(on("front", plain('c', "one")));
        let two = world.attach(on("front", plain('d', "two")));
        let all = [&db, &web, &one, &two];
        serve_tcp(&db.netns_path, "127.0.0.1", 5434);
        for endpoint in all {
            serve_tcp(&endpoint.netns_path, "::", 5432);
        }
        for (from, to) in all.iter().flat_map(|from| all.map(|to| (*from, to))) {
            if from.id == to.id {
                continue;
            }
            for port in [5432, 5433, 5434, 6000] {
                let told = explain(world, &from.name, &to.name, port.into()).unwrap();
                let patience = if told.reachable { DEADLINE } else { PATIENCE };
                let found = reaches_tcp(&from.netns_path, &to.ipv4_address, port, patience);
                assert_eq!(
                    told.reachable, found,
                    "{} {} {port} {told:?}",
                    from.name, to.name
                );
                assert_eq!(told.hint.is_empty(), told.reachable, "{told:?}");
            }
            let told = explain(world, &from.name, &to.name, 0).unwrap();
            let patience = if told.reachable { DEADLINE } else { PATIENCE };
            let found = pings(&from.netns_path, &to.ipv6_address, patience);
            assert_eq!(told.reachable, found, "{} {} {told:?}", from.name, to.name);
        }
    });
}

/// Each way in which a connection fails is told with its cause.
#[test]
fn a_refusal_says_its_cause() {
    World::run("a_refusal_says_its_cause", |world| {
        create(world, "front", true);
        let db = world.attach(AttachEndpointRequest {
            exposed: vec![tcp(5433), tcp(5434)],
            ..plain('a', "db")
        });
        serve_tcp(&db.netns_path, "127.0.0.1", 5434);
        world.attach(AttachEndpointRequest {
            links: vec![link_to("db", "webdb")],
            port_mappings: vec![publish("", 8080, 80)],
            ..plain('b', "web")
        });
        world.attach(on("front", plain('c', "one")));
        for (from, to, port, cause) in [
            ("web", "webdb", 5433, "nothing in db listens"),
            ("web", "webdb", 5434, "at 127.0.0.1 only"),
            ("web", "webdb", 6000, "opens only 5433/tcp, 5434/tcp"),
            ("db", "web", 80, "no link"),
            ("web", "one", 80, "closed to each other"),
            ("web", "host", 22, "closed to containers"),
            ("web", "169.254.169.254", 80, "metadata"),
            ("web", "169.254.170.2", 80, "metadata"),
            ("one", "8.8.8.8", 53, "internal"),
            ("10.0.0.9", "db", 5432, "does not publish"),
            ("10.0.0.9", "host", 9999, "no container publishes"),
            ("10.0.0.9", "host", 8080, "nothing in web listens on 80/tcp"),
        ] {
            let told = explain(world, from, to, port).unwrap();
            let last = told.steps.last().unwrap();
            assert!(!told.reachable && last.finding.contains(cause), "{told:?}");
        }
        assert!(explain(world, "web", "8.8.8.8", 53).unwrap().reachable);
        let unknown = explain(world, "web", "nobody", 80).unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        let empty = explain(world, "", "db", 80).unwrap_err();
        assert_eq!(empty.code(), Code::InvalidArgument);
    });
}

/// Members of a user network find each other by the name server on its gateway; nobody
/// else is answered.
#[test]
fn members_of_a_network_find_each_other_by_name() {
    World::run("members_of_a_network_find_each_other_by_name", |world| {
        create(world, "front", true);
        let db = world.attach(AttachEndpointRequest {
            aliases: vec!["store".to_owned()],
            ..on("front", plain('a', "db"))
        });
        let web = world.attach(on("front", plain('b', "web")));
        let other = world.attach(plain('c', "other"));
        let address: Ipv4Addr = db.ipv4_address.parse().unwrap();
        for name in ["db", "store", "aaaaaaaaaaaa", "DB"] {
            for gateway in [&web.ipv4_gateway, &web.ipv6_gateway] {
                let found = resolve(&web.netns_path, gateway, name, DEADLINE);
                assert_eq!(found, Some(vec![address]), "{name} at {gateway}");
            }
        }
        let outside = resolve(&web.netns_path, &web.ipv4_gateway, "example.com", DEADLINE);
        assert_eq!(outside, Some(Vec::new()), "nothing is asked outside");
        for gateway in [&web.ipv4_gateway, &other.ipv4_gateway] {
            let found = resolve(&other.netns_path, gateway, "db", PATIENCE);
            assert_eq!(found, None, "{gateway}");
        }
    });
}

/// Asks a name server for IPv4 addresses; none if it does not answer.
fn resolve(netns: &str, server: &str, name: &str, patience: Duration) -> Option<Vec<Ipv4Addr>> {
    let place = SocketAddr::new(server.parse().unwrap(), 53);
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    inside(netns, move || {
        let any = any_like(place.ip());
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(&question, place).ok()?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).ok()?;
        let answers = u16::from_be_bytes([buffer[6], buffer[7]]);
        let records = &buffer[question.len()..length];
        let address = |record: &[u8]| -> Ipv4Addr {
            let octets: [u8; 4] = record[12..16].try_into().unwrap();
            octets.into()
        };
        let found = records.chunks_exact(16).take(answers.into());
        Some(found.map(address).collect())
    })
}
