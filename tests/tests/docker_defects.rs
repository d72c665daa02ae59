//! What Docker gets wrong about links and ports, and what holds here in its place. The
//! numbers are those of the list in the project's notes; `live_links.rs` has the others.

use std::net::IpAddr;

use e2e::console::Engine;
use e2e::network::{HOST, HOST6, LOOPBACK, http, ip, on_container, on_lan, reachable};

/// A web server on port 80.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
/// Runs until it is killed.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";

fn opens(engine: &Engine, name: &str, address: IpAddr) -> bool {
    on_container(engine, name, || reachable(address, 80))
}

/// B1: a source that is down, or gone, is no reason for a command in the consumer to fail.
#[test]
fn a_command_runs_in_a_consumer_whose_source_is_down_or_gone() {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80 -e KEY=value", WEB);
    engine.start("web", "--link db:db", IDLE);
    for end in ["stop -t 0 db", "rm db"] {
        engine.ok(end);
        let environment = engine.shell("web", "env");
        assert_eq!(environment.code, 0, "{end}: {}", environment.stderr);
        assert!(environment.stdout.contains("DB_ENV_KEY=value"), "{end}");
    }
    engine.ok("rm -f web");
}

/// B2: a link follows a source that is removed and made again under its name.
#[test]
fn a_link_follows_a_source_that_is_made_again() {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80", WEB);
    engine.start("web", "--link db:store", IDLE);
    engine.ok("rm -f db");
    let id = engine.start("db", "--expose 80", WEB);
    engine.await_port("db", 80);
    let hosts = engine.shell("web", "cat /etc/hosts").stdout;
    assert!(
        hosts.contains(&format!("\tstore {} db\n", &id[..12])),
        "{hosts}"
    );
    assert!(opens(&engine, "web", ip(&engine.address("db"))));
    engine.ok("restart -t 0 web");
    let page = engine.shell("web", "wget -q -O- http://store/");
    assert_eq!(page.stdout, "page\n", "{}", page.stderr);
    engine.ok("rm -f web db");
}

/// B10: the opening follows a source whose address is another one.
#[test]
fn the_opening_follows_the_address_of_the_source() {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80 --ip 172.17.0.50", WEB);
    engine.start("web", "--link db:store", IDLE);
    engine.start("other", "", IDLE);
    engine.await_port("db", 80);
    assert!(opens(&engine, "web", ip("172.17.0.50")));
    engine.ok("rm -f db");
    engine.start("db", "--expose 80 --ip 172.17.0.60", WEB);
    engine.await_port("db", 80);
    assert!(opens(&engine, "web", ip("172.17.0.60")));
    assert!(!opens(&engine, "other", ip("172.17.0.60")));
    let hosts = engine.shell("web", "cat /etc/hosts").stdout;
    assert!(
        hosts.contains("172.17.0.60\tstore") && !hosts.contains("172.17.0.50"),
        "{hosts}"
    );
    // Whoever has the old address now is not reached by the old opening.
    engine.start("heir", "--expose 80 --ip 172.17.0.50", WEB);
    engine.await_port("heir", 80);
    assert!(!opens(&engine, "web", ip("172.17.0.50")));
    engine.ok("rm -f web db other heir");
}

/// B14: two links of one alias, or an empty alias, are refused and not ignored.
#[test]
fn an_alias_that_is_taken_or_empty_is_refused() {
    let engine = Engine::with_busybox();
    engine.start("db", "", IDLE);
    engine.start("cache", "", IDLE);
    let twice = engine.fails(125, "run --rm --link db:x --link cache:x busybox true");
    assert!(
        twice.contains("db:x") && twice.contains("cache:x"),
        "{twice}"
    );
    let empty = engine.fails(125, "run --rm --link db: busybox true");
    assert!(empty.contains("the alias is empty"), "{empty}");
    engine.ok("rm -f db cache");
}

