//! Published ports: who reaches them, and who may have them.

use std::net::TcpListener;

use linkspan_proto::net_v1::{
    AttachEndpointRequest, CreateNetworkRequest, DeleteNetworkRequest, FindPortHolderRequest,
    Protocol,
};
use linkspan_proto::reason::{ErrorReason, reason_of};

use crate::lan::{self, HOST4, HOST6, LAN4, LAN6};
use crate::world::{
    DEADLINE, PATIENCE, World, dial, inside, pings, plain, publish, reaches_tcp, serve_tcp,
};

fn web() -> AttachEndpointRequest {
    AttachEndpointRequest {
        port_mappings: vec![publish("", 8080, 80)],
        ..plain('a', "web")
    }
}

/// S1, S9, N-21: a LAN host reaches a published port, and the server sees its address.
#[test]
fn a_lan_host_reaches_a_published_port_as_itself() {
    World::run("a_lan_host_reaches_a_published_port_as_itself", |world| {
        let lan = lan::connect(world);
        let web = world.attach(web());
        serve_tcp(&web.netns_path, "::", 80);
        for (host, client) in [(HOST4, LAN4), (HOST6, LAN6)] {
            let seen = inside(&lan, move || {
                dial(host, 8080, DEADLINE).map(|(_, seen)| seen)
            });
            assert_eq!(seen.unwrap().to_string(), client);
        }
    });
}

/// S9: the host itself reaches a published port at every address of its own.
#[test]
fn the_host_reaches_a_published_port_at_all_its_addresses() {
    World::run(
        "the_host_reaches_a_published_port_at_all_its_addresses",
        |world| {
            let _lan = lan::connect(world);
            let web = world.attach(web());
            serve_tcp(&web.netns_path, "::", 80);
            for ip in [
                "127.0.0.1",
                "::1",
                HOST4,
                HOST6,
                &web.ipv4_gateway,
                &web.ipv6_gateway,
            ] {
                dial(ip, 8080, DEADLINE).unwrap_or_else(|error| panic!("dial {ip}: {error}"));
            }
        },
    );
}

/// Each bridge has a way of its own for what the host's loopback clients are answered.
#[test]
fn loopback_clients_are_answered_whatever_networks_come_and_go() {
    World::run(
        "loopback_clients_are_answered_whatever_networks_come_and_go",
        |world| {
            let web = world.attach(web());
            serve_tcp(&web.netns_path, "::", 80);
            world.ask(async |mut client| {
                let request = CreateNetworkRequest {
                    name: "front".to_owned(),
                    ..Default::default()
                };
                client.create_network(request).await.expect("create");
            });
            let front = world.attach(AttachEndpointRequest {
                network: "front".to_owned(),
                port_mappings: vec![publish("", 8081, 80)],
                ..plain('b', "front")
            });
            serve_tcp(&front.netns_path, "::", 80);
            for port in [8080, 8081] {
                dial("::1", port, DEADLINE).unwrap_or_else(|error| panic!("{port}: {error}"));
            }
            world.detach(&front);
            world.ask(async |mut client| {
                let request = DeleteNetworkRequest {
                    name: "front".to_owned(),
                };
                client.delete_network(request).await.expect("delete");
            });
            dial("::1", 8080, DEADLINE).expect("the other network is as it was");
        },
    );
}

