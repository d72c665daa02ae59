//! Damage to the host's network as its users see it: links and ports work again at once, and
//! `events` shows what happened.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use e2e::console::Engine;
use e2e::network::{HOST, http, on_lan};
use e2e::{DEADLINE, daemon_pid, host, kernel_lacks, kill_daemon, wait_for};
use nix::poll::{PollTimeout, poll};

/// A web server on port 80.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
/// A first packet that is lost is sent again after a second.
const LOST: Duration = Duration::from_millis(800);
const PERIOD: Duration = Duration::from_millis(20);
const ROUNDS: usize = 20;
/// What keeps others from the rules, and since which kernel.
const OWNED: &str = "tables that stay with their owner";
const OWNED_SINCE: (u32, u32) = (6, 9);

fn linked_pair() -> Engine {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80 -p 8080:80", WEB);
    engine.await_port("db", 80);
    engine.ok("run -d --name web --link db:db busybox sleep 1000");
    engine.ok("run -d --name other busybox sleep 1000");
    engine
}

/// The repairs that the engine told since it started, one a line.
fn repairs(engine: &Engine) -> Vec<String> {
    let now = host(&["date", "+%s.%N"]).ok();
    let format = "{{.id}} {{.Actor.Attributes.subject}}: {{.Actor.Attributes.damage}}";
    let mut command = engine.command(&format!(
        "events --since 0 --until {now} --filter type=network --filter event=repair --format"
    ));
    let output = e2e::console::output(command.arg(format));
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stdout.lines().map(str::to_owned).collect()
}

/// The link and the port work, and nobody else gets in.
fn everything_works(engine: &Engine, when: &str) {
    let page = engine.shell("web", "wget -q -O- http://db/");
    assert_eq!(page.stdout, "page\n", "{when}: {}", page.stderr);
    let page = on_lan(|| http(HOST, 8080, "/"));
    assert_eq!(page.expect(when), "page\n");
    let address = engine.address("db");
    let other = engine.shell("other", &format!("nc -w 1 {address} 80 </dev/null"));
    assert_ne!(other.code, 0, "{when}");
}

/// Each damage of the host's network is one event, and over.
#[test]
fn a_damage_is_repaired_and_told_once() {
    let engine = linked_pair();
    let id = engine.inspect("db", "{{.Id}}");
    let port = format!("lk{}", &id[..10]);
    let addresses = [engine.address("db"), engine.address6("db")];
    for (words, told) in [
        (
            &["ip", "link", "del", "linkspan0"][..],
            "bridge bridge linkspan0: deleted".to_owned(),
        ),
        (
            &["sysctl", "-q", "-w", "net.ipv4.ip_forward=0"],
            "host host: net/ipv4/ip_forward was 0".to_owned(),
        ),
        (
            &["ip", "link", "del", &port],
            format!("bridge bridge port {port}: deleted"),
        ),
    ] {
        let before = repairs(&engine);
        let _damaged = host(words).ok();
        let when = words.join(" ");
        let after = wait_for(&when, DEADLINE, || {
            let now = repairs(&engine);
            (now.len() > before.len()).then_some(now)
        });
        everything_works(&engine, &when);
        assert_eq!(after[before.len()..], [told]);
        assert_eq!(repairs(&engine), after, "{when} is told once");
    }
    assert_eq!([engine.address("db"), engine.address6("db")], addresses);
}

fn dials(address: IpAddr, port: u16, patience: Duration) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address, port), patience).is_ok()
}

/// Counts the probes, and returns how many went wrong.
fn probe(
    address: IpAddr,
    port: u16,
    is_open: bool,
    stop: &AtomicBool,
    count: &AtomicUsize,
) -> usize {
    let patience = if is_open { LOST } else { PERIOD };
    let mut wrong = 0;
    while !stop.load(Ordering::Relaxed) {
        wrong += usize::from(dials(address, port, patience) != is_open);
        count.fetch_add(1, Ordering::Relaxed);
        poll(&mut [], PollTimeout::from(20_u8)).expect("wait");
    }
    wrong
}

/// F-22: the rules belong to runtimed as well, so nobody can flush them while netd is away.
#[test]
fn nothing_opens_and_nothing_is_lost_when_rules_are_flushed_while_netd_is_killed() {
    const NAME: &str =
        "nothing_opens_and_nothing_is_lost_when_rules_are_flushed_while_netd_is_killed";
    if kernel_lacks(NAME, OWNED, OWNED_SINCE) {
        return;
    }
    let engine = linked_pair();
    let inside: IpAddr = engine.address("db").parse().expect("an address");
    let _route = e2e::lan(&[
        "ip",
        "route",
        "add",
        &format!("{inside}/32"),
        "via",
        e2e::HOST_V4,
    ])
    .ok();
    let stop = AtomicBool::new(false);
    let (open, closed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let port = scope.spawn(|| on_lan(|| probe(HOST, 8080, true, &stop, &open)));
        let way = scope.spawn(|| on_lan(|| probe(inside, 80, false, &stop, &closed)));
        for _ in 0..ROUNDS {
            let before = daemon_pid("linkspan-netd");
            kill_daemon("linkspan-netd");
            let _flushed = host(&["nft", "flush", "ruleset"]).ok();
            wait_for("netd", DEADLINE, || {
                daemon_pid("linkspan-netd").filter(|pid| Some(*pid) != before)
            });
            wait_for("an answer", DEADLINE, || {
                (engine.run("port ls").code == 0).then_some(())
            });
            let _flushed = host(&["nft", "flush", "ruleset"]).ok();
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(port.join().expect("the probe ends"), 0, "lost of {open:?}");
        assert_eq!(way.join().expect("the probe ends"), 0, "open of {closed:?}");
    });
    everything_works(&engine, "after all");
    assert_eq!(
        repairs(&engine),
        Vec::<String>::new(),
        "nothing was damaged"
    );
}

/// Whoever starts last gives or gets the rules: runtimed may be replaced as well.
#[test]
fn rules_stay_owned_when_runtimed_is_replaced_before_netd() {
    const NAME: &str = "rules_stay_owned_when_runtimed_is_replaced_before_netd";
    if kernel_lacks(NAME, OWNED, OWNED_SINCE) {
        return;
    }
    let engine = linked_pair();
    for name in ["linkspan-runtimed", "linkspan-netd"] {
        let before = daemon_pid(name);
        kill_daemon(name);
        if name == "linkspan-netd" {
            let _flushed = host(&["nft", "flush", "ruleset"]).ok();
        }
        wait_for(name, DEADLINE, || {
            daemon_pid(name).filter(|pid| Some(*pid) != before)
        });
        wait_for("an answer", DEADLINE, || {
            (engine.run("port ls").code == 0).then_some(())
        });
        let kept = host(&["nft", "delete", "table", "inet", "linkspan"]).fails();
        assert!(kept.contains("Operation not permitted"), "{kept}");
    }
    everything_works(&engine, "after both");
    assert_eq!(
        repairs(&engine),
        Vec::<String>::new(),
        "nothing was damaged"
    );
}
