//! Containers from `run` to `rm`: names, lists, ends and exit codes.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::console::{Engine, output};
use e2e::wait_for;

/// Runs until it is told to stop.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";
const DEADLINE: Duration = Duration::from_secs(10);

/// The cells of a table, which are parted by three spaces or more.
fn cells(line: &str) -> Vec<&str> {
    line.split("   ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect()
}

/// Row S2.
#[test]
fn a_detached_run_prints_the_full_id() {
    let engine = Engine::with_busybox();
    let id = engine.start("web", "-P --expose 5000", IDLE);
    assert_eq!(id.len(), 64);
    assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let ports = engine.ok("ps --format '{{.Ports}}'");
    let port = ports
        .strip_prefix("0.0.0.0:")
        .and_then(|rest| rest.split("->").next());
    let port: u16 = port
        .and_then(|port| port.parse().ok())
        .expect("a published port");
    assert!(port >= 49153, "{ports}");
}

/// Rows S3, S10 and S11.
#[test]
fn ps_is_narrowed_by_name_id_and_prefix() {
    let engine = Engine::with_busybox();
    let id = engine.start("web", "", IDLE);
    engine.start("db", "", IDLE);
    for word in ["web", &id[..], &id[..12], &id[..6]] {
        assert_eq!(engine.ok(&format!("ps -q --no-trunc {word}")), id, "{word}");
    }
    assert_eq!(engine.ok("ps -q web db").lines().count(), 2);
}

/// Rows S4 and S5.
#[test]
fn the_table_of_ps_has_the_columns_of_the_manual() {
    let engine = Engine::with_busybox();
    let line = "run -d --name web -p 127.0.0.1:49155:5000 busybox sleep 1000";
    let id = engine.ok(line);
    let table = engine.ok("ps");
    let (header, row) = table.split_once('\n').expect("a header and a row");
    let columns = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    assert_eq!(cells(header), columns);
    let row_cells = cells(row);
    assert_eq!(
        row_cells[..3],
        [&id[..12], "busybox:latest", "sleep 1000"],
        "{table}"
    );
    assert!(
        row_cells[3].ends_with(" ago") && row_cells[4].starts_with("Up "),
        "{table}"
    );
    assert_eq!(
        row_cells[5..],
        ["127.0.0.1:49155->5000/tcp", "web"],
        "{table}"
    );
    for (column, cell) in [("IMAGE", "busybox:latest"), ("NAMES", "web")] {
        assert_eq!(header.find(column), row.find(cell), "{table}");
    }
}

/// Row S4.
#[test]
fn a_long_command_is_cut_past_thirty_columns() {
    let engine = Engine::with_busybox();
    let long = "sleep 1000 1000 1000 1000 1000 1000 1000";
    engine.ok(&format!("run -d busybox {long}"));
    let shown = engine.ok("ps --format '{{.Command}}'");
    assert!(
        shown.chars().count() <= 30 && shown.ends_with('…'),
        "{shown}"
    );
    let cut: String = long.chars().take(29).collect();
    assert_eq!(shown, format!("{cut}…"));
    assert_eq!(engine.ok("ps --no-trunc --format '{{.Command}}'"), long);
}

/// Row S10.
#[test]
fn a_name_is_made_up_when_none_is_given() {
    let engine = Engine::with_busybox();
    for _ in 0..3 {
        engine.ok("run -d busybox sleep 1000");
    }
    let names = engine.names();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 3);
    for name in names {
        let (adjective, surname) = name.split_once('_').expect("an underscore");
        let letters = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
        assert!(letters(adjective) && letters(surname), "{name}");
    }
}

