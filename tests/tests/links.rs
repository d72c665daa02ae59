//! Links: what a consumer finds of its source, and who else finds nothing.

use std::time::Duration;

use e2e::console::Engine;
use e2e::network::{
    HOST, LAN, LAN6, answer_datagrams, http, ip, on_container, on_lan, pings, reachable, udp,
};
use e2e::wait_for;

/// A web server on port 80.
const WEB: &str = "echo page > /var/www/index.html; exec httpd -f -vv -p 80 -h /var/www";
/// Runs until it is killed.
const IDLE: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";
const DEADLINE: Duration = Duration::from_secs(10);

fn linked_pair() -> Engine {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80 --expose 53/udp", WEB);
    engine.await_port("db", 80);
    engine.start("web", "--link db:webdb", IDLE);
    engine
}

/// The line of a consumer's hosts file with this alias.
fn hosts_line(engine: &Engine, name: &str, alias: &str) -> Option<String> {
    let hosts = engine.shell(name, "cat /etc/hosts").stdout;
    let line = hosts.lines().find(|line| {
        line.split_once('\t').is_some_and(|(address, names)| {
            address.contains('.') && names.split(' ').next() == Some(alias)
        })
    });
    line.map(str::to_owned)
}

/// Rows S18 to S25, S28 and S30.
#[test]
fn the_linked_consumer_reaches_the_source_over_both_families() {
    let engine = linked_pair();
    answer_datagrams(&engine, "db", 53);
    for address in [ip(&engine.address("db")), ip(&engine.address6("db"))] {
        let (page, echo) = on_container(&engine, "web", || {
            (http(address, 80, "/"), udp(address, 53, "hello"))
        });
        assert_eq!(page.expect("the page"), "page\n");
        assert_eq!(echo.expect("the echo"), "hello");
        assert!(pings(&engine, "web", &address.to_string()), "{address}");
    }
    let page = engine.shell("web", "wget -q -O- http://webdb/");
    assert_eq!(page.stdout, "page\n", "{}", page.stderr);
}

/// Row S55.
#[test]
fn a_consumer_pings_its_source_by_the_alias() {
    let engine = linked_pair();
    for command in ["ping", "ping6"] {
        let line =
            format!("run --rm --cap-add NET_RAW --link db:webdb busybox {command} -c1 -W2 webdb");
        assert!(engine.ok(&line).contains("1 packets received"), "{command}");
    }
}

/// Rows S29, S30 and S48.
#[test]
fn nobody_but_the_linked_consumer_reaches_the_source() {
    let engine = linked_pair();
    engine.start("other", "", IDLE);
    answer_datagrams(&engine, "db", 53);
    for address in [ip(&engine.address("db")), ip(&engine.address6("db"))] {
        let (stream, datagram) = on_container(&engine, "other", || {
            (reachable(address, 80), udp(address, 53, "hello").is_ok())
        });
        assert!(
            !stream && !datagram,
            "an unlinked container reaches {address}"
        );
        assert!(!pings(&engine, "other", &address.to_string()), "{address}");
        let stream = on_lan(|| reachable(address, 80));
        assert!(!stream, "the LAN reaches {address}");
    }
    let gateway = ip(&engine.inspect("db", "{{.NetworkSettings.Gateway}}"));
    for address in [HOST, gateway] {
        let stream = on_container(&engine, "other", || reachable(address, 80));
        assert!(!stream, "an unlinked container reaches {address}");
    }
}

/// Row S48.
#[test]
fn a_source_opens_nothing_toward_its_consumer() {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80", WEB);
    engine.start("web", "--link db:db --expose 80", WEB);
    engine.await_port("web", 80);
    for address in [ip(&engine.address("web")), ip(&engine.address6("web"))] {
        let stream = on_container(&engine, "db", || reachable(address, 80));
        assert!(!stream, "the source reaches {address}");
        assert!(!pings(&engine, "db", &address.to_string()), "{address}");
    }
}

/// Rows S26 and S27.
#[test]
fn inspect_shows_the_links() {
    let engine = linked_pair();
    engine.start("web2", "--link db:db", IDLE);
    assert_eq!(
        engine.inspect("web2", "{{ .HostConfig.Links }}"),
        "[/db:/web2/db]"
    );
    assert_eq!(engine.inspect("db", "{{ .HostConfig.Links }}"), "[]");
}

/// Rows S22 to S25.
#[test]
fn a_link_by_id_has_the_name_of_the_source_as_alias() {
    let engine = Engine::with_busybox();
    let id = engine.start("db", "--expose 80", IDLE);
    for source in [&id[..], &id[..12], "db"] {
        let line = format!("run --rm --name web --link {source} busybox env");
        let environment = engine.ok(&line);
        assert!(environment.contains("DB_NAME=/web/db\n"), "{environment}");
    }
}

