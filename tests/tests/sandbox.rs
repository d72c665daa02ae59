//! The sandbox itself: what tests stand on.

use e2e::{DEADLINE, HOST_V4, daemon_pid, host, kill_daemon, lan, linkspan, wait_for};

#[test]
fn the_lan_host_reaches_the_engines_host_and_is_another() {
    let _reply = lan(&["ping", "-c1", "-W2", HOST_V4]).ok();
    let here = host(&["readlink", "/proc/self/ns/net"]).ok();
    let there = lan(&["readlink", "/proc/self/ns/net"]).ok();
    assert_ne!(here, there);
}

#[test]
fn a_daemon_that_dies_is_started_again() {
    for name in ["linkspan-netd", "linkspan-runtimed"] {
        let before = daemon_pid(name);
        kill_daemon(name);
        wait_for("the daemon", DEADLINE, || {
            daemon_pid(name).filter(|process| Some(*process) != before)
        });
    }
    wait_for("an answer", DEADLINE, || {
        (linkspan(&["ps"]).status == 0).then_some(())
    });
}
