//! Addresses and ports that somebody takes, and does not give back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;

use linkspan_proto::net_v1::{
    AttachEndpointRequest, CreateNetworkRequest, FindPortHolderRequest, ListEndpointsRequest,
    PortMapping, Protocol, UpdateEndpointRequest,
};
use linkspan_proto::reason::{ErrorReason, reason_of};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::stage::HERE;
use crate::lan::{self, HOST4, HOST6};
use crate::world::{
    DEADLINE, PATIENCE, World, ask_at, devices, dial, inside, plain, publish, reaches_tcp,
    serve_tcp,
};

/// A request for an endpoint of a number on the small network.
fn small(number: usize, name: &str) -> AttachEndpointRequest {
    AttachEndpointRequest {
        endpoint_id: format!("{number:010x}{}", "0".repeat(54)),
        name: name.to_owned(),
        network: "small".to_owned(),
        ..Default::default()
    }
}

/// N-13: attempts that fail and names that come and go leave every address to who needs it,
/// and the one too many is told why.
#[test]
fn failures_and_changing_names_do_not_use_up_the_addresses() {
    const FAILURES: usize = 1_000;
    const COMINGS: usize = 100;
    World::run(
        "failures_and_changing_names_do_not_use_up_the_addresses",
        |world| {
            let request = CreateNetworkRequest {
                name: "small".to_owned(),
                ipv4_subnet: "10.9.0.0/29".to_owned(),
                ..Default::default()
            };
            world.ask(async |mut client| client.create_network(request).await.unwrap());
            let held = TcpListener::bind("0.0.0.0:7070").unwrap();
            world.ask(async |mut client| {
                for number in 0..FAILURES {
                    let request = AttachEndpointRequest {
                        port_mappings: vec![publish("", 7070, 80)],
                        ..small(number, &format!("failed{number}"))
                    };
                    let refused = client.attach_endpoint(request).await.unwrap_err();
                    let (reason, _) = reason_of(&refused).unwrap();
                    assert_eq!(reason, ErrorReason::PortInUse);
                }
            });
            drop(held);
            for number in 0..COMINGS {
                let name = format!("guest{number}");
                let came = world.attach(AttachEndpointRequest {
                    port_mappings: vec![publish("", 7070, 80)],
                    ..small(number, &name)
                });
                world.detach(&came);
            }
            let mut stay: Vec<_> = (0..5)
                .map(|number| world.attach(small(number, &format!("stay{number}"))))
                .collect();
            let mut ips: Vec<_> = stay.iter().map(|one| one.ipv4_address.clone()).collect();
            ips.sort_unstable();
            assert_eq!(
                ips,
                ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]
            );
            let refused = world.try_attach(small(9, "late")).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
            let (reason, _) = reason_of(&refused).unwrap();
            assert_eq!(reason, ErrorReason::AddressesExhausted);
            world.detach(&stay.pop().unwrap());
            stay.push(world.attach(small(9, "late")));
            for one in &stay {
                world.detach(one);
            }
            let left: Vec<_> = devices()
                .into_iter()
                .filter(|name| name.starts_with("lk0"))
                .collect();
            assert!(left.is_empty(), "{left:?}");
        },
    );
}

/// N-14: a daemon that is killed while it attaches leaves no device and no namespace that it
/// does not know of, and what it knows of goes.
#[test]
fn a_daemon_killed_while_it_attaches_leaves_nothing_unknown() {
    const ROUNDS: usize = 12;
    const TEST: &str = "a_daemon_killed_while_it_attaches_leaves_nothing_unknown";
    World::run(TEST, |world| {
        let pins = world.path().join("run/netns");
        let count_pins = || std::fs::read_dir(&pins).unwrap().count();
        for round in 0..ROUNDS {
            let (attached, is_attached) = mpsc::channel();
            let path = world.path().to_owned();
            let attaching = thread::spawn(move || {
                ask_at(&path, async move |mut client| {
                    for number in 0..100 {
                        let request = AttachEndpointRequest {
                            network: String::new(),
                            port_mappings: vec![publish("", 0, 80)],
                            ..small(number, &format!("one{number}"))
                        };
                        let done = client.attach_endpoint(request).await;
                        if done.is_err() || attached.send(()).is_err() {
                            return;
                        }
                    }
                });
            });
            for _one in 0..=round % 4 {
                is_attached.recv_timeout(DEADLINE).unwrap();
            }
            world.kill();
            attaching.join().unwrap();
            world.start();
            let known = world.ask(async |mut client| {
                let listed = client.list_endpoints(ListEndpointsRequest {}).await;
                listed.unwrap().into_inner().endpoints
            });
            assert!(known.len() > round % 4, "what was promised is there");
            assert_eq!(devices().len(), 2 + known.len(), "{:?}", devices());
            assert_eq!(count_pins(), known.len());
            for endpoint in &known {
                world.detach(endpoint);
            }
            assert_eq!(devices(), ["lo", "linkspan0"]);
            assert_eq!(count_pins(), 0);
        }
    });
}

/// Takes a place as rudely as the kernel lets somebody.
fn seize(place: SocketAddr, protocol: Protocol) -> Option<OwnedFd> {
    let kind = if protocol == Protocol::Tcp {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let family = if place.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    bind(&socket, &place).ok()?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, 1).ok()?;
    }
    Some(socket)
}

fn mapping(host_ip: &str, port: u16, protocol: Protocol) -> PortMapping {
    PortMapping {
        protocol: protocol.into(),
        ..publish(host_ip, port.into(), 80)
    }
}

