//! The child side: from a cloned process to the user's program, in a straight line.
//!
//! Runs in the container's namespaces, single-threaded, with nothing of the host open but
//! what [`Job`] and [`Streams`] hold. It never returns to the shim's code: a failure goes
//! up the stage socket as one message, and the process leaves by `_exit`.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Uid, fchown};
use rustix::process::{ioctl_tiocsctty, setsid, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::failure::{Failure, Step};
use crate::spec::{Container, First, Process, Profile};
use crate::stage::Report;

use self::mount::Root;
use self::reaper::Side;
use self::rootfs::CgroupView;
use self::seccomp::Filter;
use self::user::Identity;

mod command;
mod credentials;
mod devices;
mod mount;
mod overlay;
mod reaper;
pub(crate) mod rootfs;
pub(crate) mod seccomp;
mod syscalls;
pub(crate) mod terminal;
mod user;

/// The container's ends of the standard streams. None: `/dev/null`, or the terminal.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// What a cloned process is to become.
#[derive(Debug)]
pub(crate) enum Job {
    /// The first process of a container, in new namespaces.
    First {
        container: Box<Container>,
        network: OwnedFd,
        view: CgroupView,
    },
    /// One more process, in the namespaces of the first.
    Exec {
        process: Box<Process>,
        profile: Profile,
    },
}

impl Job {
    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::First { container, .. } => &container.process,
            Self::Exec { process, .. } => process,
        }
    }

    pub(crate) fn profile(&self) -> Profile {
        match self {
            Self::First { container, .. } => container.profile,
            Self::Exec { profile, .. } => *profile,
        }
    }
}

/// Becomes the job, or reports why not.
pub(crate) fn run(job: &Job, streams: Streams, filter: Option<&Filter>, report: &OwnedFd) -> ! {
    let Err(failure) = become_job(job, streams, filter, report);
    Report::Failed(failure).send(report);
    linkspan_sys::process::exit_now(1);
}

fn become_job(
    job: &Job,
    streams: Streams,
    filter: Option<&Filter>,
    report: &OwnedFd,
) -> Result<Infallible, Failure> {
    let process = job.process();
    setsid().step("start a session")?;
    umask(rustix::fs::Mode::empty());
    let root = match job {
        Job::First {
            container,
            network,
            view,
        } => {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .step("join the network namespace")?;
            name_host(container)?;
            rootfs::enter(container, *view)?
        }
        Job::Exec { .. } => Root::open()?,
    };
    let identity = command::identity(process)?;
    let terminal = connect(process, streams, &identity, report)?;
    if let Job::First { container, .. } = job {
        if let Some(terminal) = &terminal {
            devices::bind_console(&root, terminal)?;
        }
        rootfs::protect(&root, container)?;
    }
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Job::First { container, .. } = job
        && container.first == First::Reaper
    {
        match reaper::fork()? {
            Side::Reaper(command) => reap(command, terminal),
            Side::Command => setsid().step("start a session")?,
        };
    }
    if terminal.is_some() {
        ioctl_tiocsctty(rustix::stdio::stdin()).step("take the terminal")?;
    }
    execute(&root, process, &identity, job.profile(), filter)
}

/// The reaper's life: it holds nothing that the command or the shim waits for the end of.
fn reap(command: nix::unistd::Pid, terminal: Option<OwnedFd>) -> ! {
    drop(terminal);
    let _closes_all_or_none = linkspan_sys::process::close_all_except(&[]);
    if let Ok(null) = devices::open_null() {
        let _kept = (dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null));
    }
    linkspan_sys::process::exit_now(reaper::run(command));
}

fn name_host(container: &Container) -> Result<(), Failure> {
    if !container.hostname.is_empty() {
        rustix::system::sethostname(container.hostname.as_bytes()).step("set the host name")?;
    }
    if !container.domainname.is_empty() {
        rustix::system::setdomainname(container.domainname.as_bytes())
            .step("set the domain name")?;
    }
    Ok(())
}

/// Puts the standard streams in place. With a terminal, its other side goes to the shim.
fn connect(
    process: &Process,
    streams: Streams,
    identity: &Identity,
    report: &OwnedFd,
) -> Result<Option<OwnedFd>, Failure> {
    let step = "connect the standard streams";
    let owner = Some(Uid::from_raw(identity.uid));
    if let Some(size) = process.terminal {
        let pair = terminal::open(size)?;
        fchown(&pair.peer, owner, None::<Gid>).step(step)?;
        dup2_stdin(&pair.peer).step(step)?;
        dup2_stdout(&pair.peer).step(step)?;
        dup2_stderr(&pair.peer).step(step)?;
        Report::Terminal(pair.master).send(report);
        return Ok(Some(pair.peer));
    }
    let place = |stream: Option<OwnedFd>, put: fn(OwnedFd) -> rustix::io::Result<()>| {
        let stream = match stream {
            // The user may open /dev/stdout again, for which the pipe must be theirs.
            Some(pipe) => fchown(&pipe, owner, None::<Gid>).step(step).map(|()| pipe),
            None => devices::open_null(),
        };
        put(stream?).step(step)
    };
    place(streams.stdin, dup2_stdin)?;
    place(streams.stdout, dup2_stdout)?;
    place(streams.stderr, dup2_stderr)?;
    Ok(None)
}

fn execute(
    root: &Root,
    process: &Process,
    identity: &Identity,
    profile: Profile,
    filter: Option<&Filter>,
) -> Result<Infallible, Failure> {
    command::enter_directory(root, &process.cwd)?;
    let env = command::environment(process, identity);
    let name: &CString = &process.args[0];
    let program = command::find_program(name, &env)?;
    linkspan_sys::process::close_others_on_exec().step("close descriptors")?;
    linkspan_sys::process::reset_signals();
    credentials::become_identity(identity, profile, filter)?;
    let Err(errno) = nix::unistd::execve(&program, &process.args, &env);
    Err(command::explain(
        name,
        rustix::io::Errno::from_raw_os_error(errno as i32),
    ))
}
