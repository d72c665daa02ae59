//! Who reaches whom: every ordered pair of twelve containers on four networks, by every
//! protocol and address, against what was declared; at the start, after each kind of change,
//! and while changes go on.

mod declared;
mod probe;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use linkspan_proto::net_v1::{
    AttachEndpointRequest, CreateNetworkRequest, DeleteNetworkRequest, DetachEndpointRequest,
    ExplainRequest, GetDropCountersRequest, Link as WireLink, MovePortRequest, NetworkPolicy, Port,
    PortMapping, Protocol, RenameEndpointRequest, UpdateEndpointRequest,
};

use crate::lan;
use crate::world::{DEADLINE, PATIENCE, World, any_like, publish, spawn_inside, tcp, udp};
use declared::{
    Declared, HOST_PORTS, Link, Member, PUBLISHED, TCP_EXPOSED, TCP_HIDDEN, UDP_EXPOSED, UDP_HIDDEN,
};
use probe::{Heard, Kind, Probe};

/// Containers and their networks, the first of which makes the namespace.
const CONTAINERS: [(&str, &[&str]); 12] = [
    ("db", &["bridge"]),
    ("web", &["bridge"]),
    ("cache", &["bridge"]),
    ("lone", &["bridge"]),
    ("f1", &["front"]),
    ("f2", &["front"]),
    ("dual", &["front", "bridge"]),
    ("b1", &["back"]),
    ("b2", &["back"]),
    ("v1", &["vault"]),
    ("v2", &["vault"]),
    ("both", &["vault", "front"]),
];
/// What a forged datagram says, and what one says that must never arrive.
const FORGED: &[u8] = b"forged";
const NEVER: &[u8] = b"never";

/// The containers, what was declared of them, and what their servers heard.
struct Matrix<'a> {
    world: &'a mut World,
    declared: Declared,
    heard: Heard,
    lan: String,
}

impl<'a> Matrix<'a> {
    fn new(world: &'a mut World) -> Self {
        let lan = lan::connect(world);
        lan::route_through_host(&lan, "172.16.0.0/12");
        let mut matrix = Self {
            world,
            declared: Declared {
                members: Vec::new(),
                open: vec!["front".to_owned(), "vault".to_owned()],
            },
            heard: Arc::new(Mutex::new(BTreeSet::new())),
            lan,
        };
        matrix.create("front", NetworkPolicy::Open, false);
        matrix.create("back", NetworkPolicy::Isolated, false);
        matrix.create("vault", NetworkPolicy::Open, true);
        for (name, networks) in CONTAINERS {
            for network in networks {
                matrix.attach(name, network);
            }
        }
        matrix.change("web", "bridge", |web| {
            web.links.push(to("db", None));
            web.published.push(8080);
        });
        matrix.change("cache", "bridge", |cache| {
            cache.links.push(to("db", Some(TCP_HIDDEN)));
        });
        matrix.change("dual", "bridge", |dual| dual.links.push(to("web", None)));
        matrix.change("b1", "back", |b1| b1.links.push(to("b2", None)));
        matrix
    }

    fn create(&self, name: &str, policy: NetworkPolicy, internal: bool) {
        let request = CreateNetworkRequest {
            name: name.to_owned(),
            policy: policy.into(),
            internal,
            ..Default::default()
        };
        self.world
            .ask(async |mut client| client.create_network(request).await.expect("create"));
    }

