//! The control group of a sandbox, in every hierarchy. Hierarchies cannot be private to a
//! sandbox, so each has a group with a name of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollTimeout, poll};

const MOUNT: &str = "/sys/fs/cgroup";
/// How long the kernel may take to bury the last process of a group.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where the group is, in each hierarchy that has it.
pub(super) fn directories(group: &str) -> BTreeSet<PathBuf> {
    let relative = group.trim_start_matches('/');
    let mut found = BTreeSet::from([Path::new(MOUNT).join(relative)]);
    for entry in fs::read_dir(MOUNT).into_iter().flatten().flatten() {
        // `cpu` may be a symbolic link to `cpu,cpuacct`; one of them is enough.
        let real = fs::canonicalize(entry.path()).unwrap_or_else(|_gone| entry.path());
        found.insert(real.join(relative));
    }
    found.retain(|path| path.is_dir());
    found
}

/// The groups below the sandbox's own: one for each container that was not removed.
pub(super) fn children(group: &str) -> Vec<PathBuf> {
    directories(group)
        .iter()
        .flat_map(|directory| subdirectories(directory))
        .collect()
}

/// Removes the group and all below it.
pub(super) fn remove(group: &str) -> anyhow::Result<()> {
    let end = Instant::now() + DEADLINE;
    for directory in directories(group) {
        while let Err(error) = remove_tree(&directory) {
            if Instant::now() > end {
                return Err(error).context(format!("remove {}", directory.display()));
            }
            // Nothing tells when a killed process has left a group of version 1.
            poll(&mut [], PollTimeout::from(10_u8))?;
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in subdirectories(directory) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}