/// N-12: a process of the host cannot take a published port, at no address and by no option;
/// the one beside it it can.
#[test]
fn nobody_squats_on_a_published_port() {
    World::run("nobody_squats_on_a_published_port", |world| {
        let _lan = lan::connect(world);
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let web = world.attach(AttachEndpointRequest {
            port_mappings: protocols.map(|protocol| mapping("", 8080, protocol)).into(),
            ..plain('a', "web")
        });
        let gateways = [web.ipv4_gateway.as_str(), &web.ipv6_gateway];
        let ips = ["0.0.0.0", "::", "127.0.0.1", "::1", HOST4, HOST6];
        for ip in ips.into_iter().chain(gateways) {
            for protocol in protocols {
                let place = |port| SocketAddr::new(ip.parse().unwrap(), port);
                assert!(seize(place(8081), protocol).is_some(), "{ip} {protocol:?}");
                assert!(seize(place(8080), protocol).is_none(), "{ip} {protocol:?}");
            }
        }
    });
}

/// N-12: a port that a process of the host has is not taken from it, whatever address it has
/// it at; when it is given up it is free.
#[test]
fn a_port_of_the_host_is_not_stolen_by_publishing_it() {
    World::run(
        "a_port_of_the_host_is_not_stolen_by_publishing_it",
        |world| {
            let _lan = lan::connect(world);
            let cases = [
                ("0.0.0.0", ""),
                ("0.0.0.0", "127.0.0.1"),
                ("127.0.0.1", ""),
                (HOST4, "0.0.0.0"),
                ("::", ""),
                ("::1", ""),
                (HOST6, "::"),
                ("::", "0.0.0.0"),
            ];
            for (taken, wanted) in cases {
                let port = 7070;
                let place = SocketAddr::new(taken.parse().unwrap(), port);
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let request = AttachEndpointRequest {
                        port_mappings: vec![mapping(wanted, port, protocol)],
                        ..plain('a', "web")
                    };
                    let held: OwnedFd = if protocol == Protocol::Tcp {
                        TcpListener::bind(place).unwrap().into()
                    } else {
                        UdpSocket::bind(place).unwrap().into()
                    };
                    let refused = world.try_attach(request.clone());
                    let refused = refused.expect_err(&format!("{taken} for {wanted:?}"));
                    let (reason, _) = reason_of(&refused).unwrap();
                    assert_eq!(reason, ErrorReason::PortInUse, "{taken} for {wanted:?}");
                    drop(held);
                    world.detach(&world.attach(request));
                }
            }
        },
    );
}

/// N-12: who takes a published port while netd is away gets no connection of it; netd names
/// both when it is there again, and has the port when the other gives it up.
#[test]
fn who_takes_a_port_while_netd_is_away_gets_nothing() {
    World::run(
        "who_takes_a_port_while_netd_is_away_gets_nothing",
        |world| {
            let lan = lan::connect(world);
            let web = world.attach(AttachEndpointRequest {
                port_mappings: vec![publish("", 8080, 80)],
                ..plain('a', "web")
            });
            serve_tcp(&web.netns_path, "::", 80);
            world.kill();
            let squatter = TcpListener::bind("0.0.0.0:8080").unwrap();
            squatter.set_nonblocking(true).unwrap();
            let reach = |when: &str| {
                for ip in [HOST4, HOST6] {
                    assert!(reaches_tcp(&lan, ip, 8080, DEADLINE), "{ip} {when}");
                }
                assert!(reaches_tcp(HERE, "127.0.0.1", 8080, DEADLINE), "{when}");
                squatter.accept().expect_err(when);
            };
            reach("while netd is away");
            world.start();
            reach("when netd is there again");
            let request = FindPortHolderRequest {
                protocol: Protocol::Tcp.into(),
                host_port: 8080,
                ..Default::default()
            };
            let found = world.ask(async |mut client| client.find_port_holder(request).await);
            let holders = found.unwrap().into_inner().holders;
            let me = i32::try_from(std::process::id()).unwrap();
            assert!(
                holders.iter().any(|one| one.endpoint_name == "web"),
                "{holders:?}"
            );
            assert!(holders.iter().any(|one| one.pid == me), "{holders:?}");
            drop(squatter);
            world.kill();
            world.start();
            TcpListener::bind("0.0.0.0:8080").expect_err("it is netd's again");
        },
    );
}

/// N-11: an open connection does not outlive the published port that it came by.
#[test]
fn a_connection_does_not_outlive_its_published_port() {
    World::run(
        "a_connection_does_not_outlive_its_published_port",
        |world| {
            let lan = lan::connect(world);
            let web = world.attach(AttachEndpointRequest {
                port_mappings: vec![publish("", 8080, 80)],
                ..plain('a', "web")
            });
            serve_tcp(&web.netns_path, "::", 80);
            let mut streams = [HOST4, HOST6].map(|ip| {
                let (stream, _) = inside(&lan, move || dial(ip, 8080, DEADLINE)).unwrap();
                stream
            });
            let echoes = |stream: &mut TcpStream, limit| {
                stream.set_read_timeout(Some(limit)).unwrap();
                stream.write_all(b"x").is_ok()
                    && stream.read(&mut [0]).is_ok_and(|length| length == 1)
            };
            for stream in &mut streams {
                assert!(echoes(stream, DEADLINE), "while it is published");
            }
            let request = UpdateEndpointRequest {
                endpoint_id: web.id.clone(),
                ..Default::default()
            };
            world.ask(async |mut client| client.update_endpoint(request).await.unwrap());
            for stream in &mut streams {
                assert!(!echoes(stream, PATIENCE), "when it is not any more");
            }
        },
    );
}