    /// Attaches a container to a network; its first endpoint gets servers.
    fn attach(&mut self, name: &str, network: &str) {
        let own = CONTAINERS.iter().position(|(other, _)| *other == name);
        let own = own.expect("the container is in the table");
        let digit = char::from_digit(u32::try_from(own).unwrap(), 16).unwrap();
        let mut of_container = self.declared.members.iter();
        let first = of_container.find(|member| member.container == name);
        let sandbox_id = first.map_or_else(String::new, |first| first.endpoint_id.clone());
        let is_first = first.is_none();
        let endpoint_id = if is_first {
            digit.to_string().repeat(64)
        } else {
            // Different in its first ten digits from those of others.
            format!("{digit}{:09x}{}", network.len(), "0".repeat(54))
        };
        let endpoint = self.world.attach(AttachEndpointRequest {
            endpoint_id,
            name: name.to_owned(),
            network: network.to_owned(),
            sandbox_id,
            exposed: exposed(),
            ..Default::default()
        });
        if is_first {
            let tcp = [TCP_EXPOSED, TCP_HIDDEN, PUBLISHED];
            let udp = [UDP_EXPOSED, UDP_HIDDEN];
            probe::serve(&endpoint.netns_path, name, &tcp, &udp, &self.heard);
        }
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        self.declared.members.push(Member {
            link_local: link_local(&endpoint.mac_address),
            endpoint_id: endpoint.id,
            container: name.to_owned(),
            network: network.to_owned(),
            netns: endpoint.netns_path,
            gateways: [&endpoint.ipv4_gateway, &endpoint.ipv6_gateway].map(|ip| address(ip)),
            ips: [&endpoint.ipv4_address, &endpoint.ipv6_address].map(|ip| address(ip)),
            links: Vec::new(),
            published: Vec::new(),
        });
    }

    fn detach(&mut self, name: &str, network: &str) {
        let request = DetachEndpointRequest {
            endpoint_id: self.declared.find(name, network).endpoint_id.clone(),
            release_lease: false,
        };
        self.world
            .ask(async |mut client| client.detach_endpoint(request).await.expect("detach"));
        self.declared
            .members
            .retain(|member| member.container != name || member.network != network);
    }

    /// Declares something else of a member, and tells netd.
    fn change(&mut self, name: &str, network: &str, change: impl FnOnce(&mut Member)) {
        let member = self.declared.find(name, network);
        change(member);
        let links = member.links.iter().zip(0..);
        let request = UpdateEndpointRequest {
            endpoint_id: member.endpoint_id.clone(),
            port_mappings: member.published.iter().map(|port| mapping(*port)).collect(),
            links: links.map(|(link, number)| wire(link, number)).collect(),
            exposed: exposed(),
            aliases: Vec::new(),
        };
        self.world
            .ask(async |mut client| client.update_endpoint(request).await.expect("update"));
    }

    fn move_port(&mut self, port: u16, from: &str, to: &str) {
        let request = MovePortRequest {
            protocol: Protocol::Tcp.into(),
            host_port: port.into(),
            to_endpoint_id: self.declared.find(to, "bridge").endpoint_id.clone(),
            container_port: PUBLISHED.into(),
        };
        self.world
            .ask(async |mut client| client.move_port(request).await.expect("move"));
        let from = self.declared.find(from, "bridge");
        from.published.retain(|other| *other != port);
        self.declared.find(to, "bridge").published.push(port);
    }

    /// Runs all probes, and wants what was declared and nothing else.
    fn check(&self, when: &str) {
        let mut rounds = Vec::new();
        for name in self.declared.containers() {
            let probes = self.declared.probes_of(name);
            rounds.push(probe::try_all(self.netns_of(name), probes));
        }
        let hosts = [lan::HOST4, lan::HOST6].map(|ip| ip.parse().unwrap());
        let probes = self.declared.probes_of_lan(hosts);
        rounds.push(probe::try_all(&self.lan, probes));
        for name in self.declared.containers() {
            let pairs = self.declared.forgeries_of(name);
            probe::forge(self.netns_of(name), pairs, UDP_EXPOSED, FORGED.to_vec());
        }
        let wrong: Vec<_> = rounds
            .into_iter()
            .flat_map(|round| round.join().expect("the round ends"))
            .collect();
        assert!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
        let heard = self.heard.lock().unwrap();
        let forged = heard.iter().find(|(_, text)| text == FORGED);
        assert_eq!(forged, None, "{when}");
    }

    fn netns_of(&self, container: &str) -> &str {
        let mut members = self.declared.members.iter();
        let found = members.find(|member| member.container == container);
        &found.expect("the container is there").netns
    }

