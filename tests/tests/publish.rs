//! Published ports: every form of `-p`, who gets in, and who does not.

use std::net::IpAddr;
use std::time::Duration;

use e2e::console::Engine;
use e2e::network::{
    HOST, HOST6, LAN, LAN6, LOOPBACK, answer_datagrams, http, ip, on_lan, reachable, udp,
};
use e2e::wait_for;

/// A web server on port 80 that tells who asked.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -vv -p 80 -h /var/www";
/// Runs until it is killed.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";
const DEADLINE: Duration = Duration::from_secs(10);

fn web(flags: &str) -> Engine {
    let engine = Engine::with_busybox();
    engine.start("web", flags, WEB);
    engine.await_port("web", 80);
    engine
}

fn ports(engine: &Engine, name: &str) -> String {
    engine.ok(&format!("port {name}"))
}

/// Rows S1 and S9.
#[test]
fn the_lan_reaches_a_published_port_and_is_seen_with_its_own_address() {
    let engine = web("-p 8080:80");
    for (host, client) in [(HOST, LAN), (HOST6, LAN6)] {
        let page = on_lan(|| http(host, 8080, "/"));
        assert_eq!(page.expect("the page"), "page\n");
        let seen = match client {
            IpAddr::V4(address) => format!("[::ffff:{address}]"),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        engine.await_log("web", &seen);
    }
}

/// Row S9.
#[test]
fn the_host_reaches_a_published_port_at_its_loopback_addresses() {
    let engine = web("-p 8080:80");
    for address in LOOPBACK.into_iter().chain([HOST, HOST6]) {
        let page = http(address, 8080, "/");
        assert_eq!(page.expect("the page"), "page\n", "{address}");
    }
    assert_eq!(
        ports(&engine, "web"),
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080"
    );
}

/// Rows S6 to S9.
#[test]
fn the_lan_reaches_nothing_else() {
    let engine = web("-p 127.0.0.1:8081:80 -p 8080:80 --expose 81");
    engine.start("private", "--expose 80", WEB);
    engine.await_port("private", 80);
    for name in ["web", "private"] {
        for address in [ip(&engine.address(name)), ip(&engine.address6(name))] {
            assert!(
                !on_lan(|| reachable(address, 80)),
                "the LAN reaches {name} at {address}"
            );
        }
    }
    for port in [80, 81, 8081] {
        assert!(
            !on_lan(|| reachable(HOST, port)),
            "the LAN reaches port {port}"
        );
        assert!(
            !on_lan(|| reachable(HOST6, port)),
            "the LAN reaches port {port} over IPv6"
        );
    }
    let page = http(LOOPBACK[0], 8081, "/");
    assert_eq!(page.expect("the page"), "page\n");
}

/// Rows S6 to S8.
#[test]
fn every_form_publishes_what_it_says() {
    let engine = Engine::with_busybox();
    for (flag, expected) in [
        ("-p 80:5000", "5000/tcp -> 0.0.0.0:80\n5000/tcp -> [::]:80"),
        ("-p 127.0.0.1:80:5000", "5000/tcp -> 127.0.0.1:80"),
        ("-p 10.200.1.1:80:5000", "5000/tcp -> 10.200.1.1:80"),
        ("-p [::1]:80:5000", "5000/tcp -> [::1]:80"),
        (
            "-p [fd00:200:1::1]:80:5000/udp",
            "5000/udp -> [fd00:200:1::1]:80",
        ),
        ("-p 53:53/udp", "53/udp -> 0.0.0.0:53\n53/udp -> [::]:53"),
        (
            "-p 8080-8081:80-81 -p 127.0.0.1:9000:80",
            "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n80/tcp -> 127.0.0.1:9000\n\
             81/tcp -> 0.0.0.0:8081\n81/tcp -> [::]:8081",
        ),
    ] {
        engine.start("web", flag, IDLE);
        let mut listed: Vec<String> = ports(&engine, "web").lines().map(str::to_owned).collect();
        let mut expected: Vec<&str> = expected.lines().collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected, "{flag}");
        engine.ok("rm -f web");
    }
}

/// Rows S2 and S8.
#[test]
fn random_ports_come_from_the_range() {
    let engine = Engine::with_busybox();
    for flag in [
        "-p 80",
        "-p 127.0.0.1::80",
        "-p [::1]::80",
        "-P --expose 80",
        "-p 80-82",
    ] {
        engine.start("web", flag, IDLE);
        let listed = ports(&engine, "web");
        assert!(!listed.is_empty(), "{flag}");
        for line in listed.lines() {
            let port = line.rsplit(':').next().expect("a line ends with a port");
            let port: u16 = port.parse().expect("a port is a number");
            assert!(port >= 49153, "{flag}: {line}");
        }
        engine.ok("rm -f web");
    }
}

/// Row S9.
#[test]
fn one_of_a_range_of_host_ports_is_taken() {
    let engine = Engine::with_busybox();
    for (name, port) in [("one", 8080), ("two", 8081)] {
        engine.start(name, "-p 8080-8081:80", IDLE);
        assert!(ports(&engine, name).contains(&format!("0.0.0.0:{port}")));
    }
    let sentence = engine.fails(125, "run --name three -p 8080-8081:80 busybox true");
    assert!(sentence.contains("8080"), "{sentence}");
}

