//! The stage: a short-lived process between the shim and what it starts.
//!
//! ```text
//!   shim ── clone3(into the v2 cgroup) ──> stage: enters the v1 cgroups, drops limits and
//!     |                                      |    keyring of the host, compiles the filter
//!     | ── Job ──────────────────────────>   |
//!     |                                      └─ clone3(CLONE_PARENT, new namespaces) ──> init
//!     | <── Report::Cloned(pid, pidfd) ───── exits                                        |
//!     | <── Report::Terminal / Report::Failed ─────────────────────────────────────────── |
//!     | <── end of file: the program runs ─────────────────────────────────────── exec ── |
//! ```
//!
//! It exists because entering a v1 cgroup waits up to 7 ms for the kernel: the stage of a
//! container does that while runtimed still asks netd for addresses, and its child is
//! *born* in the right place. An exec takes the same path, with `setns` in between.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linkspan_proto::shim_v1 as wire;
use linkspan_sys::clone::{CloneOptions, Cloned, Namespaces, Parent, clone3};
use linkspan_sys::{keyring, memfd, process, scm};
use prost::Message;
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::cgroup::Cgroup;
use crate::failure::{Failure, Kind, Step};
use crate::init::rootfs::CgroupView;
use crate::init::seccomp::Filter;
use crate::init::{self, Job, Streams};
use crate::spec::{Container, Process, Profile};

/// Longest message on the stage socket.
pub(crate) const MAX_MESSAGE: usize = 8 << 10;
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// What comes back from the stage and its child. One packet each.
#[derive(Debug)]
pub(crate) enum Report {
    /// The child exists; nothing runs in it yet.
    Cloned { pid: Pid, pidfd: OwnedFd },
    /// The shim's side of the child's terminal.
    Terminal(OwnedFd),
    /// It came to nothing. The last message.
    Failed(Failure),
}

impl Report {
    /// Sends it. When the shim is gone there is nobody left to tell.
    pub(crate) fn send(&self, socket: impl AsFd) {
        let _gone = match self {
            Self::Cloned { pid, pidfd } => {
                let mut bytes = vec![b'C'];
                bytes.extend_from_slice(&pid.as_raw_nonzero().get().to_le_bytes());
                scm::send(socket, &bytes, &[pidfd.as_fd()])
            }
            Self::Terminal(master) => scm::send(socket, b"T", &[master.as_fd()]),
            Self::Failed(failure) => {
                let mut bytes = vec![b'F'];
                bytes.extend(wire::Failure::from(failure.clone()).encode_to_vec());
                scm::send(socket, &bytes, &[])
            }
        };
    }

    /// Reads one. `None` is one that makes no sense.
    pub(crate) fn parse(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let fd = fds.into_iter().next();
        match tag {
            b'C' => {
                let pid = Pid::from_raw(i32::from_le_bytes(rest.try_into().ok()?))?;
                Some(Self::Cloned { pid, pidfd: fd? })
            }
            b'T' => Some(Self::Terminal(fd?)),
            b'F' => Some(Self::Failed(wire::Failure::decode(rest).ok()?.into())),
            _ => None,
        }
    }
}

/// Which of a container's streams are pipes, in the order of their descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piped {
    pub(crate) stdin: bool,
    pub(crate) output: bool,
}

impl Piped {
    pub(crate) fn of(process: &Process) -> Self {
        let pipes = process.terminal.is_none();
        Self {
            stdin: pipes && process.stdin != crate::spec::Stdin::Null,
            output: pipes,
        }
    }

    fn take(self, fds: &mut impl Iterator<Item = OwnedFd>) -> Streams {
        let mut next = |wanted: bool| wanted.then(|| fds.next()).flatten();
        Streams {
            stdin: next(self.stdin),
            stdout: next(self.output),
            stderr: next(self.output),
        }
    }
}

/// The stage of a container: gets ready, waits for the job, launches it.
pub(crate) fn run_first(cgroup: &Cgroup, socket: &OwnedFd) -> ! {
    let ready = prepare(cgroup, socket, &[]);
    let mut byte = [0; 1];
    let received = match scm::receive(socket, &mut byte) {
        Ok(received) if received.length > 0 => received,
        // The shim has ended without a job.
        _ => process::exit_now(0),
    };
    let launched = ready.and_then(|()| {
        let mut fds = received.fds.into_iter();
        let missing = || Failure::invalid("start", "the stage got too few descriptors");
        let spec = memfd::read(fds.next().ok_or_else(missing)?)
            .map_err(|error| Failure::invalid("read the specification", error.to_string()))?;
        let spec = wire::ContainerSpec::decode(spec.as_slice())
            .map_err(|error| Failure::invalid("read the specification", error.to_string()))?;
        let container = Box::new(Container::from_wire(spec)?);
        let network = fds.next().ok_or_else(missing)?;
        let streams = Piped::of(&container.process).take(&mut fds);
        cgroup.limit(&container.resources)?;
        let unified = cgroup.is_unified_only();
        let view = if unified {
            CgroupView::Unified
        } else {
            CgroupView::None
        };
        launch(
            &Job::First {
                container,
                network,
                view,
            },
            streams,
            Namespaces::Container,
            socket,
        )
    });
    finish(launched, socket)
}