    /// Holds the explanations of a family against the same declaration.
    fn check_explanations(&self, is_of_family: fn(&IpAddr) -> bool) {
        let names = self.declared.containers();
        let probes: Vec<_> = names
            .iter()
            .flat_map(|name| self.declared.probes_of(name))
            .filter(|probe| !is_link_local(probe.target.ip()))
            .filter(|probe| is_of_family(&probe.target.ip()))
            .collect();
        self.world.ask(async |mut client| {
            for probe in probes {
                let request = question(&probe);
                let told = client.explain(request).await.expect("explain").into_inner();
                assert_eq!(
                    told.reachable,
                    probe.expected.is_some(),
                    "{probe:?} is explained by {told:?}"
                );
            }
        });
    }
}

fn to(source: &str, only_tcp: Option<u16>) -> Link {
    Link {
        source: source.to_owned(),
        only_tcp,
    }
}

fn wire(link: &Link, number: u32) -> WireLink {
    WireLink {
        alias: format!("alias{number}"),
        source_name: link.source.clone(),
        ports: link.only_tcp.into_iter().map(tcp).collect(),
    }
}

fn exposed() -> Vec<Port> {
    vec![tcp(TCP_EXPOSED), udp(UDP_EXPOSED)]
}

fn mapping(host_port: u16) -> PortMapping {
    publish("", host_port.into(), PUBLISHED.into())
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn link_local(mac: &str) -> IpAddr {
    let octets = mac
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap());
    let octets: Vec<_> = octets.collect();
    let [a, b, c, d, e, f] = octets.try_into().unwrap();
    IpAddr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

fn question(probe: &Probe) -> ExplainRequest {
    let protocol = match probe.kind {
        Kind::Tcp => Protocol::Tcp,
        Kind::Udp => Protocol::Udp,
        Kind::Echo => Protocol::Unspecified,
    };
    ExplainRequest {
        from: probe.from.clone(),
        to: probe.target.ip().to_string(),
        protocol: protocol.into(),
        port: probe.target.port().into(),
    }
}

/// Pairs that are tried without a pause while everything else changes.
struct Steady {
    is_over: Arc<AtomicBool>,
    reaching: Vec<JoinHandle<usize>>,
    refused: Vec<JoinHandle<usize>>,
}

impl Steady {
    fn start(declared: &mut Declared) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut ends = |from: (&str, &str), to: (&str, &str), family: usize| {
            let place = SocketAddr::new(declared.find(to.0, to.1).ips[family], UDP_EXPOSED);
            (declared.find(from.0, from.1).netns.clone(), place)
        };
        let reaching = [
            ends(("b1", "back"), ("b2", "back"), 0),
            ends(("f1", "front"), ("dual", "front"), 1),
            ends(("dual", "bridge"), ("web", "bridge"), 0),
        ];
        let refused = [
            ends(("b2", "back"), ("b1", "back"), 0),
            ends(("lone", "bridge"), ("cache", "bridge"), 1),
            ends(("f1", "front"), ("b2", "back"), 0),
        ];
        let start = |(netns, place): (String, SocketAddr), text, patience, must: bool| {
            let is_over = Arc::clone(&is_over);
            spawn_inside(&netns, move || {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let answered = ask(place, text, patience);
                    assert_eq!(answered, must, "{place} after {count} times");
                    count += 1;
                }
                count
            })
        };
        Self {
            reaching: reaching
                .map(|pair| start(pair, b"steady".as_slice(), DEADLINE, true))
                .into(),
            refused: refused
                .map(|pair| start(pair, NEVER, PATIENCE, false))
                .into(),
            is_over,
        }
    }

    /// Ends the probes; all of them were as they must be, many times.
    fn finish(self, heard: &Heard) {
        self.is_over.store(true, Ordering::Relaxed);
        let all = self.reaching.into_iter().chain(self.refused);
        let counts: Vec<_> = all
            .map(|probe| probe.join().expect("a steady probe"))
            .collect();
        println!("steady probes: {counts:?}");
        assert!(counts.iter().all(|count| *count > 3), "{counts:?}");
        let heard = heard.lock().unwrap();
        assert_eq!(heard.iter().find(|(_, text)| text == NEVER), None);
    }
}

