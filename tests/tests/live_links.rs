//! Links that come and go while both ends run.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use e2e::console::Engine;
use e2e::network::{ip, on_container, reachable};
use e2e::{DEADLINE, daemon_pid, kill_daemon, wait_for};

/// A web server on port 80.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
/// Runs until it is killed.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";
/// How soon a connection must be cut.
const CUT: Duration = Duration::from_secs(1);

/// `db` serves a page on port 80, and `web` is idle; there is no link.
fn strangers() -> Engine {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80", WEB);
    engine.await_port("db", 80);
    engine.start("web", "", IDLE);
    engine
}

fn hosts(engine: &Engine, name: &str) -> String {
    engine.shell(name, "cat /etc/hosts").stdout
}

/// The lines of a hosts file whose first name is the alias.
fn lines(engine: &Engine, name: &str, alias: &str) -> Vec<String> {
    let is_own = |line: &&str| {
        let names = line.split_once('\t').map_or("", |(_, names)| names);
        names.split(' ').next() == Some(alias)
    };
    let text = hosts(engine, name);
    text.lines().filter(is_own).map(str::to_owned).collect()
}

fn page(engine: &Engine, name: &str, host: &str) -> String {
    let command = format!("wget -q -O- http://{host}/");
    let output = engine.shell(name, &command);
    output.stdout + &output.stderr
}

fn opens(engine: &Engine, name: &str, address: IpAddr, port: u16) -> bool {
    on_container(engine, name, || reachable(address, port))
}

fn restart_runtimed(engine: &Engine) {
    let before = daemon_pid("linkspan-runtimed");
    kill_daemon("linkspan-runtimed");
    wait_for("the daemon", DEADLINE, || {
        let now = daemon_pid("linkspan-runtimed");
        (now.is_some() && now != before && engine.run("ps").code == 0).then_some(())
    });
}

/// Decision 3: name, hosts line and firewall at once, the environment at the next start.
#[test]
fn a_link_that_is_added_opens_at_once() {
    let engine = strangers();
    let address = ip(&engine.address("db"));
    assert!(!opens(&engine, "web", address, 80));
    let inode = engine.shell("web", "stat -c %i /etc/hosts").stdout;
    assert_eq!(engine.ok("link add web db:store"), "web/store");
    assert_eq!(page(&engine, "web", "store"), "page\n");
    assert_eq!(engine.shell("web", "stat -c %i /etc/hosts").stdout, inode);
    let own = lines(&engine, "web", "store");
    assert_eq!(own.len(), 2, "one of each family: {own:?}");
    assert_eq!(
        engine.inspect("web", "{{.HostConfig.Links}}"),
        "[/db:/web/store]"
    );
    let environment = |engine: &Engine| engine.shell("web", "env").stdout;
    assert!(!environment(&engine).contains("STORE_"));
    engine.ok("restart -t 0 web");
    assert!(environment(&engine).contains("STORE_PORT_80_TCP_ADDR="));
    assert_eq!(page(&engine, "web", "store"), "page\n");
}

/// Decision 3.
#[test]
fn a_link_that_is_removed_closes_at_once_and_cuts_what_is_open() {
    let engine = strangers();
    engine.ok("link add web db");
    let address = ip(&engine.address("db"));
    let listener = on_container(&engine, "db", || TcpListener::bind("[::]:81")).expect("listen");
    engine.ok("link add web db:more,ports=81");
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(address, 81), CUT);
    let mut client = on_container(&engine, "web", connect).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    client.write_all(b"a").expect("write");
    let mut byte = [0];
    server.read_exact(&mut byte).expect("read");
    let start = Instant::now();
    assert_eq!(engine.ok("link rm web more"), "web/more");
    assert!(
        is_silent(&mut client, &mut server),
        "the connection goes on"
    );
    assert!(start.elapsed() < CUT + CUT, "{:?}", start.elapsed());
    assert!(lines(&engine, "web", "more").is_empty());
    assert_eq!(page(&engine, "web", "db"), "page\n");
    engine.ok("link rm web db");
    assert!(!opens(&engine, "web", address, 80));
    let sentence = engine.fails(1, "link rm web db");
    assert!(sentence.contains("no link `db`"), "{sentence}");
}

