//! Links and ports that change while both ends are there, and networks that users make.

use std::io::{Read, Write};
use std::thread;

use linkspan_proto::net_v1::{
    AttachEndpointRequest, CreateNetworkRequest, CreateSandboxRequest, DeleteNetworkRequest,
    DeleteSandboxRequest, Endpoint, ListLinksRequest, ListPortsRequest, ListSandboxesRequest,
    MovePortRequest, Network, NetworkPolicy, PortMapping, Protocol, UpdateEndpointRequest,
};
use tonic::Code;

use crate::world::{
    DEADLINE, PATIENCE, World, devices, dial, inside, link_to, pings, plain, publish, reaches_tcp,
    serve_tcp, tcp,
};

fn update(world: &World, request: UpdateEndpointRequest) -> Endpoint {
    world.ask(async |mut client| {
        let answer = client.update_endpoint(request).await.expect("update");
        answer.into_inner().endpoint.expect("an endpoint")
    })
}

fn create(world: &World, request: CreateNetworkRequest) -> Result<Network, tonic::Status> {
    world.ask(async |mut client| {
        let answer = client.create_network(request).await?;
        Ok(answer.into_inner().network.expect("a network"))
    })
}

fn on(network: &str, request: AttachEndpointRequest) -> AttachEndpointRequest {
    AttachEndpointRequest {
        network: network.to_owned(),
        ..request
    }
}

/// A link that is added opens at once and counts; one that is removed cuts what is open.
#[test]
fn a_link_opens_counts_and_closes_while_both_ends_run() {
    World::run(
        "a_link_opens_counts_and_closes_while_both_ends_run",
        |world| {
            let db = world.attach(AttachEndpointRequest {
                exposed: vec![tcp(5432)],
                ..plain('a', "db")
            });
            let web = world.attach(plain('b', "web"));
            serve_tcp(&db.netns_path, "::", 5432);
            assert!(!reaches_tcp(
                &web.netns_path,
                &db.ipv4_address,
                5432,
                PATIENCE
            ));
            update(
                world,
                UpdateEndpointRequest {
                    endpoint_id: web.id.clone(),
                    links: vec![link_to("db", "db")],
                    ..Default::default()
                },
            );
            for ip in [&db.ipv4_address, &db.ipv6_address] {
                assert!(reaches_tcp(&web.netns_path, ip, 5432, DEADLINE), "{ip}");
                assert!(pings(&web.netns_path, ip, DEADLINE), "{ip}");
            }
            let ip = db.ipv4_address.clone();
            let (mut stream, _) =
                inside(&web.netns_path, move || dial(&ip, 5432, DEADLINE)).unwrap();
            let links = world.ask(async |mut client| {
                let links = client.list_links(ListLinksRequest {}).await;
                links.unwrap().into_inner().links
            });
            let traffic = links[0].traffic.expect("an open link counts");
            assert!(links[0].open && links[0].network == "bridge");
            assert_eq!(traffic.connections, 3);
            assert!(traffic.open_connections >= 1 && traffic.packets > 10 && traffic.bytes > 500);

            update(
                world,
                UpdateEndpointRequest {
                    endpoint_id: web.id.clone(),
                    ..Default::default()
                },
            );
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"x").unwrap();
            assert!(stream.read(&mut [0]).is_err(), "the open connection is cut");
            assert!(!reaches_tcp(
                &web.netns_path,
                &db.ipv4_address,
                5432,
                PATIENCE
            ));
            assert!(!pings(&web.netns_path, &db.ipv6_address, PATIENCE));
        },
    );
}

