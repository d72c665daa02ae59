//! From the wire to a validated plan. Pure: no clock, no kernel.
//!
//! What passes here holds no NUL byte, no relative mount target and no `..`; the rest of
//! the shim relies on that.

use std::ffi::CString;
use std::path::{Component, Path, PathBuf};

use linkspan_proto::shim_v1 as wire;
use rustix::thread::CapabilitySet;

use crate::failure::Failure;

const DEFAULT_SHM_BYTES: u64 = 64 << 20;
const DEFAULT_LOG_BYTES: u64 = 10 << 20;
const DEFAULT_LOG_FILES: u32 = 5;
/// `HOST_NAME_MAX` of Linux.
const MAX_HOSTNAME_BYTES: usize = 64;
/// Options that tmpfs itself understands and a user may set.
const TMPFS_OPTIONS: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];

/// What is wrong with a specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    /// A part that must be there is not.
    #[error("the specification has no {0}")]
    Missing(&'static str),
    /// A string with a NUL byte, which no system call can take.
    #[error("{0} holds a NUL byte")]
    NulByte(&'static str),
    /// A path that is not absolute, or that has `..` in it.
    #[error("{what} `{path}` is not an absolute path without `..`")]
    Path {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: String,
    },
    /// A mount over what the engine itself mounts.
    #[error("nothing can be mounted at `{0}`")]
    ReservedTarget(String),
    /// An environment entry without a name.
    #[error("environment entry `{0}` is not KEY=VALUE")]
    Environment(String),
    /// A capability that this engine does not know.
    #[error("capability `{0}` is unknown")]
    Capability(String),
    /// A mount option that tmpfs does not have or that is not allowed.
    #[error("tmpfs option `{0}` is not supported")]
    TmpfsOption(String),
    /// A host name that the kernel would refuse.
    #[error("host name of {0} bytes is longer than 64")]
    Hostname(usize),
    /// A number out of its range.
    #[error("{what} {value} is out of range")]
    Range {
        /// What the number is.
        what: &'static str,
        /// The number.
        value: i64,
    },
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        Self::invalid("validate", error.to_string())
    }
}

/// Everything about one container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) rootfs: Rootfs,
    pub(crate) process: Process,
    pub(crate) hostname: String,
    pub(crate) domainname: String,
    pub(crate) binds: Vec<Bind>,
    pub(crate) tmpfs: Vec<Tmpfs>,
    pub(crate) resources: wire::Resources,
    pub(crate) cgroup_path: PathBuf,
    pub(crate) log: Option<Log>,
    pub(crate) exit_record: PathBuf,
    pub(crate) profile: Profile,
    pub(crate) masked_paths: Vec<PathBuf>,
    pub(crate) read_only_paths: Vec<PathBuf>,
    pub(crate) shm_bytes: u64,
    pub(crate) first: First,
}

/// The overlay mount.
#[derive(Debug)]
pub(crate) struct Rootfs {
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) access: Access,
}

/// Whether something can be changed by the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

impl From<bool> for Access {
    fn from(read_only: bool) -> Self {
        if read_only {
            Self::ReadOnly
        } else {
            Self::ReadWrite
        }
    }
}

/// What runs as PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// The command itself.
    Command,
    /// A reaper of the engine, with the command as its child.
    Reaper,
}

/// A process to run.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: PathBuf,
    pub(crate) user: String,
    pub(crate) additional_groups: Vec<String>,
    pub(crate) terminal: Option<TerminalSize>,
    pub(crate) stdin: Stdin,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TerminalSize {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// Where standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// Nowhere: `/dev/null`.
    Null,
    /// From clients, as many as come.
    Open,
    /// From the first client; its end is the end.
    Once,
}

/// A file of the host in the container.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) access: Access,
}

/// An in-memory filesystem.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tmpfs {
    pub(crate) target: PathBuf,
    pub(crate) options: Vec<(String, String)>,
    pub(crate) access: Access,
    pub(crate) no_exec: bool,
    pub(crate) no_suid: bool,
}

/// The log and its bounds.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) max_files: u32,
}

/// What the processes may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile {
    pub(crate) capabilities: CapabilitySet,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: bool,
}

