//! The engines, and how each is told to do the same thing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::group;
use crate::workspace;

/// How long a daemon may take to answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// An engine that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Linkspan,
    Docker,
    Podman,
    Crun,
    Runc,
}

impl Engine {
    /// Those that are on this machine, Linkspan first.
    pub(super) fn installed() -> Vec<Self> {
        let programs = [
            (Self::Linkspan, "linkspan"),
            (Self::Docker, "dockerd"),
            (Self::Podman, "podman"),
            (Self::Crun, "crun"),
            (Self::Runc, "runc"),
        ];
        let found = programs
            .iter()
            .filter(|(_, program)| workspace::find(program).is_some());
        found.map(|(engine, _)| *engine).collect()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Linkspan => "linkspan",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }

    /// Its name and version.
    pub(super) fn version(self) -> String {
        let mut command = Command::new(self.name());
        let text = workspace::output(command.arg("--version")).unwrap_or_default();
        let version = text
            .split_whitespace()
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        let version = version.unwrap_or_default().trim_end_matches(',');
        format!("{} {version}", self.name())
    }

    /// Whether it has images and networks of its own.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Linkspan | Self::Docker | Self::Podman)
    }

    /// Whether the paths of its packets are measured: those of a daemon with networks.
    pub(super) fn has_paths(self) -> bool {
        matches!(self, Self::Linkspan | Self::Docker)
    }

    /// The program that stays with each container.
    pub(super) fn monitor(self) -> &'static str {
        match self {
            Self::Linkspan => "linkspan-shim",
            Self::Docker => "containerd-shim",
            Self::Podman => "conmon",
            Self::Crun | Self::Runc => "",
        }
    }

    /// `run --rm busybox true`, or what comes nearest to it.
    pub(super) fn run_true(self, state: &Path, number: usize) -> Command {
        let mut command = self.command(state);
        match self {
            Self::Crun | Self::Runc => {
                command.args(["run", "--bundle"]).arg(state.join("bundle"));
                command.arg(format!("measure-{number}"));
            }
            _ => {
                command.args(["run", "--rm"]).args(self.run_flags());
                command.args(["busybox", "true"]);
            }
        }
        command
    }

    /// A container that does nothing, with these flags.
    pub(super) fn run_idle(self, state: &Path, flags: &[&str]) -> Command {
        let mut command = self.command(state);
        command
            .args(["run", "-d"])
            .args(self.run_flags())
            .args(flags);
        command.args(["busybox", "sleep", "1000"]);
        command
    }

    /// The first process of a container that runs.
    pub(super) fn pid(self, state: &Path, id: &str) -> anyhow::Result<u32> {
        let text = self.inspect(state, "{{.State.Pid}}", id)?;
        text.parse().context("a process")
    }

    /// The address of a container on the default network.
    pub(super) fn address(self, state: &Path, id: &str) -> anyhow::Result<String> {
        self.inspect(state, "{{.NetworkSettings.IPAddress}}", id)
    }

    fn inspect(self, state: &Path, template: &str, id: &str) -> anyhow::Result<String> {
        let mut command = self.command(state);
        let text = workspace::output(command.args(["inspect", "-f", template, id]))?;
        Ok(text.trim().to_owned())
    }

    /// Removes containers that run.
    pub(super) fn remove(self, state: &Path, ids: &[String]) -> Command {
        let mut command = self.command(state);
        command.args(["rm", "-f"]);
        // Its grace before the kill would be all that is measured.
        if self == Self::Podman {
            command.args(["-t", "0"]);
        }
        command.args(ids);
        command
    }

    /// Starts what must run before it, and gives it the image.
    pub(super) fn prepare(self, state: &Path, busybox: &Path) -> anyhow::Result<Option<Child>> {
        match self {
            Self::Linkspan => Ok(None),
            Self::Docker => {
                let daemon = docker_daemon(state)?;
                self.wait_for_answer(state)?;
                workspace::output(self.command(state).args(["load", "-i"]).arg(busybox))?;
                Ok(Some(daemon))
            }
            Self::Podman => {
                workspace::output(self.command(state).args(["load", "-i"]).arg(busybox))?;
                Ok(None)
            }
            Self::Crun | Self::Runc => {
                self.bundle(&state.join("bundle"), busybox)?;
                Ok(None)
            }
        }
    }

    fn command(self, state: &Path) -> Command {
        let mut command = Command::new(self.name());
        match self {
            Self::Linkspan => {}
            Self::Docker => {
                command.arg("--host").arg(docker_socket(state));
            }
            Self::Podman => {
                command.arg("--root").arg(state.join("podman"));
                command.arg("--runroot").arg(state.join("podman-run"));
                command.args(["--cgroup-manager", "cgroupfs"]);
            }
            Self::Crun | Self::Runc => {
                command.arg("--root").arg(state.join(self.name()));
            }
        }
        command.stdin(Stdio::null());
        command
    }

    fn run_flags(self) -> Vec<String> {
        match self {
            Self::Podman => vec![format!("--cgroup-parent={}", group())],
            _ => Vec::new(),
        }
    }

    fn wait_for_answer(self, state: &Path) -> anyhow::Result<()> {
        let end = Instant::now() + DEADLINE;
        while let Err(error) = workspace::output(self.command(state).arg("version")) {
            if Instant::now() > end {
                let log = fs::read_to_string(state.join("log")).unwrap_or_default();
                return Err(error.context(log));
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        Ok(())
    }

    fn bundle(self, bundle: &Path, busybox: &Path) -> anyhow::Result<()> {
        let (image, rootfs) = (bundle.join("image"), bundle.join("rootfs"));
        fs::create_dir_all(&image)?;
        fs::create_dir_all(&rootfs)?;
        unpack(busybox, &image)?;
        let manifest: Value = serde_json::from_slice(&fs::read(image.join("manifest.json"))?)?;
        let layer = manifest[0]["Layers"][0].as_str().context("no layer")?;
        unpack(&image.join(layer), &rootfs)?;
        workspace::output(Command::new(self.name()).arg("spec").current_dir(bundle))?;
        let path = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&path)?)?;
        spec["process"]["args"] = json!(["true"]);
        spec["process"]["terminal"] = json!(false);
        spec["linux"]["cgroupsPath"] = json!(format!("{}/{}", group(), self.name()));
        fs::write(path, spec.to_string())?;
        Ok(())
    }
}

fn docker_socket(state: &Path) -> String {
    format!("unix://{}/docker.sock", state.display())
}

fn docker_daemon(state: &Path) -> anyhow::Result<Child> {
    let log = File::create(state.join("log"))?;
    let directory = |name: &str| -> PathBuf { state.join(name) };
    Command::new("dockerd")
        .arg("--host")
        .arg(docker_socket(state))
        .arg("--data-root")
        .arg(directory("docker"))
        .arg("--exec-root")
        .arg(directory("docker-run"))
        .arg("--pidfile")
        .arg(directory("docker.pid"))
        .args(["--cgroup-parent", &group()])
        .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start dockerd")
}

fn unpack(archive: &Path, into: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("tar");
    command.arg("-xf").arg(archive).arg("-C").arg(into);
    workspace::output(&mut command).map(drop)
}