/// Ports come and go while a container runs, a chosen one stays, and a whole range is told
/// as one.
#[test]
fn ports_come_and_go_while_the_container_runs() {
    World::run("ports_come_and_go_while_the_container_runs", |world| {
        let web = world.attach(AttachEndpointRequest {
            port_mappings: vec![publish("", 0, 80)],
            ..plain('a', "web")
        });
        for port in [80, 8005] {
            serve_tcp(&web.netns_path, "::", port);
        }
        let chosen = u16::try_from(web.published[0].host_port).unwrap();
        let range = (8000..8100).map(|port| publish("", port, port));
        let mappings: Vec<PortMapping> = std::iter::once(publish("", 0, 80)).chain(range).collect();
        let with = |port_mappings| UpdateEndpointRequest {
            endpoint_id: web.id.clone(),
            port_mappings,
            ..Default::default()
        };
        let updated = update(world, with(mappings.clone()));
        assert_eq!(updated.published.len(), 202);
        assert!(
            updated.published.contains(&web.published[0]),
            "it keeps its number"
        );
        for ip in ["127.0.0.1", "::1"] {
            assert!(dial(ip, chosen, DEADLINE).is_ok(), "{ip}");
            assert!(dial(ip, 8005, DEADLINE).is_ok(), "{ip}");
        }
        let ports = world.ask(async |mut client| {
            let ports = client.list_ports(ListPortsRequest {}).await;
            ports.unwrap().into_inner().ports
        });
        let ends: Vec<_> = ports
            .iter()
            .map(|port| (port.mapping.as_ref().unwrap().host_port, port.host_port_end))
            .collect();
        let chosen = u32::from(chosen);
        assert_eq!(ends, [(8000, 8099), (8000, 8099), (chosen, 0), (chosen, 0)]);
        let traffic = ports[0].traffic.unwrap();
        assert!(
            traffic.connections == 1 && traffic.packets > 2,
            "{traffic:?}"
        );

        let fewer = mappings
            .iter()
            .filter(|mapping| mapping.host_port != 8050)
            .cloned();
        update(world, with(fewer.collect()));
        dial("127.0.0.1", 8050, PATIENCE).unwrap_err();
        dial("127.0.0.1", 8005, DEADLINE).unwrap();
        update(world, with(Vec::new()));
        dial("127.0.0.1", 8005, PATIENCE).unwrap_err();
        drop(std::net::TcpListener::bind("0.0.0.0:8005").expect("the port is free again"));
    });
}

/// No connection is refused or lost while a port goes from one container to another and
/// back, a hundred times.
#[test]
fn a_port_moves_and_no_connection_is_refused() {
    World::run("a_port_moves_and_no_connection_is_refused", |world| {
        let old = world.attach(AttachEndpointRequest {
            port_mappings: vec![publish("", 8080, 80)],
            ..plain('a', "old")
        });
        let new = world.attach(plain('b', "new"));
        serve_tcp(&old.netns_path, "::", 80);
        serve_tcp(&new.netns_path, "::", 81);
        let (mut kept, _) = dial("127.0.0.1", 8080, DEADLINE).unwrap();
        let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let client = thread::spawn(move || {
            nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut made = 0;
            while stopped.try_recv().is_err() {
                let (mut stream, _) = dial("127.0.0.1", 8080, DEADLINE).expect("never refused");
                stream.write_all(b"x").unwrap();
                stream.read_exact(&mut [0]).expect("never lost");
                made += 1;
            }
            made
        });
        for round in 0..100 {
            let (to, container_port) = if round % 2 == 0 {
                (&new, 81)
            } else {
                (&old, 80)
            };
            let request = MovePortRequest {
                protocol: Protocol::Tcp.into(),
                host_port: 8080,
                to_endpoint_id: to.id.clone(),
                container_port,
            };
            let moved = world.ask(async |mut client| client.move_port(request).await);
            assert_eq!(moved.unwrap().into_inner().to.unwrap().published.len(), 2);
        }
        stop.send(()).unwrap();
        assert!(client.join().unwrap() > 10);
        kept.write_all(b"x").unwrap();
        kept.read_exact(&mut [0]).expect("what was open stays open");
        let nobody = MovePortRequest {
            protocol: Protocol::Tcp.into(),
            host_port: 9999,
            to_endpoint_id: new.id.clone(),
            container_port: 80,
        };
        let refused = world.ask(async |mut client| client.move_port(nobody).await);
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    });
}

