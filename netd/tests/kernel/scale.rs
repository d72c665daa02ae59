//! A thousand endpoints on one network, two thousand on two, and the one too many.

use std::time::{Duration, Instant};

use linkspan_proto::net_v1::{
    AttachEndpointRequest, CreateNetworkRequest, DetachEndpointRequest, ListNetworksRequest,
};
use linkspan_proto::reason::{ErrorReason, reason_of};
use tonic::Code;

use crate::adoption::{ruleset, stable};
use crate::world::{Client, DEADLINE, World, devices, link_to, pings, reaches_tcp, serve_tcp, tcp};

/// How many ports the kernel allows on one bridge.
const BRIDGE_PORTS: usize = 1023;
/// How many endpoints a network is asked to hold.
const MANY: usize = 1000;
/// How many attaches are one sample of what an attach takes.
const SAMPLE: usize = 50;
/// How much longer an attach may take beside many: the kernel's own share grows, and the
/// machine is busy; walks over everything that is attached made it eleven.
const FLAT: u32 = 5;

/// The endpoint of a number on a network: each exposes a port and is linked to the one
/// before it.
fn numbered(network: &str, number: usize) -> AttachEndpointRequest {
    let links = match number.checked_sub(1) {
        Some(before) => vec![link_to(&format!("{network}-{before}"), "before")],
        None => Vec::new(),
    };
    AttachEndpointRequest {
        endpoint_id: format!("{number:05x}{:05x}{}", network.len(), "0".repeat(54)),
        name: format!("{network}-{number}"),
        network: network.to_owned(),
        exposed: vec![tcp(80)],
        links,
        ..Default::default()
    }
}

/// Attaches endpoints and tells how long each took.
async fn attach(
    client: &mut Client,
    network: &str,
    numbers: std::ops::Range<usize>,
) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in numbers {
        let request = numbered(network, number);
        let start = Instant::now();
        client.attach_endpoint(request).await.expect("attach");
        times.push(start.elapsed());
    }
    times
}

/// Detaches endpoints and tells how long each took.
async fn detach(
    client: &mut Client,
    network: &str,
    numbers: std::ops::Range<usize>,
) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in numbers.rev() {
        let request = DetachEndpointRequest {
            endpoint_id: numbered(network, number).endpoint_id,
            release_lease: false,
        };
        let start = Instant::now();
        client.detach_endpoint(request).await.expect("detach");
        times.push(start.elapsed());
    }
    times
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// Prints the medians of the first and the last of many, and wants them alike.
fn assert_flat(what: &str, times: &[Duration]) {
    let first = median(&times[..SAMPLE]);
    let last = median(&times[times.len() - SAMPLE..]);
    println!("{what}: median of the first {SAMPLE} {first:?}, of the last {SAMPLE} {last:?}");
    assert!(
        last <= first * FLAT,
        "{what} takes {last:?} beside many and {first:?} beside few"
    );
}

async fn create(client: &mut Client, name: &str) {
    let request = CreateNetworkRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    client.create_network(request).await.expect("create");
}

/// N-16 and the density goals: the bridge holds what the kernel lets it, in steady time.
#[test]
fn a_network_holds_what_the_kernel_lets_it_and_says_so() {
    World::run(
        "a_network_holds_what_the_kernel_lets_it_and_says_so",
        |world| {
            let before = ruleset("a_network_holds_what_the_kernel_lets_it_and_says_so");
            world.ask(async |mut client| {
                create(&mut client, "front").await;
                let mut times = attach(&mut client, "front", 0..MANY).await;
                println!("the 1000th: median {:?}", median(&times[MANY - SAMPLE..]));
                times.extend(attach(&mut client, "bridge", 0..MANY).await);
                assert_flat("attach", &times);
                attach(&mut client, "front", MANY..BRIDGE_PORTS).await;
                let refused = client
                    .attach_endpoint(numbered("front", BRIDGE_PORTS))
                    .await
                    .unwrap_err();
                assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
                let (reason, _) = reason_of(&refused).unwrap();
                assert_eq!(reason, ErrorReason::AddressesExhausted);
                assert!(refused.message().contains("1023"), "{refused}");
                let networks = client.list_networks(ListNetworksRequest {}).await.unwrap();
                let counts = networks.into_inner().networks;
                let counts: Vec<_> = counts.iter().map(|found| found.endpoint_count).collect();
                assert_eq!(counts, [1000, 1023]);
            });
            let last = world.attach(numbered("bridge", MANY - 1));
            let source = world.attach(numbered("bridge", MANY - 2));
            serve_tcp(&source.netns_path, "::", 80);
            for ip in [&source.ipv4_address, &source.ipv6_address] {
                assert!(reaches_tcp(&last.netns_path, ip, 80, DEADLINE), "{ip}");
                assert!(pings(&last.netns_path, ip, DEADLINE), "{ip}");
            }
            world.ask(async |mut client| {
                let times = detach(&mut client, "bridge", 0..MANY).await;
                println!("detach: median {:?}", median(&times));
                detach(&mut client, "front", 0..BRIDGE_PORTS).await;
                let request = linkspan_proto::net_v1::DeleteNetworkRequest {
                    name: "front".to_owned(),
                };
                client.delete_network(request).await.expect("delete");
            });
            assert_eq!(devices(), ["lo", "linkspan0"]);
            let pins = std::fs::read_dir(world.path().join("run/netns")).unwrap();
            assert_eq!(pins.count(), 0);
            let after = ruleset("a_network_holds_what_the_kernel_lets_it_and_says_so");
            assert_eq!(after.as_deref().map(stable), before.as_deref().map(stable));
        },
    );
}
