//! Names and devices that are taken for others.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use linkspan_proto::net_v1::{AttachEndpointRequest, CreateNetworkRequest, Link};

use super::stage::{HERE, output_of, shell_in};
use crate::adoption::{ruleset, stable};
use crate::heal::{has, shell};
use crate::world::{DEADLINE, World, devices, link_to, pings, plain, tcp};

/// What a device is, as the host sees it: its index, its bridge and its stamp.
fn describe(ifname: &str) -> String {
    let shown = output_of(HERE, &format!("ip -o link show {ifname}"));
    shown.split("qlen").next().unwrap().to_owned()
}

/// N-18: a device that has a name of ours and is not ours is left alone by who is in its
/// way.
#[test]
fn a_foreign_device_with_the_name_of_a_port_is_left_alone() {
    const TEST: &str = "a_foreign_device_with_the_name_of_a_port_is_left_alone";
    if !has(TEST, "ip") {
        return;
    }
    World::run(TEST, |world| {
        shell("ip link add lkaaaaaaaaaa type veth peer name foreign0");
        shell("ip link set lkaaaaaaaaaa up && ip addr add 198.51.100.9/24 dev lkaaaaaaaaaa");
        let before = describe("lkaaaaaaaaaa");
        let refused = world.try_attach(plain('a', "web")).unwrap_err();
        assert!(refused.message().contains("none of ours"), "{refused}");
        assert_eq!(describe("lkaaaaaaaaaa"), before);
        world.kill();
        world.start();
        assert_eq!(describe("lkaaaaaaaaaa"), before, "after a start");
        shell("ip link del foreign0");
        let web = world.attach(plain('a', "web"));
        assert!(pings(&web.netns_path, &web.ipv4_gateway, DEADLINE));
        world.detach(&web);
        assert_eq!(devices(), ["lo", "linkspan0"]);
    });
}

/// N-18: a bridge that has the name of ours and is not ours keeps its addresses; netd says so,
/// and starts when it is gone.
#[test]
fn a_foreign_bridge_is_not_taken_over() {
    const TEST: &str = "a_foreign_bridge_is_not_taken_over";
    if !has(TEST, "ip") {
        return;
    }
    let make = "ip link add linkspan0 type bridge && ip link set linkspan0 up \
                && ip addr add 198.51.100.9/24 dev linkspan0";
    let look = || output_of(HERE, "ip -o -4 addr show dev linkspan0");
    World::bare(TEST, move |world| {
        let refuses = move |world: &World| {
            let before = look();
            let refused = world.command().output().unwrap();
            assert_eq!(refused.status.code(), Some(1));
            assert_eq!(
                String::from_utf8(refused.stderr).unwrap(),
                "linkspan-netd: the device \"linkspan0\" exists and is no bridge of ours; remove it (ip link del linkspan0), or give netd another name with --bridge-name\n"
            );
            assert_eq!(look(), before);
        };
        shell(make);
        refuses(world);
        if let Some(rules) = ruleset(TEST) {
            assert_eq!(rules, "", "nothing is left behind");
        }
        shell("ip link del linkspan0");
        world.start();
        let web = world.attach(plain('a', "web"));

        world.kill();
        shell(&format!("ip link del linkspan0 && {make}"));
        refuses(world);
        shell("ip link del linkspan0");
        world.start();
        assert!(pings(&web.netns_path, &web.ipv4_gateway, DEADLINE));
        world.stop();
    });
}

