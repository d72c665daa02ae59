//! Bad input: one clear sentence, the right exit code, and nothing left behind.

use std::io::{Read, Write};
use std::process::Stdio;

use e2e::console::Engine;
use e2e::rootfs::Archive;

/// Runs until it is killed.
const IDLE: &str = "while :; do sleep 1000; done";

/// Each line fails with the code and one sentence that has the part; no container is made.
fn refused(engine: &Engine, code: i32, cases: &[(&str, &str)]) {
    // Not the whole table: it says how old an image is.
    let images = || engine.ok("images --no-trunc --format {{.Repository}}:{{.Tag}}@{{.ID}}");
    let before = (engine.names(), images());
    for (line, part) in cases {
        let sentence = engine.fails(code, line);
        assert!(sentence.contains(part), "{line}: {sentence}");
        assert!(
            !sentence.ends_with('.') && sentence.len() > 10,
            "{line}: {sentence}"
        );
    }
    assert_eq!((engine.names(), images()), before);
}

#[test]
fn what_is_not_there_is_named() {
    let engine = Engine::with_busybox();
    refused(
        &engine,
        125,
        &[
            ("run nosuchimage true", "nosuchimage"),
            ("run --link nosuch:db busybox true", "nosuch"),
            ("create nosuchimage true", "nosuchimage"),
            ("run UPPER/Case true", "UPPER/Case"),
        ],
    );
    refused(
        &engine,
        1,
        &[
            ("start nosuch", "nosuch"),
            ("stop nosuch", "nosuch"),
            ("rm nosuch", "nosuch"),
            ("inspect nosuch", "nosuch"),
            ("logs nosuch", "nosuch"),
            ("rmi nosuch", "nosuch"),
            ("tag nosuch other", "nosuch"),
            ("load -i /nosuch.tar", "/nosuch.tar"),
        ],
    );
}

#[test]
fn a_command_that_cannot_run_has_its_own_code() {
    let engine = Engine::with_busybox();
    refused(
        &engine,
        127,
        &[
            ("run busybox nosuch", "nosuch"),
            ("run -d busybox /no/such", "/no/such"),
        ],
    );
    refused(
        &engine,
        126,
        &[
            ("run busybox /etc/passwd", "/etc/passwd"),
            ("run busybox /etc", "/etc"),
        ],
    );
}

/// Rows S15 to S17 and decisions 1, 4 and 5.
#[test]
fn what_is_taken_or_down_tells_the_remedy() {
    let engine = Engine::with_busybox();
    engine.start("db", "-p 8080:80", IDLE);
    engine.ok("create --name down busybox true");
    refused(
        &engine,
        125,
        &[
            ("run --name db busybox true", "rm db"),
            ("run -p 8080:80 busybox true", "\"db\""),
            ("run -p 8085:80 -p 8085:80 busybox true", "8085"),
            ("run -p 203.0.113.7:80:80 busybox true", "203.0.113.7"),
            ("run --link down:db busybox true", "start down"),
            ("run --link db:a-b --link db:A_B busybox true", "A_B"),
            ("run --name .x busybox true", ".x"),
            ("run --name 'a b' busybox true", "a b"),
        ],
    );
}

/// Rows S6 to S9.
#[test]
fn a_bad_port_is_named_with_its_fault() {
    let engine = Engine::with_busybox();
    for (text, part) in [
        ("80/icmp", "icmp"),
        ("70000:80", "70000"),
        ("80:70000", "70000"),
        ("a:80", "`a`"),
        ("-1:80", "-1"),
        ("127.0.0.1:5432", "127.0.0.1"),
        ("8081-8080:80-81", "8081-8080"),
        (" 80:80", " 80"),
        ("0x50:80", "0x50"),
        ("localhost:80:80", "localhost"),
        ("256.1.1.1:80:80", "256.1.1.1"),
        ("::1:80:80", "brackets"),
        ("80:80:80:80", "colons"),
        ("8080:", "8080:"),
        ("8080-8082:80-81", "length"),
    ] {
        let line = format!("run '--publish={text}' busybox true");
        refused(&engine, 125, &[(&line, part)]);
    }
    refused(
        &engine,
        125,
        &[
            ("run --expose 80:80 busybox true", "80:80"),
            ("run --expose 90-80 busybox true", "90-80"),
            ("run -e =x busybox true", "=x"),
            ("run -m lots busybox true", "lots"),
            ("run --cpus many busybox true", "many"),
            ("run --link a:b:c busybox true", "a:b:c"),
            ("run --env-file /nosuch busybox true", "/nosuch"),
            ("run --add-host nonsense busybox true", "nonsense"),
        ],
    );
}