/// Rows S36 to S47.
#[test]
fn the_environment_has_the_order_of_the_manual() {
    let engine = Engine::with_busybox();
    engine.start(
        "db",
        "--expose 5432 -e PG_VERSION=9.3 --env HOME=/nowhere",
        IDLE,
    );
    let address = engine.address("db");
    for (flag, prefix, alias) in [("db:db", "DB", "db"), ("db:db1", "DB1", "db1")] {
        let environment = engine.ok(&format!("run --rm --name web2 --link {flag} busybox env"));
        let own: Vec<&str> = environment
            .lines()
            .filter(|line| line.starts_with(&format!("{prefix}_")))
            .collect();
        let expected = [
            format!("{prefix}_NAME=/web2/{alias}"),
            format!("{prefix}_PORT=tcp://{address}:5432"),
            format!("{prefix}_PORT_5432_TCP=tcp://{address}:5432"),
            format!("{prefix}_PORT_5432_TCP_PROTO=tcp"),
            format!("{prefix}_PORT_5432_TCP_PORT=5432"),
            format!("{prefix}_PORT_5432_TCP_ADDR={address}"),
            format!("{prefix}_ENV_PG_VERSION=9.3"),
        ];
        assert_eq!(own, expected, "{environment}");
    }
}

/// Rows S37 to S43.
#[test]
fn the_lowest_port_is_the_default_and_four_ports_make_twelve() {
    let engine = Engine::with_busybox();
    let ports = "--expose 53/udp --expose 53 --expose 80 --expose 5432";
    engine.start("db", ports, IDLE);
    let address = engine.address("db");
    let environment = engine.ok("run --rm --link db:db busybox env");
    assert!(
        environment.contains(&format!("DB_PORT=tcp://{address}:53\n")),
        "{environment}"
    );
    for port in ["53_UDP", "53_TCP", "80_TCP", "5432_TCP"] {
        for field in ["ADDR", "PORT", "PROTO"] {
            let variable = format!("DB_PORT_{port}_{field}=");
            assert_eq!(environment.matches(&variable).count(), 1, "{variable}");
        }
    }
    engine.start("low", "--expose 53/udp --expose 80", IDLE);
    let environment = engine.ok("run --rm --link low:db busybox env");
    let address = engine.address("low");
    assert!(
        environment.contains(&format!("DB_PORT=udp://{address}:53\n")),
        "{environment}"
    );
}

/// Rows S37 to S47.
#[test]
fn a_run_of_ports_has_its_ends_told() {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 5000-5001", IDLE);
    let address = engine.address("db");
    let environment = engine.ok("run --rm --link db:db busybox env");
    for expected in [
        format!("DB_PORT_5000_TCP_START=tcp://{address}:5000"),
        format!("DB_PORT_5000_TCP_END=tcp://{address}:5001"),
        "DB_PORT_5000_TCP_PORT_START=5000".to_owned(),
        "DB_PORT_5000_TCP_PORT_END=5001".to_owned(),
    ] {
        assert!(
            environment.lines().any(|line| line == expected),
            "{expected}: {environment}"
        );
    }
}

/// Rows S32 to S34 and S44.
#[test]
fn the_variables_of_the_source_arrive_but_home_and_path() {
    let engine = Engine::with_busybox();
    let file = engine.file("variables", b"# a comment\nFROM_FILE=f g\n");
    engine.start(
        "db",
        &format!("-e A=1 --env 'B=x y' -e PATH=/bin --env-file {file}"),
        IDLE,
    );
    let environment = engine.ok("run --rm --link db:my-db busybox env");
    let carried: Vec<&str> = environment
        .lines()
        .filter(|line| line.starts_with("MY_DB_ENV_"))
        .collect();
    let mut sorted = carried.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "MY_DB_ENV_A=1",
            "MY_DB_ENV_B=x y",
            "MY_DB_ENV_FROM_FILE=f g"
        ]
    );
}

/// Row S35.
#[test]
fn a_link_carries_only_what_it_is_told_to() {
    let engine = Engine::with_busybox();
    engine.start(
        "db",
        "-e PGDATA=/data -e OTHER=1 --env-private PGTOKEN=hidden",
        IDLE,
    );
    let carried = |flag: &str| {
        let environment = engine.ok(&format!("run --rm --link db:db,env={flag} busybox env"));
        environment
            .lines()
            .filter(|line| line.starts_with("DB_ENV_"))
            .count()
    };
    assert_eq!(carried("all"), 2);
    assert_eq!(carried("none"), 0);
    assert_eq!(carried("PG*"), 1);
    assert_eq!(engine.shell("db", "echo $PGTOKEN").stdout, "hidden\n");
}

