//! Published ports that come, go and move while containers run.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use e2e::console::Engine;
use e2e::network::{HOST, HOST6, LOOPBACK, answer_datagrams, http, on_lan, reachable, udp};
use e2e::{DEADLINE, daemon_pid, kill_daemon, wait_for};

/// A web server on port 80 whose page is its name.
const WEB: &str = "hostname > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
/// Clients at once, and how often each of them asks in a second.
const CLIENTS: usize = 10;
const EACH: u32 = 10;

fn server(engine: &Engine, name: &str, flags: &str) {
    engine.start(name, &format!("-h {name} {flags}"), WEB);
    engine.await_port(name, 80);
}

fn page(address: IpAddr, port: u16) -> Option<String> {
    let page = on_lan(|| http(address, port, "/")).ok()?;
    Some(page.trim_end().to_owned())
}

fn closed(address: IpAddr, port: u16) -> bool {
    !on_lan(|| reachable(address, port))
}

fn rows(engine: &Engine) -> Vec<String> {
    let list = engine.ok("port ls --format '{{.Host}} {{.Container}} {{.Port}}'");
    list.lines().map(str::to_owned).collect()
}

/// Decision 3.
#[test]
fn a_port_that_is_added_answers_at_once_and_is_kept() {
    let engine = Engine::with_busybox();
    server(&engine, "web", "");
    assert!(closed(HOST, 8080));
    let added = engine.ok("port add web 8080:80 127.0.0.1:8081:80");
    assert_eq!(
        added,
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n80/tcp -> 127.0.0.1:8081"
    );
    for address in [HOST, HOST6] {
        assert_eq!(page(address, 8080).as_deref(), Some("web"), "{address}");
    }
    assert_eq!(http(LOOPBACK[0], 8081, "/").expect("the page"), "web\n");
    assert_eq!(
        engine.ok("port web"),
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> 127.0.0.1:8081\n80/tcp -> [::]:8080"
    );
    assert_eq!(
        engine.inspect("web", "{{json .HostConfig.PortBindings}}"),
        r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"},{"HostIp":"127.0.0.1","HostPort":"8081"}]}"#
    );
    engine.ok("restart -t 0 web");
    engine.await_port("web", 80);
    assert_eq!(page(HOST, 8080).as_deref(), Some("web"));
}

/// Decision 3.
#[test]
fn a_port_that_is_removed_closes_at_once() {
    let engine = Engine::with_busybox();
    server(&engine, "web", "-p 8080:80 -p 8081:80 -P --expose 81");
    let all = engine.ok("port web 81");
    let random = all.lines().next().and_then(|line| line.rsplit(':').next());
    let random = random.expect("a random port").to_owned();
    let address = SocketAddr::new(HOST, 8080);
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
    let mut client = on_lan(connect).expect("connect");
    assert_eq!(engine.ok("port rm 8080"), "8080");
    assert!(closed(HOST, 8080) && closed(HOST6, 8080));
    assert_eq!(page(HOST, 8081).as_deref(), Some("web"));
    assert!(is_cut(&mut client));
    engine.ok(&format!("port rm web {random}"));
    let left = engine.ok("port web");
    assert_eq!(left, "80/tcp -> 0.0.0.0:8081\n80/tcp -> [::]:8081");
    let sentence = engine.fails(1, "port rm 8080");
    assert!(sentence.contains("8080/tcp"), "{sentence}");
    let sentence = engine.fails(1, "port rm web 9999/udp");
    assert!(sentence.contains("9999/udp"), "{sentence}");
    engine.ok("restart -t 0 web");
    assert_eq!(engine.ok("port web"), left);
}

/// Whether a request over a connection gets no answer.
fn is_cut(client: &mut TcpStream) -> bool {
    use std::io::{Read, Write};
    let patience = Some(Duration::from_secs(1));
    client.set_read_timeout(patience).expect("a timeout");
    drop(client.write_all(b"GET / HTTP/1.0\r\n\r\n"));
    !matches!(client.read(&mut [0; 16]), Ok(1..))
}

