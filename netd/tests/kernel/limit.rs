//! A container that opens all the connections it can (N-15).

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use linkspan_proto::net_v1::{
    AttachEndpointRequest, Endpoint, ExplainRequest, GetDropCountersRequest, Protocol,
    UpdateEndpointRequest,
};

use crate::adoption::ruleset;
use crate::lan;
use crate::world::{
    DEADLINE, PATIENCE, World, any_like, dial, inside, link_to, plain, publish, reaches_tcp,
    serve_tcp, tcp,
};

const LIMIT: usize = 1024;
/// So many that every share of the limit is used up.
const SPRAYED: u16 = 4000;

/// Sends one datagram to each of many ports: as many connections as ports.
fn spray(from: &Endpoint, to: &str) {
    let to: IpAddr = to.parse().unwrap();
    inside(&from.netns_path, move || {
        let any = any_like(to);
        let socket = UdpSocket::bind(any).unwrap();
        for port in 1..=SPRAYED {
            // A queue that is full for a moment is what a flood meets.
            while socket.send_to(b"x", SocketAddr::new(to, port)).is_err() {}
        }
    });
}

/// How many connections of an address the kernel tracks, but those that are closed.
fn tracked(ip: &str) -> usize {
    let ip: IpAddr = ip.parse().unwrap();
    let full = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let groups = ip.segments().map(|group| format!("{group:04x}"));
            groups.join(":")
        }
    };
    let text = fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let first_source = format!(" src={full} ");
    text.lines()
        .filter(|line| !line.contains(" TIME_WAIT "))
        .filter(|line| match line.find(" src=") {
            Some(at) => line[at..].starts_with(&first_source),
            None => false,
        })
        .count()
}

/// How many packets a rule has dropped.
pub(crate) fn dropped(world: &World, rule: &str) -> u64 {
    world.ask(async |mut client| {
        let request = GetDropCountersRequest {};
        let counters = client.get_drop_counters(request).await.unwrap();
        let mut counters = counters.into_inner().counters.into_iter();
        counters
            .find(|counter| counter.rule == rule)
            .map_or(0, |counter| counter.packets)
    })
}

fn is_reachable(world: &World, from: &str, to: &str) -> bool {
    world.ask(async |mut client| {
        let request = ExplainRequest {
            from: from.to_owned(),
            to: to.to_owned(),
            protocol: Protocol::Tcp.into(),
            port: 80,
        };
        let told = client.explain(request).await.unwrap();
        told.into_inner().reachable
    })
}

/// N-15: one container cannot take the connections of all; what it took is given back.
#[test]
fn a_container_opens_so_many_connections_and_no_more() {
    const NAME: &str = "a_container_opens_so_many_connections_and_no_more";
    let limit = LIMIT.to_string();
    World::with_flags(NAME, &["--max-connections", &limit], |world| {
        let lan = lan::connect(world);
        serve_tcp(&lan, "::", 80);
        let greedy = world.attach(plain('a', "greedy"));
        let sibling = world.attach(plain('b', "sibling"));
        for (ip, to, rule) in [
            (&greedy.ipv4_address, lan::LAN4, "connection_limit"),
            (&greedy.ipv6_address, lan::LAN6, "connection_limit6"),
        ] {
            assert!(reaches_tcp(&greedy.netns_path, to, 80, DEADLINE));
            spray(&greedy, to);
            assert_eq!(tracked(ip), LIMIT, "{ip}");
            assert!(dropped(world, rule) >= u64::from(SPRAYED) - 1024);
            assert!(!reaches_tcp(&greedy.netns_path, to, 80, PATIENCE));
            assert!(reaches_tcp(&sibling.netns_path, to, 80, DEADLINE));
            assert!(!is_reachable(world, "greedy", to));
            assert!(is_reachable(world, "sibling", to));
        }
        world.detach(&greedy);
        let rules = ruleset(NAME).unwrap_or_default();
        let address = format!("{} ", greedy.ipv4_address);
        assert!(!rules.contains(&address), "{rules}");
        let again = world.attach(plain('a', "greedy"));
        assert_eq!(again.ipv4_address, greedy.ipv4_address);
        assert!(reaches_tcp(&again.netns_path, lan::LAN4, 80, DEADLINE));
    });
}