/// Row S11.
#[test]
fn every_command_takes_a_name_an_id_and_a_prefix() {
    let engine = Engine::with_busybox();
    let id = engine.start("web", "-p 8080:80", IDLE);
    for word in ["web", &id[..], &id[..12]] {
        assert_eq!(engine.inspect(word, "{{.Name}}"), "/web");
        assert_eq!(engine.shell(word, "hostname").stdout.trim(), &id[..12]);
        assert!(engine.ok(&format!("port {word}")).contains("8080"));
        engine.ok(&format!("logs {word}"));
        assert_eq!(engine.ok(&format!("restart -t 1 {word}")), word);
        assert_eq!(engine.ok(&format!("stop -t 1 {word}")), word);
        engine.ok(&format!("wait {word}"));
        assert_eq!(engine.ok(&format!("start {word}")), word);
    }
    assert_eq!(engine.ok(&format!("rm -f {}", &id[..12])), &id[..12]);
    assert!(engine.names().is_empty());
}

/// Rows S12 to S14.
#[test]
fn the_newest_container_is_shown_with_separate_clocks() {
    let engine = Engine::with_busybox();
    engine.start("old", "", IDLE);
    engine.ok("create --name web busybox sleep 1000");
    assert_eq!(
        engine.ok("ps -l --format '{{.Names}} {{.Status}}'"),
        "web Created"
    );
    wait_for("a second of age", DEADLINE, || {
        let age = engine.ok("ps -l --format '{{.RunningFor}}'");
        (!age.starts_with("Less")).then_some(())
    });
    engine.ok("start web");
    assert_eq!(
        engine.ok("ps -l --format '{{.Status}}'"),
        "Up Less than a second"
    );
    assert_eq!(engine.inspect("web", "{{ .Name }}"), "/web");
}