/// Whether nothing passes a connection any more.
fn is_silent(client: &mut TcpStream, server: &mut TcpStream) -> bool {
    server.set_read_timeout(Some(CUT)).expect("a timeout");
    // The kernel takes it without knowing whether it will arrive.
    drop(client.write_all(b"b"));
    server.read_exact(&mut [0]).is_err()
}

/// Row S30: a source that goes is not reached over what was open.
#[test]
fn removing_the_source_cuts_established_flows() {
    let engine = strangers();
    engine.ok("link add web db");
    let address = ip(&engine.address("db"));
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(address, 80), CUT);
    let mut client = on_container(&engine, "web", connect).expect("connect");
    engine.ok("rm -f db");
    client.set_read_timeout(Some(CUT)).expect("a timeout");
    drop(client.write_all(b"GET / HTTP/1.0\r\n\r\n"));
    let mut answer = String::new();
    let end = client.read_to_string(&mut answer);
    assert!(end.is_err() || answer.is_empty(), "{answer}");
    assert!(lines(&engine, "web", "db").is_empty());
}

/// Decision 3: it is kept, whoever is restarted.
#[test]
fn a_live_link_survives_both_ends_and_the_daemon() {
    let engine = strangers();
    engine.ok("link add web db:store");
    restart_runtimed(&engine);
    assert_eq!(page(&engine, "web", "store"), "page\n");
    engine.ok("stop -t 0 web db");
    restart_runtimed(&engine);
    engine.ok("start db web");
    engine.await_port("db", 80);
    assert_eq!(page(&engine, "web", "store"), "page\n");
    engine.ok("link rm web store");
    restart_runtimed(&engine);
    engine.ok("restart -t 0 web");
    assert_eq!(engine.inspect("web", "{{.HostConfig.Links}}"), "[]");
    assert!(!opens(&engine, "web", ip(&engine.address("db")), 80));
}

/// Decision 1, for a link that was added live.
#[test]
fn a_live_link_follows_rename_stop_and_re_creation() {
    let engine = strangers();
    engine.ok("link add web db:store");
    engine.ok("rename db base");
    assert_eq!(page(&engine, "web", "store"), "page\n");
    engine.ok("stop -t 0 base");
    assert!(lines(&engine, "web", "store").is_empty());
    engine.ok("rm base");
    engine.start("base", "--expose 80", WEB);
    engine.await_port("base", 80);
    assert_eq!(page(&engine, "web", "store"), "page\n");
}

/// Decision 3: a container that does not run may get a link, too.
#[test]
fn a_stopped_consumer_gets_its_link_at_the_next_start() {
    let engine = strangers();
    engine.ok("stop -t 0 web");
    engine.ok("link add web db");
    assert!(engine.ok("link ls").contains("consumer down"));
    engine.ok("start web");
    assert_eq!(page(&engine, "web", "db"), "page\n");
    assert!(engine.shell("web", "env").stdout.contains("DB_PORT="));
}

/// Decision 3: what passes is counted in the kernel.
#[test]
fn the_list_shows_who_and_how_much() {
    let engine = strangers();
    engine.ok("link add web db:store");
    let row = |engine: &Engine| {
        let template = "{{.Consumer}}|{{.Alias}}|{{.Source}}|{{.State}}|{{.Ports}}|{{.Packets}}|{{.Bytes}}|{{.Open}}";
        engine.ok(&format!("link ls --format '{template}'"))
    };
    assert_eq!(row(&engine), "web|store|db|open|80/tcp|0|0|0");
    let table = engine.ok("link ls");
    let header: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    assert_eq!(
        header,
        [
            "CONSUMER", "ALIAS", "SOURCE", "STATE", "PORTS", "PACKETS", "BYTES", "OPEN"
        ]
    );
    assert_eq!(page(&engine, "web", "store"), "page\n");
    let address = ip(&engine.address("db"));
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(address, 80), CUT);
    let client = on_container(&engine, "web", connect).expect("connect");
    let counted = row(&engine);
    let cells: Vec<&str> = counted.split('|').collect();
    let number = |cell: usize| cells[cell].parse::<u64>().expect("a number");
    assert!(number(5) >= 8 && number(6) >= 400, "{counted}");
    assert!(number(7) >= 1, "{counted}");
    drop(client);
    engine.ok("stop -t 0 db");
    assert!(row(&engine).contains("|source down|"));
    engine.ok("rm db");
    assert!(row(&engine).contains("|source missing|"));
}

