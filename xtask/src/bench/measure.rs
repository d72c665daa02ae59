//! The measurements: wall clock of whole commands, and the memory of what stays.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::engine::Engine;
use super::paths;
use crate::workspace;

const ONE_AT_A_TIME: usize = 30;
const EIGHT_AT_A_TIME: usize = 80;
const IDLE_CONTAINERS: usize = 20;
const ROUNDS_OF_PORTS: usize = 3;
const PORTS: &str = "20000-20299:20000-20299";

/// Tells one run from another.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// Measures all that the engine can do.
pub(super) fn all(engine: Engine, state: &Path) -> anyhow::Result<Value> {
    // The first run pays for caches that every later one finds.
    start(engine, state)?;
    let mut result = json!({
        "engine": engine.version(),
        "run_ms": median(repeat(ONE_AT_A_TIME, || start(engine, state))?),
    });
    if !engine.is_whole() {
        return Ok(result);
    }
    result["run_8_ms"] = json!(median(in_parallel(engine, state)?));
    result["idle_kib"] = json!(idle_memory(engine, state)?);
    let (mut publish, mut remove) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS_OF_PORTS {
        let begin = Instant::now();
        let id = workspace::output(&mut engine.run_idle(state, &["-p", PORTS]))?;
        publish.push(begin.elapsed());
        let begin = Instant::now();
        workspace::output(&mut engine.remove(state, &[id.trim().to_owned()]))?;
        remove.push(begin.elapsed());
    }
    result["publish_300_ms"] = json!(median(publish));
    result["remove_300_ms"] = json!(median(remove));
    if engine.has_paths() {
        result["paths"] = paths::all(engine, state)?;
    }
    Ok(result)
}

fn start(engine: Engine, state: &Path) -> anyhow::Result<Duration> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut command = engine.run_true(state, number);
    let begin = Instant::now();
    succeed(&mut command)?;
    Ok(begin.elapsed())
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("run the engine")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        stderr.trim()
    );
    Ok(())
}

fn repeat(
    times: usize,
    mut act: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<Vec<Duration>> {
    (0..times).map(|_| act()).collect()
}

fn in_parallel(engine: Engine, state: &Path) -> anyhow::Result<Vec<Duration>> {
    const WORKERS: usize = 8;
    thread::scope(|scope| {
        let worker = || repeat(EIGHT_AT_A_TIME / WORKERS, || start(engine, state));
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let times = worker
                .join()
                .map_err(|_panic| anyhow::anyhow!("a worker panicked"))?;
            all.extend(times?);
        }
        Ok(all)
    })
}

/// What each container that does nothing costs, beyond its own process.
fn idle_memory(engine: Engine, state: &Path) -> anyhow::Result<f64> {
    let mut ids = Vec::new();
    for _ in 0..IDLE_CONTAINERS {
        ids.push(
            workspace::output(&mut engine.run_idle(state, &[]))?
                .trim()
                .to_owned(),
        );
    }
    let total: u32 = processes(engine.monitor())
        .iter()
        .filter_map(|pid| pss_kib(*pid))
        .sum();
    workspace::output(&mut engine.remove(state, &ids))?;
    anyhow::ensure!(total > 0, "no process is called {}", engine.monitor());
    Ok(f64::from(total) / IDLE_CONTAINERS as f64)
}

/// The processes whose program has a name that begins so.
fn processes(name: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = |directory: &Path| {
        let command = fs::read(directory.join("cmdline")).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let path = String::from_utf8_lossy(program).into_owned();
        path.rsplit('/')
            .next()
            .is_some_and(|file| file.starts_with(name))
    };
    entries
        .filter(|entry| named(&entry.path()))
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

/// The proportional share of memory of a process.
fn pss_kib(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The median in milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    let middle = times.len() / 2;
    let time = match times.len() % 2 {
        _ if times.is_empty() => return 0.0,
        0 => (times[middle - 1] + times[middle]) / 2,
        _ => times[middle],
    };
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let times = |list: &[u64]| list.iter().map(|ms| Duration::from_millis(*ms)).collect();
        assert!((median(times(&[9, 1, 5])) - 5.0).abs() < 1e-9);
        assert!((median(times(&[9, 1, 5, 7])) - 6.0).abs() < 1e-9);
    }
}