/// Members of an open network reach each other, those of an isolated one do not, nobody
/// reaches another network, and an internal one has no way out.
#[test]
fn networks_are_open_inside_and_closed_to_each_other() {
    World::run(
        "networks_are_open_inside_and_closed_to_each_other",
        |world| {
            let make = |name: &str, policy: NetworkPolicy, internal| {
                let request = CreateNetworkRequest {
                    name: name.to_owned(),
                    policy: policy.into(),
                    internal,
                    ..Default::default()
                };
                create(world, request).expect("create")
            };
            let front = make("front", NetworkPolicy::Open, false);
            let back = make("back", NetworkPolicy::Isolated, true);
            assert_ne!(front.ipv4_subnet, back.ipv4_subnet);
            assert!(front.ipv6_subnet != back.ipv6_subnet && back.internal);
            let one = world.attach(on("front", plain('a', "one")));
            let two = world.attach(on("front", plain('b', "two")));
            let three = world.attach(on("back", plain('c', "three")));
            let four = world.attach(AttachEndpointRequest {
                links: vec![link_to("three", "three")],
                ..on("back", plain('d', "four"))
            });
            let linked = world.attach(AttachEndpointRequest {
                links: vec![link_to("one", "one")],
                ..plain('e', "elsewhere")
            });
            for endpoint in [&one, &two, &three, &four] {
                serve_tcp(&endpoint.netns_path, "::", 80);
            }
            let reaches = |from: &Endpoint, to: &Endpoint, patience| {
                [&to.ipv4_address, &to.ipv6_address]
                    .map(|ip| reaches_tcp(&from.netns_path, ip, 80, patience))
            };
            assert_eq!(reaches(&one, &two, DEADLINE), [true; 2]);
            assert_eq!(reaches(&two, &one, DEADLINE), [true; 2]);
            assert_eq!(reaches(&three, &four, PATIENCE), [false; 2]);
            assert_eq!(reaches(&one, &three, PATIENCE), [false; 2]);
            assert_eq!(reaches(&three, &one, PATIENCE), [false; 2]);
            assert_eq!(
                reaches(&linked, &one, PATIENCE),
                [false; 2],
                "of another network"
            );
            assert!(
                pings(&four.netns_path, &three.ipv4_address, DEADLINE),
                "a link works"
            );
            assert!(
                !pings(&three.netns_path, &four.ipv4_address, PATIENCE),
                "one way"
            );
        },
    );
}

/// One namespace has a device for each network, and the way out moves when the first goes.
#[test]
fn a_container_is_on_several_networks() {
    World::run("a_container_is_on_several_networks", |world| {
        let request = CreateNetworkRequest {
            name: "front".to_owned(),
            ..Default::default()
        };
        create(world, request).unwrap();
        let first = world.attach(plain('a', "web"));
        let second = world.attach(AttachEndpointRequest {
            sandbox_id: first.id.clone(),
            ..on("front", plain('b', "web"))
        });
        let peer = world.attach(on("front", plain('c', "peer")));
        assert_eq!(
            (first.ifname.as_str(), second.ifname.as_str()),
            ("eth0", "eth1")
        );
        assert_eq!(first.netns_path, second.netns_path);
        serve_tcp(&peer.netns_path, "::", 80);
        assert!(reaches_tcp(
            &first.netns_path,
            &peer.ipv4_address,
            80,
            DEADLINE
        ));
        world.detach(&first);
        assert_eq!(inside(&second.netns_path, devices), ["lo", "eth1"]);
        assert!(reaches_tcp(
            &second.netns_path,
            &peer.ipv6_address,
            80,
            DEADLINE
        ));
        let routes = inside(&second.netns_path, || {
            std::fs::read_to_string("/proc/thread-self/net/route").unwrap()
        });
        assert!(
            routes
                .lines()
                .any(|line| line.starts_with("eth1\t00000000\t")),
            "{routes}"
        );
        world.detach(&second);
        assert!(!std::path::Path::new(&second.netns_path).exists());
    });
}

/// A sandbox is there before its first endpoint, after its last, and after a restart.
#[test]
fn a_sandbox_stays_without_endpoints() {
    World::run("a_sandbox_stays_without_endpoints", |world| {
        let id = plain('a', "web").endpoint_id;
        let create = |world: &World| {
            world.ask(async |mut client| {
                let request = CreateSandboxRequest {
                    sandbox_id: id.clone(),
                };
                let answer = client.create_sandbox(request).await.unwrap();
                answer.into_inner().netns_path
            })
        };
        let path = create(world);
        assert_eq!(inside(&path, devices), ["lo"]);
        assert!(pings(&path, "127.0.0.1", DEADLINE), "its loopback is up");
        let inode = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(path).unwrap().ino()
        };
        let first = inode(&path);
        let endpoint = world.attach(AttachEndpointRequest {
            sandbox_id: id.clone(),
            ..plain('b', "web")
        });
        assert_eq!(endpoint.netns_path, path);
        world.detach(&endpoint);
        world.kill();
        world.start();
        assert_eq!(create(world), path, "again is no error");
        assert_eq!(
            (inside(&path, devices), inode(&path)),
            (vec!["lo".to_owned()], first)
        );
        let again = world.attach(AttachEndpointRequest {
            sandbox_id: id.clone(),
            ..plain('b', "web")
        });
        world.ask(async |mut client| {
            let request = DeleteSandboxRequest {
                sandbox_id: id.clone(),
            };
            client.delete_sandbox(request.clone()).await.unwrap();
            client.delete_sandbox(request).await.unwrap();
            let left = client.list_sandboxes(ListSandboxesRequest {}).await;
            assert!(left.unwrap().into_inner().sandbox_ids.is_empty());
        });
        assert_eq!(inode(&path), first, "an endpoint is in it");
        world.detach(&again);
        assert!(!std::path::Path::new(&path).exists());
    });
}