/// The stage of an exec: joins the container that `init` is the first process of.
pub(crate) fn run_exec(
    cgroup: &Cgroup,
    init: BorrowedFd<'_>,
    (process, profile): (Process, Profile),
    streams: Streams,
    socket: &OwnedFd,
) -> ! {
    let pipes = [&streams.stdin, &streams.stdout, &streams.stderr];
    let mut kept: Vec<_> = pipes.into_iter().flatten().map(AsFd::as_fd).collect();
    kept.push(init);
    let launched = prepare(cgroup, socket, &kept).and_then(|()| {
        let namespaces = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::PROCESS_ID
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::CONTROL_GROUP;
        move_into_thread_name_spaces(init, namespaces).step("join the container")?;
        let job = Job::Exec {
            process: Box::new(process),
            profile,
        };
        launch(&job, streams, Namespaces::Shared, socket)
    });
    finish(launched, socket)
}

fn finish(launched: Result<(), Failure>, socket: &OwnedFd) -> ! {
    match launched {
        Ok(()) => process::exit_now(0),
        Err(failure) => {
            Report::Failed(failure).send(socket);
            process::exit_now(1)
        }
    }
}

/// Everything that does not depend on the job and that its process inherits.
fn prepare(cgroup: &Cgroup, socket: &OwnedFd, kept: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    let mut kept = kept.to_vec();
    kept.push(socket.as_fd());
    process::close_all_except(&kept).step("close descriptors")?;
    // No process of the container may look into this one, or open its program (CVE-2016-9962).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become undumpable")?;
    // Before the cgroup, where the limit for processes counts.
    raise_oom_score();
    cgroup.enter_v1()?;
    limit_resources();
    // A user's quota of keys may be used up; then the container has none of its own, and
    // still cannot reach any, since the filter denies keyctl.
    let _quota = keyring::join_new_session();
    Ok(())
}

/// Clones the process that does the job, as a child of the shim.
fn launch(
    job: &Job,
    streams: Streams,
    namespaces: Namespaces,
    socket: &OwnedFd,
) -> Result<(), Failure> {
    let profile = job.profile();
    let filter = profile
        .seccomp
        .then(|| Filter::compile(profile.capabilities))
        .transpose()?;
    let options = CloneOptions {
        namespaces,
        parent: Parent::CallersParent,
        cgroup: None,
    };
    let cloned = clone3(options)
        .map_err(|error| Failure::of(Kind::System, "clone", format!("clone: {error}")))?;
    match cloned {
        Cloned::Child => init::run(job, streams, filter.as_ref(), socket),
        Cloned::Parent { pid, pidfd } => {
            Report::Cloned { pid, pidfd }.send(socket);
            Ok(())
        }
    }
}

/// Undoes a protection from the memory killer that the daemon may have. To go below 0
/// would need a privilege, to go up to it none.
fn raise_oom_score() {
    let file = "/proc/self/oom_score_adj";
    let protected = std::fs::read_to_string(file).is_ok_and(|text| text.starts_with('-'));
    if protected {
        let _stays_protected = std::fs::write(file, "0");
    }
}

/// Sets what a service manager would set, as far as this process may: a limit above its
/// own hard one is cut to it.
fn limit_resources() {
    let (soft, hard) = OPEN_FILES;
    let wanted = Rlimit {
        current: Some(soft),
        maximum: Some(hard),
    };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        let hard = getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(hard)
            .min(hard);
        let cut = Rlimit {
            current: Some(soft.min(hard)),
            maximum: Some(hard),
        };
        let _unchanged = setrlimit(Resource::Nofile, cut);
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _lowering_needs_no_privilege = setrlimit(Resource::Core, none);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_socket() {
        let failure = Failure::of(Kind::CommandNotFound, "exec", "exec \"x\": not found");
        let mut bytes = vec![b'F'];
        bytes.extend(wire::Failure::from(failure.clone()).encode_to_vec());
        let report = Report::parse(&bytes, Vec::new());
        assert!(matches!(report, Some(Report::Failed(parsed)) if parsed == failure));
    }

    #[test]
    fn messages_that_make_no_sense_are_none() {
        for bytes in [&b""[..], b"C", b"C1234", b"T", b"X", b"F\xff"] {
            assert!(Report::parse(bytes, Vec::new()).is_none(), "{bytes:?}");
        }
    }
}