/// B17: ports that the engine chose stay through a restart, from a range as well.
/// B18: one number for both families, although one of them is taken on the next.
#[test]
fn chosen_ports_stay_and_are_one_number_for_both_families() {
    let engine = Engine::with_busybox();
    let taken = std::net::TcpListener::bind("[::]:8200").expect("take a port of one family");
    engine.start("web", "-p 8200-8205:80 -p 81", WEB);
    let before = engine.ok("port web");
    let numbers = |inner: &str| -> Vec<String> {
        before
            .lines()
            .filter(|line| line.starts_with(inner))
            .filter_map(|line| line.rsplit(':').next().map(str::to_owned))
            .collect()
    };
    assert_eq!(numbers("80/tcp"), ["8201", "8201"], "{before}");
    let random = numbers("81/tcp");
    assert!(random.len() == 2 && random[0] == random[1], "{before}");
    drop(taken);
    engine.ok("restart -t 0 web");
    assert_eq!(engine.ok("port web"), before);
    engine.ok("stop -t 0 web");
    engine.start("other", "-p 8200-8205:80 -p 82", IDLE);
    engine.ok("start web");
    assert_eq!(engine.ok("port web"), before);
    engine.ok("rm -f web other");
}

/// B19: a published port answers over IPv6, or is refused; it never hangs.
#[test]
fn a_published_port_answers_over_both_families() {
    let engine = Engine::with_busybox();
    engine.start("web", "-p 8080:80", WEB);
    engine.await_port("web", 80);
    for address in [HOST, HOST6] {
        assert_eq!(
            on_lan(|| http(address, 8080, "/")).expect("from the LAN"),
            "page\n"
        );
    }
    for address in LOOPBACK {
        assert_eq!(http(address, 8080, "/").expect("from the host"), "page\n");
    }
    engine.ok("rm -f web");
    for address in [HOST6, LOOPBACK[1]] {
        let refused = http(address, 8080, "/").expect_err("nobody listens");
        assert_eq!(
            refused.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{address}"
        );
    }
}

/// B22: no name is what people take for the id of another container.
#[test]
fn a_name_is_never_the_id_of_another_container() {
    let engine = Engine::with_busybox();
    let id = engine.start("db", "", IDLE);
    for name in [&id[..12], &id[..20], &id] {
        let taken = engine.fails(125, &format!("run --rm --name {name} busybox true"));
        assert!(taken.contains(&id[..12]), "{taken}");
    }
    engine.start("web", "", IDLE);
    engine.fails(1, &format!("rename web {}", &id[..12]));
    assert_eq!(engine.ok(&format!("rm -f {}", &id[..12])), id[..12]);
    assert_eq!(engine.names(), ["web"]);
    engine.ok("rm -f web");
}

/// B23: what is to stay with the source does, however the link is written.
#[test]
fn a_secret_stays_with_its_source() {
    let engine = Engine::with_busybox();
    let flags = "-e PGUSER=app -e PGDATA=/d --env-private PGPASSWORD=hidden";
    engine.start("db", flags, IDLE);
    let environment = |link: &str| engine.ok(&format!("run --rm --link {link} busybox env"));
    let all = environment("db:db");
    assert!(
        all.contains("DB_ENV_PGUSER=app") && !all.contains("hidden"),
        "{all}"
    );
    let some = environment("db:db,env=PGU*");
    assert!(
        some.contains("DB_ENV_PGUSER=app") && !some.contains("PGDATA"),
        "{some}"
    );
    let none = environment("db:db,env=none");
    assert!(
        none.contains("DB_NAME=") && !none.contains("DB_ENV_"),
        "{none}"
    );
    engine.ok("rm -f db");
}

/// B24: a container whose start failed shows no ports.
#[test]
fn a_container_that_never_ran_has_no_ports() {
    let engine = Engine::with_busybox();
    engine.start("holder", "-p 8080:80", IDLE);
    engine.ok("create --name web -p 8081:81 -p 8080:80 busybox true");
    engine.fails(1, "start web");
    assert_eq!(
        engine.ok("ps -a --filter name=web --format '{{.Ports}}|'"),
        "|"
    );
    assert_eq!(engine.inspect("web", "{{.NetworkSettings.Ports}}"), "map[]");
    engine.start("other", "-p 8081:81", IDLE);
    engine.ok("rm -f holder web other");
}
