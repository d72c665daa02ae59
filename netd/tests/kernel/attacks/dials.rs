//! Connections around what was declared: to the host, to its loopback, to the cloud's
//! metadata, and to containers from the LAN.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use linkspan_proto::net_v1::AttachEndpointRequest;

use super::stage::{HERE, Stage, play_with, shell_in};
use crate::heal::{has, shell};
use crate::lan::{self, HOST4, HOST6, LAN4, LAN6};
use crate::world::{
    DEADLINE, PATIENCE, World, plain, publish, reaches_tcp, reaches_udp, serve_tcp, serve_udp,
};

/// How long a connection may take that may not come at all.
const TRY: Duration = Duration::from_secs(1);

/// A LAN whose packets the host forwards, and which knows the way back to containers.
fn routed_lan(world: &World) -> String {
    let lan = lan::connect(world);
    shell(
        "echo 1 > /proc/sys/net/ipv4/ip_forward && \
         echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
    );
    shell_in(
        &lan,
        &format!(
            "ip route add 10.77.0.0/24 via {HOST4} && ip -6 route add fd77::/64 via {HOST6} && \
             ip route add 172.17.0.0/16 via {HOST4} && \
             ip -6 route add fd17:6c69:6e6b::/64 via {HOST6}"
        ),
    );
    lan
}

fn both(ipv4: impl Into<IpAddr>, ipv6: impl Into<IpAddr>) -> [String; 2] {
    [ipv4.into().to_string(), ipv6.into().to_string()]
}

/// N-09: a neighbour that routes straight to a container does not reach it.
#[test]
fn a_neighbour_does_not_reach_a_container_by_its_own_address() {
    const TEST: &str = "a_neighbour_does_not_reach_a_container_by_its_own_address";
    play_with(TEST, routed_lan, |_, stage, lan| {
        let victim = &stage.victim;
        serve_tcp(&victim.netns, "::", 80);
        serve_udp(&victim.netns, "::", 53);
        let ips = both(victim.ipv4, victim.ipv6);
        let tcp = ips.iter().map(|ip| reaches_tcp(lan, ip, 80, TRY));
        let udp = ips.iter().map(|ip| reaches_udp(lan, ip, 53, TRY));
        tcp.chain(udp).collect()
    });
}

/// Makes a namespace send packets for the loopback network by way of another host.
fn route_loopback(netns: &str, ifname: &str, gateway: IpAddr) {
    let line = format!(
        "ip addr flush dev lo scope host && echo 1 > /proc/sys/net/ipv4/conf/{ifname}/route_localnet \
         && ip route replace 127.0.0.0/8 via {gateway} dev {ifname}"
    );
    shell_in(netns, &line);
}

/// N-01: what listens on the host's loopback only is not for containers and not for the LAN,
/// even if devices route it.
#[test]
fn nobody_else_reaches_what_listens_on_the_loopback_of_the_host() {
    const TEST: &str = "nobody_else_reaches_what_listens_on_the_loopback_of_the_host";
    let set_up = |world: &World| {
        serve_tcp(HERE, "127.0.0.1", 7777);
        let lan = routed_lan(world);
        shell("echo 1 > /proc/sys/net/ipv4/conf/uplink/route_localnet");
        lan
    };
    play_with(TEST, set_up, |_, stage, lan| {
        let Stage { attacker, host, .. } = stage;
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", stage.bridge);
        shell(&format!("echo 1 > {path}"));
        route_loopback(&attacker.netns, "eth0", host.ipv4.into());
        route_loopback(lan, "lan0", HOST4.parse().unwrap());
        [attacker.netns.as_str(), lan]
            .map(|netns| reaches_tcp(netns, "127.0.0.1", 7777, TRY))
            .into()
    });
}