/// Row S35.
#[test]
fn a_variable_that_looks_like_a_secret_is_warned_about() {
    let engine = Engine::with_busybox();
    engine.start("db", "-e POSTGRES_PASSWORD=hunter2", IDLE);
    let output = engine.run("run --rm --link db:db busybox true");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stderr.contains("POSTGRES_PASSWORD"),
        "{}",
        output.stderr
    );
    assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
}

/// Row S44 and its rule on who wins.
#[test]
fn the_consumers_own_variables_win() {
    let engine = Engine::with_busybox();
    engine.start("db", "--expose 80", IDLE);
    let environment = engine.ok("run --rm --link db:db -e DB_PORT=mine busybox env");
    assert_eq!(environment.matches("DB_PORT=").count(), 1, "{environment}");
    assert!(environment.contains("DB_PORT=mine\n"), "{environment}");
}

/// Rows S49 and S50.
#[test]
fn exec_sees_the_variables_and_works_while_the_source_is_down() {
    let engine = linked_pair();
    let before = engine.shell("web", "env | grep ^WEBDB_ | sort").stdout;
    assert!(before.contains("WEBDB_PORT_80_TCP_ADDR="), "{before}");
    engine.ok("stop -t 0 db");
    let down = engine.shell("web", "echo $WEBDB_NAME");
    assert_eq!(
        (down.code, &down.stdout[..]),
        (0, "/web/webdb\n"),
        "{}",
        down.stderr
    );
    engine.ok("start db");
    let after = engine.shell("web", "env | grep ^WEBDB_ | sort").stdout;
    assert_eq!(before, after);
}

/// Rows S51 to S53.
#[test]
fn the_hosts_file_is_exact() {
    let engine = Engine::with_busybox();
    let source = engine.start("db", "", IDLE);
    let id = engine.start(
        "web",
        "--link db:webdb --link db --add-host extra:10.9.8.7",
        IDLE,
    );
    let (own, own6) = (engine.address("web"), engine.address6("web"));
    let (other, other6) = (engine.address("db"), engine.address6("db"));
    let (short, source) = (&id[..12], &source[..12]);
    let expected = format!(
        "{own}\t{short}\n{own6}\t{short}\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n\
         10.9.8.7\textra\n\
         {other}\twebdb {source} db\n{other6}\twebdb {source} db\n\
         {other}\tdb {source}\n{other6}\tdb {source}\n"
    );
    assert_eq!(engine.shell("web", "cat /etc/hosts").stdout, expected);
}

/// Rows S56 to S58.
#[test]
fn the_hosts_line_follows_a_restarted_source_in_place() {
    let engine = linked_pair();
    let inode = engine.shell("web", "stat -c %i /etc/hosts").stdout;
    assert_eq!(engine.ok("restart -t 0 db"), "db");
    let address = engine.address("db");
    wait_for("the line of the source", DEADLINE, || {
        hosts_line(&engine, "web", "webdb").filter(|line| line.starts_with(&address))
    });
    assert_eq!(engine.shell("web", "stat -c %i /etc/hosts").stdout, inode);
    engine.await_port("db", 80);
    assert_eq!(
        engine.shell("web", "wget -q -O- http://webdb/").stdout,
        "page\n"
    );
}

/// Decision 1: while the source is down there is no line, and the door is shut.
#[test]
fn a_stopped_source_has_no_line() {
    let engine = linked_pair();
    engine.ok("stop -t 0 db");
    wait_for("the line to go", DEADLINE, || {
        hosts_line(&engine, "web", "webdb").is_none().then_some(())
    });
    engine.ok("start db");
    wait_for("the line to come back", DEADLINE, || {
        hosts_line(&engine, "web", "webdb")
    });
}

/// Decisions 1 and 6.
#[test]
fn a_source_made_anew_under_its_name_is_found_at_its_address() {
    let engine = linked_pair();
    let address = engine.address("db");
    engine.ok("rm -f db");
    engine.start("db", "--expose 80", WEB);
    assert_eq!(engine.address("db"), address);
    engine.await_port("db", 80);
    wait_for("the page", DEADLINE, || {
        let page = engine.shell("web", "wget -q -O- http://webdb/");
        (page.stdout == "page\n").then_some(())
    });
}

