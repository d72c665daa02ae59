//! The manual's story, told with real containers: a database, a web application linked
//! to it, a client on the LAN, and a stranger who gets nothing.
//!
//! Every command is shown with what it printed, and the story stops where something is
//! not as told. The story itself runs inside the sandbox, in a second process.

mod stage;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::images::Kind;
use crate::sandbox;
use stage::{Stage, tell};

/// What differs with what the images are made of.
struct Cast {
    ready: &'static str,
    add_row: &'static [&'static str],
    web: &'static [&'static str],
    /// Ends with a failure if it cannot connect; the address and the port follow.
    connect: &'static [&'static str],
}

const DEBIAN: Cast = Cast {
    ready: "database system is ready to accept connections",
    add_row: &[
        "psql",
        "-qU",
        "docker",
        "-c",
        "CREATE TABLE visits (id serial PRIMARY KEY, who text); \
         INSERT INTO visits (who) VALUES ('a row of PostgreSQL')",
    ],
    web: &["python", "app.py"],
    connect: &[
        "python",
        "-c",
        "import socket, sys; socket.create_connection(sys.argv[1:], timeout=2)",
    ],
};
const GUEST: Cast = Cast {
    ready: "database system is ready to accept connections",
    add_row: &[
        "linkspan-guest",
        "set",
        "127.0.0.1",
        "1",
        "a row of the guest",
    ],
    web: &["web"],
    connect: &["linkspan-guest", "connect"],
};

/// Builds all and tells the story in a sandbox.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let (binaries, images) = sandbox::prepare()?;
    let kind = match images.kind {
        Kind::Debian => "debian",
        Kind::Guest => "guest",
    };
    let status = sandbox::sandbox(&binaries, &images)
        .arg("--")
        .arg(std::env::current_exe().context("find this program")?)
        .args(["demo", "--inside", kind])
        .status()
        .context("run the sandbox")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Tells the story; this process is inside of the sandbox.
pub(crate) fn inside(kind: &str) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let cast = if kind == "debian" { &DEBIAN } else { &GUEST };
    let stage = Stage::open()?;
    start(&stage, cast)?;
    let port = publish(&stage)?;
    link(&stage, &port)?;
    environment(&stage)?;
    stranger(&stage, cast)?;
    restart(&stage, &port)?;
    tell("The end: everything stops, and the sandbox looks for what is left.");
    let web_and_db = stage.linkspan(&["rm", "-f", "web", "db"])?;
    ensure!(web_and_db.lines().count() == 2, "rm printed {web_and_db:?}");
    tell(&format!(
        "All was as told, in {:.1} s.",
        begin.elapsed().as_secs_f32()
    ));
    Ok(ExitCode::SUCCESS)
}

fn start(stage: &Stage, cast: &Cast) -> anyhow::Result<()> {
    tell("A database. It publishes nothing: no -p, no -P.");
    let id = stage.linkspan(&["run", "-d", "--name", "db", "training/postgres"])?;
    ensure!(id.trim().len() == 64, "run -d printed no full id");
    stage.until("the database is ready", || {
        let logs = stage.logs("db").ok()?;
        logs.contains(cast.ready).then_some(())
    })?;
    tell("A row for others to find.");
    let mut add_row = vec!["exec", "db"];
    add_row.extend(cast.add_row);
    stage.until_succeeds(&add_row)?;
    tell("The web application, linked to it. -P publishes its port on a random one.");
    let mut web = vec![
        "run",
        "-d",
        "-P",
        "--name",
        "web",
        "--link",
        "db:db",
        "training/webapp",
    ];
    web.extend(cast.web);
    stage.linkspan(&web).map(drop)
}

fn publish(stage: &Stage) -> anyhow::Result<String> {
    tell("Both run; the port of db stays inside.");
    let table = stage.linkspan(&["ps"])?;
    ensure!(table.contains("->5000/tcp"), "web publishes nothing");
    ensure!(!table.contains("->5432/tcp"), "db publishes a port");
    let address = stage.linkspan(&["port", "web", "5000"])?;
    let port = address
        .lines()
        .next()
        .and_then(|line| line.rsplit(':').next())
        .context("port printed no address")?;
    Ok(port.trim().to_owned())
}

fn link(stage: &Stage, port: &str) -> anyhow::Result<()> {
    tell("A client on the LAN. The page reads the row twice: by address and by name.");
    page(stage, port)?;
    tell("The link as the engine keeps it.");
    let links = stage.linkspan(&["inspect", "-f", "{{ .HostConfig.Links }}", "web"])?;
    ensure!(
        links.trim() == "[/db:/web/db]",
        "the links of web are {links}"
    );
    Ok(())
}

fn environment(stage: &Stage) -> anyhow::Result<()> {
    tell("What a linked container finds in its environment, and in /etc/hosts.");
    let web2 = [
        "run",
        "--rm",
        "--name",
        "web2",
        "--link",
        "db:db",
        "training/webapp",
    ];
    let variables = stage.linkspan(&[&web2[..], &["env"]].concat())?;
    for name in [
        "DB_NAME=/web2/db",
        "DB_PORT=tcp://",
        "DB_PORT_5432_TCP_ADDR=",
        "DB_ENV_PG_VERSION=",
    ] {
        ensure!(variables.contains(name), "no {name} in the environment");
    }
    let hosts = stage.linkspan(&[&web2[..], &["cat", "/etc/hosts"]].concat())?;
    ensure!(hosts.contains("\tdb "), "no line for db in /etc/hosts");
    Ok(())
}

fn stranger(stage: &Stage, cast: &Cast) -> anyhow::Result<()> {
    let format = "{{ .NetworkSettings.IPAddress }}";
    let address = stage.quietly(&["inspect", "-f", format, "db"])?;
    let address = address.trim();
    tell("A stranger, on the same network and not linked, knows the address of db.");
    let mut words = vec!["run", "--rm", "training/webapp"];
    words.extend(cast.connect);
    words.extend([address, "5432"]);
    stage.fails(&words)?;
    tell("The same words in a container that is linked.");
    words.splice(2..2, ["--link", "db:db"]);
    stage.linkspan(&words).map(drop)
}

fn restart(stage: &Stage, port: &str) -> anyhow::Result<()> {
    tell("The database restarts. web goes on, and its hosts line follows.");
    let printed = stage.linkspan(&["restart", "db"])?;
    ensure!(printed.trim() == "db", "restart printed {printed}");
    let hosts = stage.linkspan(&["exec", "web", "cat", "/etc/hosts"])?;
    ensure!(
        hosts.contains("\tdb "),
        "no line for db in /etc/hosts of web"
    );
    if std::env::args().any(|word| word == "guest") {
        // The stand-in keeps its rows in memory; only the connection is shown again.
        return Ok(());
    }
    page(stage, port)
}

fn page(stage: &Stage, port: &str) -> anyhow::Result<()> {
    let url = format!("http://10.200.1.1:{port}/");
    let text = stage.lan_until_succeeds(&["curl", "-fsS", "--max-time", "5", &url])?;
    for way in ["DB_PORT_5432_TCP_ADDR ", "name db: "] {
        let found = text
            .lines()
            .any(|line| line.starts_with(way) && line.contains("a row of"));
        ensure!(found, "the page has no row that came by {way}");
    }
    Ok(())
}

/// A command of the host beside the engine's.
fn on_the_lan(words: &[&str]) -> anyhow::Result<Command> {
    let netns = std::env::var("LINKSPAN_LAN_NETNS").context("LINKSPAN_LAN_NETNS")?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={netns}")).arg("--").args(words);
    Ok(command)
}