/// The control of the test above: without the limit, the same spray is all tracked.
#[test]
fn without_a_limit_a_container_opens_what_it_wants() {
    const NAME: &str = "without_a_limit_a_container_opens_what_it_wants";
    World::with_flags(NAME, &["--max-connections", "0"], |world| {
        lan::connect(world);
        let greedy = world.attach(plain('a', "greedy"));
        spray(&greedy, lan::LAN4);
        assert_eq!(tracked(&greedy.ipv4_address), SPRAYED.into());
    });
}

/// N-11 on a busy host: where so much is tracked that netd asks only for what concerns it, a
/// change still cuts all that it closes, and nothing of an endpoint outlives it.
#[test]
fn a_busy_host_cuts_what_a_change_closes() {
    const NAME: &str = "a_busy_host_cuts_what_a_change_closes";
    World::with_flags(NAME, &["--max-connections", "0"], |world| {
        lan::connect(world);
        let db = world.attach(AttachEndpointRequest {
            exposed: vec![tcp(5432)],
            ..plain('a', "db")
        });
        let web = world.attach(AttachEndpointRequest {
            links: vec![link_to("db", "db")],
            port_mappings: vec![publish("", 8080, 80)],
            ..plain('b', "web")
        });
        serve_tcp(&db.netns_path, "::", 5432);
        serve_tcp(&web.netns_path, "::", 80);
        let buckets = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_buckets").unwrap();
        let enough = buckets.trim().parse::<usize>().unwrap() / 16;
        let noisy = world.attach(plain('c', "noisy"));
        for _ in 0..=enough / usize::from(SPRAYED) {
            spray(&noisy, lan::LAN4);
        }
        let open = |netns: Option<&str>, ip: &str, port| {
            let ip = ip.to_owned();
            let connect = move || dial(&ip, port, DEADLINE).unwrap().0;
            match netns {
                Some(netns) => inside(netns, connect),
                None => connect(),
            }
        };
        let mut cut = vec![
            open(Some(&web.netns_path), &db.ipv4_address, 5432),
            open(Some(&web.netns_path), &db.ipv6_address, 5432),
            open(None, "127.0.0.1", 8080),
        ];
        assert!(tracked(&noisy.ipv4_address) > enough);

        world.ask(async |mut client| {
            let request = UpdateEndpointRequest {
                endpoint_id: web.id.clone(),
                ..Default::default()
            };
            client.update_endpoint(request).await.unwrap();
        });
        for stream in &mut cut {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"x").unwrap();
            assert!(stream.read(&mut [0]).is_err(), "{stream:?} is cut");
        }
        assert_eq!(tracked(&web.ipv4_address) + tracked(&web.ipv6_address), 0);
        world.detach(&noisy);
        assert_eq!(tracked(&noisy.ipv4_address), 0);
    });
}

/// The form of the limit that was tried before broke tracking itself with 130 containers.
#[test]
fn many_containers_with_counted_connections_leave_tracking_whole() {
    const NAME: &str = "many_containers_with_counted_connections_leave_tracking_whole";
    const MANY: u32 = 150;
    World::run(NAME, |world| {
        let lan = lan::connect(world);
        serve_tcp(&lan, "::", 80);
        for number in 0..MANY {
            let endpoint = world.attach(AttachEndpointRequest {
                endpoint_id: format!("{number:010x}{}", "0".repeat(54)),
                name: format!("n{number}"),
                ..Default::default()
            });
            for ip in [lan::LAN4, lan::LAN6] {
                let reached = reaches_tcp(&endpoint.netns_path, ip, 80, DEADLINE);
                assert!(reached, "{number} to {ip}");
            }
        }
    });
}
