//! The real shim, a real kernel, a real root filesystem; driven as runtimed drives it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panic, and says on standard error what it skips"
)]

mod harness;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use linkspan_proto::shim_v1 as wire;
use rustix::pipe::{PipeFlags, pipe_with};
use wire::FailureKind;
use wire::shim_message::Content;
use wire::shim_request::Operation;

use harness::{Shim, available, process, read_until};

fn failure(content: Content) -> wire::Failure {
    match content {
        Content::Failure(failure) => failure,
        other => panic!("{other:?}"),
    }
}

macro_rules! needs_containers {
    ($name:literal) => {
        if !available($name) {
            return;
        }
    };
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    needs_containers!("the_exit_code_is_that_of_the_command");
    for (script, code) in [
        ("true", 0),
        ("false", 1),
        ("exit 42", 42),
        ("exit 255", 255),
    ] {
        let (shim, mut client) = Shim::new(&["sh", "-c", script]);
        let (exit, _) = shim.run(&mut client);
        assert_eq!(exit.exit_code, code, "{script}");
        assert_eq!(shim.record(), exit);
        assert_eq!(client.state().exit, Some(exit));
        shim.shut_down(&mut client);
    }
}

#[test]
fn a_killed_container_exits_with_128_plus_the_signal() {
    needs_containers!("a_killed_container_exits_with_128_plus_the_signal");
    for all in [false, true] {
        let (shim, mut client) = Shim::new(&["sleep", "1000"]);
        assert!(matches!(shim.start(&mut client), Content::Started(_)));
        assert!(matches!(client.signal(9, all), Content::Done(_)));
        assert_eq!(client.exit().exit_code, 137);
        assert_eq!(
            failure(client.signal(9, all)).kind(),
            FailureKind::WrongState
        );
        shim.shut_down(&mut client);
    }
}

#[test]
fn a_command_that_cannot_run_says_why() {
    needs_containers!("a_command_that_cannot_run_says_why");
    let cases = [
        (
            "nosuch",
            FailureKind::CommandNotFound,
            "exec \"nosuch\": not found in PATH of the image",
        ),
        (
            "/bin/nosuch",
            FailureKind::CommandNotFound,
            "exec \"/bin/nosuch\": not in the image",
        ),
        (
            "/etc/plain",
            FailureKind::CommandNotExecutable,
            "exec \"/etc/plain\": not executable",
        ),
        (
            "/etc",
            FailureKind::CommandNotExecutable,
            "exec \"/etc\": is a directory",
        ),
    ];
    for (command, kind, message) in cases {
        let (shim, mut client) = Shim::new(&[command]);
        let failure = failure(shim.start(&mut client));
        assert_eq!((failure.kind(), failure.message.as_str()), (kind, message));
        shim.shut_down(&mut client);
    }
}

#[test]
fn an_unknown_user_is_refused() {
    needs_containers!("an_unknown_user_is_refused");
    let (mut shim, mut client) = Shim::new(&["true"]);
    shim.process().user = "nobody-here".into();
    let failure = failure(shim.start(&mut client));
    assert_eq!(failure.kind(), FailureKind::UnknownUser, "{failure:?}");
    shim.shut_down(&mut client);
}

#[test]
fn arguments_environment_directory_and_names_are_as_asked() {
    needs_containers!("arguments_environment_directory_and_names_are_as_asked");
    let script =
        "echo \"$1|$A|$HOME\"; pwd; hostname; umask; ulimit -n; cat /proc/self/oom_score_adj";
    let (mut shim, mut client) = Shim::new(&["sh", "-c", script, "sh", "a b"]);
    shim.process().env = vec!["A=x y".into(), "HOME=".into(), "PATH=/bin".into()];
    shim.process().cwd = "/made/on the/way".into();
    let (exit, output) = shim.run(&mut client);
    assert_eq!(exit.exit_code, 0);
    assert_eq!(
        output,
        "a b|x y|/root\n/made/on the/way\nbox\n0022\n1024\n0\n"
    );
    shim.shut_down(&mut client);
}

