//! The control group of one container, in every hierarchy of the host.
//!
//! The files are written directly: cgroups-rs discards the error when a memory limit is
//! refused, knows no hybrid hosts (limits on v1, `cgroup.kill` on v2), and brings a D-Bus
//! stack into a process that is resident once per container.
//!
//! **Invariant:** the shim itself is never inside; only the stage and what it clones.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use linkspan_proto::shim_v1 as wire;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use self::hierarchy::{Hierarchies, Version};
use self::limits::{Write, limits};
use crate::failure::Failure;

pub(crate) mod hierarchy;
pub(crate) mod limits;

/// What Docker lets a container do with devices: make any node, use only the harmless ones.
const DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The control group of one container.
#[derive(Debug)]
pub(crate) struct Cgroup {
    hierarchies: Hierarchies,
    path: PathBuf,
}

impl Cgroup {
    /// Names the group; nothing is made yet.
    pub(crate) fn new(path: PathBuf) -> Result<Self, Failure> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| failed("read /proc/self/mountinfo", &error))?;
        Ok(Self {
            hierarchies: Hierarchies::parse(&mountinfo),
            path,
        })
    }

    /// The path below the root of each hierarchy.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directories. Those that exist already are taken over.
    pub(crate) fn create(&self) -> Result<(), Failure> {
        for hierarchy in self.hierarchies.all() {
            let directory = hierarchy.mount.join(&self.path);
            if hierarchy.version == Version::V2 && self.hierarchies.v1.is_empty() {
                self.delegate(&hierarchy.mount);
            }
            fs::create_dir_all(&directory).map_err(|error| failed("create cgroup", &error))?;
            if hierarchy.has("cpuset") && hierarchy.version == Version::V1 {
                inherit_cpuset(&hierarchy.mount, &self.path)?;
            }
            if hierarchy.has("devices") {
                restrict_devices(&directory)?;
            }
        }
        Ok(())
    }

    /// Makes the controllers available below each directory on the way. One that the host
    /// does not hand on is missed later, when a limit that needs it is written.
    fn delegate(&self, mount: &Path) {
        let mut directory = mount.to_owned();
        for part in &self.path {
            for controller in ["+cpu", "+cpuset", "+memory", "+pids"] {
                let _unavailable = fs::write(directory.join("cgroup.subtree_control"), controller);
            }
            directory.push(part);
            let _exists = fs::create_dir(&directory);
        }
    }

    /// The directory on v2, for a process to be born in.
    pub(crate) fn open_unified(&self) -> Result<Option<OwnedFd>, Failure> {
        let Some(directory) = self.unified() else {
            return Ok(None);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &directory, flags, Mode::empty())
            .map(Some)
            .map_err(|errno| Failure::system("open cgroup", errno))
    }

    /// Moves the calling process into the v1 groups. After an idle moment each kernel waits
    /// here for an RCU grace period, which is why the stage does it early.
    pub(crate) fn enter_v1(&self) -> Result<(), Failure> {
        for hierarchy in &self.hierarchies.v1 {
            write(&hierarchy.mount.join(&self.path).join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Writes the limits that were asked for.
    pub(crate) fn limit(&self, resources: &wire::Resources) -> Result<(), Failure> {
        let version = self.hierarchies.limits();
        for Write {
            controller,
            file,
            value,
        } in limits(resources, version)
        {
            let hierarchy = self.hierarchies.of(controller).ok_or_else(|| {
                let message = format!("the host has no cgroup controller `{controller}`");
                Failure::invalid("limit resources", message)
            })?;
            write(&hierarchy.mount.join(&self.path).join(file), &value)?;
        }
        Ok(())
    }

    /// Whether the container sees cgroup v2 as its only hierarchy.
    pub(crate) fn is_unified_only(&self) -> bool {
        self.hierarchies.v1.is_empty() && self.hierarchies.v2.is_some()
    }

    /// Kills every process at once. `false` when this kernel cannot, or the group is gone.
    pub(crate) fn kill(&self) -> bool {
        self.unified()
            .is_some_and(|group| fs::write(group.join("cgroup.kill"), "1").is_ok())
    }

    /// Lets a frozen container run on, so that it can die: a v1 freezer holds even SIGKILL back.
    pub(crate) fn thaw(&self) {
        if let Some(freezer) = self.hierarchies.of("freezer") {
            let state = freezer.mount.join(&self.path).join("freezer.state");
            let _not_there = fs::write(state, "THAWED");
        }
        if let Some(group) = self.unified() {
            let _not_there = fs::write(group.join("cgroup.freeze"), "0");
        }
    }

    /// Whether the memory limit ended a process of this group.
    pub(crate) fn oom_killed(&self) -> bool {
        let Some(hierarchy) = self.hierarchies.of("memory") else {
            return false;
        };
        let file = match hierarchy.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        fs::read_to_string(hierarchy.mount.join(&self.path).join(file))
            .is_ok_and(|text| oom_kills(&text) > 0)
    }

    /// Removes the directories. To be repeated at will.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for hierarchy in self.hierarchies.all() {
            match fs::remove_dir(hierarchy.mount.join(&self.path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
                _ => {}
            }
        }
        result
    }

    fn unified(&self) -> Option<PathBuf> {
        Some(self.hierarchies.v2.as_ref()?.mount.join(&self.path))
    }
}

/// A new cpuset of v1 is empty, and nothing can enter it; so each level takes over its parent's.
fn inherit_cpuset(mount: &Path, path: &Path) -> Result<(), Failure> {
    let mut parent = mount.to_owned();
    for part in path {
        let child = parent.join(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let read = |directory: &Path| {
                fs::read_to_string(directory.join(file))
                    .map_err(|error| failed("read cpuset", &error))
            };
            if read(&child)?.trim().is_empty() {
                write(&child.join(file), read(&parent)?.trim())?;
            }
        }
        parent = child;
    }
    Ok(())
}

/// Denies all devices but the harmless ones. Only on v1: v2 has no file for it but a BPF
/// program, and there `nodev` on every mount but `/dev` holds the line.
fn restrict_devices(directory: &Path) -> Result<(), Failure> {
    write(&directory.join("devices.deny"), "a")?;
    for rule in DEVICES {
        write(&directory.join("devices.allow"), rule)?;
    }
    Ok(())
}

fn oom_kills(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .find_map(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

fn write(file: &Path, value: &str) -> Result<(), Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    fs::write(file, value).map_err(|error| failed(&format!("write `{value}` to {name}"), &error))
}

fn failed(step: &str, error: &io::Error) -> Failure {
    Failure::system(step, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_memory_kills_is_found_in_both_forms() {
        assert_eq!(
            oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            3
        );
        assert_eq!(
            oom_kills("low 0\nmax 8\noom 1\noom_kill 1\noom_group_kill 0\n"),
            1
        );
        assert_eq!(oom_kills(""), 0);
    }
}
