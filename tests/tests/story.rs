//! The manual's story: a real PostgreSQL and a real web application.

use e2e::console::Engine;
use e2e::network::{HOST, HOST6, http, ip, on_lan, reachable};
use e2e::{DEADLINE, ImageKind, image, image_kind, linkspan, skip, wait_for};

const ADD_ROW: &str = "CREATE TABLE visits (id serial PRIMARY KEY, who text); \
                       INSERT INTO visits (who) VALUES ('postgres')";

/// Starts the database with one row in it.
fn database() {
    let postgres = image("postgres");
    let _id = linkspan(&["run", "-d", "--name", "db", postgres]).ok();
    wait_for("the database", DEADLINE, || {
        let ready = linkspan(&["exec", "db", "psql", "-qU", "docker", "-c", "SELECT 1"]);
        (ready.status == 0).then_some(())
    });
    let _added = linkspan(&["exec", "db", "psql", "-qU", "docker", "-c", ADD_ROW]).ok();
}

fn published(name: &str) -> u16 {
    let address = linkspan(&["port", name, "5000"]).ok();
    let port = address
        .lines()
        .next()
        .and_then(|line| line.rsplit(':').next());
    port.and_then(|port| port.parse().ok())
        .expect("a published port")
}

/// Rows S18, S19, S20, S21, S28, S29, S30 and S48: over the link, by address and by name, and for
/// nobody else.
#[test]
fn the_application_reads_what_the_database_wrote() {
    if image_kind() != ImageKind::Debian {
        return skip(
            "the_application_reads_what_the_database_wrote",
            "no Debian packages for the images",
        );
    }
    database();
    let webapp = image("webapp");
    let _id = linkspan(&[
        "run", "-d", "-P", "--name", "web", "--link", "db:db", webapp, "python", "app.py",
    ])
    .ok();
    let port = published("web");
    for address in [HOST, HOST6] {
        let page = wait_for("the page", DEADLINE, || {
            on_lan(|| http(address, port, "/").ok())
        });
        assert!(page.contains("DB_PORT_5432_TCP_ADDR"), "{page}");
        assert!(page.contains("name db: visit 1 by postgres"), "{page}");
        assert_eq!(page.matches("visit 1 by postgres").count(), 2, "{page}");
    }
    let source = linkspan(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]).ok();
    let connect = "import socket, sys; socket.create_connection((sys.argv[1], 5432), timeout=2)";
    let stranger = linkspan(&["run", "--rm", webapp, "python", "-c", connect, &source]);
    assert_ne!(stranger.status, 0, "{stranger:?}");
    let consumer = linkspan(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"]).ok();
    let backward = format!("exec 3<>/dev/tcp/{consumer}/5000");
    let reverse = linkspan(&["exec", "db", "timeout", "2", "bash", "-c", &backward]);
    assert_ne!(reverse.status, 0, "{reverse:?}");
    let source = ip(&source);
    assert!(!on_lan(|| reachable(source, 5432)), "the LAN reaches db");
}

/// Rows S2, S45, S51, S53 and S55 with the manual's own images.
#[test]
fn the_manuals_commands_print_what_it_says() {
    if image_kind() != ImageKind::Debian {
        return skip(
            "the_manuals_commands_print_what_it_says",
            "no Debian packages for the images",
        );
    }
    database();
    let webapp = image("webapp");
    let env = linkspan(&[
        "run", "--rm", "--name", "web2", "--link", "db:db", webapp, "env",
    ])
    .ok();
    let of_link: Vec<&str> = env.lines().filter(|line| line.starts_with("DB_")).collect();
    let address = linkspan(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]).ok();
    assert_eq!(
        of_link[..6],
        [
            "DB_NAME=/web2/db".to_owned(),
            format!("DB_PORT=tcp://{address}:5432"),
            format!("DB_PORT_5432_TCP=tcp://{address}:5432"),
            "DB_PORT_5432_TCP_PROTO=tcp".to_owned(),
            "DB_PORT_5432_TCP_PORT=5432".to_owned(),
            format!("DB_PORT_5432_TCP_ADDR={address}"),
        ]
    );
    assert!(
        of_link[6..].iter().all(|line| line.starts_with("DB_ENV_")),
        "{of_link:?}"
    );
    let ping = linkspan(&[
        "run", "--rm", "--link", "db:webdb", webapp, "ping", "-c1", "-W2", "webdb",
    ])
    .ok();
    assert!(ping.contains("1 received"), "{ping}");
    let hosts = linkspan(&[
        "run",
        "--rm",
        "--link",
        "db:webdb",
        webapp,
        "cat",
        "/etc/hosts",
    ])
    .ok();
    let id = linkspan(&["ps", "-q", "db"]).ok();
    assert!(
        hosts.contains(&format!("{address}\twebdb {id} db\n")),
        "{hosts}"
    );
}

/// What differs with what the images are made of.
struct Cast {
    add_row: &'static str,
    web: &'static str,
    /// Ends with a failure if it cannot connect; the address and the port follow.
    connect: &'static str,
}

const DEBIAN: Cast = Cast {
    add_row: "psql -qU docker -c \"CREATE TABLE visits (id serial PRIMARY KEY, who text); \
        INSERT INTO visits (who) VALUES ('a row of PostgreSQL')\"",
    web: "python app.py",
    connect: "python -c 'import socket, sys; \
        socket.create_connection(sys.argv[1:], timeout=2)'",
};
const GUEST: Cast = Cast {
    add_row: "linkspan-guest set 127.0.0.1 1 'a row of PostgreSQL'",
    web: "web",
    connect: "linkspan-guest connect",
};

/// Rows S1, S2, S18 to S21, S28 to S30 and S48.
#[test]
fn the_story_holds_whatever_the_images_are_made_of() {
    let cast = match image_kind() {
        ImageKind::Debian => DEBIAN,
        ImageKind::Guest => GUEST,
    };
    let engine = Engine::bare();
    let (webapp, postgres) = (image("webapp"), image("postgres"));
    engine.ok(&format!("run -d --name db {postgres}"));
    let ready = "database system is ready to accept connections";
    wait_for("the database", DEADLINE, || {
        let output = engine.run("logs db");
        (output.stdout + &output.stderr)
            .contains(ready)
            .then_some(())
    });
    wait_for("the row", DEADLINE, || {
        (engine.run(&format!("exec db {}", cast.add_row)).code == 0).then_some(())
    });
    let line = format!("run -d -P --name web --link db:db {webapp} {}", cast.web);
    engine.ok(&line);
    let published = engine.ok("port web 5000");
    let port = published
        .lines()
        .next()
        .and_then(|line| line.rsplit(':').next());
    let port: u16 = port
        .and_then(|port| port.parse().ok())
        .expect("a published port");
    let page = wait_for("the page", DEADLINE, || {
        on_lan(|| http(HOST, port, "/")).ok()
    });
    let address = engine.address("db");
    for way in [
        format!("DB_PORT_5432_TCP_ADDR {address}"),
        "name db".to_owned(),
    ] {
        let row = format!("{way}: visit 1 by a row of PostgreSQL");
        assert!(page.contains(&row), "{row}: {page}");
    }
    let stranger = |address: &str| format!("run --rm {webapp} {} {address} 5432", cast.connect);
    for address in [address, engine.address6("db"), HOST.to_string()] {
        assert_ne!(
            engine.run(&stranger(&address)).code,
            0,
            "a stranger reaches {address}"
        );
    }
    let line = format!("run --rm --link db:db {webapp} {} db 5432", cast.connect);
    engine.ok(&line);
}
