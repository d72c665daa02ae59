//! The ruleset for each kind of object, as `docs/firewall` has it. With `LINKSPAN_RECORD=1`
//! these tests write the pages; without it they hold the kernel against them.

use std::fs;
use std::path::Path;

use linkspan_proto::net_v1::{AttachEndpointRequest, CreateNetworkRequest, NetworkPolicy};

use crate::adoption::{ruleset, stable};
use crate::world::{World, link_to, plain, publish, tcp};

/// Compares with a page, or writes it.
fn check(page: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/firewall")
        .join(page);
    if std::env::var_os("LINKSPAN_RECORD").is_some() {
        fs::write(&path, found).expect("write the page");
        return;
    }
    let written = fs::read_to_string(&path).expect("read the page");
    assert_eq!(
        stable(&written),
        stable(found),
        "{page} differs from the kernel; if that is meant, record it again. Found:\n{found}"
    );
}

/// The rules as they are told: without the program that asked and the stamp.
fn rules(test: &str) -> Option<String> {
    let found = ruleset(test)?;
    let lines = found
        .lines()
        .map(|line| line.split(" # progname").next().unwrap_or_default())
        .filter(|line| !line.trim_start().starts_with("comment \"written"));
    Some(lines.collect::<Vec<_>>().join("\n") + "\n")
}

/// The sets and maps that are not as they were.
fn changed(before: &str, after: &str) -> String {
    let blocks = |text: &str| -> Vec<String> {
        text.split("\n\n")
            .map(|block| block.trim_matches('\n').to_owned())
            .collect()
    };
    let known: Vec<_> = blocks(before).iter().map(|block| stable(block)).collect();
    let new = blocks(after)
        .into_iter()
        .filter(|block| {
            block.trim_start().starts_with("set ") || block.trim_start().starts_with("map ")
        })
        .filter(|block| !known.contains(&stable(block)));
    new.collect::<Vec<_>>().join("\n\n") + "\n"
}

fn object(test: &'static str, page: &'static str, make: impl FnOnce(&World) + Send + 'static) {
    World::run(test, move |world| {
        let Some(before) = rules(test) else {
            return;
        };
        make(world);
        let after = rules(test).expect("nft is there");
        check(page, &changed(&before, &after));
    });
}

/// I-14: the rules are exactly those on record, whatever is attached.
#[test]
fn the_rules_are_those_on_record() {
    World::run("the_rules_are_those_on_record", |_world| {
        if let Some(found) = rules("the_rules_are_those_on_record") {
            check("rules.nft", &found);
        }
    });
}

#[test]
fn a_container_is_what_is_on_record() {
    object(
        "a_container_is_what_is_on_record",
        "container.nft",
        |world| {
            world.attach(plain('a', "web"));
        },
    );
}

#[test]
fn a_link_is_what_is_on_record() {
    object("a_link_is_what_is_on_record", "link.nft", |world| {
        world.attach(AttachEndpointRequest {
            exposed: vec![tcp(5432)],
            ..plain('a', "db")
        });
        world.attach(AttachEndpointRequest {
            links: vec![link_to("db", "db")],
            ..plain('b', "web")
        });
    });
}

#[test]
fn published_ports_are_what_is_on_record() {
    object(
        "published_ports_are_what_is_on_record",
        "ports.nft",
        |world| {
            let mut port_mappings = vec![publish("", 8080, 80), publish("127.0.0.1", 9090, 80)];
            port_mappings.extend((7000..8000).map(|port| publish("", port, port)));
            world.attach(AttachEndpointRequest {
                port_mappings,
                ..plain('a', "web")
            });
        },
    );
}

#[test]
fn networks_are_what_is_on_record() {
    object("networks_are_what_is_on_record", "networks.nft", |world| {
        for (name, policy, internal) in [
            ("front", NetworkPolicy::Open, false),
            ("back", NetworkPolicy::Isolated, true),
        ] {
            let request = CreateNetworkRequest {
                name: name.to_owned(),
                policy: policy.into(),
                internal,
                ..Default::default()
            };
            world.ask(async |mut client| client.create_network(request).await.unwrap());
        }
    });
}
