//! Everything that a user does still works once the daemons were killed; what goes on
//! meanwhile is in `crash.rs`.

use e2e::console::Engine;
use e2e::{DEADLINE, daemon_pid, kill_daemon, wait_for};

/// A web server on port 80.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
/// Asks the source by its alias, ten times a second, and tells when it fails.
const CONSUMER: &str = "trap exit TERM; while :; do \
    wget -q -O /dev/null http://webdb/ || echo failed; sleep 0.1; done";
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