/// Rows S15 to S17.
#[test]
fn a_taken_name_tells_its_holder_and_the_remedy() {
    let engine = Engine::with_busybox();
    let id = engine.start("web", "", IDLE);
    let sentence = engine.fails(125, "run --name web busybox true");
    for part in ["`web`", &id[..12], "rm"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    engine.ok("rm -f web");
    engine.ok("run --rm --name web busybox true");
    engine.ok("run --rm --name web busybox true");
    assert!(engine.names().is_empty());
}

/// Row S17.
#[test]
fn a_container_with_rm_goes_as_soon_as_it_stops() {
    let engine = Engine::with_busybox();
    engine.start("web", "--rm", IDLE);
    engine.ok("stop web");
    wait_for("the name to be free", DEADLINE, || {
        engine.names().is_empty().then_some(())
    });
}

/// Decision 9.
#[test]
fn the_exit_code_is_that_of_the_command() {
    let engine = Engine::with_busybox();
    for (code, line) in [
        (0, "run --rm busybox true"),
        (7, "run --rm busybox sh -c 'exit 7'"),
        (137, "run --rm --init busybox sh -c 'kill -9 $$'"),
        (143, "run --rm --init busybox sh -c 'kill -15 $$'"),
        (126, "run --rm busybox /etc/passwd"),
        (127, "run --rm busybox nosuch"),
        (125, "run --rm nosuchimage true"),
        (125, "run --nosuchflag busybox true"),
    ] {
        let output = engine.run(line);
        assert_eq!(output.code, code, "{line}: {}", output.stderr);
    }
    assert!(engine.names().is_empty());
}

/// Decision 8.
#[test]
fn a_failed_run_leaves_nothing_and_a_failed_start_keeps_its_error() {
    let engine = Engine::with_busybox();
    engine.fails(127, "run --name web busybox nosuch");
    engine.fails(127, "run -d --name web busybox nosuch");
    assert!(engine.names().is_empty());
    engine.ok("create --name web busybox nosuch");
    engine.fails(1, "start web");
    assert_eq!(engine.names(), ["web"]);
    assert!(engine.inspect("web", "{{.State.Error}}").contains("nosuch"));
}

#[test]
fn stop_asks_first_and_kills_after_the_time() {
    let engine = Engine::with_busybox();
    engine.start(
        "polite",
        "",
        "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 1000 & wait; done",
    );
    engine.await_log("polite", "up");
    engine.ok("stop polite");
    assert_eq!(engine.ok("wait polite"), "3");
    assert_eq!(engine.ok("logs polite"), "up\nasked");
    assert_eq!(engine.ok("stop polite"), "polite");
    engine.start(
        "deaf",
        "",
        "trap '' TERM; while :; do sleep 1000 & wait; done",
    );
    engine.ok("stop -t 1 deaf");
    assert_eq!(engine.ok("wait deaf"), "137");
    engine.start("killed", "", IDLE);
    engine.ok("kill -s KILL killed");
    assert_eq!(engine.ok("wait killed"), "137");
    let status = engine.ok("ps -a --format '{{.Status}}' killed");
    assert!(status.starts_with("Exited (137)"), "{status}");
}

#[test]
fn a_signal_reaches_the_first_process() {
    let engine = Engine::with_busybox();
    engine.start(
        "web",
        "",
        "trap 'echo again' HUP; echo up; while :; do sleep 1000 & wait; done",
    );
    engine.await_log("web", "up");
    engine.ok("kill --signal HUP web");
    engine.await_log("web", "again");
    assert_eq!(engine.inspect("web", "{{.State.Running}}"), "true");
}

#[test]
fn a_running_container_is_removed_only_by_force() {
    let engine = Engine::with_busybox();
    engine.start("web", "", IDLE);
    let sentence = engine.fails(1, "rm web");
    assert!(sentence.contains("-f"), "{sentence}");
    assert_eq!(engine.ok("rm -f web"), "web");
    engine.fails(1, "rm web");
}

#[test]
fn a_renamed_container_frees_its_old_name() {
    let engine = Engine::with_busybox();
    let id = engine.start("web", "", IDLE);
    engine.ok("rename web shop");
    assert_eq!(
        engine.inspect("shop", "{{.Name}} {{.Id}}"),
        format!("/shop {id}")
    );
    engine.start("web", "", IDLE);
    let sentence = engine.fails(1, "rename shop web");
    assert!(sentence.contains("web"), "{sentence}");
}

#[test]
fn logs_keep_both_streams_apart_and_in_order() {
    let engine = Engine::with_busybox();
    engine.ok("run --name web busybox sh -c 'for i in 1 2 3; do echo out$i; echo err$i >&2; done'");
    let output = engine.run("logs web");
    assert_eq!(output.stdout, "out1\nout2\nout3\n");
    assert_eq!(output.stderr, "err1\nerr2\nerr3\n");
    let output = engine.run("logs --tail 2 web");
    // Two pipes have no order between them, so which two lines are last is open.
    let lines = output.stdout.lines().chain(output.stderr.lines());
    assert_eq!(lines.count(), 2, "{output:#?}");
    let line = engine.ok("logs -t web");
    let first = line.lines().next().and_then(|line| line.split_once(' '));
    let (time, text) = first.expect("a time and a text");
    assert!(
        time.starts_with("20") && time.ends_with('Z') && text == "out1",
        "{line}"
    );
}

#[test]
fn following_a_log_ends_with_the_container() {
    let engine = Engine::with_busybox();
    engine.start(
        "web",
        "",
        "echo first; trap 'echo last; exit' TERM; while :; do sleep 1000 & wait; done",
    );
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| engine.ok("logs -f web"));
        engine.await_log("web", "first");
        engine.ok("stop web");
        assert_eq!(follower.join().expect("the follower ends"), "first\nlast");
    });
}

#[test]
fn events_tell_the_life_of_a_container() {
    let engine = Engine::with_busybox();
    engine.ok("run --name web busybox true");
    engine.ok("rm web");
    let told =
        engine.ok("events --since 1h --until 0s --filter type=container --format '{{.Action}}'");
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        ["create", "start", "die", "destroy"]
    );
}