impl Container {
    /// Checks a specification from the wire.
    pub(crate) fn from_wire(spec: wire::ContainerSpec) -> Result<Self, SpecError> {
        let security = spec
            .security
            .ok_or(SpecError::Missing("security profile"))?;
        if spec.hostname.len() > MAX_HOSTNAME_BYTES {
            return Err(SpecError::Hostname(spec.hostname.len()));
        }
        check_resources(spec.resources.as_ref())?;
        Ok(Self {
            rootfs: rootfs(
                spec.rootfs
                    .as_ref()
                    .ok_or(SpecError::Missing("root filesystem"))?,
            )?,
            process: Process::from_wire(spec.process.ok_or(SpecError::Missing("process"))?)?,
            hostname: without_nul("host name", spec.hostname)?,
            domainname: without_nul("domain name", spec.domainname)?,
            binds: spec.binds.iter().map(bind).collect::<Result<_, _>>()?,
            tmpfs: spec.tmpfs.iter().map(tmpfs).collect::<Result<_, _>>()?,
            resources: spec.resources.unwrap_or_default(),
            cgroup_path: cgroup_path(&spec.cgroup_path)?,
            log: spec
                .log
                .as_ref()
                .filter(|log| !log.path.is_empty())
                .map(log)
                .transpose()?,
            exit_record: absolute("exit record", &spec.exit_record_path)?,
            profile: Profile {
                capabilities: capabilities(&security.capabilities)?,
                no_new_privileges: security.no_new_privileges,
                seccomp: security.seccomp,
            },
            masked_paths: paths("masked path", &security.masked_paths)?,
            read_only_paths: paths("read-only path", &security.readonly_paths)?,
            shm_bytes: match spec.shm_size_bytes {
                0 => DEFAULT_SHM_BYTES,
                value => in_range("size of /dev/shm", value)?,
            },
            first: if spec.init {
                First::Reaper
            } else {
                First::Command
            },
        })
    }
}

impl Process {
    /// Checks a process from the wire.
    pub(crate) fn from_wire(process: wire::ProcessSpec) -> Result<Self, SpecError> {
        if process.args.first().is_none_or(String::is_empty) {
            return Err(SpecError::Missing("command"));
        }
        if let Some(entry) = process
            .env
            .iter()
            .find(|entry| entry.find('=').unwrap_or(0) == 0)
        {
            return Err(SpecError::Environment(entry.clone()));
        }
        let cwd = if process.cwd.is_empty() {
            "/"
        } else {
            &process.cwd
        };
        let size = process.size.unwrap_or_default();
        Ok(Self {
            cwd: absolute("working directory", cwd)?,
            args: c_strings("an argument", process.args)?,
            env: c_strings("the environment", process.env)?,
            user: without_nul("the user", process.user)?,
            additional_groups: process.additional_groups,
            terminal: process.tty.then(|| TerminalSize::from_wire(size)),
            stdin: match (process.open_stdin, process.stdin_once) {
                (false, _) => Stdin::Null,
                (true, false) => Stdin::Open,
                (true, true) => Stdin::Once,
            },
        })
    }
}

impl TerminalSize {
    /// Cuts off what the kernel cannot represent.
    pub(crate) fn from_wire(size: wire::TerminalSize) -> Self {
        let cut = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        Self {
            rows: cut(size.rows),
            columns: cut(size.columns),
        }
    }
}

/// Checks the path of a control group: absolute or relative, but never out of the hierarchy.
pub(crate) fn cgroup_path(path: &str) -> Result<PathBuf, SpecError> {
    let relative = absolute("control group", &format!("/{path}"))?;
    let below: PathBuf = relative
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    if below.as_os_str().is_empty() {
        return Err(SpecError::Missing("control group"));
    }
    Ok(below)
}

fn rootfs(rootfs: &wire::RootFilesystem) -> Result<Rootfs, SpecError> {
    if rootfs.lower_dirs.is_empty() {
        return Err(SpecError::Missing("layer"));
    }
    Ok(Rootfs {
        lower: paths("layer", &rootfs.lower_dirs)?,
        upper: absolute("upper directory", &rootfs.upper_dir)?,
        work: absolute("work directory", &rootfs.work_dir)?,
        access: rootfs.read_only.into(),
    })
}

fn bind(bind: &wire::BindMount) -> Result<Bind, SpecError> {
    Ok(Bind {
        source: absolute("bind source", &bind.source)?,
        target: mount_target(&bind.target)?,
        access: bind.read_only.into(),
    })
}

