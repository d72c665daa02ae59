//! The event loop: connections, the stage, the processes, and what one means for another.
//!
//! ```text
//! Waiting ──start──> Starting ──end of reports──> Running ──first process ends──> Exited
//!                       └──────── failure ─────────────────────────────────────> Failed
//! ```
//!
//! **Invariant:** nothing here waits for anything but `poll`, except for the moment that a
//! process which was just killed takes to be gone.

use std::os::fd::OwnedFd;

use linkspan_proto::shim_v1 as wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use wire::shim_message::Content;

use crate::cgroup::Cgroup;
use crate::control::{self, Connection, Incoming};
use crate::failure::{Failure, Kind};
use crate::log::{Log, now};
use crate::parent::{Heard, Stage, kill_and_reap};
use crate::process::Process;
use crate::record;
use crate::spec::Profile;
use crate::stage::Report;

mod requests;

/// How long a shim that nobody ever talks to stays.
const FIRST_CONNECTION_SECONDS: i64 = 60;

/// Where the container is on its way.
#[derive(Debug)]
enum Phase {
    /// No start was asked for yet. The stage may be warm.
    Waiting,
    /// The first process was asked for, and is being made.
    Starting,
    /// It runs.
    Running,
    /// It has ended.
    Exited(wire::Exit),
    /// The start came to nothing.
    Failed,
}

/// What the shim knows of a container that was started; the specification is let go.
#[derive(Debug)]
struct Container {
    profile: Profile,
    exit_record: std::path::PathBuf,
    log: Option<Log>,
}

/// The shim.
#[derive(Debug)]
pub(crate) struct Supervisor {
    listener: OwnedFd,
    connections: Vec<Connection>,
    accepted: u64,
    phase: Phase,
    cgroup: Option<Cgroup>,
    warm: Option<Stage>,
    container: Option<Container>,
    /// The first process, if any, and those of exec.
    processes: Vec<Process>,
    /// How many exec processes there have been.
    execs: u64,
    /// Children that ended before the report of them was read.
    unclaimed: Vec<(Pid, i32)>,
    /// The first process, also when it has ended.
    first_pid: i32,
    finished: bool,
}

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum Token {
    Listener,
    Connection(u64),
    /// A child may be reaped.
    Child,
    /// A stage or its child has something to say, for the process of this key.
    Report(u64),
    Streams(u64),
}

impl Supervisor {
    /// A shim that serves `listener`, with a stage that is on its way into its cgroup.
    pub(crate) fn new(listener: OwnedFd, cgroup: Option<Cgroup>, warm: Option<Stage>) -> Self {
        Self {
            listener,
            connections: Vec::new(),
            accepted: 0,
            phase: Phase::Waiting,
            cgroup,
            warm,
            container: None,
            processes: Vec::new(),
            execs: 0,
            unclaimed: Vec::new(),
            first_pid: 0,
            finished: false,
        }
    }

    /// Serves until there is nothing left to do.
    pub(crate) fn run(mut self) -> Result<(), Errno> {
        while !self.finished && !self.is_abandoned() {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            if ready.is_empty() && self.accepted == 0 {
                break;
            }
            for token in ready {
                self.handle(token);
            }
        }
        self.connections.retain_mut(Connection::flush);
        self.discard();
        Ok(())
    }

    /// Whether nobody is there and nothing is left to keep for anybody.
    fn is_abandoned(&self) -> bool {
        let at_rest = match self.phase {
            Phase::Waiting => self.accepted > 0,
            Phase::Exited(_) | Phase::Failed => !self.processes.iter().any(Process::is_owed),
            Phase::Starting | Phase::Running => false,
        };
        at_rest && self.connections.is_empty()
    }

