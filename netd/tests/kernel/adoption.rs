//! What a restart keeps, what a detach leaves, and what a start refuses.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;

use linkspan_proto::net_v1::watch_endpoints_response::Change;
use linkspan_proto::net_v1::{
    AttachEndpointRequest, DetachEndpointRequest, ListEndpointsRequest, WatchEndpointsRequest,
};

use crate::lan;
use crate::world::{
    DEADLINE, World, devices, dial, inside, link_to, plain, publish, reaches_tcp, serve_tcp, skip,
    tcp,
};

/// The rules as nft shows them; none if there is no nft.
pub(crate) fn ruleset(test: &str) -> Option<String> {
    let Ok(output) = Command::new("nft").args(["-n", "list", "ruleset"]).output() else {
        skip(test, "no nft to list the rules with");
        return None;
    };
    Some(String::from_utf8(output.stdout).unwrap())
}

fn endpoints(world: &World) -> Vec<linkspan_proto::net_v1::Endpoint> {
    world.ask(async |mut client| {
        client
            .list_endpoints(ListEndpointsRequest {})
            .await
            .unwrap()
            .into_inner()
            .endpoints
    })
}

/// I-13 to I-16: netd is killed and started again; nothing is lost and nothing is touched.
#[test]
fn a_killed_daemon_loses_nothing() {
    World::run("a_killed_daemon_loses_nothing", |world| {
        let lan = lan::connect(world);
        let db = world.attach(AttachEndpointRequest {
            exposed: vec![tcp(5432)],
            port_mappings: vec![publish("", 8080, 5432)],
            ..plain('a', "db")
        });
        let web = world.attach(AttachEndpointRequest {
            links: vec![link_to("db", "db")],
            ..plain('b', "web")
        });
        serve_tcp(&db.netns_path, "::", 5432);
        let (mut flow, _) = inside(&lan, || dial(lan::HOST4, 8080, DEADLINE)).unwrap();
        let mut echo = |text: &[u8]| {
            flow.write_all(text).unwrap();
            let mut buffer = vec![0; text.len()];
            flow.read_exact(&mut buffer).unwrap();
            assert_eq!(buffer, text);
        };
        echo(b"before");
        let (rules, before) = (ruleset("a_killed_daemon_loses_nothing"), endpoints(world));
        world.kill();
        echo(b"without");
        assert!(reaches_tcp(
            &web.netns_path,
            &db.ipv4_address,
            5432,
            DEADLINE
        ));
        world.start();
        echo(b"after");
        assert_eq!(endpoints(world), before);
        let after = ruleset("a_killed_daemon_loses_nothing");
        assert_eq!(after.as_deref().map(stable), rules.as_deref().map(stable));
        let taken = std::net::TcpListener::bind("0.0.0.0:8080");
        assert!(taken.is_err(), "the port is reserved again");
        let third = AttachEndpointRequest {
            port_mappings: vec![publish("", 8080, 80)],
            ..plain('c', "third")
        };
        assert!(
            world
                .try_attach(third)
                .unwrap_err()
                .message()
                .contains("container \"db\"")
        );
        world.detach(&db);
        assert_eq!(world.attach(plain('d', "db")).ipv4_address, db.ipv4_address);
    });
}

/// I-11, I-13, I-14, I-18: after a detach nothing is left of an endpoint.
#[test]
fn a_detached_endpoint_leaves_nothing() {
    World::run("a_detached_endpoint_leaves_nothing", |world| {
        let before = ruleset("a_detached_endpoint_leaves_nothing");
        let web = world.attach(AttachEndpointRequest {
            exposed: vec![tcp(80)],
            port_mappings: vec![publish("", 8080, 80), publish("127.0.0.1", 9090, 80)],
            links: vec![link_to("db", "db")],
            ..plain('a', "web")
        });
        let db = world.attach(AttachEndpointRequest {
            exposed: vec![tcp(1)],
            ..plain('b', "db")
        });
        serve_tcp(&web.netns_path, "::", 80);
        dial("127.0.0.1", 8080, DEADLINE).unwrap();
        world.detach(&web);
        world.detach(&db);
        world.detach(&web);
        assert_eq!(devices(), ["lo", "linkspan0"]);
        assert_eq!(
            fs::read_dir(world.path().join("run/netns"))
                .unwrap()
                .count(),
            0
        );
        let tracked = fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap_or_default();
        assert!(!tracked.contains(&web.ipv4_address), "{tracked}");
        assert!(
            std::net::TcpListener::bind("0.0.0.0:8080").is_ok(),
            "the port is free"
        );
        let elements = |text: Option<String>| {
            text.map(|text| {
                text.lines()
                    .filter(|line| line.contains("elements"))
                    .count()
            })
        };
        assert_eq!(
            elements(ruleset("a_detached_endpoint_leaves_nothing")),
            elements(before)
        );
    });
}

/// What a crash left half done is gone after the next start.
#[test]
fn what_nobody_claims_is_removed_at_the_start() {
    World::run("what_nobody_claims_is_removed_at_the_start", |world| {
        let web = world.attach(plain('a', "web"));
        world.kill();
        fs::remove_file(world.path().join("run/netd.db")).unwrap();
        world.start();
        assert_eq!(devices(), ["lo", "linkspan0"]);
        assert!(!fs::exists(&web.netns_path).unwrap());
        let again = world.attach(plain('b', "web"));
        assert_eq!(again.ipv4_address, web.ipv4_address, "the lease is durable");
    });
}

