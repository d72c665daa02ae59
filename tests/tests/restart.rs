//! Daemons that die: nobody notices but who asks them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::console::Engine;
use e2e::network::{HOST, http, on_lan};
use e2e::{DEADLINE, daemon_pid, kill_daemon, wait_for};
use nix::poll::{PollTimeout, poll};

/// A web server on port 80.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
/// Asks the source by its alias, ten times a second, and tells when it fails.
const CONSUMER: &str = "trap exit TERM; while :; do \
    wget -q -O /dev/null http://webdb/ || echo failed; sleep 0.1; done";
/// Between two requests of the client on the LAN: 50 a second.
const PACE_MS: u8 = 20;
const DAEMONS: [&str; 2] = ["linkspan-runtimed", "linkspan-netd"];

fn linked_pair() -> Engine {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80 -p 8080:80", WEB);
    engine.await_port("db", 80);
    engine.start("web", "--link db:webdb", CONSUMER);
    engine
}

/// Kills daemons, and waits until the engine answers again.
fn kill_and_wait(engine: &Engine, names: &[&str]) {
    let before: Vec<_> = names.iter().map(|name| daemon_pid(name)).collect();
    for name in names {
        kill_daemon(name);
    }
    wait_for("the daemons", DEADLINE, || {
        let now = names.iter().map(|name| daemon_pid(name));
        now.zip(&before)
            .all(|(now, before)| now.is_some() && now != *before)
            .then_some(())
    });
    wait_for("an answer", DEADLINE, || {
        (engine.run("ps").code == 0 && engine.run("run --rm busybox true").code == 0).then_some(())
    });
}

fn story(engine: &Engine) -> String {
    engine.ok("ps -a --no-trunc --format '{{.ID}} {{.Names}} {{.Command}} {{.Ports}} {{.State}}'")
}

#[test]
fn no_request_fails_while_the_daemons_are_killed() {
    let engine = linked_pair();
    let before = story(&engine);
    let done = AtomicBool::new(false);
    let (asked, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            on_lan(|| {
                while !done.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if http(HOST, 8080, "/").is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    poll(&mut [], PollTimeout::from(PACE_MS)).expect("keep the pace");
                }
            });
        });
        let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kill_and_wait(&engine, &DAEMONS[..1]);
            kill_and_wait(&engine, &DAEMONS[1..]);
            kill_and_wait(&engine, &DAEMONS);
            wait_for("a hundred requests", DEADLINE, || {
                (asked.load(Ordering::Relaxed) > 100).then_some(())
            });
        }));
        done.store(true, Ordering::Relaxed);
        rounds.expect("the daemons come back");
    });
    assert_eq!(failed.into_inner(), 0, "of {} requests", asked.into_inner());
    assert_eq!(story(&engine), before);
    assert_eq!(engine.ok("logs web"), "", "a request over the link failed");
}

/// Rows S56 to S58.
#[test]
fn everything_works_after_both_daemons_were_killed() {
    let engine = linked_pair();
    kill_and_wait(&engine, &DAEMONS);
    assert_eq!(
        engine.inspect("web", "{{ .HostConfig.Links }}"),
        "[/db:/web/webdb]"
    );
    assert_eq!(engine.ok("restart -t 0 db"), "db");
    let address = engine.address("db");
    wait_for("the hosts line", DEADLINE, || {
        let hosts = engine.shell("web", "cat /etc/hosts").stdout;
        hosts.contains(&format!("{address}\twebdb ")).then_some(())
    });
    engine.await_port("db", 80);
    assert_eq!(
        engine.shell("web", "wget -q -O- http://webdb/").stdout,
        "page\n"
    );
    assert_eq!(engine.ok("stop -t 0 web"), "web");
    assert_eq!(engine.ok("start web"), "web");
    assert_eq!(engine.ok("rm -f web db"), "web\ndb");
    assert!(engine.names().is_empty());
}

#[test]
fn a_log_is_whole_although_the_daemon_was_killed() {
    let engine = Engine::with_busybox();
    let count = "i=0; while [ $i -lt 300 ]; do echo line$i; i=$((i+1)); sleep 0.01; done";
    engine.start("talker", "", count);
    kill_and_wait(&engine, &DAEMONS[..1]);
    engine.await_status("talker", "exited");
    let expected: Vec<String> = (0..300).map(|line| format!("line{line}")).collect();
    assert_eq!(
        engine.ok("logs talker").lines().collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn an_exit_that_nobody_watched_is_known() {
    let engine = Engine::with_busybox();
    engine.start("brief", "", "sleep 0.3; exit 7");
    kill_daemon(DAEMONS[0]);
    wait_for("the exit code", DEADLINE, || {
        let output = engine.run("inspect -f '{{.State.Status}} {{.State.ExitCode}}' brief");
        (output.stdout == "exited 7\n").then_some(())
    });
}

#[test]
fn a_thousand_containers_come_and_go() {
    const EACH: usize = 500;
    let engine = Engine::with_busybox();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..EACH {
                    let name = format!("c{worker}-{round}");
                    engine.ok(&format!("create --name {name} busybox sleep 1000"));
                    engine.ok(&format!("start {name}"));
                    engine.ok(&format!("stop -t 0 {name}"));
                    engine.ok(&format!("rm {name}"));
                }
            });
        }
    });
    assert!(engine.names().is_empty());
    assert!(
        begun.elapsed() < Duration::from_secs(300),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn two_hundred_containers_live_at_once_with_links_among_them() {
    const PAIRS: usize = 100;
    let engine = Engine::with_busybox();
    for pair in 0..PAIRS {
        engine.start(&format!("db{pair}"), "--expose 80", WEB);
        engine.ok(&format!(
            "run -d --name web{pair} --link db{pair}:db busybox sleep 1000"
        ));
    }
    assert_eq!(engine.ok("ps -q").lines().count(), 2 * PAIRS);
    for pair in [0, PAIRS / 2, PAIRS - 1] {
        engine.await_port(&format!("db{pair}"), 80);
        let page = engine.shell(&format!("web{pair}"), "wget -q -O- http://db/");
        assert_eq!(page.stdout, "page\n", "{}", page.stderr);
    }
    kill_and_wait(&engine, &DAEMONS);
    assert_eq!(engine.ok("ps -q").lines().count(), 2 * PAIRS);
    let names = engine.names().join(" ");
    engine.ok(&format!("rm -f {names}"));
    assert!(engine.names().is_empty());
}
