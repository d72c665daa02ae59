//! What PID 1 waits for: signals, children that end, and daemons that are ready.

use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::daemon::Daemon;
use super::init::by_signal;

/// More restarts than any test asks for: a daemon that cannot live.
const RESTART_LIMIT: u32 = 200;

/// Whether a daemon that dies is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    Never,
}

/// Starts a process with no signal blocked, although PID 1 blocks some.
pub(super) fn spawn(command: &mut Command) -> anyhow::Result<Pid> {
    let mask = mask();
    mask.thread_unblock()?;
    let child = command.spawn();
    mask.thread_block()?;
    Ok(Pid::from_raw(i32::try_from(child?.id())?))
}

fn mask() -> SigSet {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM] {
        mask.add(signal);
    }
    mask
}

/// The children of PID 1.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) daemons: Vec<Daemon>,
    pub(super) restart: Restart,
    signals: SignalFd,
    restarts: u32,
    command: Option<Pid>,
    status: Option<u8>,
}

impl Events {
    /// Blocks the signals, so that none is lost before the first wait.
    pub(super) fn new() -> anyhow::Result<Self> {
        let mask = mask();
        mask.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            daemons: Vec::new(),
            restart: Restart::Never,
            signals: SignalFd::with_flags(&mask, flags)?,
            restarts: 0,
            command: None,
            status: None,
        })
    }

    /// Waits until the command has ended, and gives its status.
    pub(super) fn wait_for_command(&mut self, command: Pid) -> anyhow::Result<u8> {
        self.command = Some(command);
        loop {
            // Before the wait: no signal tells of a child that ended within `spawn`.
            self.reap()?;
            if let Some(status) = self.status.take() {
                self.command = None;
                return Ok(status);
            }
            self.turn(None)?;
        }
    }

    /// Waits until something holds. `interval` is how often to look even if no event comes.
    pub(super) fn wait_until(
        &mut self,
        deadline: Duration,
        interval: Option<Duration>,
        mut holds: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        let end = Instant::now() + deadline;
        loop {
            self.reap()?;
            if holds(self)? {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.turn(Some(interval.map_or(left, |interval| interval.min(left))))?;
        }
    }

    /// Waits for one event, and deals with all that has happened.
    fn turn(&mut self, timeout: Option<Duration>) -> anyhow::Result<()> {
        let timeout = match timeout {
            // One more millisecond, lest a rest below one turns into a busy loop.
            Some(timeout) => PollTimeout::try_from(timeout + Duration::from_millis(1))?,
            None => PollTimeout::NONE,
        };
        let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        for daemon in &self.daemons {
            descriptors.push(PollFd::new(daemon.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for an event"),
        }
        for daemon in &mut self.daemons {
            daemon.read_notifications()?;
        }
        self.take_signals()
    }

    fn take_signals(&mut self) -> anyhow::Result<()> {
        while let Some(information) = self.signals.read_signal()? {
            let signal = Signal::try_from(i32::try_from(information.ssi_signo)?)?;
            // The terminal has told the command by itself; only what was sent to us goes on.
            if signal != Signal::SIGCHLD
                && information.ssi_code <= 0
                && let Some(command) = self.command
            {
                // It may have ended a moment ago.
                let _gone = kill(command, signal).is_err();
            }
        }
        Ok(())
    }

    fn reap(&mut self) -> anyhow::Result<()> {
        loop {
            let (process, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(process, code)) => (process, u8::try_from(code)?),
                Ok(WaitStatus::Signaled(process, signal, _)) => (process, by_signal(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) => continue,
                Err(error) => return Err(error).context("reap"),
            };
            if self.command == Some(process) {
                self.status = Some(status);
            } else {
                self.daemon_ended(process, status)?;
            }
        }
    }

    fn daemon_ended(&mut self, process: Pid, status: u8) -> anyhow::Result<()> {
        let ended = |daemon: &&mut Daemon| daemon.process == Some(process);
        let Some(daemon) = self.daemons.iter_mut().find(ended) else {
            return Ok(());
        };
        daemon.process = None;
        daemon.ready = false;
        daemon.status = Some(i32::from(status));
        if self.restart == Restart::Always {
            self.restarts += 1;
            anyhow::ensure!(
                self.restarts <= RESTART_LIMIT,
                "{} keeps ending, last with status {status}:\n{}",
                daemon.name,
                daemon.log_tail()
            );
            daemon.start()?;
        }
        Ok(())
    }
}
