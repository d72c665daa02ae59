//! The shim's side of a start: makes the pipes and the stage, and hears how it went.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linkspan_sys::clone::{CloneOptions, Cloned, clone3};
use linkspan_sys::scm;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::failure::{Failure, Kind, Step};
use crate::init::Streams;
use crate::spec::{Process, Profile};
use crate::stage::{self, MAX_MESSAGE, Piped, Report};

/// A stage that was made, and the socket on which it and its child report.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) socket: OwnedFd,
}

/// The shim's ends of the pipes of a process. With a terminal there are none.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Pipes {
    /// Makes the pipes that a process needs, and gives out its ends of them.
    pub(crate) fn make(process: &Process) -> Result<(Self, Streams), Failure> {
        let piped = Piped::of(process);
        let make = |wanted: bool| {
            let pipe = || pipe_with(PipeFlags::CLOEXEC).step("make a pipe");
            wanted.then(pipe).transpose()
        };
        let (mut pipes, mut streams) = (Self::default(), Streams::default());
        (streams.stdin, pipes.stdin) = make(piped.stdin)?.unzip();
        (pipes.stdout, streams.stdout) = make(piped.output)?.unzip();
        (pipes.stderr, streams.stderr) = make(piped.output)?.unzip();
        for end in [&pipes.stdin, &pipes.stdout, &pipes.stderr]
            .into_iter()
            .flatten()
        {
            rustix::io::ioctl_fionbio(end, true).step("make a pipe")?;
        }
        Ok((pipes, streams))
    }
}

/// What the shim hears from the stage.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing more for now.
    Nothing,
    /// A message.
    Report(Report),
    /// The program runs, or all that could tell are gone.
    End,
}

impl Stage {
    /// Makes the stage of the container: it enters the cgroup and waits for [`Stage::start`].
    pub(crate) fn warm(cgroup: &Cgroup) -> Result<Self, Failure> {
        Self::spawn(cgroup, |socket| stage::run_first(cgroup, socket))
    }

    /// Makes a stage that runs one more process beside `init`.
    pub(crate) fn exec(
        cgroup: &Cgroup,
        init: BorrowedFd<'_>,
        process: (Process, Profile),
        streams: Streams,
    ) -> Result<Self, Failure> {
        Self::spawn(cgroup, |socket| {
            stage::run_exec(cgroup, init, process, streams, socket)
        })
    }

    /// Hands the job to a warm stage: the specification, the network, the streams.
    pub(crate) fn start(
        &self,
        spec: &OwnedFd,
        network: &OwnedFd,
        streams: &Streams,
    ) -> Result<(), Failure> {
        let Streams {
            stdin,
            stdout,
            stderr,
        } = streams;
        let mut fds = vec![spec.as_fd(), network.as_fd()];
        fds.extend(
            [stdin, stdout, stderr]
                .into_iter()
                .flatten()
                .map(AsFd::as_fd),
        );
        scm::send(&self.socket, b"S", &fds).map_err(|error| {
            Failure::of(
                Kind::System,
                "start",
                format!("the stage has ended early: {error}"),
            )
        })
    }

    /// Reads the next report without waiting.
    pub(crate) fn hear(&self) -> Heard {
        let mut buffer = [0; MAX_MESSAGE];
        match scm::receive(&self.socket, &mut buffer) {
            Ok(received) if received.length == 0 => Heard::End,
            Ok(received) => match Report::parse(&buffer[..received.length], received.fds) {
                Some(report) => Heard::Report(report),
                None => Heard::End,
            },
            Err(error) if error.would_block() => Heard::Nothing,
            Err(_broken) => Heard::End,
        }
    }

    fn spawn(cgroup: &Cgroup, run: impl FnOnce(&OwnedFd)) -> Result<Self, Failure> {
        let kind = SocketType::SEQPACKET;
        let (socket, other) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
            .step("make the stage socket")?;
        let unified = cgroup.open_unified()?;
        let options = CloneOptions {
            cgroup: unified.as_ref().map(AsFd::as_fd),
            ..CloneOptions::default()
        };
        let cloned = clone3(options)
            .map_err(|error| Failure::of(Kind::System, "clone", format!("clone: {error}")))?;
        match cloned {
            Cloned::Child => {
                run(&other);
                linkspan_sys::process::exit_now(1)
            }
            Cloned::Parent { pid, pidfd } => {
                rustix::io::ioctl_fionbio(&socket, true).step("make the stage socket")?;
                Ok(Self { pid, pidfd, socket })
            }
        }
    }
}

/// Ends a process that was just made, and waits until it is gone.
pub(crate) fn kill_and_reap(pid: Pid, pidfd: &OwnedFd) {
    let _ended = linkspan_sys::pidfd::send_signal(pidfd, libc::SIGKILL);
    // Repeated only when a signal came in between.
    while let Err(Errno::INTR) =
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
    {}
}