/// Networks survive a daemon that is killed, and what cannot be is refused in a sentence.
#[test]
fn networks_are_kept_and_wrong_ones_refused() {
    World::run("networks_are_kept_and_wrong_ones_refused", |world| {
        let request = || CreateNetworkRequest {
            name: "front".to_owned(),
            ipv4_subnet: "10.5.0.0/24".to_owned(),
            ipv4_gateway: "10.5.0.254".to_owned(),
            ipv4_range: "10.5.0.128/25".to_owned(),
            ..Default::default()
        };
        create(world, request()).unwrap();
        let one = world.attach(on("front", plain('a', "one")));
        assert_eq!(one.ipv4_address, "10.5.0.128");
        assert_eq!(one.ipv4_gateway, "10.5.0.254");
        let two = world.attach(AttachEndpointRequest {
            ipv4_address: "10.5.0.7".to_owned(),
            ..on("front", plain('b', "two"))
        });
        assert_eq!(two.ipv4_address, "10.5.0.7");
        serve_tcp(&two.netns_path, "::", 80);
        world.kill();
        world.start();
        assert!(reaches_tcp(
            &one.netns_path,
            &two.ipv4_address,
            80,
            DEADLINE
        ));
        let code = |request: CreateNetworkRequest| create(world, request).unwrap_err().code();
        let changed = CreateNetworkRequest {
            internal: true,
            ..request()
        };
        assert_eq!(code(changed), Code::AlreadyExists);
        let overlapping = CreateNetworkRequest {
            name: "other".to_owned(),
            ..request()
        };
        assert_eq!(code(overlapping), Code::FailedPrecondition);
        for (name, subnet, gateway) in [
            ("host", "", ""),
            ("a b", "", ""),
            ("wrong", "10.6.0.1/24", ""),
            ("wrong", "10.6.0.0/24", "10.7.0.1"),
        ] {
            let wrong = CreateNetworkRequest {
                name: name.to_owned(),
                ipv4_subnet: subnet.to_owned(),
                ipv4_gateway: gateway.to_owned(),
                ..Default::default()
            };
            assert_eq!(
                code(wrong),
                Code::InvalidArgument,
                "{name} {subnet} {gateway}"
            );
        }
        let taken = world.try_attach(AttachEndpointRequest {
            ipv4_address: "10.5.0.7".to_owned(),
            ..on("front", plain('c', "three"))
        });
        assert_eq!(taken.unwrap_err().code(), Code::AlreadyExists);
    });
}

/// A network goes when nobody is on it, and leaves nothing.
#[test]
fn a_network_in_use_stays_and_an_empty_one_leaves_nothing() {
    World::run(
        "a_network_in_use_stays_and_an_empty_one_leaves_nothing",
        |world| {
            let request = CreateNetworkRequest {
                name: "front".to_owned(),
                ..Default::default()
            };
            create(world, request).unwrap();
            let one = world.attach(on("front", plain('a', "one")));
            let delete = |name: &str| {
                let name = name.to_owned();
                world.ask(async |mut client| {
                    client.delete_network(DeleteNetworkRequest { name }).await
                })
            };
            let used = delete("front").unwrap_err();
            assert_eq!(used.code(), Code::FailedPrecondition);
            assert!(used.message().contains("one"), "{used}");
            assert_eq!(delete("bridge").unwrap_err().code(), Code::InvalidArgument);
            world.detach(&one);
            delete("front").unwrap();
            delete("front").unwrap();
            assert_eq!(
                devices().len(),
                2,
                "lo and the default bridge: {:?}",
                devices()
            );
        },
    );
}