#[test]
fn a_flag_that_is_not_supported_is_refused_by_name() {
    let engine = Engine::with_busybox();
    refused(
        &engine,
        125,
        &[
            ("run -v /a:/b busybox true", "--volume"),
            (
                "run --mount type=bind,src=/a,dst=/b busybox true",
                "--mount",
            ),
            ("run --restart always busybox true", "--restart"),
            ("run --privileged busybox true", "--privileged"),
            ("run --network foo busybox true", "foo"),
        ],
    );
    for line in ["run --nosuchflag busybox true", "run"] {
        assert_eq!(engine.run(line).code, 125, "{line}");
    }
    assert_eq!(engine.run("nosuchcommand").code, 2);
}

/// Feeds an archive to a command that must refuse it.
fn refused_archive(engine: &Engine, line: &str, bytes: &[u8]) -> String {
    let before = engine.ok("images --no-trunc");
    let output = engine.feed(line, bytes);
    let sentence = output.sentence(1, line);
    assert_eq!(engine.ok("images --no-trunc"), before, "{sentence}");
    sentence
}

#[test]
fn an_archive_that_is_cut_or_none_is_refused() {
    let engine = Engine::bare();
    let mut archive = Archive::default();
    archive.file("manifest.json", 0o644, &[b'['; 4000]);
    let bytes = archive.finish();
    for bytes in [
        &bytes[..2000],
        &b"no archive at all"[..],
        &b""[..],
        &bytes[..],
    ] {
        refused_archive(&engine, "load", bytes);
    }
    let mut archive = Archive::default();
    archive.file("file", 0o644, &[b'x'; 4000]);
    refused_archive(&engine, "import - cut", &archive.finish()[..2000]);
}

#[test]
fn a_layer_that_escapes_is_refused() {
    let engine = Engine::bare();
    let mut above = Archive::default();
    above.file("../escaped", 0o644, b"x");
    refused_archive(&engine, "import - above", &above.finish());
    let mut hard = Archive::default();
    hard.hardlink("passwd", "../../etc/passwd");
    refused_archive(&engine, "import - hard", &hard.finish());
    // A symbolic link may point anywhere, but nothing is written through it.
    let target = engine.directory().join("outside");
    std::fs::create_dir_all(&target).expect("make a directory");
    let mut through = Archive::default();
    through.symlink("door", &target.to_string_lossy());
    through.file("door/escaped", 0o644, b"x");
    let output = engine.feed("import - through", &through.finish());
    assert!(output.code == 0 || output.sentence(1, "import").contains("door"));
    let inside = std::fs::read_dir(&target)
        .expect("list the directory")
        .count();
    assert_eq!(inside, 0, "a layer wrote through a symbolic link");
    assert!(!std::path::Path::new("/escaped").exists());
}

#[test]
fn a_manifest_of_a_gibibyte_is_refused_early() {
    let engine = Engine::bare();
    let mut archive = Archive::default();
    archive.file("manifest.json", 0o644, b"[]");
    let mut header = archive.finish()[..512].to_vec();
    header[124..136].copy_from_slice(b"10000000000\0");
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut command = engine.command("load");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("start linkspan");
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    stdin.write_all(&header).expect("write the header");
    let zeros = std::io::repeat(0).take(1 << 30);
    // The refusal closes the pipe.
    drop(std::io::copy(&mut { zeros }, &mut stdin));
    drop(stdin);
    let ended = child.wait_with_output().expect("wait for linkspan");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.starts_with("linkspan: ") && stderr.lines().count() == 1,
        "{stderr}"
    );
    assert_eq!(engine.ok("images -q"), "");
}

#[test]
fn a_daemon_that_does_not_run_is_told() {
    let engine = Engine::bare();
    let mut command = engine.command("ps");
    command.env("LINKSPAN_HOST", "unix:///run/nosuch.sock");
    let sentence = e2e::console::output(&mut command).sentence(1, "ps");
    assert!(sentence.contains("/run/nosuch.sock"), "{sentence}");
    let mut command = engine.command("run busybox true");
    command.env("LINKSPAN_HOST", "unix:///run/nosuch.sock");
    e2e::console::output(&mut command).sentence(125, "run");
}

#[test]
fn a_user_without_rights_is_told() {
    let engine = Engine::bare();
    let program = engine.command("ps").get_program().to_owned();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let output = e2e::console::output(command.arg(program).arg("ps"));
    let sentence = output.sentence(1, "ps");
    assert!(
        sentence.contains("permission") || sentence.contains("right"),
        "{sentence}"
    );
}