/// Row S35.
#[test]
fn inspect_tells_what_crosses() {
    let engine = Engine::with_busybox();
    engine.start(
        "db",
        "--expose 80 -e PGDATA=/d -e OTHER=1 --env-private PGKEY=x",
        IDLE,
    );
    engine.start("web", "--link db:db,env=PG*", IDLE);
    let field = |template: &str| engine.ok(&format!("link inspect -f '{template}' web db"));
    assert_eq!(field("{{.Env.Crossing}}"), "[PGDATA]");
    assert_eq!(field("{{.Env.Withheld}}"), "[OTHER PGKEY]");
    let variables = field("{{.Env.Variables}}");
    assert!(
        variables.starts_with("[DB_NAME DB_PORT ") && variables.ends_with(" DB_ENV_PGDATA]"),
        "{variables}"
    );
    assert_eq!(field("{{.HostsLine}}"), lines(&engine, "web", "db")[0]);
    let sentence = engine.fails(1, "link inspect web nope");
    assert!(sentence.contains("no link `nope`"), "{sentence}");
}

#[test]
fn a_link_opens_only_the_ports_that_it_names() {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80 --expose 81", IDLE);
    engine.start("web", "--link db:db,ports=81+82", IDLE);
    let _listeners = on_container(&engine, "db", || {
        [80, 81, 82].map(|port| TcpListener::bind(("0.0.0.0", port)).expect("listen"))
    });
    let address = ip(&engine.address("db"));
    for (port, open) in [(80, false), (81, true), (82, true)] {
        assert_eq!(opens(&engine, "web", address, port), open, "{port}");
    }
    let environment = engine.shell("web", "env").stdout;
    assert!(environment.contains("DB_PORT_81_TCP=") && !environment.contains("DB_PORT_80_TCP="));
}

/// B16, and decision 5 for a link that is added live.
#[test]
fn a_live_link_whose_alias_collides_is_refused() {
    let engine = strangers();
    engine.ok("link add web db:db-1");
    for (link, parts) in [
        ("db:DB_1", vec!["db:db-1", "db:DB_1"]),
        ("db:db-1", vec!["db:db-1"]),
        ("db:a b", vec!["alias"]),
        ("web:me", vec!["own source"]),
        ("nosuch:x", vec!["nosuch"]),
    ] {
        let sentence = engine.fails(1, &format!("link add web '{link}'"));
        for part in parts {
            assert!(sentence.contains(part), "{link}: {sentence}");
        }
    }
    assert_eq!(engine.ok("link ls --format '{{.Alias}}'"), "db-1");
}

/// Decision 2.
#[test]
fn a_start_waits_until_its_source_listens() {
    let engine = Engine::with_busybox();
    let slow = "sleep 2; echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
    engine.start("db", "--expose 80", slow);
    let line = "run --rm --link db:db,wait=port,timeout=30s busybox wget -q -O- http://db/";
    let output = engine.run(line);
    assert_eq!(
        (output.code, &output.stdout[..]),
        (0, "page\n"),
        "{}",
        output.stderr
    );
}

/// Decision 2: a source may come later, and by another hand.
#[test]
fn a_start_waits_for_a_source_that_does_not_exist_yet() {
    let engine = Engine::with_busybox();
    let line = "run -d --name web --link db:db,wait=started busybox sleep 1000";
    let mut waiting = engine.command(line).spawn().expect("start linkspan");
    engine.await_status("web", "created");
    engine.start("db", "--expose 80", IDLE);
    assert!(waiting.wait().expect("wait").success());
    assert_eq!(lines(&engine, "web", "db").len(), 2);
}

/// Decision 2.
#[test]
fn a_wait_that_is_over_names_the_source_and_what_it_lacks() {
    let engine = Engine::with_busybox();
    for (setup, wait, part) in [
        ("", "started", "no container has the name `db`"),
        ("create --name db busybox sh", "started", "`db` is created"),
        ("start db", "started", ""),
        (
            "run -d --name idle --expose 80 busybox sleep 1000",
            "port",
            "`idle` does not listen on 80/tcp",
        ),
    ] {
        if !setup.is_empty() {
            engine.ok(setup);
        }
        let source = if wait == "port" { "idle" } else { "db" };
        if part.is_empty() {
            engine.ok("rm -f db");
            continue;
        }
        let line =
            format!("run --name web --link {source}:db,wait={wait},timeout=300ms busybox true");
        let sentence = engine.fails(125, &line);
        assert!(sentence.contains(part), "{sentence}");
        assert!(sentence.contains("waited 300 ms"), "{sentence}");
        assert!(!engine.names().contains(&"web".to_owned()));
    }
}