/// N-07: no service of the host, at none of its addresses.
#[test]
fn a_container_reaches_no_service_of_the_host() {
    const PORTS: [u16; 8] = [1, 22, 111, 443, 2375, 6443, 10250, 65535];
    const DATAGRAMS: [u16; 4] = [67, 161, 546, 5353];
    let set_up = |world: &World| {
        for port in PORTS {
            serve_tcp(HERE, "::", port);
        }
        for port in DATAGRAMS {
            serve_udp(HERE, "::", port);
        }
        routed_lan(world)
    };
    let test = "a_container_reaches_no_service_of_the_host";
    play_with(test, set_up, |_, stage, _| {
        let attacker = &stage.attacker.netns;
        let mut ips: Vec<_> = both(stage.host.ipv4, stage.host.ipv6).into();
        ips.extend([HOST4, HOST6].map(str::to_owned));
        let (tcp, udp) = (PORTS.iter(), DATAGRAMS.iter());
        let kinds = tcp.map(|port| (true, *port));
        let kinds: Vec<_> = kinds.chain(udp.map(|port| (false, *port))).collect();
        // All at once: what is refused costs the whole of its time.
        thread::scope(|scope| {
            let dials: Vec<_> = ips
                .iter()
                .flat_map(|ip| kinds.iter().map(move |kind| (ip, *kind)))
                .map(|(ip, (is_tcp, port))| {
                    scope.spawn(move || {
                        let reaches = if is_tcp { reaches_tcp } else { reaches_udp };
                        reaches(attacker, ip, port, TRY)
                    })
                })
                .collect();
            dials.into_iter().map(|dial| dial.join().unwrap()).collect()
        })
    });
}

/// N-07: the cloud's metadata is not for containers, though its neighbours are.
#[test]
fn a_container_does_not_reach_the_metadata_of_the_cloud() {
    const TEST: &str = "a_container_does_not_reach_the_metadata_of_the_cloud";
    const METADATA: [&str; 3] = ["169.254.169.254", "169.254.170.2", "fd00:ec2::254"];
    let set_up = |world: &World| {
        let lan = routed_lan(world);
        let [machine, task, ipv6] = METADATA;
        for ipv4 in [machine, task] {
            shell_in(&lan, &format!("ip addr add {ipv4}/32 dev lan0"));
            shell(&format!("ip route add {ipv4} dev uplink"));
        }
        shell_in(&lan, &format!("ip -6 addr add {ipv6}/128 dev lan0 nodad"));
        shell(&format!("ip -6 route add {ipv6} via {LAN6}"));
        serve_tcp(&lan, "::", 80);
    };
    play_with(TEST, set_up, |_, stage, ()| {
        let attacker = &stage.attacker.netns;
        for ip in [LAN4, LAN6] {
            assert!(reaches_tcp(attacker, ip, 80, DEADLINE), "{ip}");
        }
        let reached = METADATA.map(|ip| reaches_tcp(attacker, ip, 80, TRY));
        reached.into()
    });
}

/// N-07: nor is metadata that the host itself serves.
#[test]
fn a_container_does_not_reach_metadata_on_the_host() {
    const TEST: &str = "a_container_does_not_reach_metadata_on_the_host";
    let set_up = |_: &World| {
        shell("ip addr add 169.254.169.254/32 dev lo");
        serve_tcp(HERE, "169.254.169.254", 80);
    };
    play_with(TEST, set_up, |_, stage, ()| {
        let attacker = &stage.attacker.netns;
        vec![reaches_tcp(attacker, "169.254.169.254", 80, TRY)]
    });
}

/// N-06: a container does not reach a published port of another by an address of the host.
/// The LAN and a container of somebody else do, by the same dial.
#[test]
fn a_container_does_not_turn_back_to_a_published_port() {
    const TEST: &str = "a_container_does_not_turn_back_to_a_published_port";
    if !has(TEST, "ip") {
        return;
    }
    World::run(TEST, |world| {
        let lan = routed_lan(world);
        let others = Stage::plain(world);
        let stage = Stage::guarded(world);
        let web = world.attach(AttachEndpointRequest {
            port_mappings: vec![publish("", 8080, 80)],
            ..plain('c', "web")
        });
        serve_tcp(&web.netns_path, "::", 80);
        let plain_gateways = both(others.host.ipv4, others.host.ipv6);
        for ip in [HOST4, HOST6] {
            assert!(reaches_tcp(&lan, ip, 8080, DEADLINE), "{ip}");
        }
        for ip in [HOST4, HOST6, &plain_gateways[0], &plain_gateways[1]] {
            let another = &others.attacker.netns;
            assert!(reaches_tcp(another, ip, 8080, DEADLINE), "{ip}");
            let ours = &stage.attacker.netns;
            assert!(!reaches_tcp(ours, ip, 8080, PATIENCE), "{ip}");
        }
        let gateways = both(stage.host.ipv4, stage.host.ipv6);
        for ip in gateways
            .iter()
            .map(String::as_str)
            .chain(["127.0.0.1", "::1"])
        {
            let ours = &stage.attacker.netns;
            assert!(!reaches_tcp(ours, ip, 8080, PATIENCE), "{ip}");
        }
        others.strike();
    });
}
