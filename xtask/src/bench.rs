//! Measures Linkspan beside other engines: medians and ratios from one run on one machine.
//!
//! All engines run in one sandbox with their state on a tmpfs. The others get a network,
//! a mount and a process namespace of their own in it, which takes them away at the end.
//! runc and crun know neither images nor networks: they are the floor, not a rival.

mod engine;
mod measure;
mod paths;
pub(crate) mod traffic;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use serde_json::{Value, json};

use crate::tools::say;
use crate::{sandbox, workspace};
use engine::Engine;

/// What is measured, by its name in JSON and in the table.
const COLUMNS: [(&str, &str); 5] = [
    ("run_ms", "run, ms"),
    ("run_8_ms", "run, 8 at a time, ms"),
    ("idle_kib", "idle container, KiB"),
    ("publish_300_ms", "publish 300 ports, ms"),
    ("remove_300_ms", "remove 300 ports, ms"),
];

/// What is measured of the paths of packets, by its place in JSON and its name in the table.
const PATHS: [(&str, &str); 14] = [
    ("ports", "ports"),
    ("publish_ms", "publish them, ms"),
    ("remove_ms", "remove them, ms"),
    (
        "busy_remove_ms",
        "remove them, with thousands of connections tracked, ms",
    ),
    ("connect_us", "new connection, µs"),
    ("connect_with_ports", "with the ports"),
    ("gbit_with_ports", "throughput with the ports"),
    ("containers", "containers"),
    ("connect_with_containers", "new connection with them"),
    ("gbit_with_containers", "throughput with them"),
    (
        "between/gbit_of_plain",
        "container to container, of a plain bridge",
    ),
    (
        "between/connect_of_plain",
        "new connection between them, of a plain bridge",
    ),
    (
        "between/routed_gbit_of_plain",
        "the same of a routed bridge without rules",
    ),
    (
        "between/routed_connect_of_plain",
        "new connection on that one",
    ),
];

