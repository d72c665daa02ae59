//! One daemon of the sandbox: how it is started, when it is ready, where its log is.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::unistd::Pid;

use super::events::spawn;

/// A daemon that init keeps alive.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) name: &'static str,
    pub(super) log: PathBuf,
    /// The process, unless it has ended.
    pub(super) process: Option<Pid>,
    /// Whether it has said READY since it was started.
    pub(super) ready: bool,
    /// How it ended last, as a shell gives it.
    pub(super) status: Option<i32>,
    program: PathBuf,
    arguments: Vec<String>,
    notify: UnixDatagram,
    notify_path: PathBuf,
}

impl Daemon {
    /// A daemon that has not been started.
    pub(super) fn new(
        name: &'static str,
        binaries: &Path,
        logs: &Path,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let program = binaries.join(name);
        anyhow::ensure!(
            program.is_file(),
            "no {}; build it first",
            program.display()
        );
        let notify_path = PathBuf::from(format!("/run/sandbox/{name}.notify"));
        let notify = UnixDatagram::bind(&notify_path).context("listen for READY")?;
        notify.set_nonblocking(true)?;
        Ok(Self {
            name,
            log: logs.join(format!("{name}.log")),
            process: None,
            ready: false,
            status: None,
            program,
            arguments: arguments.to_vec(),
            notify,
            notify_path,
        })
    }

    /// Starts it, whether for the first time or again.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("NOTIFY_SOCKET", &self.notify_path)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = spawn(&mut command).with_context(|| format!("start {}", self.name))?;
        self.process = Some(process);
        self.ready = false;
        Ok(())
    }

    /// Takes in what it has notified.
    pub(super) fn read_notifications(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.notify.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    self.ready |= text.lines().any(|line| line == "READY=1");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("receive a notification"),
            }
        }
    }

    /// The lines of its log that match.
    pub(super) fn log_lines(&self, pattern: &str) -> Vec<String> {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes)
            .lines()
            .filter(|line| line.contains(pattern))
            .map(str::to_owned)
            .collect()
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        let lines = self.log_lines("");
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl AsFd for Daemon {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notify.as_fd()
    }
}
