//! Ends a container whose shim was killed.
//!
//! Nobody keeps its streams, its log or its end any more, so it is ended, too: that is the
//! rule. The process is known by a handle that no other process ever gets, not by a number;
//! kernels before 6.14 have no such handles, and there it is who is in the control group, which
//! has the container's id for a name.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
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
    let cgroup = run_paths(engine, id).cgroup;
    let processes = match run.process.as_deref() {
        Some(bytes) => reopen(bytes).into_iter().collect(),
        None => members(Path::new(CGROUP_ROOT), &cgroup),
    };
    if !processes.is_empty() {
        tracing::warn!(
            container_id = id,
            "the shim died before its container, ending it"
        );
    }
    for process in &processes {
        if let Err(error) = pidfd::send_signal(process, Signal::SIGKILL as i32) {
            tracing::warn!(container_id = id, %error, "kill the container, ignoring");
        }
    }
    for process in processes {
        if let Ok(process) = async_fd::register(process)
            && tokio::time::timeout(END_TIMEOUT, process.readable())
                .await
                .is_err()
        {
            tracing::error!(container_id = id, "the container does not end");
        }
    }
    let removed = engine.blocking(move |_| {
        remove_cgroups(Path::new(CGROUP_ROOT), &cgroup);
        Ok(())
    });
    removed.await.ok();
}

fn reopen(bytes: &[u8]) -> Option<OwnedFd> {
    let handle = Handle::from_bytes(bytes.try_into().ok()?);
    pidfd::reopen(handle).ok()
}

/// The processes of a control group. A number is looked for again once the process that has
/// it is held: whoever is still listed then is the one.
fn members(root: &Path, cgroup: &str) -> Vec<OwnedFd> {
    let listed = || -> BTreeSet<i32> {
        directories(root, cgroup)
            .filter_map(|group| std::fs::read_to_string(group.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().flat_map(str::parse).collect::<Vec<_>>())
            .collect()
    };
    let held: Vec<(i32, OwnedFd)> = listed()
        .into_iter()
        .filter_map(|pid| Some((pid, pidfd::open(Pid::from_raw(pid)?).ok()?)))
        .collect();
    let still = listed();
    held.into_iter()
        .filter(|(pid, _)| still.contains(pid))
        .map(|(_, process)| process)
        .collect()
}

/// Removes a control group from every hierarchy below `root`; most have none, and then
/// there is nothing to say.
fn remove_cgroups(root: &Path, cgroup: &str) {
    for group in directories(root, cgroup) {
        std::fs::remove_dir(group).ok();
    }
}

/// Where a control group may be: in a hierarchy of v1, or in the one of v2.
fn directories(root: &Path, cgroup: &str) -> impl Iterator<Item = PathBuf> {
    let relative = PathBuf::from(cgroup.trim_start_matches('/'));
    let hierarchies = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    hierarchies
        .chain([PathBuf::from(root)])
        .map(move |hierarchy| hierarchy.join(&relative))
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
    fn the_members_of_a_control_group_are_held() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("pids/linkspan/a");
        std::fs::create_dir_all(&group).unwrap();
        let nobody = i32::MAX;
        let listed = format!("{}\n{nobody}\n", std::process::id());
        std::fs::write(group.join("cgroup.procs"), listed).unwrap();
        assert_eq!(members(root.path(), "/linkspan/a").len(), 1);
        assert!(members(root.path(), "/linkspan/b").is_empty());
    }

    #[test]
    fn a_handle_leads_back_to_the_process_and_never_to_another() {
        let own = i32::try_from(std::process::id()).unwrap();
        let Some(handle) = handle_of(own) else { return };
        reopen(&handle).expect("this process is alive");
        assert!(reopen(b"short").is_none());
    }
}