/// How the results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Builds all, and measures in a sandbox.
#[expect(clippy::print_stdout, reason = "the results are the output")]
pub(crate) fn run(format: Format) -> anyhow::Result<ExitCode> {
    let (binaries, images) = sandbox::prepare()?;
    let busybox = images.directory.join("busybox.tar");
    let results = workspace::target().join("bench.json");
    fs::write(&results, "")?;
    let status = Command::new(binaries.join("linkspan-sandbox"))
        .arg("--image")
        .arg(&busybox)
        .arg("--")
        .arg(std::env::current_exe().context("find this program")?)
        .args(["bench", "--inside"])
        .args([&busybox, &results])
        .status()
        .context("run the sandbox")?;
    anyhow::ensure!(status.success(), "the measurement failed: {status}");
    let text = fs::read_to_string(&results)?;
    let results: Value = serde_json::from_str(&text).context("read the results")?;
    match format {
        Format::Json => println!("{results:#}"),
        Format::Table => print!("{}\n{}", table(&results), paths_table(&results)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures every engine; this process is inside of the sandbox.
pub(crate) fn inside(arguments: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let [busybox, results] = arguments else {
        anyhow::bail!("--inside is for a process in the sandbox; run: cargo xtask bench");
    };
    let mut engines = Vec::new();
    for engine in Engine::installed() {
        say(&format!("measuring {}", engine.name()));
        let outcome = match engine {
            Engine::Linkspan => measure::all(engine, Path::new("")),
            _ => apart(engine, busybox),
        };
        match outcome {
            Ok(result) => {
                engines.push(result);
                fs::write(results, json!({"engines": engines}).to_string())?;
            }
            Err(error) => say(&format!("{} is left out: {error:#}", engine.name())),
        }
    }
    anyhow::ensure!(!engines.is_empty(), "no engine could be measured");
    Ok(ExitCode::SUCCESS)
}

/// Measures one engine that is not ours; this process is in namespaces for it.
#[expect(
    clippy::print_stdout,
    reason = "the result goes to the process outside"
)]
pub(crate) fn reference(name: &str, busybox: &Path) -> anyhow::Result<ExitCode> {
    let engine = Engine::installed()
        .into_iter()
        .find(|engine| engine.name() == name)
        .with_context(|| format!("no engine {name}"))?;
    let state = Path::new("/run/reference");
    fs::create_dir_all(state)?;
    workspace::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let mut daemon = engine.prepare(state, busybox)?;
    let result = measure::all(engine, state);
    if let Some(daemon) = &mut daemon {
        // Its namespace would end it too, but not without warnings.
        daemon.kill()?;
        daemon.wait()?;
    }
    println!("{}", result?);
    Ok(ExitCode::SUCCESS)
}

fn apart(engine: Engine, busybox: &Path) -> anyhow::Result<Value> {
    let namespaces = [
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    let output = Command::new("unshare")
        .args(namespaces)
        .arg(std::env::current_exe().context("find this program")?)
        .args(["bench", "--reference", engine.name(), "--inside"])
        .arg(busybox)
        .stdin(Stdio::null())
        .output()
        .context("unshare")?;
    remove_groups(Path::new("/sys/fs/cgroup"))?;
    drop(fs::remove_dir_all("/run/reference"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}", stderr.trim());
    serde_json::from_slice(&output.stdout).context("read the result")
}

/// Where the other engines put their control groups.
fn group() -> String {
    let own = std::env::var("LINKSPAN_SANDBOX_CGROUP").unwrap_or_default();
    format!("{own}/reference")
}

/// Removes the groups that an engine left in each hierarchy.
fn remove_groups(mount: &Path) -> anyhow::Result<()> {
    let group = group();
    for entry in fs::read_dir(mount).context("list the hierarchies")? {
        let directory = entry?.path().join(group.trim_start_matches('/'));
        if directory.is_dir() {
            let find = OsString::from(directory);
            let mut command = Command::new("find");
            command
                .arg(find)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            workspace::output(&mut command)?;
        }
    }
    Ok(())
}

/// The results as a table of Markdown, with how often each is what Linkspan needs.
fn table(results: &Value) -> String {
    let engines = results["engines"].as_array().cloned().unwrap_or_default();
    let heads: Vec<&str> = COLUMNS.iter().map(|(_, head)| *head).collect();
    let mut text = format!(
        "| engine | {} |\n|---|{}\n",
        heads.join(" | "),
        "---:|".repeat(heads.len())
    );
    for engine in &engines {
        let cells: Vec<String> = COLUMNS
            .iter()
            .map(|(name, _)| match engine[*name].as_f64() {
                Some(value) => format!("{value:.1}{}", ratio(value, &engines[0][*name])),
                None => "–".to_owned(),
            })
            .collect();
        let name = engine["engine"].as_str().unwrap_or_default();
        text.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
    text
}

/// The paths of packets as a table of Markdown: one row for each thing, since they are many.
/// What is said `with` something is a ratio to what is measured without.
fn paths_table(results: &Value) -> String {
    let engines = results["engines"].as_array().cloned().unwrap_or_default();
    let measured: Vec<&Value> = engines
        .iter()
        .filter(|engine| engine["paths"].is_object())
        .collect();
    let names: Vec<&str> = measured
        .iter()
        .filter_map(|engine| engine["engine"].as_str())
        .collect();
    let mut text = format!(
        "| a published port | {} |\n|---|{}\n",
        names.join(" | "),
        "---:|".repeat(names.len())
    );
    for (name, head) in PATHS {
        let cells: Vec<String> = measured
            .iter()
            .map(|engine| {
                let value = engine["paths"].pointer(&format!("/{name}"));
                match value.unwrap_or(&Value::Null) {
                    Value::Number(count) if count.is_u64() => count.to_string(),
                    value => value
                        .as_f64()
                        .map_or_else(|| "–".to_owned(), |value| format!("{value:.2}")),
                }
            })
            .collect();
        text.push_str(&format!("| {head} | {} |\n", cells.join(" | ")));
    }
    text
}

fn ratio(value: f64, own: &Value) -> String {
    match own.as_f64() {
        // The first row is Linkspan itself.
        Some(own) if own > 0.0 && (value - own).abs() > f64::EPSILON => {
            format!(" (×{:.1})", value / own)
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_ratios_to_the_first_row() {
        let results = json!({"engines": [
            {"engine": "linkspan 1", "run_ms": 10.0},
            {"engine": "other 2", "run_ms": 250.0},
        ]});
        let text = table(&results);
        assert!(text.contains("| linkspan 1 | 10.0 | – |"), "{text}");
        assert!(text.contains("| other 2 | 250.0 (×25.0) |"), "{text}");
    }
}