/// N-18: a device that somebody puts in the place of a port, with its name and even its
/// index, is not made one, and not removed with the endpoint.
#[test]
fn a_foreign_device_in_the_place_of_a_port_is_not_taken_for_it() {
    const TEST: &str = "a_foreign_device_in_the_place_of_a_port_is_not_taken_for_it";
    if !has(TEST, "ip") {
        return;
    }
    World::run(TEST, |world| {
        let web = world.attach(plain('a', "web"));
        let other = world.attach(plain('b', "other"));
        let index = describe("lkaaaaaaaaaa");
        let (index, _) = index.split_once(':').unwrap();
        world.kill();
        shell(&format!(
            "ip link del lkaaaaaaaaaa && \
             ip link add lkaaaaaaaaaa index {index} type veth peer name foreign0 && \
             ip link set lkaaaaaaaaaa up"
        ));
        let before = describe("lkaaaaaaaaaa");
        world.start();
        assert_eq!(describe("lkaaaaaaaaaa"), before, "after a start");
        assert!(pings(&other.netns_path, &other.ipv4_gateway, DEADLINE));
        world.detach(&web);
        assert_eq!(describe("lkaaaaaaaaaa"), before, "after a detach");
        shell("ip link del foreign0");
        let web = world.attach(plain('a', "web"));
        assert!(pings(&web.netns_path, &web.ipv4_gateway, DEADLINE));
    });
}

/// N-18: devices come and go under netd's hands, and it never holds on to another's.
#[test]
fn devices_that_come_and_go_are_never_mixed_up() {
    const TEST: &str = "devices_that_come_and_go_are_never_mixed_up";
    if !has(TEST, "ip") {
        return;
    }
    World::run(TEST, |world| {
        shell("ip link add stays0 type veth peer name stays1");
        let before = describe("stays0");
        for round in 0..30 {
            let web = world.attach(plain('a', "web"));
            shell("ip link add passes0 type veth peer name passes1");
            if round % 2 == 0 {
                shell("ip link del lkaaaaaaaaaa");
            }
            world.detach(&web);
            shell("ip link del passes0");
        }
        assert_eq!(describe("stays0"), before);
        assert_eq!(devices().len(), 4, "{:?}", devices());
    });
}

/// Words that mean something to a shell, to nft(8) or to the kernel.
const WORDS: [&str; 14] = [
    "a\"; flush ruleset; \"",
    "a}' ; reboot",
    "a\nflush ruleset",
    "a\0b",
    "*",
    "lk*",
    "a b",
    "../../etc",
    "-o",
    "\u{202e}bd",
    "d\u{fc}b",
    "@pins4",
    "$(id)",
    "a/b",
];

/// N-19: a name that is no plain word is refused, and leaves nothing.
#[test]
fn a_name_that_is_no_plain_word_is_refused() {
    const TEST: &str = "a_name_that_is_no_plain_word_is_refused";
    World::run(TEST, |world| {
        let before = ruleset(TEST).map(|rules| stable(&rules));
        let long = "a".repeat(300);
        for word in WORDS.into_iter().chain([long.as_str()]) {
            let refused = |request: AttachEndpointRequest| {
                let refused = world.try_attach(request).unwrap_err();
                assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{word:?}");
            };
            refused(plain('a', word));
            refused(AttachEndpointRequest {
                links: vec![link_to(word, "db")],
                ..plain('a', "web")
            });
            refused(AttachEndpointRequest {
                endpoint_id: word.to_owned(),
                ..plain('a', "web")
            });
            let request = CreateNetworkRequest {
                name: word.to_owned(),
                ..Default::default()
            };
            let refused = world.ask(async |mut client| client.create_network(request).await);
            assert_eq!(
                refused.unwrap_err().code(),
                tonic::Code::InvalidArgument,
                "{word:?}"
            );
        }
        assert_eq!(ruleset(TEST).map(|rules| stable(&rules)), before);
        assert_eq!(devices(), ["lo", "linkspan0"]);
    });
}

