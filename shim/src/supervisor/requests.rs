//! What each request does.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use linkspan_proto::shim_v1 as wire;
use linkspan_sys::{memfd, pidfd};
use prost::Message;
use wire::shim_message::Content;
use wire::shim_request::Operation;

use super::{Container, Phase, Supervisor};
use crate::cgroup::Cgroup;
use crate::control::{Request, client_streams};
use crate::failure::{Failure, Kind, Step};
use crate::log::Log;
use crate::parent::{Pipes, Stage};
use crate::process::Process;
use crate::spec::{self, Stdin, TerminalSize};
use crate::stdio::Stdio;

impl Supervisor {
    /// Carries out a request. A start or an exec is answered when its program runs.
    pub(super) fn answer(&mut self, number: u64, request: Request) {
        let Request {
            id,
            operation,
            mut fds,
        } = request;
        let asked_by = (number, id);
        let done = |()| Some(Content::Done(wire::Done {}));
        let answer = match operation {
            Operation::Start(start) => self.start(asked_by, start, &mut fds).map(|()| None),
            Operation::Exec(exec) => self.exec(asked_by, exec, &mut fds).map(|()| None),
            Operation::Signal(signal) => self.signal(&signal).map(done),
            Operation::Attach(attach) => self.attach(attach, &mut fds).map(done),
            Operation::Resize(resize) => self.resize(&resize).map(done),
            Operation::State(wire::StateRequest {}) => Ok(Some(Content::State(self.state()))),
            Operation::Shutdown(wire::ShutdownRequest {}) => self.shutdown().map(done),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(content)) => self.send(number, id, content),
            Err(failure) => self.send(number, id, Content::Failure(failure.into())),
        }
    }

    fn start(
        &mut self,
        asked_by: (u64, u64),
        start: wire::StartRequest,
        fds: &mut VecDeque<OwnedFd>,
    ) -> Result<(), Failure> {
        if !matches!(self.phase, Phase::Waiting) {
            return Err(self.wrong_state("a container starts once"));
        }
        let spec_fd = take_fd(fds, "a specification")?;
        let network = take_fd(fds, "a network namespace")?;
        let client = client_streams(start.streams, fds)?;
        let plan = spec::Container::from_wire(read(&spec_fd)?)?;
        let stage = self.warm_stage(&plan)?;
        let log = plan.log.map(Log::open).transpose().map_err(|error| {
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
            Failure::system("open the log", errno)
        })?;
        let (pipes, streams) = Pipes::make(&plan.process)?;
        stage.start(&spec_fd, &network, &streams)?;
        self.phase = Phase::Starting;
        self.container = Some(Container {
            profile: plan.profile,
            exit_record: plan.exit_record,
            log,
        });
        self.processes.push(Process {
            key: Process::FIRST,
            exec_id: String::new(),
            asked_by,
            stage: Some(stage),
            child: None,
            status: None,
            stdio: Stdio::new(pipes, plan.process.stdin, client),
        });
        Ok(())
    }

    /// The stage that was made ahead, or one made now if it was made for another cgroup.
    fn warm_stage(&mut self, plan: &spec::Container) -> Result<Stage, Failure> {
        let fits = self
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.path() == plan.cgroup_path);
        if !fits {
            self.discard();
            let cgroup = Cgroup::new(plan.cgroup_path.clone())?;
            self.cgroup.insert(cgroup).create()?;
        }
        match (self.warm.take(), &self.cgroup) {
            (Some(stage), _) => Ok(stage),
            (None, Some(cgroup)) => Stage::warm(cgroup),
            (None, None) => Err(self.wrong_state("there is no control group")),
        }
    }

    fn exec(
        &mut self,
        asked_by: (u64, u64),
        exec: wire::ExecRequest,
        fds: &mut VecDeque<OwnedFd>,
    ) -> Result<(), Failure> {
        let not_running = "the container is not running";
        let (Some(cgroup), Some(container)) = (&self.cgroup, &self.container) else {
            return Err(self.wrong_state(not_running));
        };
        let Some((_, init)) = &self.init()?.child else {
            return Err(self.wrong_state(not_running));
        };
        if exec.exec_id.is_empty() || self.find(&exec.exec_id).is_ok() {
            let message = format!("the exec name \"{}\" is empty or taken", exec.exec_id);
            return Err(Failure::of(Kind::WrongState, "exec", message));
        }
        let spec: wire::ProcessSpec = read(&take_fd(fds, "a process specification")?)?;
        let client = client_streams(exec.streams, fds)?;
        let process = spec::Process::from_wire(spec)?;
        let stdin = match process.stdin {
            Stdin::Null => Stdin::Null,
            // No second client can ever attach to an exec.
            Stdin::Open | Stdin::Once => Stdin::Once,
        };
        let (pipes, streams) = Pipes::make(&process)?;
        let stage = Stage::exec(cgroup, init.as_fd(), (process, container.profile), streams)?;
        self.execs += 1;
        self.processes.push(Process {
            key: self.execs,
            exec_id: exec.exec_id,
            asked_by,
            stage: Some(stage),
            child: None,
            status: None,
            stdio: Stdio::new(pipes, stdin, client),
        });
        Ok(())
    }

    fn signal(&self, request: &wire::SignalRequest) -> Result<(), Failure> {
        let kill = request.signal == libc::SIGKILL;
        if request.all && !kill {
            return Err(Failure::invalid(
                "signal",
                "only SIGKILL can go to every process",
            ));
        }
        self.init()?;
        let process = self.find(&request.exec_id)?;
        let Some((_, target)) = &process.child else {
            return Err(Failure::of(
                Kind::WrongState,
                "signal",
                "the process has ended",
            ));
        };
        if kill && let Some(cgroup) = &self.cgroup {
            cgroup.thaw();
            if request.all && cgroup.kill() {
                return Ok(());
            }
        }
        // The end of the first process is the end of its PID namespace, so of all.
        pidfd::send_signal(target, request.signal).step("signal")
    }

    fn attach(
        &mut self,
        attach: wire::AttachRequest,
        fds: &mut VecDeque<OwnedFd>,
    ) -> Result<(), Failure> {
        self.init()?;
        let client = client_streams(attach.streams, fds)?;
        if let Some(first) = self.processes.iter_mut().find(|process| process.is_first()) {
            first.stdio.attach(client);
        }
        Ok(())
    }

    fn resize(&self, resize: &wire::ResizeRequest) -> Result<(), Failure> {
        self.init()?;
        let size = TerminalSize::from_wire(resize.size.unwrap_or_default());
        let process = self.find(&resize.exec_id)?;
        if process.stdio.resize(size).step("resize")? {
            return Ok(());
        }
        Err(Failure::of(
            Kind::WrongState,
            "resize",
            "the process has no terminal",
        ))
    }

    fn state(&self) -> wire::State {
        let exit = match &self.phase {
            Phase::Exited(exit) => Some(*exit),
            Phase::Waiting | Phase::Starting | Phase::Running | Phase::Failed => None,
        };
        wire::State {
            pid: self.first_pid,
            exit,
        }
    }

    fn shutdown(&mut self) -> Result<(), Failure> {
        if matches!(self.phase, Phase::Starting | Phase::Running) {
            return Err(self.wrong_state("the container has not ended"));
        }
        self.finished = true;
        Ok(())
    }

    /// A process by its name; the empty one is the first.
    fn find(&self, exec_id: &str) -> Result<&Process, Failure> {
        self.processes
            .iter()
            .find(|process| process.exec_id == exec_id)
            .ok_or_else(|| Failure::of(Kind::WrongState, "exec", "there is no such exec process"))
    }
}

fn take_fd(fds: &mut VecDeque<OwnedFd>, what: &str) -> Result<OwnedFd, Failure> {
    let missing = || Failure::invalid("receive", format!("the message came without {what}"));
    fds.pop_front().ok_or_else(missing)
}

fn read<M: Message + Default>(fd: &OwnedFd) -> Result<M, Failure> {
    let step = "read the specification";
    let bytes = memfd::read(fd).map_err(|error| Failure::invalid(step, error.to_string()))?;
    M::decode(bytes.as_slice()).map_err(|error| Failure::invalid(step, error.to_string()))
}
