//! Health checks, and links that wait for them.

use e2e::console::Engine;
use e2e::{DEADLINE, wait_for};

/// Runs until it is killed.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";
/// Healthy while the file is there.
const CHECK: &str = "--health-cmd 'cat /tmp/well' --health-interval 1s --health-retries 2";

fn await_health(engine: &Engine, name: &str, status: &str) {
    wait_for(&format!("{name} is {status}"), DEADLINE, || {
        let now = engine.run(&format!("inspect -f '{{{{.State.Health.Status}}}}' {name}"));
        (now.stdout.trim() == status).then_some(())
    });
}

/// The results say what a container is, in `ps`, `inspect`, filters and events.
#[test]
fn a_container_is_as_healthy_as_its_check_says() {
    let engine = Engine::with_busybox();
    let mut events = e2e::start(&mut engine.command("events --format '{{.Action}}'"));
    engine.start("db", CHECK, IDLE);
    let status = engine.ok("ps --format '{{.Status}}'");
    assert!(status.ends_with("(health: starting)"), "{status}");
    await_health(&engine, "db", "unhealthy");
    assert_eq!(
        engine.ok("ps -q --filter health=unhealthy").lines().count(),
        1
    );
    let log = engine.inspect("db", "{{json .State.Health.Log}}");
    assert!(
        log.contains("No such file") && log.contains("\"ExitCode\":1"),
        "{log}"
    );
    assert_eq!(engine.shell("db", "echo fine > /tmp/well").code, 0);
    await_health(&engine, "db", "healthy");
    assert!(
        engine
            .ok("ps --format '{{.Status}}'")
            .ends_with("(healthy)")
    );
    assert_eq!(engine.inspect("db", "{{.State.Health.FailingStreak}}"), "0");
    drop(events.child.kill());
    let mut told = String::new();
    let mut pipe = events.child.stdout.take().expect("a pipe");
    std::io::Read::read_to_string(&mut pipe, &mut told).expect("read the events");
    assert!(told.contains("health_status: healthy"), "{told}");
    engine.ok("rm -f db");
}

/// A command that hangs is ended and is a failure; a container without a check has none.
#[test]
fn a_check_that_hangs_is_ended() {
    let engine = Engine::with_busybox();
    let flags = "--health-cmd 'echo begun; sleep 77' --health-interval 1s --health-timeout 1s --health-retries 1";
    engine.start("slow", flags, IDLE);
    await_health(&engine, "slow", "unhealthy");
    let log = engine.inspect("slow", "{{json .State.Health.Log}}");
    assert!(
        log.contains("longer than 1 s") && log.contains("\"ExitCode\":-1"),
        "{log}"
    );
    wait_for("the command to be gone", DEADLINE, || {
        let processes = engine.shell("slow", "ps").stdout;
        (processes.matches("sleep 77").count() <= 2).then_some(())
    });
    engine.start("plain", "", IDLE);
    assert_eq!(engine.inspect("plain", "{{json .State.Health}}"), "null");
    for (flags, what) in [
        ("--health-interval 1s", "--health-cmd"),
        ("--health-cmd x --no-healthcheck", "exclude each other"),
        ("--health-cmd x --health-interval 1ms", "from 1 s to 24 h"),
        ("--health-cmd x --health-timeout bogus", "no duration"),
    ] {
        let sentence = engine.fails(125, &format!("run --rm {flags} busybox true"));
        assert!(sentence.contains(what), "{flags}: {sentence}");
    }
    engine.ok("rm -f slow plain");
}

/// Decision 2: `wait=healthy` starts the consumer when its source is.
#[test]
fn a_link_waits_until_its_source_is_healthy() {
    let engine = Engine::with_busybox();
    engine.start("db", CHECK, IDLE);
    let late = "run --rm --link db:db,wait=healthy,timeout=2s busybox true";
    let sentence = engine.fails(125, late);
    assert!(sentence.contains("not healthy"), "{sentence}");
    let line = "run --rm --link db:db,wait=healthy,timeout=20s busybox echo started";
    let mut consumer = e2e::start(&mut engine.command(line));
    assert!(
        consumer.child.try_wait().expect("look").is_none(),
        "it waits"
    );
    assert_eq!(engine.shell("db", "touch /tmp/well").code, 0);
    let status = wait_for("the consumer", DEADLINE, || {
        consumer.child.try_wait().expect("wait")
    });
    assert!(status.success());
    let mut said = String::new();
    let mut pipe = consumer.child.stdout.take().expect("a pipe");
    std::io::Read::read_to_string(&mut pipe, &mut said).expect("read");
    assert_eq!(said, "started\n");
    engine.start("plain", "", IDLE);
    let unknown = engine.fails(125, "run --rm --link plain:p,wait=healthy busybox true");
    assert!(unknown.contains("has no health check"), "{unknown}");
    engine.ok("rm -f db plain");
}