/// Decision 1.
#[test]
fn a_link_follows_a_renamed_source() {
    let engine = linked_pair();
    engine.ok("rename db store");
    assert_eq!(
        engine.inspect("web", "{{ .HostConfig.Links }}"),
        "[/store:/web/webdb]"
    );
    wait_for("the new name on the line", DEADLINE, || {
        hosts_line(&engine, "web", "webdb").filter(|line| line.ends_with(" store"))
    });
    assert_eq!(
        engine.shell("web", "wget -q -O- http://webdb/").stdout,
        "page\n"
    );
}

/// Rows S51 to S53: lines are known by who made them, not by what they say.
#[test]
fn an_alias_never_touches_other_lines() {
    let engine = Engine::with_busybox();
    engine.start("one", "", IDLE);
    engine.start("two", "", IDLE);
    engine.start(
        "web",
        "--link one:db --link two:db.slave --add-host db.mine:10.9.8.7",
        IDLE,
    );
    let slave = hosts_line(&engine, "web", "db.slave");
    let mine = hosts_line(&engine, "web", "db.mine");
    assert!(slave.is_some() && mine.is_some());
    engine.ok("restart -t 0 one");
    wait_for("the line", DEADLINE, || hosts_line(&engine, "web", "db"));
    assert_eq!(hosts_line(&engine, "web", "db.slave"), slave);
    assert_eq!(hosts_line(&engine, "web", "db.mine"), mine);
}

/// Row S54.
#[test]
fn a_container_reaches_a_server_on_the_lan_as_the_host() {
    let engine = Engine::with_busybox();
    engine.start("web", "", IDLE);
    let listeners =
        on_lan(|| [LAN, LAN6].map(|address| std::net::TcpListener::bind((address, 7000))));
    for listener in listeners {
        let listener = listener.expect("listen on the LAN");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let connected = on_container(&engine, "web", || std::net::TcpStream::connect(address));
        let _connection = connected.expect("reach the LAN");
        let (_, peer) = listener.accept().expect("accept");
        let host = if peer.is_ipv4() {
            HOST
        } else {
            e2e::network::HOST6
        };
        assert_eq!(peer.ip(), host);
    }
    let resolver = engine.shell("web", "cat /etc/resolv.conf").stdout;
    assert!(resolver.contains("nameserver 10.200.1.9"), "{resolver}");
}

/// Decision 7.
#[test]
fn the_host_and_cloud_metadata_are_closed() {
    let engine = Engine::with_busybox();
    engine.start("web", "", IDLE);
    let _host = std::net::TcpListener::bind("[::]:7000").expect("listen on the host");
    let metadata = ip("169.254.169.254");
    let _metadata = on_lan(|| std::net::TcpListener::bind((metadata, 80))).expect("listen");
    let gateway = ip(&engine.inspect("web", "{{.NetworkSettings.Gateway}}"));
    for (address, port) in [(HOST, 7000), (gateway, 7000), (metadata, 80)] {
        let open = on_container(&engine, "web", || reachable(address, port));
        assert!(!open, "a container reaches {address}");
    }
    // Declared, the host is open to the one that declared it, at the address of that name.
    engine.start("declared", "--add-host host:host-gateway", IDLE);
    assert!(on_container(&engine, "declared", || reachable(
        gateway, 7000
    )));
    assert!(!on_container(&engine, "declared", || reachable(HOST, 7000)));
    assert!(!on_container(&engine, "web", || reachable(gateway, 7000)));
}

/// Decision 1.
#[test]
fn a_run_whose_source_is_missing_or_stopped_is_refused() {
    let engine = Engine::with_busybox();
    let sentence = engine.fails(125, "run --name web --link nosuch:db busybox true");
    assert!(sentence.contains("nosuch"), "{sentence}");
    engine.ok("create --name db busybox sh");
    let sentence = engine.fails(125, "run --name web --link db:db busybox true");
    assert!(
        sentence.contains("db") && sentence.contains("start"),
        "{sentence}"
    );
    assert_eq!(engine.names(), ["db"]);
}

/// Decision 5.
#[test]
fn aliases_that_collide_are_refused_by_name() {
    let engine = Engine::with_busybox();
    engine.start("db", "", IDLE);
    for (links, named) in [
        ("--link db:db-1 --link db:DB_1", ["db-1", "DB_1"]),
        ("--link db:x --link db:x", ["x", "x"]),
        ("--link db:", ["alias", "empty"]),
    ] {
        let sentence = engine.fails(125, &format!("run --name web {links} busybox true"));
        for name in named {
            assert!(sentence.contains(name), "{links}: {sentence}");
        }
    }
    assert_eq!(engine.names(), ["db"]);
}
