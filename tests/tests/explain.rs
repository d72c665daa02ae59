//! `explain`: whether a connection would be made, and why.

use e2e::console::Engine;
use e2e::network::{HOST, LAN, ip, on_container, on_lan, reachable};

/// A web server on port 80.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
/// Runs until it is killed.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";

fn linked_pair() -> Engine {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80 --expose 81", WEB);
    engine.await_port("db", 80);
    engine.start("web", "--link db:store", IDLE);
    engine
}

/// The page of an explanation, whose exit code is checked.
fn explain(engine: &Engine, code: i32, line: &str) -> String {
    let output = engine.run(&format!("explain {line}"));
    assert_eq!(
        output.code, code,
        "{line}: {}{}",
        output.stdout, output.stderr
    );
    output.stdout
}

/// Decision 4.
#[test]
fn a_link_that_is_open_explains_itself() {
    let engine = linked_pair();
    for to in ["store:80", "db:80", "store", "db"] {
        let page = explain(&engine, 0, &format!("web {to}"));
        assert!(page.starts_with(&format!("web reaches {to}\n")), "{page}");
        assert!(page.contains("link"), "{page}");
        assert!(!page.contains("  no "), "{page}");
    }
    let json = explain(&engine, 0, "-f json web store:80");
    let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(answer["Reachable"], true);
}

/// Decision 4: what is said is what happens.
#[test]
fn a_door_that_is_shut_says_how_to_open_it() {
    let engine = linked_pair();
    engine.start("other", "", IDLE);
    let page = explain(&engine, 1, "other db:80");
    assert!(page.starts_with("other does not reach db:80\n"), "{page}");
    assert!(page.contains("hint: linkspan link add other db"), "{page}");
    let address = ip(&engine.address("db"));
    assert!(!on_container(&engine, "other", || reachable(address, 80)));
    engine.ok("link add other db");
    explain(&engine, 0, "other db:80");
    assert!(on_container(&engine, "other", || reachable(address, 80)));
    // A port that is open, where nobody listens.
    let page = explain(&engine, 1, "web store:81");
    assert!(page.contains("listen"), "{page}");
    // A port that no link opens.
    explain(&engine, 1, "web store:82");
}

/// Decision 4: a container that is down is the first thing to say.
#[test]
fn a_container_that_is_down_is_told_with_the_remedy() {
    let engine = linked_pair();
    engine.ok("stop -t 0 db");
    let page = explain(&engine, 1, "web store:80");
    assert!(page.contains("container `db` is stopped"), "{page}");
    assert!(page.ends_with("hint: linkspan start db\n"), "{page}");
    engine.ok("rm db");
    let page = explain(&engine, 1, "web store:80");
    assert!(page.contains("no container has that name"), "{page}");
}

/// Decision 4, for those outside.
#[test]
fn the_world_outside_is_explained_too() {
    let engine = linked_pair();
    let address = engine.address("db");
    explain(&engine, 1, &format!("{LAN} {address}:80"));
    assert!(!on_lan(|| reachable(ip(&address), 80)));
    let page = explain(&engine, 1, "web host:22");
    assert!(
        page.contains("host-gateway") || page.contains("host"),
        "{page}"
    );
    explain(&engine, 1, "web 169.254.169.254:80");
}

/// Decision 4: of several networks, the one that a packet takes is looked at.
#[test]
fn a_container_on_several_networks_is_explained_by_the_one_that_counts() {
    let engine = Engine::with_busybox();
    engine.ok("network create --internal vault");
    engine.ok("network create wide");
    engine.start("two", "--network vault --network wide --expose 80", WEB);
    engine.start("safe", "--network vault", IDLE);
    engine.start("lone", "--network none", IDLE);
    engine.await_port("two", 80);

    explain(&engine, 0, "two 203.0.113.9:443");
    let page = explain(&engine, 1, "safe 203.0.113.9:443");
    assert!(page.contains("\"vault\" is internal"), "{page}");
    explain(&engine, 0, "safe two:80");
    let page = explain(&engine, 1, "safe 172.17.0.77:80");
    assert!(
        page.contains("no container has the address 172.17.0.77"),
        "{page}"
    );
    let page = explain(&engine, 1, "lone safe:80");
    assert!(page.ends_with("network connect vault lone\n"), "{page}");

    let sentence = engine.fails(1, "port add safe 8080:80");
    assert!(
        sentence.contains("no network that leads outside"),
        "{sentence}"
    );
    let page = explain(&engine, 1, &format!("{LAN} safe:80"));
    assert!(page.contains("network that is not internal"), "{page}");
    engine.ok("port add two 8080:80");
    explain(&engine, 0, &format!("{LAN} two:80"));
    assert!(on_lan(|| reachable(HOST, 8080)));
    engine.ok("rm -f two safe lone");
    engine.ok("network prune -f");
}

#[test]
fn a_question_that_makes_no_sense_is_refused() {
    let engine = linked_pair();
    for (line, part) in [
        ("web nosuch:80", "nosuch"),
        ("nosuch db:80", "nosuch"),
        ("web db:0", "port `0`"),
        ("web db:80/icmp", "icmp"),
    ] {
        let sentence = engine.fails(125, &format!("explain {line}"));
        assert!(sentence.contains(part), "{line}: {sentence}");
    }
}