#[test]
fn a_range_is_one_row_and_goes_in_parts() {
    let engine = Engine::with_busybox();
    server(&engine, "web", "-p 8000-8999:8000-8999");
    assert_eq!(
        rows(&engine),
        [
            "0.0.0.0:8000-8999 web 8000-8999/tcp",
            "[::]:8000-8999 web 8000-8999/tcp"
        ]
    );
    engine.ok("port rm web 8100-8199");
    assert_eq!(
        rows(&engine),
        [
            "0.0.0.0:8000-8099 web 8000-8099/tcp",
            "[::]:8000-8099 web 8000-8099/tcp",
            "0.0.0.0:8200-8999 web 8200-8999/tcp",
            "[::]:8200-8999 web 8200-8999/tcp"
        ]
    );
}

/// Decision 3: the kernel counts what passes.
#[test]
fn the_list_shows_what_passed() {
    let engine = Engine::with_busybox();
    server(&engine, "web", "-p 8080:80");
    for _ in 0..3 {
        assert_eq!(page(HOST, 8080).as_deref(), Some("web"));
    }
    let template = "{{.HostIP}} {{.Connections}} {{.Packets}} {{.Bytes}}";
    let list = engine.ok(&format!("port ls --format '{template}' web"));
    let line = list.lines().find(|line| line.starts_with("0.0.0.0"));
    let numbers: Vec<u64> = line
        .expect("a row")
        .split(' ')
        .skip(1)
        .map(|cell| cell.parse().expect("a number"))
        .collect();
    assert_eq!(numbers[0], 3, "{list}");
    assert!(numbers[1] >= 24 && numbers[2] >= 1000, "{list}");
    let table = engine.ok("port ls");
    let header: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    assert_eq!(
        header,
        ["HOST", "CONTAINER", "PORT", "PACKETS", "BYTES", "OPEN"]
    );
}

/// Decision 3: a hundred connections a second, and none is refused or lost.
#[test]
fn a_port_moves_under_load_and_nobody_notices() {
    let engine = Engine::with_busybox();
    server(&engine, "one", "-p 8080:80");
    server(&engine, "two", "");
    let stop = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    let ask = || {
        let mut pages = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            pages.push(http(HOST, 8080, "/").map_err(|error| error.to_string()));
            asked.fetch_add(1, Ordering::Relaxed);
            // The pace of the load, not a wait for anything.
            let pause = Duration::from_secs(1) / EACH;
            let pause = u8::try_from(pause.as_millis()).expect("a short pause");
            nix::poll::poll(&mut [], nix::poll::PollTimeout::from(pause)).expect("pause");
        }
        pages
    };
    let pages = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| on_lan(ask))).collect();
        wait_for("the load", DEADLINE, || {
            (asked.load(Ordering::Relaxed) >= 5 * CLIENTS).then_some(())
        });
        for (from, to) in [
            ("one", "two"),
            ("two", "one"),
            ("one", "two"),
            ("two", "one"),
        ] {
            let moved = engine.ok(&format!("port mv 8080 {to}:80"));
            assert_eq!(moved, format!("8080/tcp: {from} -> {to}"));
            let before = asked.load(Ordering::Relaxed);
            wait_for("half a second of load", DEADLINE, || {
                (asked.load(Ordering::Relaxed) >= before + 5 * CLIENTS).then_some(())
            });
            assert_eq!(page(HOST, 8080).as_deref(), Some(to));
        }
        stop.store(true, Ordering::Relaxed);
        let pages = clients
            .into_iter()
            .flat_map(|client| client.join().expect("join"));
        pages.collect::<Vec<_>>()
    });
    let of = |name: &str| {
        let page = format!("{name}\n");
        pages.iter().filter(|got| got.as_ref() == Ok(&page)).count()
    };
    let lost: Vec<_> = pages.iter().filter(|got| got.is_err()).collect();
    assert!(lost.is_empty(), "{lost:?} of {}", pages.len());
    assert!(
        of("one") > 0 && of("two") > 0 && pages.len() >= 250,
        "{}",
        pages.len()
    );
    assert_eq!(of("one") + of("two"), pages.len());
}