#[test]
fn the_process_runs_as_the_user_with_the_groups_of_the_image() {
    needs_containers!("the_process_runs_as_the_user_with_the_groups_of_the_image");
    let (mut shim, mut client) = Shim::new(&["sh", "-c", "id; echo again > /dev/stdout"]);
    shim.process().user = "web".into();
    shim.process().additional_groups = vec!["77".into()];
    let (exit, output) = shim.run(&mut client);
    assert_eq!(
        output,
        "uid=33(web) gid=34(www) groups=4(log),34(www),77\nagain\n"
    );
    assert_eq!(exit.exit_code, 0);
    shim.shut_down(&mut client);
}

#[test]
fn the_default_profile_is_in_force() {
    needs_containers!("the_default_profile_is_in_force");
    let script = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; \
        cat /proc/interrupts | wc -c; ls -A /sys/firmware; \
        echo x 2>/dev/null > /proc/sys/kernel/domainname || echo sys-protected; \
        mkdir /sys/x 2>/dev/null || echo sysfs-protected; \
        mount -t tmpfs t /tmp 2>/dev/null || echo no-mount; unshare -U true 2>/dev/null || echo no-userns; \
        mknod /tmp/disk b 8 0 2>/dev/null || echo no-node; \
        for fd in /proc/self/fd/*; do readlink $fd; done | grep -v pipe: | grep -v /proc; \
        ls /proc/sys/net/ipv4/conf; ls /dev";
    let (shim, mut client) = Shim::new(&["sh", "-c", script]);
    let (_, output) = shim.run(&mut client);
    let eight = "00000000000004fb";
    let expected = format!(
        "CapInh:\t0000000000000000\nCapPrm:\t{eight}\nCapEff:\t{eight}\nCapBnd:\t{eight}\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n0\nsys-protected\nsysfs-protected\n\
         no-mount\nno-userns\nno-node\n/dev/null\nall\ndefault\nlo\n\
         core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"
    );
    assert_eq!(output, expected);
    shim.shut_down(&mut client);
}

#[test]
fn an_image_cannot_redirect_the_mounts_of_the_engine() {
    needs_containers!("an_image_cannot_redirect_the_mounts_of_the_engine");
    for name in ["proc", "sys", "dev"] {
        let (shim, mut client) = Shim::new(&["true"]);
        symlink("/tmp", shim.extra().join(name)).unwrap();
        let failure = failure(shim.start(&mut client));
        assert_eq!(failure.kind(), FailureKind::Invalid);
        let expected =
            format!("/{name} of the image is a symbolic link; it must be an ordinary directory");
        assert_eq!(failure.message, expected);
        shim.shut_down(&mut client);
    }
}

#[test]
fn files_of_the_host_and_memory_filesystems_are_mounted() {
    needs_containers!("files_of_the_host_and_memory_filesystems_are_mounted");
    let script = "cat /etc/hosts; echo more >> /etc/hosts; echo no 2>/dev/null >> /etc/fixed || echo fixed; \
        df -k /scratch | tail -1 | awk '{print $2}'; grep -c ' /scratch .*noexec' /proc/self/mountinfo; \
        touch /x 2>/dev/null || echo closed; touch /scratch/x && echo open; readlink /etc/link/under || true";
    let (mut shim, mut client) = Shim::new(&["sh", "-c", script]);
    let hosts = shim.directory.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    // A link in the image that points out of it leads to the container's own root.
    symlink("/../../../etc-of-container", shim.extra().join("out")).unwrap();
    fs::create_dir(shim.extra().join("etc-of-container")).unwrap();
    let source = hosts.to_str().unwrap().to_owned();
    let bind = |target: &str, read_only| wire::BindMount {
        source: source.clone(),
        target: target.into(),
        read_only,
    };
    shim.spec.binds = vec![
        bind("/etc/hosts", false),
        bind("/etc/fixed", true),
        bind("/out/hosts", true),
    ];
    shim.spec.tmpfs = vec![wire::TmpfsMount {
        target: "/scratch".into(),
        options: "size=1m".into(),
    }];
    shim.spec.rootfs.as_mut().unwrap().read_only = true;
    let (exit, output) = shim.run(&mut client);
    assert_eq!(
        output,
        "127.0.0.1 localhost\nfixed\n1024\n1\nclosed\nopen\n"
    );
    assert_eq!(exit.exit_code, 0);
    assert_eq!(
        fs::read_to_string(&hosts).unwrap(),
        "127.0.0.1 localhost\nmore\n"
    );
    shim.shut_down(&mut client);
}

#[test]
fn a_terminal_has_its_size_and_is_resized() {
    needs_containers!("a_terminal_has_its_size_and_is_resized");
    let script = "trap 'stty size; exit 0' WINCH; tty; stty size; test -c /dev/console && echo console; \
        echo ready; while :; do sleep 0.1; done";
    let (mut shim, mut client) = Shim::new(&["sh", "-c", script]);
    shim.process().tty = true;
    shim.process().size = Some(wire::TerminalSize {
        rows: 33,
        columns: 99,
    });
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let streams = wire::Streams {
        stdout: true,
        ..Default::default()
    };
    let started = shim.start_with(&mut client, streams, &[writer.as_fd()]);
    assert!(matches!(started, Content::Started(_)), "{started:?}");
    drop(writer);
    let first = read_until(&reader, Some("ready"));
    assert!(
        first.starts_with("/dev/pts/0\r\n33 99\r\nconsole\r\nready"),
        "{first:?}"
    );
    let size = Some(wire::TerminalSize {
        rows: 10,
        columns: 20,
    });
    let resize = wire::ResizeRequest {
        exec_id: String::new(),
        size,
    };
    assert!(matches!(
        client.request(Operation::Resize(resize), &[]),
        Content::Done(_)
    ));
    assert_eq!(client.exit().exit_code, 0);
    assert!(read_until(&reader, None).contains("10 20"));
    shim.shut_down(&mut client);
}

#[test]
fn input_streams_until_the_client_ends_it() {
    needs_containers!("input_streams_until_the_client_ends_it");
    let (mut shim, mut client) = Shim::new(&["sh", "-c", "cat; echo end"]);
    shim.process().open_stdin = true;
    shim.process().stdin_once = true;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (output, output_writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let streams = wire::Streams {
        stdin: true,
        stdout: true,
        stderr: false,
    };
    shim.start_with(
        &mut client,
        streams,
        &[reader.as_fd(), output_writer.as_fd()],
    );
    drop((reader, output_writer));
    rustix::io::write(&writer, b"one\n").unwrap();
    assert_eq!(read_until(&output, Some("one\n")), "one\n");
    rustix::io::write(&writer, b"two\n").unwrap();
    drop(writer);
    assert_eq!(read_until(&output, None), "two\nend\n");
    assert_eq!(client.exit().exit_code, 0);
    assert_eq!(shim.output(), "one\ntwo\nend\n");
    shim.shut_down(&mut client);
}

#[test]
fn two_clients_see_the_same_and_a_slow_one_loses_nothing() {
    needs_containers!("two_clients_see_the_same_and_a_slow_one_loses_nothing");
    let script = "read go; seq 1 60000";
    let (mut shim, mut client) = Shim::new(&["sh", "-c", script]);
    shim.process().open_stdin = true;
    let (stdin_reader, stdin) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (first, first_writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (second, second_writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let streams = wire::Streams {
        stdin: true,
        stdout: true,
        stderr: false,
    };
    shim.start_with(
        &mut client,
        streams,
        &[stdin_reader.as_fd(), first_writer.as_fd()],
    );
    let streams = wire::Streams {
        stdout: true,
        ..Default::default()
    };
    let attach = wire::AttachRequest {
        streams: Some(streams),
    };
    let attached = client.request(Operation::Attach(attach), &[second_writer.as_fd()]);
    assert!(matches!(attached, Content::Done(_)));
    drop((first_writer, second_writer));
    rustix::io::write(&stdin, b"go\n").unwrap();
    let reader = std::thread::spawn(move || read_until(&first, None));
    let slow = read_until(&second, None);
    let expected: String = (1..=60000).map(|number| format!("{number}\n")).collect();
    assert!(
        reader.join().unwrap() == expected,
        "the first client lost something"
    );
    assert!(slow == expected, "the second client lost something");
    assert_eq!(client.exit().exit_code, 0);
    assert!(shim.output() == expected, "the log lost something");
    shim.shut_down(&mut client);
}

#[test]
fn a_client_that_leaves_does_not_stop_the_container() {
    needs_containers!("a_client_that_leaves_does_not_stop_the_container");
    let (shim, mut client) = Shim::new(&["sh", "-c", "seq 1 50000; exit 5"]);
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let streams = wire::Streams {
        stdout: true,
        ..Default::default()
    };
    shim.start_with(&mut client, streams, &[writer.as_fd()]);
    drop((reader, writer));
    assert_eq!(client.exit().exit_code, 5);
    assert!(shim.output().ends_with("\n50000\n"));
    shim.shut_down(&mut client);
}

#[test]
fn the_log_is_bounded() {
    needs_containers!("the_log_is_bounded");
    let (mut shim, mut client) =
        Shim::new(&["sh", "-c", "seq 1 20000; echo oops >&2; printf rest"]);
    let log = shim.spec.log.as_mut().unwrap();
    (log.max_size_bytes, log.max_files) = (100_000, 3);
    shim.run(&mut client);
    let files = ["log", "log.1", "log.2"].map(|name| shim.directory.path().join(name));
    assert!(
        files
            .iter()
            .all(|file| (1..=100_000).contains(&fs::metadata(file).unwrap().len()))
    );
    assert!(!shim.directory.path().join("log.3").exists());
    let text = fs::read_to_string(&files[0]).unwrap();
    assert!(
        text.contains(" stderr F oops\n") && text.contains(" stdout P rest\n"),
        "{text}"
    );
    shim.shut_down(&mut client);
}

#[test]
fn an_exec_process_joins_the_container() {
    needs_containers!("an_exec_process_joins_the_container");
    let (shim, mut client) = Shim::new(&["sleep", "1000"]);
    assert!(matches!(shim.start(&mut client), Content::Started(_)));
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let script = "hostname; id -u; cat /proc/1/comm; grep -E '^(CapEff|NoNew|Seccomp:)' /proc/self/status; exit 7";
    let mut spec = process(&["sh", "-c", script]);
    spec.user = "web".into();
    assert!(matches!(
        client.exec("one", &spec, Some(&writer)),
        Content::Started(_)
    ));
    drop(writer);
    let expected = "box\n33\nsleep\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
    assert_eq!(read_until(&reader, None), expected);
    assert_eq!(client.exec_exit("one"), 7);
    let missing = failure(client.exec("two", &process(&["nosuch"]), None));
    assert_eq!(missing.kind(), FailureKind::CommandNotFound);
    assert!(matches!(
        client.exec("three", &process(&["sleep", "1000"]), None),
        Content::Started(_)
    ));
    assert!(matches!(client.signal(9, true), Content::Done(_)));
    assert_eq!(client.exec_exit("three"), 137);
    assert_eq!(client.exit().exit_code, 137);
    assert_eq!(shim.output(), "");
    shim.shut_down(&mut client);
}

#[test]
fn an_exec_process_can_have_a_terminal() {
    needs_containers!("an_exec_process_can_have_a_terminal");
    let (shim, mut client) = Shim::new(&["sleep", "1000"]);
    shim.start(&mut client);
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut spec = process(&["sh", "-c", "tty; stty size; echo > /dev/tty"]);
    spec.tty = true;
    spec.size = Some(wire::TerminalSize {
        rows: 5,
        columns: 6,
    });
    let started = client.exec("t", &spec, Some(&writer));
    assert!(matches!(started, Content::Started(_)), "{started:?}");
    drop(writer);
    assert_eq!(read_until(&reader, None), "/dev/pts/0\r\n5 6\r\n\r\n");
    assert_eq!(client.exec_exit("t"), 0);
    client.signal(9, true);
    client.exit();
    shim.shut_down(&mut client);
}

#[test]
fn a_frozen_container_can_be_killed() {
    needs_containers!("a_frozen_container_can_be_killed");
    let (shim, mut client) = Shim::new(&["sleep", "1000"]);
    shim.start(&mut client);
    let freezer = shim.cgroup("freezer").join("freezer.state");
    if !freezer.exists() {
        harness::skip("a_frozen_container_can_be_killed", "no v1 freezer");
    } else {
        fs::write(&freezer, "FROZEN").unwrap();
    }
    assert!(matches!(client.signal(9, true), Content::Done(_)));
    assert_eq!(client.exit().exit_code, 137);
    shim.shut_down(&mut client);
}

#[test]
fn a_shim_outlives_its_connections() {
    needs_containers!("a_shim_outlives_its_connections");
    let (shim, mut client) = Shim::new(&["sleep", "1000"]);
    let Content::Started(started) = shim.start(&mut client) else {
        panic!("not started")
    };
    drop(client);
    let mut client = shim.connect();
    let state = client.state();
    assert_eq!((state.pid, state.exit), (started.pid, None));
    assert_eq!(
        failure(shim.start(&mut client)).kind(),
        FailureKind::WrongState
    );
    let shutdown = client.request(Operation::Shutdown(wire::ShutdownRequest {}), &[]);
    assert_eq!(failure(shutdown).kind(), FailureKind::WrongState);
    client.signal(9, false);
    client.exit();
    shim.shut_down(&mut client);
}

#[test]
fn a_shim_without_connections_ends_with_its_container() {
    needs_containers!("a_shim_without_connections_ends_with_its_container");
    let (mut shim, mut client) = Shim::new(&["sh", "-c", "read line; exit 3"]);
    shim.process().open_stdin = true;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let streams = wire::Streams {
        stdin: true,
        ..Default::default()
    };
    shim.start_with(&mut client, streams, &[reader.as_fd()]);
    drop((reader, client));
    rustix::io::write(&writer, b"\n").unwrap();
    shim.assert_gone();
    assert_eq!(shim.record().exit_code, 3);
}

#[test]
fn a_shim_that_never_starts_anything_ends_with_its_connection() {
    needs_containers!("a_shim_that_never_starts_anything_ends_with_its_connection");
    let (mut shim, mut client) = Shim::new(&["true"]);
    assert_eq!(client.state(), wire::State::default());
    drop(client);
    shim.assert_gone();
}

#[test]
fn the_memory_limit_kills_and_is_told() {
    needs_containers!("the_memory_limit_kills_and_is_told");
    let (mut shim, mut client) = Shim::new(&["tail", "/dev/zero"]);
    let resources = wire::Resources {
        memory_bytes: 16 << 20,
        ..Default::default()
    };
    shim.spec.resources = Some(resources);
    let (exit, _) = shim.run(&mut client);
    assert_eq!((exit.exit_code, exit.oom_killed), (137, true));
    shim.shut_down(&mut client);
}

#[test]
fn the_process_limit_holds() {
    needs_containers!("the_process_limit_holds");
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo too-many";
    let (mut shim, mut client) = Shim::new(&["sh", "-c", script]);
    shim.spec.resources = Some(wire::Resources {
        pids_limit: 5,
        ..Default::default()
    });
    let (exit, output) = shim.run(&mut client);
    assert_ne!(exit.exit_code, 0);
    assert!(
        output.contains("can't fork") && !output.contains("too-many"),
        "{output}"
    );
    shim.shut_down(&mut client);
}

#[test]
fn a_reaper_runs_the_command_and_hands_signals_on() {
    needs_containers!("a_reaper_runs_the_command_and_hands_signals_on");
    let script =
        "trap 'exit 9' TERM; echo $$; cat /proc/1/comm; echo ready; while :; do sleep 0.05; done";
    let (mut shim, mut client) = Shim::new(&["sh", "-c", script]);
    shim.spec.init = true;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let streams = wire::Streams {
        stdout: true,
        ..Default::default()
    };
    let started = shim.start_with(&mut client, streams, &[writer.as_fd()]);
    assert!(matches!(started, Content::Started(_)), "{started:?}");
    drop(writer);
    assert_eq!(
        read_until(&reader, Some("ready")),
        "2\nlinkspan-shim\nready\n"
    );
    assert!(matches!(client.signal(15, false), Content::Done(_)));
    assert_eq!(client.exit().exit_code, 9);
    shim.shut_down(&mut client);
}

#[test]
fn a_terminal_takes_input_and_an_early_reader_may_leave() {
    needs_containers!("a_terminal_takes_input_and_an_early_reader_may_leave");
    let (mut shim, mut client) = Shim::new(&["sh", "-c", "read line; echo got:$line"]);
    shim.process().tty = true;
    shim.process().open_stdin = true;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (output, output_writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    drop(output);
    let streams = wire::Streams {
        stdin: true,
        stdout: true,
        stderr: false,
    };
    shim.start_with(
        &mut client,
        streams,
        &[reader.as_fd(), output_writer.as_fd()],
    );
    drop((reader, output_writer));
    rustix::io::write(&writer, b"hello\n").unwrap();
    assert_eq!(client.exit().exit_code, 0);
    assert!(
        shim.output().ends_with("got:hello\n"),
        "{:?}",
        shim.output()
    );
    shim.shut_down(&mut client);
}
