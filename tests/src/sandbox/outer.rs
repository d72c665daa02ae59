//! The process outside: makes the namespaces, forwards signals, removes control groups.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::cgroup;

/// Runs the sandbox and gives the status to exit with.
pub(super) fn run() -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("find this program")?;
    let before = namespace_inode()?;
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let signals = SignalFd::new(&mask)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .context("unshare the namespaces")?;
    anyhow::ensure!(
        namespace_inode()? != before,
        "the network namespace is still the machine's; refusing to go on"
    );
    let no_source: Option<&str> = None;
    mount(
        no_source,
        "/",
        no_source,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        no_source,
    )
    .context("make the mounts private")?;
    // Tests within a sandbox name their groups by process ids of its own namespace.
    let group = format!("/linkspan-test-box{}", std::process::id());
    let own: Vec<OsString> = std::env::args_os().skip(1).collect();
    let child = Command::new(program)
        .args(["--init", &group])
        .args(own)
        .spawn()
        .context("start PID 1 of the sandbox")?;
    let init = Pid::from_raw(i32::try_from(child.id())?);
    let status = wait(init, &signals);
    let left = cgroup::remove(&group);
    let status = status?;
    left?;
    Ok(status)
}

/// Waits for PID 1 and passes on what asks the sandbox to end.
fn wait(init: Pid, signals: &SignalFd) -> anyhow::Result<u8> {
    loop {
        match waitpid(init, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => return Ok(u8::try_from(code)?),
            WaitStatus::Signaled(_, signal, _) => return Ok(super::init::by_signal(signal)),
            _ => {}
        }
        let Some(information) = signals.read_signal()? else {
            continue;
        };
        let signal = Signal::try_from(i32::try_from(information.ssi_signo)?)?;
        // A terminal sends to the whole group, and says so by a code above zero.
        if signal != Signal::SIGCHLD && information.ssi_code <= 0 {
            kill(init, signal).context("pass on a signal")?;
        }
    }
}

fn namespace_inode() -> anyhow::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")
        .context("look at the network namespace")?
        .ino())
}