/// S29, S48, N-01, N-06, N-09: no way around.
#[test]
fn nobody_goes_around_the_published_port() {
    World::run("nobody_goes_around_the_published_port", |world| {
        let lan = lan::connect(world);
        let web = world.attach(AttachEndpointRequest {
            port_mappings: vec![publish("", 8080, 80), publish("127.0.0.1", 9090, 90)],
            ..plain('a', "web")
        });
        let other = world.attach(plain('b', "other"));
        serve_tcp(&web.netns_path, "::", 80);
        serve_tcp(&web.netns_path, "::", 90);
        dial("127.0.0.1", 9090, DEADLINE).expect("the host has the loopback port");
        assert!(
            !reaches_tcp(&lan, HOST4, 9090, PATIENCE),
            "a loopback port is the host's"
        );
        lan::route_through_host(&lan, "172.17.0.0/16");
        assert!(
            !reaches_tcp(&lan, &web.ipv4_address, 80, PATIENCE),
            "direct routing"
        );
        assert!(
            !reaches_tcp(&lan, &web.ipv4_gateway, 8080, PATIENCE),
            "the bridge's address"
        );
        for host in [HOST4, HOST6, &web.ipv4_gateway, &web.ipv6_gateway] {
            assert!(
                !reaches_tcp(&other.netns_path, host, 8080, PATIENCE),
                "hairpin by {host}"
            );
        }
    });
}

/// The namespace of whoever looks: the engine's host.
const HERE: &str = "/proc/thread-self/ns/net";

/// S54: containers reach the outside under the host's address, but not the host.
#[test]
fn a_container_reaches_the_outside_and_not_the_host() {
    World::run(
        "a_container_reaches_the_outside_and_not_the_host",
        |world| {
            let lan = lan::connect(world);
            let web = world.attach(plain('a', "web"));
            serve_tcp(&lan, "::", 443);
            for (target, host) in [(LAN4, HOST4), (LAN6, HOST6)] {
                let seen = inside(&web.netns_path, move || {
                    dial(target, 443, DEADLINE).map(|(_, seen)| seen)
                });
                assert_eq!(seen.unwrap().to_string(), host, "masqueraded");
                assert!(pings(&web.netns_path, target, DEADLINE));
            }
            serve_tcp(HERE, "::", 22);
            for ip in [HOST4, HOST6, &web.ipv4_gateway, &web.ipv6_gateway] {
                assert!(
                    !reaches_tcp(&web.netns_path, ip, 22, PATIENCE),
                    "the host at {ip}"
                );
            }
        },
    );
}

/// Decision 7: a container reaches the host where it was declared, at the gateway, and
/// nobody else does.
#[test]
fn the_host_is_open_to_whom_it_was_declared() {
    World::run("the_host_is_open_to_whom_it_was_declared", |world| {
        let declared = world.attach(AttachEndpointRequest {
            host_access: true,
            ..plain('a', "declared")
        });
        let other = world.attach(plain('b', "other"));
        serve_tcp(HERE, "::", 22);
        for gateway in [&declared.ipv4_gateway, &declared.ipv6_gateway] {
            assert!(reaches_tcp(&declared.netns_path, gateway, 22, DEADLINE));
            assert!(!reaches_tcp(&other.netns_path, gateway, 22, PATIENCE));
        }
    });
}

/// A port that is taken says by whom, and what to take instead.
#[test]
fn a_conflict_names_the_holder_and_the_next_free_port() {
    World::run(
        "a_conflict_names_the_holder_and_the_next_free_port",
        |world| {
            world.attach(web());
            let second = AttachEndpointRequest {
                name: "api".to_owned(),
                ..web()
            };
            let second = AttachEndpointRequest {
                endpoint_id: crate::world::id('b'),
                ..second
            };
            let refused = world.try_attach(second.clone()).unwrap_err();
            assert_eq!(
                refused.message(),
                "port 0.0.0.0:8080/tcp is held by container \"web\"; the next free port is 8081"
            );
            let (reason, metadata) = reason_of(&refused).unwrap();
            assert_eq!(reason, ErrorReason::PortInUse);
            assert_eq!(
                (&*metadata["holder"], &*metadata["next_free"]),
                ("web", "8081")
            );

            let _held = TcpListener::bind("127.0.0.1:7070").unwrap();
            let third = AttachEndpointRequest {
                port_mappings: vec![publish("", 7070, 80)],
                ..second
            };
            let refused = world.try_attach(third.clone()).unwrap_err();
            let pid = std::process::id();
            let message = refused.message();
            assert!(
                message.starts_with("port 0.0.0.0:7070/tcp is held by process "),
                "{message}"
            );
            assert!(
                message.contains(&format!("(pid {pid}, user root)")),
                "{message}"
            );

            let foreign = AttachEndpointRequest {
                port_mappings: vec![publish("10.9.9.9", 80, 80)],
                ..third
            };
            let refused = world.try_attach(foreign).unwrap_err();
            assert_eq!(refused.message(), "10.9.9.9 is not an address of this host");
            assert_eq!(
                world.attach(plain('d', "next")).ipv4_address,
                "172.17.0.3",
                "no leak"
            );
        },
    );
}