#[test]
fn exec_runs_as_it_is_told() {
    let engine = Engine::with_busybox();
    engine.start("web", "-e A=1 -w /tmp", IDLE);
    assert_eq!(engine.shell("web", "exit 5").code, 5);
    assert_eq!(engine.run("exec web nosuch").code, 127);
    assert_eq!(engine.run("exec web /etc/passwd").code, 126);
    assert_eq!(
        engine.ok("exec web sh -c 'echo $A; pwd; id -u'"),
        "1\n/tmp\n0"
    );
    let line = "exec -e A=2 -w /etc -u 65534 web sh -c 'echo $A; pwd; id -u'";
    assert_eq!(engine.ok(line), "2\n/etc\n65534");
    let echo = engine.feed("exec -i web cat", b"typed");
    assert_eq!(echo.stdout, "typed");
    engine.ok("exec -d web touch /tmp/done");
    wait_for("the detached command", DEADLINE, || {
        (engine.shell("web", "test -e /tmp/done").code == 0).then_some(())
    });
}

#[test]
fn flags_shape_the_first_process() {
    let engine = Engine::with_busybox();
    let file = engine.file("variables", b"B=2\n");
    let script = "'pwd; id -u; id -g; hostname; echo $A $B'";
    let line =
        format!("run --rm -w /etc -u guest -h box -e A=1 --env-file {file} busybox sh -c {script}");
    assert_eq!(engine.ok(&line), "/etc\n1000\n1000\nbox\n1 2");
    assert_eq!(engine.ok("run --rm --entrypoint echo busybox a b"), "a b");
    let echo = engine.feed("run --rm -i busybox cat", b"typed");
    assert_eq!(echo.stdout, "typed");
}

#[test]
fn the_id_is_written_to_a_file_that_is_new() {
    let engine = Engine::with_busybox();
    let path = engine.directory().join("id");
    let line = format!("run -d --cidfile {} busybox sleep 1000", path.display());
    let id = engine.ok(&line);
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), id);
    engine.fails(125, &line);
    assert_eq!(engine.names().len(), 1);
}

#[test]
fn limits_are_those_of_the_control_group() {
    let engine = Engine::with_busybox();
    engine.start("web", "-m 64m --cpus 0.5 --pids-limit 50", IDLE);
    let pid = engine.inspect("web", "{{.State.Pid}}");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the groups");
    let limit = |controller: &str, files: [&str; 2]| {
        let line = groups.lines().find(|line| {
            let names = line.split(':').nth(1).unwrap_or_default();
            names.split(',').any(|name| name == controller)
        });
        let (line, directory, file) = match line {
            Some(line) => (line, format!("/sys/fs/cgroup/{controller}"), files[0]),
            None => (
                groups.lines().last().expect("a group"),
                "/sys/fs/cgroup".to_owned(),
                files[1],
            ),
        };
        let path = line.splitn(3, ':').nth(2).expect("a path");
        let text = std::fs::read_to_string(format!("{directory}{path}/{file}"));
        text.unwrap_or_else(|error| format!("{directory}{path}/{file}: {error}"))
            .trim()
            .to_owned()
    };
    assert_eq!(
        limit("memory", ["memory.limit_in_bytes", "memory.max"]),
        "67108864"
    );
    assert_eq!(limit("pids", ["pids.max", "pids.max"]), "50");
    let cpu = limit("cpu", ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(cpu.starts_with("50000"), "{cpu}");
}

#[test]
fn attach_shows_what_comes_and_gives_the_exit_code() {
    let engine = Engine::with_busybox();
    engine.ok("run -d -i --name web busybox sh -c 'read word; echo got $word; exit 4'");
    let output = engine.feed("attach web", b"hello\n");
    assert_eq!(
        (output.code, &output.stdout[..]),
        (4, "got hello\n"),
        "{}",
        output.stderr
    );
}

#[test]
fn one_missing_container_does_not_keep_the_others() {
    let engine = Engine::with_busybox();
    engine.start("web", "", IDLE);
    let output = output(&mut engine.command("stop nosuch web"));
    assert_eq!((output.code, &output.stdout[..]), (1, "web\n"));
    assert!(output.sentence(1, "stop").contains("nosuch"));
}
