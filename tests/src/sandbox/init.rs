//! PID 1 of the sandbox: builds the world, keeps the daemons, runs COMMAND, audits.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};

use super::audit::Baseline;
use super::daemon::Daemon;
use super::events::{Events, Restart, spawn};
use super::{Arguments, EXIT_LEAK, LAN_NETNS, audit, say, world};

/// How long a daemon may take to become ready, or to end.
const DAEMON_DEADLINE: Duration = Duration::from_secs(20);
const SOCKET: &str = "unix:///run/linkspan/runtimed.sock";

/// Runs COMMAND in the sandbox and gives the status to exit with.
pub(super) fn run(arguments: &Arguments, group: &str) -> anyhow::Result<u8> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("die with the outer process")?;
    anyhow::ensure!(std::process::id() == 1, "--init is for PID 1 of a sandbox");
    let mut events = Events::new()?;
    // Paths are resolved before /run is covered.
    let binaries = binaries(arguments)?;
    let archives = arguments
        .image
        .iter()
        .map(|path| fs::canonicalize(path).with_context(|| format!("find {}", path.display())))
        .collect::<anyhow::Result<Vec<_>>>()?;
    world::build()?;
    let outcome = inside(arguments, group, &binaries, &archives, &mut events);
    let shown = match &outcome {
        Ok(status) => *status == EXIT_LEAK || (arguments.show_logs && *status != 0),
        Err(_) => true,
    };
    if shown {
        for daemon in &events.daemons {
            say(&format!(
                "the end of {}:\n{}",
                daemon.log.display(),
                daemon.log_tail()
            ));
        }
    }
    outcome
}

/// The status of a process that a signal ended, as a shell gives it.
pub(super) fn by_signal(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

fn inside(
    arguments: &Arguments,
    group: &str,
    binaries: &Path,
    archives: &[PathBuf],
    events: &mut Events,
) -> anyhow::Result<u8> {
    let environment = Environment::of(binaries, group)?;
    if !arguments.bare {
        start_daemons(arguments, group, binaries, events)?;
        for archive in archives {
            let path = archive.to_string_lossy();
            environment.linkspan(&["load", "-i", &path])?;
        }
    }
    let baseline = Baseline::record(group)?;
    let mut command = environment.command(&arguments.command, arguments.lan);
    let command = spawn(&mut command).with_context(|| format!("run {:?}", arguments.command[0]))?;
    let status = events.wait_for_command(command)?;
    if !arguments.bare {
        if !events.wait_until(DAEMON_DEADLINE, None, |events| Ok(ready(events)))? {
            say("a daemon is not ready after the command");
            return Ok(EXIT_LEAK);
        }
        environment.remove_containers()?;
    }
    let mut findings = audit::settle(events, &baseline)?;
    stop_daemons(events, &mut findings)?;
    for daemon in &events.daemons {
        findings.extend(daemon.log_lines("panicked at"));
        for line in daemon.log_lines(" ERROR ") {
            say(&format!("warning: {}: {line}", daemon.name));
        }
    }
    if findings.is_empty() {
        return Ok(status);
    }
    say(&format!(
        "the command ended with status {status}, and this is left:"
    ));
    for finding in &findings {
        say(&format!("leak: {finding}"));
    }
    Ok(EXIT_LEAK)
}

fn binaries(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    let directory = match &arguments.bin_dir {
        Some(directory) => directory.clone(),
        None => {
            let own = std::env::current_exe().context("find this program")?;
            own.parent().context("find the binaries")?.to_path_buf()
        }
    };
    fs::canonicalize(&directory).with_context(|| format!("find {}", directory.display()))
}

fn start_daemons(
    arguments: &Arguments,
    group: &str,
    binaries: &Path,
    events: &mut Events,
) -> anyhow::Result<()> {
    let logs = arguments
        .results
        .clone()
        .unwrap_or_else(|| world::LOGS.into());
    fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
    let runtimed = ["--cgroup-parent".to_owned(), group.to_owned()];
    for (name, flags) in [("linkspan-netd", &[][..]), ("linkspan-runtimed", &runtimed)] {
        let mut daemon = Daemon::new(name, binaries, &logs, flags)?;
        daemon.start()?;
        events.daemons.push(daemon);
        let settled = |events: &Events| Ok(ready(events) || ended(events));
        let in_time = events.wait_until(DAEMON_DEADLINE, None, settled)?;
        anyhow::ensure!(in_time && ready(events), "{name} did not become ready");
    }
    events.restart = Restart::Always;
    Ok(())
}

/// Ends the daemons as a service manager would, the dependent one first.
fn stop_daemons(events: &mut Events, findings: &mut Vec<String>) -> anyhow::Result<()> {
    events.restart = Restart::Never;
    for index in (0..events.daemons.len()).rev() {
        let name = events.daemons[index].name;
        let Some(process) = events.daemons[index].process else {
            findings.push(format!("{name} had ended by itself"));
            continue;
        };
        kill(process, Signal::SIGTERM).with_context(|| format!("end {name}"))?;
        let gone = |events: &Events| Ok(events.daemons[index].process.is_none());
        if !events.wait_until(DAEMON_DEADLINE, None, gone)? {
            findings.push(format!("{name} did not end on SIGTERM"));
        } else if events.daemons[index].status != Some(0) {
            let status = events.daemons[index].status;
            findings.push(format!("{name} ended with status {status:?} on SIGTERM"));
        }
    }
    Ok(())
}

fn ready(events: &Events) -> bool {
    events.daemons.iter().all(|daemon| daemon.ready)
}

fn ended(events: &Events) -> bool {
    events.daemons.iter().any(|daemon| daemon.process.is_none())
}

/// What COMMAND and the engine's own command line find in their environment.
struct Environment {
    program: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Environment {
    fn of(binaries: &Path, group: &str) -> anyhow::Result<Self> {
        let old =
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        let mut directories = vec![binaries.to_path_buf()];
        directories.extend(std::env::split_paths(&old));
        let path = std::env::join_paths(directories).context("put the binaries on PATH")?;
        Ok(Self {
            program: binaries.join("linkspan"),
            variables: vec![
                ("PATH", path),
                ("TMPDIR", world::TEMPORARY.into()),
                ("LINKSPAN_HOST", SOCKET.into()),
                ("LINKSPAN_SANDBOX", "1".into()),
                ("LINKSPAN_SANDBOX_CGROUP", group.into()),
                ("LINKSPAN_LAN_NETNS", LAN_NETNS.into()),
            ],
        })
    }

    fn command(&self, words: &[OsString], lan: bool) -> Command {
        let mut command = if lan {
            let mut command = Command::new("nsenter");
            command
                .arg(format!("--net={LAN_NETNS}"))
                .arg("--")
                .args(words);
            command
        } else {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).arg0(&words[0]);
            command
        };
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn linkspan(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .output()
            .with_context(|| format!("run {}", self.program.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "linkspan {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command may leave containers; what a removed one leaves is a leak.
    fn remove_containers(&self) -> anyhow::Result<()> {
        if !self.program.exists() {
            return Ok(());
        }
        let listed = self.linkspan(&["ps", "--all", "--quiet", "--no-trunc"])?;
        let ids: Vec<&str> = listed.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["rm", "--force"];
        arguments.extend(ids);
        self.linkspan(&arguments).map(drop)
    }
}
