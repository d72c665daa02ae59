//! What netd makes of the host for others.

use std::time::Duration;

use linkspan_proto::net_v1::{AttachEndpointRequest, Endpoint};

use super::stage::{HERE, shell_in};
use crate::heal::{has, listen, shell};
use crate::lan::{self, HOST4, HOST6, LAN4, LAN6};
use crate::world::{DEADLINE, World, plain, publish, reaches_tcp, serve_tcp};

/// How long a connection may take that may not come at all.
const TRY: Duration = Duration::from_secs(1);
const FAR4: &str = "198.51.100.2";
const FAR6: &str = "2001:db8:f::2";

/// A second LAN at the host, and routes between both by way of it.
fn connect_both(world: &World) -> [String; 2] {
    let near = lan::connect(world);
    let far = lan::pin_new_netns(&world.path().join("far"));
    shell(&format!(
        "ip link add uplink2 type veth peer name lan0 netns {far} && \
         ip addr add 198.51.100.1/24 dev uplink2 && ip addr add 2001:db8:f::1/64 dev uplink2 && \
         ip link set uplink2 up"
    ));
    shell_in(
        &far,
        &format!(
            "ip link set lo up && ip addr add {FAR4}/24 dev lan0 && \
             ip addr add {FAR6}/64 dev lan0 nodad && ip link set lan0 up && \
             ip route add default via 198.51.100.1 && ip -6 route add default via 2001:db8:f::1"
        ),
    );
    shell_in(
        &near,
        &format!("ip route add default via {HOST4} && ip -6 route add default via {HOST6}"),
    );
    serve_tcp(&near, "::", 80);
    serve_tcp(&far, "::", 80);
    for ip in [FAR4, FAR6] {
        assert!(
            reaches_tcp(HERE, ip, 80, DEADLINE),
            "the host has both: {ip}"
        );
    }
    [near, far]
}

/// What of one LAN reaches the other, both ways and by both families.
fn crossings([near, far]: &[String; 2], patience: Duration) -> [bool; 4] {
    [
        reaches_tcp(near, FAR4, 80, patience),
        reaches_tcp(near, FAR6, 80, patience),
        reaches_tcp(far, LAN4, 80, patience),
        reaches_tcp(far, LAN6, 80, patience),
    ]
}

fn web() -> AttachEndpointRequest {
    AttachEndpointRequest {
        port_mappings: vec![publish("", 8080, 80)],
        ..plain('a', "web")
    }
}

/// A container with a published port.
fn attach_web(world: &World) -> Endpoint {
    let web = world.attach(web());
    serve_tcp(&web.netns_path, "::", 80);
    web
}

/// Published ports work, and containers reach both LANs.
fn assert_forwards(web: &Endpoint, lans: &[String; 2]) {
    for (lan, ips) in lans
        .iter()
        .zip([[HOST4, HOST6], ["198.51.100.1", "2001:db8:f::1"]])
    {
        for ip in ips {
            assert!(reaches_tcp(lan, ip, 8080, DEADLINE), "{ip}");
        }
    }
    for ip in [LAN4, LAN6, FAR4, FAR6] {
        assert!(reaches_tcp(&web.netns_path, ip, 80, DEADLINE), "{ip}");
    }
}

/// N-22: a host that was no router is none for others, though containers need forwarding.
#[test]
fn a_host_that_was_no_router_does_not_become_one_for_others() {
    const TEST: &str = "a_host_that_was_no_router_does_not_become_one_for_others";
    if !has(TEST, "ip") {
        return;
    }
    World::bare(TEST, |world| {
        let lans = connect_both(world);
        assert_eq!(crossings(&lans, TRY), [false; 4]);
        world.start();
        let web = attach_web(world);
        assert_forwards(&web, &lans);
        assert_eq!(crossings(&lans, TRY), [false; 4], "netd runs");
        world.kill();
        assert_eq!(crossings(&lans, TRY), [false; 4], "netd is away");
        world.start();
        assert_eq!(crossings(&lans, TRY), [false; 4], "netd is there again");
        assert_forwards(&web, &lans);
        world.stop();
    });
}

/// N-22: a host that was a router stays one.
#[test]
fn a_host_that_was_a_router_stays_one_for_others() {
    const TEST: &str = "a_host_that_was_a_router_stays_one_for_others";
    if !has(TEST, "ip") {
        return;
    }
    World::bare(TEST, |world| {
        let lans = connect_both(world);
        shell(
            "echo 1 > /proc/sys/net/ipv4/ip_forward && \
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
        assert_eq!(crossings(&lans, DEADLINE), [true; 4]);
        world.start();
        let web = attach_web(world);
        assert_forwards(&web, &lans);
        assert_eq!(crossings(&lans, DEADLINE), [true; 4], "netd runs");
        world.kill();
        world.start();
        assert_eq!(crossings(&lans, DEADLINE), [true; 4], "netd is there again");
        let repairs = listen(world);
        shell("echo 0 > /proc/sys/net/ipv4/ip_forward");
        repairs.recv_timeout(DEADLINE).expect("netd needs it");
        assert_eq!(
            crossings(&lans, TRY),
            [false, true, false, true],
            "who turned it off wants no router"
        );
        world.kill();
        world.start();
        assert_eq!(crossings(&lans, TRY), [false, true, false, true]);
        world.stop();
    });
}

/// N-22: who wants a router for others says so.
#[test]
fn a_host_becomes_a_router_for_others_if_that_is_allowed() {
    const TEST: &str = "a_host_becomes_a_router_for_others_if_that_is_allowed";
    if !has(TEST, "ip") {
        return;
    }
    World::bare(TEST, |world| {
        let lans = connect_both(world);
        assert_eq!(crossings(&lans, TRY), [false; 4]);
        world.add_flags(&["--transit", "allow"]);
        world.start();
        assert_eq!(crossings(&lans, DEADLINE), [true; 4]);
        world.stop();
    });
}