/// Row S6.
#[test]
fn datagrams_pass_a_published_port() {
    let engine = Engine::with_busybox();
    engine.start("dns", "-p 5353:53/udp", IDLE);
    answer_datagrams(&engine, "dns", 53);
    for address in [HOST, HOST6] {
        let echo = on_lan(|| udp(address, 5353, "hello"));
        assert_eq!(echo.expect("the echo"), "hello", "{address}");
    }
    for address in LOOPBACK {
        let echo = udp(address, 5353, "hello");
        assert_eq!(echo.expect("the echo"), "hello", "{address}");
    }
}

/// Rows S7 and S8.
#[test]
fn an_address_of_its_own_publishes_there_only() {
    let _engine = web("-p 10.200.1.1:8080:80 -p [::1]:8082:80");
    assert!(on_lan(|| reachable(HOST, 8080)));
    assert!(!on_lan(|| reachable(HOST6, 8080)));
    assert!(!reachable(LOOPBACK[0], 8080));
    assert!(reachable(LOOPBACK[1], 8082));
    assert!(!on_lan(|| reachable(HOST6, 8082)));
}

#[test]
fn port_lists_one_port_when_asked() {
    let engine = Engine::with_busybox();
    engine.start("web", "-p 8080:80 -p 53:53/udp", IDLE);
    assert_eq!(engine.ok("port web 80"), "0.0.0.0:8080\n[::]:8080");
    assert_eq!(engine.ok("port web 53/udp"), "0.0.0.0:53\n[::]:53");
    let sentence = engine.fails(1, "port web 81");
    assert!(sentence.contains("81"), "{sentence}");
}

/// Decision 4.
#[test]
fn a_taken_port_names_its_holder_and_the_next_free_one() {
    let engine = Engine::with_busybox();
    engine.start("web", "-p 8080:80", IDLE);
    let sentence = engine.fails(125, "run --name other -p 8080:80 busybox true");
    assert!(
        sentence.contains("web") && sentence.contains("8081"),
        "{sentence}"
    );
    let listener = std::net::TcpListener::bind((LOOPBACK[0], 9000)).expect("listen");
    let sentence = engine.fails(125, "run --name other -p 9000:80 busybox true");
    let own = std::process::id().to_string();
    assert!(
        sentence.contains(&own) && sentence.contains("9001"),
        "{sentence}"
    );
    drop(listener);
    assert_eq!(engine.names(), ["web"]);
    engine.start("other", "-p 9000:80", IDLE);
}

/// Decision 6.
#[test]
fn random_ports_and_addresses_stay_with_the_name() {
    let engine = Engine::with_busybox();
    engine.start("web", "-P --expose 80 --expose 81", IDLE);
    let story = || {
        (
            ports(&engine, "web"),
            engine.address("web"),
            engine.address6("web"),
        )
    };
    let before = story();
    engine.start("between", "-P --expose 80", IDLE);
    engine.ok("restart -t 0 web");
    assert_eq!(story(), before);
    engine.ok("stop -t 0 web");
    engine.start("later", "-P --expose 80", IDLE);
    engine.ok("start web");
    assert_eq!(story(), before);
    engine.ok("rm -f web");
    engine.start("web", "-P --expose 80 --expose 81", IDLE);
    assert_eq!(story(), before);
}

/// Row S9.
#[test]
fn a_removed_container_frees_its_ports() {
    let engine = web("-p 8080:80");
    engine.ok("rm -f web");
    let listener = std::net::TcpListener::bind((LOOPBACK[0], 8080));
    drop(listener.expect("the port is free"));
    engine.start("other", "-p 8080:80", WEB);
    engine.await_port("other", 80);
    let page = on_lan(|| http(HOST, 8080, "/"));
    assert_eq!(page.expect("the page"), "page\n");
}

/// Row S5.
#[test]
fn ps_compresses_runs_of_ports() {
    let engine = Engine::with_busybox();
    for (flags, expected) in [
        (
            "--expose 5000-5001 --expose 53/udp --expose 5432",
            "5000-5001/tcp, 53/udp, 5432/tcp",
        ),
        ("-p 8080:80", "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
        (
            "-p 7000-7003:7000-7003",
            "0.0.0.0:7000-7003->7000-7003/tcp, [::]:7000-7003->7000-7003/tcp",
        ),
        (
            "-p 127.0.0.1:7100-7101:7000-7001",
            "127.0.0.1:7100->7000/tcp, 127.0.0.1:7101->7001/tcp",
        ),
    ] {
        engine.start("web", flags, IDLE);
        assert_eq!(engine.ok("ps --format '{{.Ports}}'"), expected, "{flags}");
        engine.ok("rm -f web");
    }
}

/// Decision 1 for ports: a restart keeps the door open to clients.
#[test]
fn a_published_port_answers_again_after_a_restart() {
    let engine = web("-p 8080:80");
    engine.ok("restart -t 0 web");
    wait_for("the page", DEADLINE, || {
        on_lan(|| http(HOST, 8080, "/")).ok()
    });
}