/// N-19: what others call a container is not in the rules, whatever it is made of.
#[test]
fn no_alias_gets_into_the_rules() {
    const TEST: &str = "no_alias_gets_into_the_rules";
    World::run(TEST, |world| {
        world.attach(AttachEndpointRequest {
            exposed: vec![tcp(80)],
            ..plain('a', "db")
        });
        let attach = |alias: &str| {
            let web = world.try_attach(AttachEndpointRequest {
                hostname: alias.to_owned(),
                aliases: vec![alias.to_owned()],
                links: vec![link_to("db", alias)],
                ..plain('b', "web")
            })?;
            let rules = ruleset(TEST).map(|rules| stable(&rules));
            world.detach(&web);
            Ok::<_, tonic::Status>(rules)
        };
        let ordinary = attach("store").unwrap();
        let results = WORDS.map(|word| (word, attach(word)));
        let (taken, refused): (Vec<_>, Vec<_>) =
            results.into_iter().partition(|(_, result)| result.is_ok());
        assert!(!taken.is_empty() && !refused.is_empty());
        for (word, rules) in taken {
            assert_eq!(rules.unwrap(), ordinary, "{word:?}");
        }
        for (word, refused) in refused {
            let code = refused.unwrap_err().code();
            assert_eq!(code, tonic::Code::InvalidArgument, "{word:?}");
        }
    });
}

/// N-19: the longest names that there may be make devices with names of their own, and
/// nothing of them is in the rules.
#[test]
fn the_longest_names_make_devices_of_their_own() {
    const TEST: &str = "the_longest_names_make_devices_of_their_own";
    World::run(TEST, |world| {
        let names = ["x", "y"].map(|last| format!("{}{last}", "n".repeat(62)));
        for (digit, name) in ['a', 'b'].into_iter().zip(&names) {
            let request = CreateNetworkRequest {
                name: name.clone(),
                ..Default::default()
            };
            world.ask(async |mut client| client.create_network(request).await.unwrap());
            let member = world.attach(AttachEndpointRequest {
                network: name.clone(),
                exposed: vec![tcp(80)],
                links: vec![Link {
                    alias: "l".repeat(63),
                    ..link_to(name, "")
                }],
                ..plain(digit, name)
            });
            assert!(pings(&member.netns_path, &member.ipv4_gateway, DEADLINE));
        }
        let all = devices();
        assert_eq!(all.len(), 6, "{all:?}");
        assert!(all.iter().all(|name| name.len() <= 15), "{all:?}");
        if let Some(rules) = ruleset(TEST) {
            assert!(!rules.contains("nnnn"), "{rules}");
        }
    });
}

/// The abstract sockets that a namespace shows.
fn abstract_sockets(netns: &str) -> Vec<String> {
    let text = output_of(netns, "cat /proc/net/unix");
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7));
    names
        .filter(|name| name.starts_with('@'))
        .map(str::to_owned)
        .collect()
}

/// N-08: netd listens where files keep others out, and a container that writes rules writes
/// its own.
#[test]
fn a_container_finds_no_socket_and_no_rules_of_netd() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    const TEST: &str = "a_container_finds_no_socket_and_no_rules_of_netd";
    if !has(TEST, "nft") {
        return;
    }
    World::run(TEST, |world| {
        let web = world.attach(plain('a', "web"));
        for netns in [HERE, &web.netns_path] {
            assert_eq!(abstract_sockets(netns), [""; 0], "{netns}");
        }
        let name = SocketAddr::from_abstract_name("told").unwrap();
        let _listener = UnixListener::bind_addr(&name).unwrap();
        assert_eq!(abstract_sockets(HERE), ["@told"], "one would be found");
        let socket = fs::metadata(world.path().join("run/netd.sock")).unwrap();
        assert_eq!(socket.permissions().mode() & 0o7777, 0o660);

        shell("nft add table inet others");
        let before = ruleset(TEST).map(|rules| stable(&rules));
        shell_in(
            &web.netns_path,
            "nft add table inet linkspan && nft flush ruleset",
        );
        assert_eq!(ruleset(TEST).map(|rules| stable(&rules)), before);
        shell("nft flush ruleset");
        assert_ne!(
            ruleset(TEST).map(|rules| stable(&rules)),
            before,
            "here it does"
        );
    });
}