/// A person who gives up a run that waits leaves nothing behind.
#[test]
fn a_wait_that_is_interrupted_leaves_nothing() {
    let engine = Engine::with_busybox();
    let line = "run --name web --link db:db,wait=started busybox true";
    let mut waiting = engine.command(line).spawn().expect("start linkspan");
    engine.await_status("web", "created");
    waiting.kill().expect("kill linkspan");
    waiting.wait().expect("wait");
    wait_for("the name to be free", DEADLINE, || {
        engine.names().is_empty().then_some(())
    });
}

/// B3: a restart is no outage because a source is down.
#[test]
fn a_restart_goes_on_while_the_source_is_down() {
    let engine = strangers();
    engine.ok("link add web db");
    engine.ok("stop -t 0 db");
    assert_eq!(engine.ok("restart -t 0 web"), "web");
    assert_eq!(engine.inspect("web", "{{.State.Running}}"), "true");
    engine.ok("start db");
    engine.await_port("db", 80);
    assert_eq!(page(&engine, "web", "db"), "page\n");
}

/// B4: a renamed source is not lost with the daemon.
#[test]
fn a_renamed_source_is_known_after_the_daemon_was_killed() {
    let engine = strangers();
    engine.ok("link add web db:store");
    engine.ok("rename db base");
    restart_runtimed(&engine);
    assert_eq!(
        engine.inspect("web", "{{.HostConfig.Links}}"),
        "[/base:/web/store]"
    );
    engine.ok("restart -t 0 web");
    assert_eq!(page(&engine, "web", "store"), "page\n");
}

/// B5: a renamed consumer goes on to be told.
#[test]
fn a_renamed_consumer_still_follows_its_source() {
    let engine = strangers();
    engine.ok("link add web db:store");
    engine.ok("rename web front");
    engine.ok("stop -t 0 db");
    assert!(lines(&engine, "front", "store").is_empty());
    engine.ok("start db");
    engine.await_port("db", 80);
    assert_eq!(page(&engine, "front", "store"), "page\n");
    engine.ok("restart -t 0 front");
    assert!(
        engine
            .shell("front", "env")
            .stdout
            .contains("STORE_NAME=/front/store\n")
    );
}

/// B6: one alias that goes leaves the others of the same source.
#[test]
fn an_alias_that_goes_leaves_the_others_of_its_source() {
    let engine = strangers();
    engine.ok("link add web db:one");
    engine.ok("link add web db:two");
    engine.ok("link rm web one");
    assert_eq!(page(&engine, "web", "two"), "page\n");
    engine.ok("restart -t 0 db");
    engine.await_port("db", 80);
    assert_eq!(page(&engine, "web", "two"), "page\n");
    assert!(lines(&engine, "web", "one").is_empty());
}

/// B7: the consumer's own line is its own, whatever the alias.
#[test]
fn an_alias_that_is_the_own_host_name_leaves_the_own_line() {
    let engine = Engine::with_busybox();
    engine.start("db", "", IDLE);
    engine.start("web", "-h db --link db:db", IDLE);
    let own = format!("{}\tdb", engine.address("web"));
    engine.ok("restart -t 0 db");
    assert!(hosts(&engine, "web").lines().any(|line| line == own));
    engine.ok("link rm web db");
    assert!(hosts(&engine, "web").lines().any(|line| line == own));
}

/// B8: consumers that share an alias, one of them stopped, never get each other's lines.
#[test]
fn a_stopped_consumer_of_the_same_alias_changes_nobody_elses_line() {
    let engine = Engine::with_busybox();
    engine.start("one", "", IDLE);
    engine.start("two", "", IDLE);
    engine.start("first", "--link one:db", IDLE);
    engine.start("second", "--link two:db", IDLE);
    engine.ok("stop -t 0 first");
    let before = lines(&engine, "second", "db");
    for _ in 0..3 {
        engine.ok("restart -t 0 one");
        assert_eq!(lines(&engine, "second", "db"), before);
    }
}