/// S49: an address stays with its name; one that was given back rests.
#[test]
fn an_address_is_leased_to_the_name() {
    World::run("an_address_is_leased_to_the_name", |world| {
        let db = world.attach(plain('a', "db"));
        assert_eq!(db.ipv4_address, "172.17.0.2");
        assert_eq!(db.ipv6_address, "fd17:6c69:6e6b::2");
        assert_eq!(db.mac_address, "02:42:ac:11:00:02");
        world.detach(&db);
        assert_eq!(world.attach(plain('b', "other")).ipv4_address, "172.17.0.3");
        assert_eq!(world.attach(plain('c', "db")).ipv4_address, "172.17.0.2");
    });
}

/// A watcher learns what is there, and then what changes.
#[test]
fn a_watcher_sees_a_snapshot_and_then_changes() {
    World::run("a_watcher_sees_a_snapshot_and_then_changes", |world| {
        let web = world.attach(plain('a', "web"));
        world.ask(async |mut client| {
            let mut watch = client
                .watch_endpoints(WatchEndpointsRequest {})
                .await
                .unwrap()
                .into_inner();
            let first = watch.message().await.unwrap().unwrap().change.unwrap();
            let Change::Snapshot(snapshot) = first else {
                panic!("{first:?}")
            };
            assert_eq!(snapshot.endpoints, std::slice::from_ref(&web));
            client.attach_endpoint(plain('b', "db")).await.unwrap();
            let second = watch.message().await.unwrap().unwrap().change.unwrap();
            assert!(
                matches!(&second, Change::Attached(db) if db.name == "db"),
                "{second:?}"
            );
        });
    });
}

/// The rules without what may differ between two runs: which program asked, what was
/// counted, and how the kernel happened to order elements.
pub(crate) fn stable(rules: &str) -> Vec<String> {
    let mut lines: Vec<_> = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with("comment"))
        // Elements of counted connections come and go with packets; the rules stay.
        .filter(|line| !line.contains("ct count over") || line.trim_start().starts_with("add "))
        .map(|line| line.split(" # progname").next().unwrap_or_default())
        .map(|line| {
            line.trim_start_matches(['\t', ' '])
                .trim_start_matches("elements = { ")
        })
        .map(|line| line.trim_end_matches(" }"))
        .map(|line| {
            let words = line
                .split_ascii_whitespace()
                .filter(|word| word.parse::<u64>().is_err());
            words
                .collect::<Vec<_>>()
                .join(" ")
                .trim_end_matches(',')
                .to_owned()
        })
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort_unstable();
    lines
}

/// A subnet that something else routes is refused if given, and passed by if not.
#[test]
fn a_subnet_in_use_is_refused_or_passed_by() {
    World::bare("a_subnet_in_use_is_refused_or_passed_by", |world| {
        world.netlink(async |handle| {
            let pair = rtnetlink::LinkVeth::new("vpn0", "vpn1").build();
            handle.link().add(pair).execute().await.unwrap();
            let index = lan::index(&handle, "vpn0").await;
            let ip = "172.17.5.1".parse().unwrap();
            handle.address().add(index, ip, 24).execute().await.unwrap();
            crate::world::bring_up(&handle, index).await;
        });
        let refused = world
            .command()
            .args(["--subnet", "172.17.0.0/16"])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert_eq!(
            String::from_utf8(refused.stderr).unwrap(),
            "linkspan-netd: the subnet 172.17.0.0/16 overlaps 172.17.5.0/24, which the device vpn0 already routes; give another with --subnet\n"
        );
        world.start();
        assert_eq!(world.attach(plain('a', "web")).ipv4_address, "172.18.0.2");
        world.kill();
        world.start();
        assert_eq!(
            endpoints(world)[0].ipv4_address,
            "172.18.0.2",
            "the choice is kept"
        );
        world.stop();
    });
}

#[test]
fn a_wrong_flag_is_one_sentence_and_exit_64() {
    World::bare("a_wrong_flag_is_one_sentence_and_exit_64", |world| {
        let refused = world
            .command()
            .args(["--subnet", "everything"])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(64));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(
            text.starts_with(
                "linkspan-netd: --subnet: the subnet \"everything\" must be an IPv4 address"
            ),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    });
}

/// How long an attach and a detach take, printed for whoever asks with `--nocapture`.
#[test]
fn attach_and_detach_take_milliseconds() {
    World::run("attach_and_detach_take_milliseconds", |world| {
        const ROUNDS: usize = 50;
        let mut attach = Vec::new();
        let mut detach = Vec::new();
        world.ask(async |mut client| {
            for _ in 0..ROUNDS {
                let request = AttachEndpointRequest {
                    exposed: vec![tcp(80)],
                    port_mappings: vec![publish("", 0, 80)],
                    ..plain('a', "web")
                };
                let endpoint_id = request.endpoint_id.clone();
                let start = std::time::Instant::now();
                client.attach_endpoint(request).await.unwrap();
                attach.push(start.elapsed());
                let start = std::time::Instant::now();
                let request = DetachEndpointRequest {
                    endpoint_id,
                    release_lease: false,
                };
                client.detach_endpoint(request).await.unwrap();
                detach.push(start.elapsed());
            }
        });
        for (act, mut times) in [("attach", attach), ("detach", detach)] {
            times.sort_unstable();
            println!(
                "{act}: median {:?}, worst {:?}",
                times[ROUNDS / 2],
                times[ROUNDS - 1]
            );
        }
    });
}