/// Decision 3: `port who` names everybody at a port, and the next one that is free.
#[test]
fn everybody_who_holds_a_port_is_named() {
    World::run("everybody_who_holds_a_port_is_named", |world| {
        world.attach(AttachEndpointRequest {
            port_mappings: vec![publish("127.0.0.1", 8080, 80)],
            ..plain('a', "web")
        });
        let _held = TcpListener::bind("127.0.0.2:8080").unwrap();
        let _next = TcpListener::bind("[::1]:8081").unwrap();
        let ask = |host_ip: &str, host_port| {
            let request = FindPortHolderRequest {
                protocol: Protocol::Tcp.into(),
                host_port,
                host_ip: host_ip.to_owned(),
            };
            let found = world.ask(async |mut client| client.find_port_holder(request).await);
            found.map(tonic::Response::into_inner)
        };
        let all = ask("", 8080).unwrap();
        let [ours, other] = &all.holders[..] else {
            panic!("{all:?}");
        };
        assert_eq!(ours.host_ip, "127.0.0.1");
        assert_eq!((&*ours.endpoint_name, ours.container_port), ("web", 80));
        assert_eq!(
            (ours.pid, &*ours.command),
            (0, ""),
            "netd's own socket is no holder"
        );
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!((&*other.host_ip, other.pid), ("127.0.0.2", me));
        assert_eq!(&*other.user, "root");
        assert!(!other.command.is_empty());
        assert_eq!(all.next_free, 8082, "8081 is taken at one address");
        assert_eq!(
            ask("127.0.0.2", 8080).unwrap().holders[..],
            *std::slice::from_ref(other)
        );
        assert_eq!(ask("", 9090).unwrap().holders, []);
        assert_eq!(ask("", 65535).unwrap().next_free, 0, "there is none above");
        let refused = ask("here", 8080).unwrap_err();
        assert_eq!(refused.message(), "\"here\" is not an address of a host");
        assert_eq!(ask("", 0).unwrap_err().code(), tonic::Code::InvalidArgument);
    });
}

/// S2, S4, decision 6: a random port is from the range and stays with the name.
#[test]
fn a_random_port_is_one_number_and_stays_with_the_name() {
    World::run(
        "a_random_port_is_one_number_and_stays_with_the_name",
        |world| {
            let request = |digit, name: &str| AttachEndpointRequest {
                port_mappings: vec![publish("", 0, 5000)],
                ..plain(digit, name)
            };
            let ports = |endpoint: &linkspan_proto::net_v1::Endpoint| {
                endpoint
                    .published
                    .iter()
                    .map(|port| port.host_port)
                    .collect::<Vec<_>>()
            };
            let first = world.attach(request('a', "web"));
            assert_eq!(ports(&first), [49153, 49153]);
            assert_eq!(first.published[0].host_ip, "0.0.0.0");
            assert_eq!(first.published[1].host_ip, "::");
            world.detach(&first);
            assert_eq!(ports(&world.attach(request('b', "api"))), [49154, 49154]);
            assert_eq!(ports(&world.attach(request('c', "web"))), [49153, 49153]);
        },
    );
}