/// B9: both families have their own line after a restart of the source.
#[test]
fn the_lines_of_both_families_survive_a_restart_of_the_source() {
    let engine = strangers();
    engine.ok("link add web db");
    engine.ok("restart -t 0 db");
    let addresses = [engine.address("db"), engine.address6("db")];
    let own = lines(&engine, "web", "db");
    for (line, address) in own.iter().zip(&addresses) {
        assert!(line.starts_with(&format!("{address}\t")), "{line}");
    }
    assert_eq!(own.len(), 2);
}

/// B11: whoever gets the name, or the address, of a source that was unlinked is closed.
#[test]
fn a_new_container_at_an_old_address_is_not_open() {
    let engine = strangers();
    engine.ok("link add web db");
    let address = engine.address("db");
    engine.ok("link rm web db");
    engine.ok("rm -f db");
    engine.start("db", "--expose 80", WEB);
    engine.await_port("db", 80);
    assert_eq!(engine.address("db"), address);
    assert!(!opens(&engine, "web", ip(&address), 80));
}

/// B12: the ports that a source exposes are no key to its consumer.
#[test]
fn a_source_that_speaks_from_an_exposed_port_stays_out() {
    let engine = strangers();
    engine.ok("link add web db");
    let address = ip(&engine.address("web"));
    let _listener = on_container(&engine, "web", || TcpListener::bind("0.0.0.0:7000"));
    engine.ok("stop -t 0 db");
    engine.ok("rm db");
    engine.start("db", "--expose 80 --expose 81 --expose 82", IDLE);
    // 1 is a refused or silent peer; who was let in waits, and is killed.
    let call = |name: &str, host: &str, from: u16, to: u16| {
        let command = format!("timeout 3 nc -w 1 -p {from} {host} {to} < /dev/null");
        engine.shell(name, &command).code
    };
    let _source = on_container(&engine, "db", || TcpListener::bind("0.0.0.0:82"));
    assert_eq!(call("web", "db", 7001, 82), 143);
    assert_eq!(call("db", &address.to_string(), 80, 7000), 1);
    assert_eq!(call("db", &address.to_string(), 81, 7000), 1);
}

/// B13: two containers with links to each other start again after both were stopped.
#[test]
fn a_cycle_of_links_starts_again() {
    let engine = strangers();
    engine.ok("link add web db");
    engine.ok("link add db web:front");
    engine.ok("stop -t 0 web db");
    restart_runtimed(&engine);
    engine.ok("start web");
    engine.ok("start db");
    engine.await_port("db", 80);
    assert_eq!(page(&engine, "web", "db"), "page\n");
    assert_eq!(lines(&engine, "db", "front").len(), 2);
}

/// B15: several links keep the order in which they were given.
#[test]
fn links_keep_their_order() {
    let engine = Engine::with_busybox();
    for name in ["c", "a", "b"] {
        engine.start(name, "--expose 80", IDLE);
    }
    for _ in 0..3 {
        let line = "run --rm --link c:c1 --link a:a1 --link b:b1 busybox env";
        let environment = engine.ok(line);
        let names: Vec<&str> = environment
            .lines()
            .filter_map(|line| line.split_once("_NAME=").map(|(prefix, _)| prefix))
            .collect();
        assert_eq!(names, ["C1", "A1", "B1"]);
    }
}

/// B20 and decision 8: what a start that failed leaves says why, as Docker's numbers do.
#[test]
fn a_failed_start_has_dockers_exit_codes() {
    let engine = Engine::with_busybox();
    engine.ok("create --name missing busybox /nosuch");
    engine.ok("create --name directory busybox /etc");
    engine.ok("create --name db busybox sh");
    engine.ok("create --name linked --link db busybox true");
    for (name, code) in [("missing", "127"), ("directory", "126"), ("linked", "128")] {
        engine.fails(1, &format!("start {name}"));
        assert_eq!(engine.inspect(name, "{{.State.ExitCode}}"), code, "{name}");
        assert_eq!(engine.inspect(name, "{{.State.Status}}"), "created");
    }
}
