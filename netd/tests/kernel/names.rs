//! Names on user networks, asked for from inside the members' namespaces.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use linkspan_proto::net_v1::{AttachEndpointRequest, CreateNetworkRequest, Endpoint};

use crate::lan::{self, LAN4};
use crate::world::{DEADLINE, PATIENCE, World, any_like, inside, plain, spawn_inside};

pub(crate) const A: u16 = 1;
const AAAA: u16 = 28;
const NO_SUCH_NAME: u8 = 3;

fn create(world: &World, name: &str, internal: bool) {
    let request = CreateNetworkRequest {
        name: name.to_owned(),
        internal,
        ..Default::default()
    };
    world.ask(async |mut client| client.create_network(request).await.expect("a network"));
}

fn attach(world: &World, digit: char, name: &str, network: &str) -> Endpoint {
    world.attach(AttachEndpointRequest {
        network: network.to_owned(),
        aliases: vec![format!("{name}-alias")],
        ..plain(digit, name)
    })
}

/// A question on the wire.
pub(crate) fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&1_u16.to_be_bytes());
    bytes
}

/// The response code and the data of the last record; none if nobody answers.
fn ask(
    endpoint: &Endpoint,
    server: &str,
    name: &str,
    kind: u16,
    patience: Duration,
) -> Option<(u8, String)> {
    let server: IpAddr = server.parse().unwrap();
    let bytes = question(name, kind);
    inside(&endpoint.netns_path, move || {
        let any = any_like(server);
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.connect(SocketAddr::new(server, 53)).unwrap();
        socket.send(&bytes).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).ok()?;
        assert_eq!(buffer[..2], bytes[..2]);
        let rest = &buffer[bytes.len()..length];
        let data = match rest.len() {
            0 => String::new(),
            _ if kind == A => {
                let last: [u8; 4] = rest[rest.len() - 4..].try_into().unwrap();
                IpAddr::from(last).to_string()
            }
            _ => {
                let last: [u8; 16] = rest[rest.len() - 16..].try_into().unwrap();
                IpAddr::from(last).to_string()
            }
        };
        Some((buffer[3] & 0x0f, data))
    })
}

/// C-04: members of a network find each other by name; others do not.
#[test]
fn members_find_each_other_by_name_and_nobody_else_does() {
    World::run("members_find_each_other_by_name", |world| {
        create(world, "back", false);
        create(world, "front", false);
        let db = attach(world, 'a', "db", "back");
        let web = attach(world, 'b', "web", "back");
        let other = attach(world, 'c', "other", "front");
        let alone = world.attach(plain('d', "alone"));
        for gateway in [&db.ipv4_gateway, &db.ipv6_gateway] {
            for name in ["db", "DB", "db-alias", &"a".repeat(12)] {
                let found = ask(&web, gateway, name, A, DEADLINE);
                assert_eq!(found, Some((0, db.ipv4_address.clone())), "{name}");
                let found = ask(&web, gateway, name, AAAA, DEADLINE);
                assert_eq!(found, Some((0, db.ipv6_address.clone())), "{name}");
            }
            assert_eq!(ask(&other, gateway, "db", A, PATIENCE), None);
            assert_eq!(ask(&alone, gateway, "db", A, PATIENCE), None);
        }
        assert_eq!(ask(&alone, &alone.ipv4_gateway, "db", A, PATIENCE), None);
        world.detach(&db);
        let again = attach(world, 'e', "db", "back");
        let found = ask(&web, &web.ipv4_gateway, &"e".repeat(12), A, DEADLINE);
        assert_eq!(found, Some((0, again.ipv4_address)), "names follow at once");
        world.kill();
        world.start();
        let found = ask(&web, &web.ipv4_gateway, "web", A, DEADLINE);
        assert_eq!(
            found,
            Some((0, web.ipv4_address.clone())),
            "after a restart"
        );
    });
}

/// C-05: names of the outside are asked of the host's servers, but not for a network
/// that has no way there.
#[test]
fn outside_names_are_forwarded_except_from_internal_networks() {
    World::bare("outside_names_are_forwarded", |world| {
        let lan = lan::connect(world);
        let file = world.path().join("resolv.conf");
        fs::write(&file, format!("nameserver {LAN4}\n")).unwrap();
        rustix::mount::mount_bind(&file, "/etc/resolv.conf").unwrap();
        let (heard, hears) = std::sync::mpsc::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        spawn_inside(&lan, move || {
            let socket = UdpSocket::bind((LAN4, 53)).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                buffer[2] |= 0x80;
                socket.send_to(&buffer[..length], peer).unwrap();
                heard.send(buffer[..length].to_vec()).unwrap();
            }
        });
        is_ready.recv_timeout(DEADLINE).unwrap();
        world.start();
        create(world, "inner", true);
        create(world, "outer", false);
        let inner = attach(world, 'a', "inner", "inner");
        let outer = attach(world, 'b', "outer", "outer");
        let name = "secret.attacker.test";
        let found = ask(&inner, &inner.ipv4_gateway, name, A, DEADLINE);
        assert_eq!(found, Some((NO_SUCH_NAME, String::new())));
        assert!(
            hears.recv_timeout(PATIENCE).is_err(),
            "nobody outside heard"
        );
        let found = ask(&outer, &outer.ipv4_gateway, name, A, DEADLINE);
        assert_eq!(found, Some((0, String::new())));
        hears
            .recv_timeout(DEADLINE)
            .expect("the server outside is asked");
        world.stop();
    });
}