/// Decision 3: a moved port stays moved.
#[test]
fn a_moved_port_stays_with_its_new_owner() {
    let engine = Engine::with_busybox();
    server(&engine, "one", "-p 8080:80");
    server(&engine, "two", "");
    engine.ok("port mv 8080 two");
    let check = |engine: &Engine| {
        engine.await_port("two", 80);
        assert_eq!(page(HOST, 8080).as_deref(), Some("two"));
        assert_eq!(engine.ok("port one"), "");
    };
    check(&engine);
    let before = daemon_pid("linkspan-runtimed");
    kill_daemon("linkspan-runtimed");
    wait_for("the daemon", DEADLINE, || {
        let now = daemon_pid("linkspan-runtimed");
        (now.is_some() && now != before && engine.run("ps").code == 0).then_some(())
    });
    engine.ok("restart -t 0 two one");
    check(&engine);
    engine.ok("stop -t 0 one two");
    engine.ok("port mv 8080 one");
    engine.ok("start one two");
    engine.await_port("one", 80);
    assert_eq!(page(HOST, 8080).as_deref(), Some("one"));
}

#[test]
fn a_move_that_cannot_be_is_refused_and_changes_nothing() {
    let engine = Engine::with_busybox();
    server(&engine, "one", "-p 8080:80");
    engine.ok("create --name two busybox sh");
    for (line, part) in [
        ("port mv 8080 two", "`two` does not"),
        ("port mv 8080 one", "already"),
        ("port mv 8081 two", "8081/tcp"),
        ("port mv 8080/udp two", "8080/udp"),
        ("port mv 8080 nosuch", "nosuch"),
    ] {
        let sentence = engine.fails(1, line);
        assert!(sentence.contains(part), "{line}: {sentence}");
    }
    assert_eq!(page(HOST, 8080).as_deref(), Some("one"));
    assert_eq!(
        engine.inspect("two", "{{.HostConfig.PortBindings}}"),
        "map[]"
    );
}

#[test]
fn a_datagram_port_moves_at_once() {
    let engine = Engine::with_busybox();
    server(&engine, "one", "-p 5300:53/udp");
    server(&engine, "two", "");
    answer_datagrams(&engine, "one", 53);
    answer_datagrams(&engine, "two", 53);
    let answers = || on_lan(|| udp(HOST, 5300, "hello")).is_ok();
    assert!(answers());
    engine.ok("port mv 5300/udp two");
    assert!(answers());
    engine.ok("stop -t 0 one");
    assert!(answers());
}

/// Decision 4.
#[test]
fn the_holder_of_a_port_is_named_with_the_next_free_one() {
    let engine = Engine::with_busybox();
    server(&engine, "web", "-p 8080:80");
    let lines = engine.ok("port who 8080");
    assert!(
        lines.contains("held by container `web`, port 80") && lines.ends_with("port is 8081"),
        "{lines}"
    );
    let listener = TcpListener::bind("0.0.0.0:7070").expect("listen");
    let lines = engine.ok("port who 7070");
    let process = format!("held by process {}", std::process::id());
    assert!(lines.contains(&process), "{lines}");
    assert!(lines.contains("user root"), "{lines}");
    drop(listener);
    assert_eq!(engine.ok("port who 7070"), "port 7070/tcp is free");
    let sentence = engine.fails(1, "port who 0");
    assert!(sentence.contains("port `0`"), "{sentence}");
}

/// Decision 4: a conflict of a live port says who, and what is free.
#[test]
fn a_live_port_that_is_taken_is_refused_whole() {
    let engine = Engine::with_busybox();
    server(&engine, "one", "-p 8080:80");
    server(&engine, "two", "");
    let sentence = engine.fails(1, "port add two 9000:80 8080:80");
    assert!(
        sentence.contains("`one`") || sentence.contains("\"one\""),
        "{sentence}"
    );
    assert!(sentence.contains("8081"), "{sentence}");
    assert!(closed(HOST, 9000));
    assert_eq!(engine.ok("port two"), "");
    assert_eq!(
        engine.inspect("two", "{{.HostConfig.PortBindings}}"),
        "map[]"
    );
}

#[test]
fn a_container_that_is_called_like_a_verb_goes_by_its_id() {
    let engine = Engine::with_busybox();
    let id = engine.start("ls", "-p 8080:80", WEB);
    let listed = engine.ok(&format!("port {}", &id[..12]));
    assert_eq!(listed, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080");
    assert!(engine.ok("port ls").starts_with("HOST"));
    assert_eq!(
        engine.ok(&format!("port {} 80", &id[..12])).lines().count(),
        2
    );
}