/// One datagram as a connection of its own: nothing sends it again if it is lost. The answer
/// comes once; to wait for another is what keeps the pace.
fn ask(place: SocketAddr, text: &[u8], patience: Duration) -> bool {
    const PACE: Duration = Duration::from_millis(20);
    let any = any_like(place.ip());
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    let is_answered = socket.send_to(text, place).is_ok() && socket.recv(&mut [0; 64]).is_ok();
    socket.set_read_timeout(Some(PACE)).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err(), "a second answer");
    is_answered
}

/// Decision 5, N-01 to N-12: reachable exactly where declared, after every kind of change.
#[test]
fn everybody_reaches_exactly_what_was_declared() {
    const NAME: &str = "everybody_reaches_exactly_what_was_declared";
    World::run(NAME, |world| {
        let mut matrix = Matrix::new(world);
        matrix.check("at the start");
        matrix.check_explanations(IpAddr::is_ipv4);
        let steady = Steady::start(&mut matrix.declared);

        matrix.change("lone", "bridge", |lone| lone.links.push(to("db", None)));
        matrix.check("after a link is added");
        matrix.change("web", "bridge", |web| web.links.clear());
        matrix.check("after a link is removed");
        let [_, second, third] = HOST_PORTS;
        matrix.change("web", "bridge", |web| web.published.extend([second, third]));
        matrix.check("after ports are published");
        matrix.move_port(second, "web", "cache");
        matrix.check("after a port has moved");
        matrix.change("web", "bridge", |web| {
            web.published.retain(|port| *port != third);
        });
        matrix.check("after a port is closed");

        matrix.detach("f2", "front");
        matrix.check("after a container is detached");
        matrix.attach("f2", "front");
        matrix.check("after it is attached again");
        rename(&mut matrix, "db", "store");
        matrix.check("after a source is renamed");
        rename(&mut matrix, "store", "db");

        matrix.create("extra", NetworkPolicy::Open, false);
        matrix.declared.open.push("extra".to_owned());
        matrix.attach("lone", "extra");
        matrix.attach("b2", "extra");
        matrix.check("after containers are on a new network");
        matrix.detach("lone", "extra");
        matrix.detach("b2", "extra");
        let request = DeleteNetworkRequest {
            name: "extra".to_owned(),
        };
        matrix
            .world
            .ask(async |mut client| client.delete_network(request).await.expect("delete"));
        matrix.check("after the network is gone");

        matrix.world.kill();
        matrix.check("while netd is away");
        matrix.world.start();
        matrix.check("after netd is there again");
        steady.finish(&matrix.heard);
        matrix.check_explanations(IpAddr::is_ipv6);
        for rule in ["ipv4_spoofed", "ipv6_spoofed"] {
            assert!(
                dropped(matrix.world, rule) > 0,
                "something was forged: {rule}"
            );
        }
    });
}

/// A container's servers go on with the name that they started with, so the declaration
/// keeps it: only links to it and what netd calls it change.
fn rename(matrix: &mut Matrix<'_>, name: &str, new_name: &str) {
    let request = RenameEndpointRequest {
        name: name.to_owned(),
        new_name: new_name.to_owned(),
    };
    matrix
        .world
        .ask(async |mut client| client.rename_endpoint(request).await.expect("rename"));
}

fn dropped(world: &World, rule: &str) -> u64 {
    world.ask(async |mut client| {
        let request = GetDropCountersRequest {};
        let counters = client.get_drop_counters(request).await.unwrap();
        let mut counters = counters.into_inner().counters.into_iter();
        counters
            .find(|counter| counter.rule == rule)
            .map_or(0, |counter| counter.packets)
    })
}