    fn wait(&self) -> Result<Vec<Token>, Errno> {
        let (mut fds, mut tokens) = (Vec::new(), Vec::new());
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        tokens.push(Token::Listener);
        for connection in &self.connections {
            let mut wanted = PollFlags::IN;
            wanted.set(PollFlags::OUT, connection.is_behind());
            fds.push(PollFd::new(&connection.socket, wanted));
            tokens.push(Token::Connection(connection.number));
        }
        if let Some(stage) = &self.warm {
            fds.push(PollFd::new(&stage.pidfd, PollFlags::IN));
            tokens.push(Token::Child);
        }
        for process in &self.processes {
            if let (Some((_, pidfd)), None) = (&process.child, process.status) {
                fds.push(PollFd::new(pidfd, PollFlags::IN));
                tokens.push(Token::Child);
            }
            if let Some(stage) = &process.stage {
                fds.push(PollFd::new(&stage.socket, PollFlags::IN));
                tokens.push(Token::Report(process.key));
            }
            process.stdio.interests(&mut fds);
            tokens.resize(fds.len(), Token::Streams(process.key));
        }
        let first = Timespec {
            tv_sec: FIRST_CONNECTION_SECONDS,
            tv_nsec: 0,
        };
        poll(&mut fds, (self.accepted == 0).then_some(&first))?;
        let ready = fds
            .iter()
            .zip(tokens)
            .filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, token)| token).collect())
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => {
                while let Some(socket) = control::accept(&self.listener) {
                    self.accepted += 1;
                    self.connections
                        .push(Connection::new(self.accepted, socket));
                }
            }
            Token::Connection(number) => self.serve(number),
            Token::Child => self.reap(WaitOptions::NOHANG),
            Token::Report(key) => self.hear(key),
            Token::Streams(key) => {
                let log = self
                    .container
                    .as_mut()
                    .and_then(|container| container.log.as_mut());
                if let Some(process) = self.processes.iter_mut().find(|process| process.key == key)
                {
                    process.pump(log);
                }
            }
        }
        self.processes.retain(|process| !process.is_done());
    }

    fn serve(&mut self, number: u64) {
        let Some(index) = self
            .connections
            .iter()
            .position(|other| other.number == number)
        else {
            return;
        };
        let connection = &mut self.connections[index];
        let incoming = if connection.flush() {
            connection.receive()
        } else {
            Incoming::Closed
        };
        match incoming {
            Incoming::Request(request) => self.answer(number, request),
            Incoming::Malformed(id) => {
                let failure = Failure::invalid("receive", "the packet is not a request");
                self.send(number, id, Content::Failure(failure.into()));
            }
            Incoming::Nothing => {}
            Incoming::Closed => drop(self.connections.remove(index)),
        }
        linkspan_sys::process::trim_heap();
    }

    /// Sends to one connection, if it is still there.
    fn send(&mut self, number: u64, id: u64, content: Content) {
        let Some(index) = self
            .connections
            .iter()
            .position(|other| other.number == number)
        else {
            return;
        };
        if !self.connections[index].send(id, content) {
            self.connections.remove(index);
        }
    }

    /// Reads the reports of a process that is being made.
    fn hear(&mut self, key: u64) {
        loop {
            let Some(process) = self.processes.iter_mut().find(|process| process.key == key) else {
                return;
            };
            let Some(stage) = &process.stage else { return };
            match stage.hear() {
                Heard::Nothing => return,
                Heard::Report(Report::Cloned { pid, pidfd }) => {
                    process.child = Some((pid, pidfd));
                    if let Some(index) = self.unclaimed.iter().position(|(gone, _)| *gone == pid) {
                        process.status = Some(self.unclaimed.remove(index).1);
                    }
                }
                Heard::Report(Report::Terminal(master)) => {
                    if let Err(errno) = process.stdio.connect_terminal(master) {
                        return self.not_started(key, Failure::system("take the terminal", errno));
                    }
                }
                Heard::Report(Report::Failed(failure)) => return self.not_started(key, failure),
                Heard::End => return self.started(key),
            }
        }
    }

    /// The reports have ended: the program runs, or it was killed on the way.
    fn started(&mut self, key: u64) {
        let Some(process) = self.processes.iter_mut().find(|process| process.key == key) else {
            return;
        };
        let Some((pid, _)) = process.child else {
            let message = "the process that makes the container was killed";
            return self.not_started(key, Failure::of(Kind::System, "start", message));
        };
        process.stage = None;
        let (number, id) = process.asked_by;
        if process.is_first() {
            self.phase = Phase::Running;
            self.first_pid = pid.as_raw_nonzero().get();
        }
        let started = wire::Started {
            pid: pid.as_raw_nonzero().get(),
        };
        self.send(number, id, Content::Started(started));
        // Its end may have been seen before its beginning was told.
        self.settle(key);
    }

    fn not_started(&mut self, key: u64, failure: Failure) {
        let Some(index) = self.processes.iter().position(|process| process.key == key) else {
            return;
        };
        let process = self.processes.remove(index);
        let (number, id) = process.asked_by;
        if process.status.is_none()
            && let Some((pid, pidfd)) = &process.child
        {
            kill_and_reap(*pid, pidfd);
        }
        if process.is_first() {
            self.phase = Phase::Failed;
            self.discard();
        }
        self.send(number, id, Content::Failure(failure.into()));
    }

    /// Reaps every child that has ended: processes, stages, and orphans of either.
    fn reap(&mut self, options: WaitOptions) {
        while let Ok(Some((pid, status))) = wait(options) {
            if self.warm.as_ref().is_some_and(|stage| stage.pid == pid) {
                self.warm = None;
            }
            self.ended(pid, status);
        }
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) {
        let code = exit_code(status);
        let Some(process) = self.processes.iter_mut().find(|process| process.is(pid)) else {
            if self.processes.iter().any(|process| process.stage.is_some()) {
                self.unclaimed.push((pid, code));
            } else {
                self.unclaimed.clear();
            }
            return;
        };
        process.status = Some(code);
        let key = process.key;
        // Why it has ended may still be on the way: then the reports come first.
        self.hear(key);
        self.settle(key);
    }

    /// Draws the consequences of the end of a process that was started.
    fn settle(&mut self, key: u64) {
        let Some(process) = self.processes.iter_mut().find(|process| process.key == key) else {
            return;
        };
        let (Some(exit_code), None) = (process.status, &process.stage) else {
            return;
        };
        if process.child.take().is_none() {
            // Told already.
            return;
        }
        let log = self
            .container
            .as_mut()
            .and_then(|container| container.log.as_mut());
        process.end(log);
        if process.is_first() {
            self.exited(exit_code);
        } else {
            let exec_id = process.exec_id.clone();
            let number = process.asked_by.0;
            self.send(
                number,
                0,
                Content::ExecExited(wire::ExecExit { exec_id, exit_code }),
            );
        }
    }

    /// The container has ended, with every process in it: its first one ends last.
    fn exited(&mut self, exit_code: i32) {
        let finished_at_ns = i64::try_from(now().as_nanos()).unwrap_or(i64::MAX);
        let oom_killed = self.cgroup.as_ref().is_some_and(Cgroup::oom_killed);
        let exit = wire::Exit {
            exit_code,
            finished_at_ns,
            oom_killed,
        };
        if let Some(container) = &self.container {
            if let Err(error) = record::write(&container.exit_record, &exit) {
                crate::warn(&format!("exit record not written, ignoring: {error}"));
            }
            match container.log.as_ref().map_or(0, Log::dropped) {
                0 => {}
                dropped => crate::warn(&format!("{dropped} log records lost, ignoring")),
            }
        }
        self.phase = Phase::Exited(exit);
        self.discard();
        let numbers: Vec<_> = self.connections.iter().map(|other| other.number).collect();
        for number in numbers {
            self.send(number, 0, Content::Exited(exit));
        }
    }

    /// Removes the cgroup, once nothing of the container runs.
    fn discard(&mut self) {
        if matches!(self.phase, Phase::Starting | Phase::Running) {
            return;
        }
        if let Some(stage) = self.warm.take() {
            kill_and_reap(stage.pid, &stage.pidfd);
        }
        // Stages that are about to end would keep the cgroup busy. All others have ended: the
        // kernel ends a PID namespace before it lets go of its first process.
        self.reap(WaitOptions::empty());
        if let Some(cgroup) = self.cgroup.take()
            && let Err(error) = cgroup.remove()
        {
            crate::warn(&format!("cgroup not removed, ignoring: {error}"));
        }
    }

    /// The first process while it can be reached.
    fn init(&self) -> Result<&Process, Failure> {
        let first = self.processes.iter().find(|process| process.is_first());
        match (&self.phase, first) {
            (Phase::Running, Some(process)) => Ok(process),
            _ => Err(self.wrong_state("the container is not running")),
        }
    }

    fn wrong_state(&self, message: &str) -> Failure {
        let state = match self.phase {
            Phase::Waiting => "not started",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Exited(_) => "exited",
            Phase::Failed => "failed to start",
        };
        Failure::of(
            Kind::WrongState,
            "request",
            format!("{message}: it is {state}"),
        )
    }
}

/// As a shell shows it: 128 plus the signal that ended the process.
fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}
