//! Daemons that are killed under load: nobody who uses a container notices.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::network::{HOST, on_lan};
use e2e::{DEADLINE, daemon_pid, host, image, kill_daemon, linkspan, wait_for};
use nix::poll::{PollTimeout, poll};

const SERVER: &[&str] = &[
    "busybox",
    "sh",
    "-c",
    "mkdir -p /www && echo hello > /www/index.html && exec httpd -f -p 80 -h /www",
];

fn run(options: &[&str], command: &[&str]) -> String {
    image("busybox");
    let mut arguments = vec!["run", "-d"];
    arguments.extend(options);
    arguments.extend(command);
    linkspan(&arguments).ok()
}

/// What `ps` says that must not change: ids, names and ports.
fn story() -> Vec<String> {
    let format = "{{.ID}} {{.State}} {{.Ports}} {{.Names}}";
    let shown = linkspan(&["ps", "-a", "--format", format]).ok();
    shown.lines().map(str::to_owned).collect()
}

fn kill_and_wait(name: &str) {
    let before = daemon_pid(name);
    kill_daemon(name);
    wait_for("the daemon", DEADLINE, || {
        daemon_pid(name).filter(|pid| Some(*pid) != before)
    });
}

fn wait_for_engine() {
    wait_for("an answer", DEADLINE, || {
        (linkspan(&["ps"]).status == 0).then_some(())
    });
}

/// One request; an error says what went wrong.
fn request(address: IpAddr, port: u16) -> std::io::Result<()> {
    let deadline = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.ends_with("hello\n") {
        Ok(())
    } else {
        Err(std::io::Error::other(answer))
    }
}

/// Requests the page fifty times a second; returns what went wrong.
fn request_until(stop: &AtomicBool, requests: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = request(HOST, 8080) {
            failures.push(error.to_string());
        }
        requests.fetch_add(1, Ordering::Relaxed);
        next += Duration::from_millis(20);
        let pause = next.saturating_duration_since(Instant::now()).as_millis();
        let pause = PollTimeout::try_from(pause).expect("at most twenty milliseconds");
        poll(&mut [], pause).expect("wait");
    }
    failures
}

/// Row S1, and that containers and their traffic outlive the daemons.
#[test]
fn no_request_fails_while_every_daemon_is_killed() {
    run(&["--name", "db", "--expose", "80"], SERVER);
    run(
        &["--name", "web", "--link", "db:db", "-p", "8080:80"],
        SERVER,
    );
    // A container runs before its server listens; only from then on is a failure one.
    wait_for("the server", DEADLINE, || {
        on_lan(|| request(HOST, 8080).ok())
    });
    let before = story();
    let stop = AtomicBool::new(false);
    let requests = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| on_lan(|| request_until(&stop, &requests)));
        let served = |more: usize| {
            let from = requests.load(Ordering::Relaxed);
            wait_for("requests", DEADLINE, || {
                (requests.load(Ordering::Relaxed) >= from + more).then_some(())
            });
        };
        served(25);
        for daemons in [
            &["linkspan-runtimed"][..],
            &["linkspan-netd"],
            &["linkspan-runtimed", "linkspan-netd"],
        ] {
            daemons.iter().for_each(|name| kill_and_wait(name));
            served(25);
            wait_for_engine();
            assert_eq!(story(), before);
        }
        stop.store(true, Ordering::Relaxed);
        let failures = client.join().unwrap();
        assert!(
            failures.is_empty(),
            "{} of {requests:?} failed: {failures:?}",
            failures.len()
        );
    });
    // The link still opens what it opened, and nothing more.
    let page = linkspan(&["exec", "web", "wget", "-qO-", "http://db/"]).ok();
    assert_eq!(page, "hello");
    for command in [["stop", "-t", "0", "web"], ["restart", "-t", "0", "db"]] {
        assert_eq!(linkspan(&command).ok(), command[3]);
    }
    assert_eq!(linkspan(&["rm", "-f", "db", "web"]).ok(), "db\nweb");
}

/// Rows S56, S57 and S58 across a restart of the daemons.
#[test]
fn the_hosts_line_follows_a_source_after_the_daemons_were_killed() {
    run(&["--name", "db"], &["busybox", "sleep", "1000"]);
    run(
        &["--name", "web", "--link", "db:webdb"],
        &["busybox", "sleep", "1000"],
    );
    kill_and_wait("linkspan-netd");
    kill_and_wait("linkspan-runtimed");
    wait_for_engine();
    let hosts = || linkspan(&["exec", "web", "cat", "/etc/hosts"]).ok();
    let inode = || linkspan(&["exec", "web", "stat", "-c", "%i", "/etc/hosts"]).ok();
    let (before, same) = (hosts(), inode());
    assert!(before.contains("\twebdb "), "{before}");
    let _stopped = linkspan(&["stop", "-t", "0", "db"]).ok();
    wait_for("the line to go", DEADLINE, || {
        (!hosts().contains("\twebdb ")).then_some(())
    });
    let _started = linkspan(&["start", "db"]).ok();
    wait_for("the line to come back", DEADLINE, || {
        hosts().contains("\twebdb ").then_some(())
    });
    assert_eq!(hosts(), before, "the address stays with the name");
    assert_eq!(inode(), same);
}

#[test]
fn nothing_that_is_written_is_lost_while_the_daemon_is_away() {
    let count = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); usleep 5000; done";
    run(&["--name", "writer"], &["busybox", "sh", "-c", count]);
    wait_for("the first line", DEADLINE, || {
        linkspan(&["logs", "writer"])
            .ok()
            .contains("line 0")
            .then_some(())
    });
    kill_and_wait("linkspan-runtimed");
    wait_for_engine();
    assert_eq!(linkspan(&["wait", "writer"]).ok(), "0");
    let expected: Vec<String> = (0..400).map(|i| format!("line {i}")).collect();
    assert_eq!(linkspan(&["logs", "writer"]).ok(), expected.join("\n"));
}

#[test]
fn an_end_that_nobody_watched_is_known_after_the_restart() {
    run(&["--name", "brief"], &["busybox", "sleep", "1000"]);
    let pid = linkspan(&["inspect", "-f", "{{.State.Pid}}", "brief"]).ok();
    kill_daemon("linkspan-runtimed");
    let _killed = host(&["kill", "-9", &pid]).ok();
    wait_for_engine();
    assert_eq!(linkspan(&["wait", "brief"]).ok(), "137");
}

#[test]
fn a_container_whose_shim_is_killed_ends_and_leaves_nothing() {
    run(&["--name", "orphan"], &["busybox", "sleep", "1000"]);
    let pid = linkspan(&["inspect", "-f", "{{.State.Pid}}", "orphan"]).ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:\t"))
        .unwrap();
    let _killed = host(&["kill", "-9", shim]).ok();
    assert_eq!(linkspan(&["wait", "orphan"]).ok(), "255");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(linkspan(&["start", "orphan"]).ok(), "orphan");
}

#[test]
fn every_name_is_unique_after_a_crash_in_the_middle_of_many_creates() {
    image("busybox");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                // A command that the crash cut off has failed, and says so.
                drop(linkspan(&["create", "busybox", "true"]));
            }
        });
        kill_and_wait("linkspan-runtimed");
    });
    wait_for_engine();
    let names = linkspan(&["ps", "-a", "--format", "{{.Names}}"]).ok();
    let unique: BTreeSet<&str> = names.lines().collect();
    assert_eq!(unique.len(), names.lines().count());
    for name in unique {
        assert_eq!(linkspan(&["start", name]).ok(), name);
    }
}
