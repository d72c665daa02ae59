//! Who reaches whom between containers.

use linkspan_proto::net_v1::{AttachEndpointRequest, ListLinksRequest, RenameEndpointRequest};

use crate::world::{
    DEADLINE, PATIENCE, World, link_to, pings, plain, reaches_tcp, reaches_udp, serve_tcp,
    serve_udp, tcp, udp,
};

fn source() -> AttachEndpointRequest {
    AttachEndpointRequest {
        exposed: vec![tcp(5432), udp(53)],
        ..plain('a', "db")
    }
}

fn consumer() -> AttachEndpointRequest {
    AttachEndpointRequest {
        links: vec![link_to("db", "webdb")],
        ..plain('b', "web")
    }
}

/// S18, S29, S48, S55: a link opens the exposed ports and echo to its consumer, one way.
#[test]
fn only_the_linked_consumer_reaches_the_source() {
    World::run("only_the_linked_consumer_reaches_the_source", |world| {
        let db = world.attach(source());
        let web = world.attach(consumer());
        let other = world.attach(plain('c', "other"));
        serve_tcp(&db.netns_path, "::", 5432);
        serve_tcp(&db.netns_path, "::", 6000);
        serve_udp(&db.netns_path, "::", 53);
        serve_tcp(&web.netns_path, "::", 80);
        for ip in [&db.ipv4_address, &db.ipv6_address] {
            assert!(
                reaches_tcp(&web.netns_path, ip, 5432, DEADLINE),
                "tcp to {ip}"
            );
            assert!(
                reaches_udp(&web.netns_path, ip, 53, DEADLINE),
                "udp to {ip}"
            );
            assert!(pings(&web.netns_path, ip, DEADLINE), "echo to {ip}");
            assert!(
                !reaches_tcp(&web.netns_path, ip, 6000, PATIENCE),
                "unexposed at {ip}"
            );
            assert!(
                !reaches_tcp(&other.netns_path, ip, 5432, PATIENCE),
                "unlinked tcp to {ip}"
            );
            assert!(
                !reaches_udp(&other.netns_path, ip, 53, PATIENCE),
                "unlinked udp to {ip}"
            );
            assert!(
                !pings(&other.netns_path, ip, PATIENCE),
                "unlinked echo to {ip}"
            );
        }
        for ip in [&web.ipv4_address, &web.ipv6_address] {
            assert!(
                !reaches_tcp(&db.netns_path, ip, 80, PATIENCE),
                "backwards to {ip}"
            );
            assert!(
                !pings(&db.netns_path, ip, PATIENCE),
                "backwards echo to {ip}"
            );
        }
        assert!(
            pings(&web.netns_path, &web.ipv4_gateway, DEADLINE),
            "the gateway answers"
        );
    });
}

/// S56: a link opens when both ends are there, whichever comes first, and follows its
/// source's name.
#[test]
fn a_link_waits_for_its_source_and_closes_without_it() {
    World::run(
        "a_link_waits_for_its_source_and_closes_without_it",
        |world| {
            let open = |world: &World| {
                world.ask(async |mut client| {
                    let links = client
                        .list_links(ListLinksRequest {})
                        .await
                        .unwrap()
                        .into_inner();
                    links.links[0].open
                })
            };
            let web = world.attach(consumer());
            assert!(!open(world));
            let db = world.attach(source());
            serve_tcp(&db.netns_path, "::", 5432);
            assert!(open(world));
            assert!(reaches_tcp(
                &web.netns_path,
                &db.ipv4_address,
                5432,
                DEADLINE
            ));
            let rename = RenameEndpointRequest {
                name: "db".to_owned(),
                new_name: "store".to_owned(),
            };
            world.ask(async |mut client| client.rename_endpoint(rename).await.unwrap());
            assert!(reaches_tcp(
                &web.netns_path,
                &db.ipv4_address,
                5432,
                DEADLINE
            ));
            world.detach(&db);
            assert!(!open(world));
            let again = world.attach(AttachEndpointRequest {
                name: "store".to_owned(),
                ..source()
            });
            assert_eq!(
                again.ipv4_address, db.ipv4_address,
                "the address stays with the name"
            );
            assert!(open(world));
        },
    );
}

/// A container with another address than its own is not heard (N-03, N-17).
#[test]
fn a_container_speaks_only_as_itself() {
    World::run("a_container_speaks_only_as_itself", |world| {
        let web = world.attach(consumer());
        let forged = "172.17.0.99".parse().unwrap();
        crate::lan::within(&web.netns_path, async move |handle| {
            let index = crate::lan::index(&handle, "eth0").await;
            handle
                .address()
                .add(index, forged, 32)
                .execute()
                .await
                .unwrap();
        });
        let gateway = web.ipv4_gateway.clone();
        let heard = crate::world::inside(&web.netns_path, move || {
            let socket = std::net::UdpSocket::bind((forged, 0)).unwrap();
            socket.send_to(b"x", (gateway.as_str(), 9)).unwrap();
            crate::world::devices().len()
        });
        assert_eq!(heard, 2, "lo and eth0");
        assert!(
            pings(&web.netns_path, &web.ipv4_gateway, DEADLINE),
            "the true address is heard"
        );
        if let Some(rules) = crate::adoption::ruleset("a_container_speaks_only_as_itself") {
            let dropped = rules
                .lines()
                .any(|line| line.contains("@pins4") && !line.contains("packets 0"));
            assert!(dropped, "the forged packet is counted:\n{rules}");
        }
    });
}
