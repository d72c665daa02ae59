//! Ends a container whose shim was killed.
//!
//! Nobody keeps its streams, its log or its end any more, so it is ended, too: that is the
//! rule. The process is known by a handle that no other process ever gets, not by a number.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use linkspan_sys::pidfd::{self, Handle};
use nix::sys::signal::Signal;
use rustix::process::Pid;

use super::launch::run_paths;
use super::record::Run;
use crate::async_fd;
use crate::engine::Engine;

/// Where the kernel's control groups are.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// How long a killed process may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The handle of a process, for a record; none where the kernel has no such handles.
pub(crate) fn handle_of(pid: i32) -> Option<Vec<u8>> {
    let pidfd = pidfd::open(Pid::from_raw(pid)?).ok()?;
    pidfd::handle(&pidfd)
        .ok()
        .map(|handle| handle.to_bytes().to_vec())
}

/// Kills the first process of a run, which ends all of them, and removes the control groups
/// that the shim would have removed. A run that has ended is left alone.
pub(crate) async fn end(engine: &Arc<Engine>, run: &Run) {
    let id = &run.container_id;
    if let Some(process) = run.process.as_deref().and_then(reopen) {
        tracing::warn!(
            container_id = id,
            "the shim died before its container, ending it"
        );
        if let Err(error) = pidfd::send_signal(&process, Signal::SIGKILL as i32) {
            tracing::warn!(container_id = id, %error, "kill the container, ignoring");
        }
        if let Ok(process) = async_fd::register(process)
            && tokio::time::timeout(END_TIMEOUT, process.readable())
                .await
                .is_err()
        {
            tracing::error!(container_id = id, "the container does not end");
        }
    }
    let cgroup = run_paths(engine, id).cgroup;
    let removed = engine.blocking(move |_| {
        remove_cgroups(Path::new(CGROUP_ROOT), &cgroup);
        Ok(())
    });
    removed.await.ok();
}

fn reopen(bytes: &[u8]) -> Option<std::os::fd::OwnedFd> {
    let handle = Handle::from_bytes(bytes.try_into().ok()?);
    pidfd::reopen(handle).ok()
}

/// Removes a control group from every hierarchy below `root`; most have none, and then
/// there is nothing to say.
fn remove_cgroups(root: &Path, cgroup: &str) {
    let relative = cgroup.trim_start_matches('/');
    let hierarchies = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for hierarchy in hierarchies.chain([PathBuf::from(root)]) {
        std::fs::remove_dir(hierarchy.join(relative)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_of_every_hierarchy_are_removed() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "memory/linkspan/a",
            "pids/linkspan/a",
            "linkspan/a",
            "pids/linkspan/b",
        ] {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
        }
        remove_cgroups(root.path(), "/linkspan/a");
        assert!(!root.path().join("memory/linkspan/a").exists());
        assert!(!root.path().join("linkspan/a").exists());
        assert!(root.path().join("pids/linkspan/b").exists());
    }

    #[test]
    fn a_handle_leads_back_to_the_process_and_never_to_another() {
        let own = i32::try_from(std::process::id()).unwrap();
        let Some(handle) = handle_of(own) else { return };
        reopen(&handle).expect("this process is alive");
        assert!(reopen(b"short").is_none());
    }
}