fn tmpfs(mount: &wire::TmpfsMount) -> Result<Tmpfs, SpecError> {
    let mut plan = Tmpfs {
        target: mount_target(&mount.target)?,
        options: Vec::new(),
        access: Access::ReadWrite,
        no_exec: true,
        no_suid: true,
    };
    for option in mount.options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => plan.access = Access::ReadOnly,
            "rw" => plan.access = Access::ReadWrite,
            "exec" => plan.no_exec = false,
            "noexec" => plan.no_exec = true,
            "suid" => plan.no_suid = false,
            "nosuid" => plan.no_suid = true,
            // Devices stay out, and access times are what the kernel makes of them.
            "nodev" | "noatime" | "relatime" | "defaults" => {}
            _ => {
                let known = option.split_once('=').filter(|(key, value)| {
                    TMPFS_OPTIONS.contains(key) && value.bytes().all(|byte| byte.is_ascii_graphic())
                });
                let (key, value) =
                    known.ok_or_else(|| SpecError::TmpfsOption(option.to_owned()))?;
                plan.options.push((key.to_owned(), value.to_owned()));
            }
        }
    }
    Ok(plan)
}

fn log(log: &wire::LogSpec) -> Result<Log, SpecError> {
    Ok(Log {
        path: absolute("log", &log.path)?,
        max_bytes: match log.max_size_bytes {
            0 => DEFAULT_LOG_BYTES,
            value => in_range("size of the log", value)?,
        },
        max_files: if log.max_files == 0 {
            DEFAULT_LOG_FILES
        } else {
            log.max_files
        },
    })
}

fn check_resources(resources: Option<&wire::Resources>) -> Result<(), SpecError> {
    let Some(resources) = resources else {
        return Ok(());
    };
    let lowest = [
        ("memory limit", resources.memory_bytes, 0),
        ("memory and swap limit", resources.memory_swap_bytes, -1),
        ("CPU quota", resources.cpu_quota_us, 0),
        ("process limit", resources.pids_limit, -1),
    ];
    for (what, value, lowest) in lowest {
        if value < lowest {
            return Err(SpecError::Range { what, value });
        }
    }
    let cpus = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b',');
    if !resources.cpuset_cpus.bytes().all(cpus) {
        return Err(SpecError::Missing("valid list of CPUs"));
    }
    Ok(())
}

fn capabilities(names: &[String]) -> Result<CapabilitySet, SpecError> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        let known = CapabilitySet::from_name(name);
        Ok(set | known.ok_or_else(|| SpecError::Capability(name.clone()))?)
    })
}

/// A place where a user may mount: not the root, nor what the engine mounts there itself.
fn mount_target(path: &str) -> Result<PathBuf, SpecError> {
    let target = absolute("mount target", path)?;
    let reserved = target == Path::new("/")
        || target == Path::new("/dev")
        || ["/proc", "/sys"]
            .iter()
            .any(|prefix| target.starts_with(prefix));
    if reserved {
        return Err(SpecError::ReservedTarget(path.to_owned()));
    }
    Ok(target)
}

fn paths(what: &'static str, list: &[String]) -> Result<Vec<PathBuf>, SpecError> {
    list.iter().map(|path| absolute(what, path)).collect()
}

fn absolute(what: &'static str, path: &str) -> Result<PathBuf, SpecError> {
    let parsed = Path::new(path);
    let escapes = parsed.components().any(|part| part == Component::ParentDir);
    if !parsed.is_absolute() || escapes || path.contains('\0') {
        return Err(SpecError::Path {
            what,
            path: path.to_owned(),
        });
    }
    Ok(parsed.to_owned())
}

fn without_nul(what: &'static str, text: String) -> Result<String, SpecError> {
    if text.contains('\0') {
        Err(SpecError::NulByte(what))
    } else {
        Ok(text)
    }
}

fn c_strings(what: &'static str, list: Vec<String>) -> Result<Vec<CString>, SpecError> {
    list.into_iter()
        .map(|text| CString::new(text).map_err(|_nul| SpecError::NulByte(what)))
        .collect()
}

fn in_range(what: &'static str, value: i64) -> Result<u64, SpecError> {
    u64::try_from(value).map_err(|_negative| SpecError::Range { what, value })
}

#[cfg(test)]
mod tests;
