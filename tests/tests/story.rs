//! The manual's story with the images that it names.

use std::time::Duration;

use e2e::console::Engine;
use e2e::network::{HOST, http, on_lan};
use e2e::{ImageKind, image, image_kind, skip, wait_for};

const DEADLINE: Duration = Duration::from_secs(60);

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
fn the_web_application_reads_what_the_database_wrote() {
    if std::env::var_os("LINKSPAN_TEST_IMAGES").is_none() {
        skip(
            "the_web_application_reads_what_the_database_wrote",
            "LINKSPAN_TEST_IMAGES names no images; run: cargo xtask test",
        );
        return;
    }
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
