//! Renders the specification that a shim carries out, from a record.
//!
//! Pure. The default profile is the strict one; `compat-docker` widens it to Docker's
//! capabilities, and single options open it further.

use linkspan_proto::shim_v1::{
    BindMount, ContainerSpec, LogSpec, ProcessSpec, Resources, RootFilesystem, SecurityProfile,
    TmpfsMount,
};

use super::record::Record;

/// What a process needs that starts as root and lowers itself, and no more.
const DEFAULT_CAPABILITIES: [&str; 8] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
];
/// What Docker gives beside those.
const DOCKER_CAPABILITIES: [&str; 6] = [
    "AUDIT_WRITE",
    "MKNOD",
    "NET_RAW",
    "SETFCAP",
    "SETPCAP",
    "SYS_CHROOT",
];
/// All that this kernel generation knows; capabilities(7).
const ALL_CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];
/// What tells a process about the host, or lets it change the host.
const MASKED_PATHS: [&str; 22] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/buddyinfo",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/schedstat",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
    "/sys/kernel/security",
];
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
/// The length of one scheduling period in microseconds, and the nanoseconds of one.
const PERIOD_US: i64 = 100_000;
const LOG_MAX_BYTES: i64 = 10 << 20;
const LOG_MAX_FILES: u32 = 5;

/// A security option or capability that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("unknown capability `{name}`; see capabilities(7), or ALL")]
    Capability { name: String },
    #[error(
        "unknown security option `{option}`: known are no-new-privileges[=true|false], seccomp=unconfined and profile=compat-docker"
    )]
    Option { option: String },
}

/// Where the files of a run are.
#[derive(Debug)]
pub(crate) struct RunPaths {
    pub(crate) upper_dir: String,
    pub(crate) work_dir: String,
    pub(crate) hosts: String,
    pub(crate) hostname: String,
    pub(crate) resolv_conf: String,
    pub(crate) log: String,
    pub(crate) exit_record: String,
    pub(crate) cgroup: String,
}

/// The specification of a container's run.
pub(crate) fn container_spec(
    record: &Record,
    paths: &RunPaths,
    env: Vec<String>,
    stdin_once: bool,
) -> Result<ContainerSpec, ProfileError> {
    let config = &record.config;
    let host = &record.host;
    let bind = |source: &str, target: &str| BindMount {
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: host.read_only_rootfs,
    };
    Ok(ContainerSpec {
        id: record.id.clone(),
        rootfs: Some(RootFilesystem {
            lower_dirs: record.lower_dirs.clone(),
            upper_dir: paths.upper_dir.clone(),
            work_dir: paths.work_dir.clone(),
            read_only: host.read_only_rootfs,
        }),
        process: Some(ProcessSpec {
            args: record.args(),
            env,
            cwd: if config.working_dir.is_empty() {
                "/".to_owned()
            } else {
                config.working_dir.clone()
            },
            user: config.user.clone(),
            additional_groups: host.group_add.clone(),
            tty: config.tty,
            open_stdin: config.open_stdin,
            size: None,
            // A terminal stays open when someone leaves it; others may come back to it.
            stdin_once: stdin_once && !config.tty,
        }),
        hostname: record.hostname().to_owned(),
        domainname: config.domainname.clone(),
        binds: vec![
            bind(&paths.hosts, "/etc/hosts"),
            bind(&paths.hostname, "/etc/hostname"),
            bind(&paths.resolv_conf, "/etc/resolv.conf"),
        ],
        tmpfs: host
            .tmpfs
            .iter()
            .map(|(target, options)| TmpfsMount {
                target: target.clone(),
                options: options.clone(),
            })
            .collect(),
        resources: Some(resources(record)),
        cgroup_path: paths.cgroup.clone(),
        log: Some(LogSpec {
            path: paths.log.clone(),
            max_size_bytes: LOG_MAX_BYTES,
            max_files: LOG_MAX_FILES,
        }),
        exit_record_path: paths.exit_record.clone(),
        security: Some(security(record)?),
        shm_size_bytes: host.shm_size_bytes,
        init: host.init,
    })
}

fn resources(record: &Record) -> Resources {
    let host = &record.host;
    Resources {
        memory_bytes: host.memory_bytes,
        memory_swap_bytes: host.memory_swap_bytes,
        cpu_quota_us: host.nano_cpus / (1_000_000_000 / PERIOD_US),
        pids_limit: host.pids_limit,
        cpu_shares: host.cpu_shares,
        cpuset_cpus: host.cpuset_cpus.clone(),
    }
}

/// The profile that the options of a container make; also tells whether they are valid.
pub(crate) fn security(record: &Record) -> Result<SecurityProfile, ProfileError> {
    let host = &record.host;
    let mut profile = SecurityProfile {
        capabilities: Vec::new(),
        no_new_privileges: true,
        seccomp: true,
        masked_paths: MASKED_PATHS.iter().map(|p| (*p).to_owned()).collect(),
        readonly_paths: READONLY_PATHS.iter().map(|p| (*p).to_owned()).collect(),
    };
    let mut capabilities: Vec<&str> = DEFAULT_CAPABILITIES.to_vec();
    for option in &host.security_options {
        match option.replace(':', "=").as_str() {
            "no-new-privileges" | "no-new-privileges=true" => profile.no_new_privileges = true,
            "no-new-privileges=false" => profile.no_new_privileges = false,
            "seccomp=unconfined" => profile.seccomp = false,
            "profile=compat-docker" => {
                profile.no_new_privileges = false;
                capabilities.extend(DOCKER_CAPABILITIES);
            }
            _ => {
                return Err(ProfileError::Option {
                    option: option.clone(),
                });
            }
        }
    }
    let dropped = known_capabilities(&host.cap_drop)?;
    let added = known_capabilities(&host.cap_add)?;
    capabilities.retain(|capability| !dropped.contains(capability));
    capabilities.extend(added);
    capabilities.sort_unstable();
    capabilities.dedup();
    profile.capabilities = capabilities.into_iter().map(str::to_owned).collect();
    Ok(profile)
}

fn known_capabilities(names: &[String]) -> Result<Vec<&'static str>, ProfileError> {
    let mut known = Vec::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            known.extend(ALL_CAPABILITIES);
            continue;
        }
        let found = ALL_CAPABILITIES
            .iter()
            .find(|capability| **capability == bare);
        known.push(*found.ok_or_else(|| ProfileError::Capability { name: name.clone() })?);
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    #[test]
    fn the_default_profile_has_eight_capabilities_and_no_way_to_more() {
        let profile = security(&record("web")).unwrap();
        assert_eq!(profile.capabilities, DEFAULT_CAPABILITIES);
        assert!(profile.no_new_privileges && profile.seccomp);
    }

    #[test]
    fn options_change_the_profile() {
        let mut container = record("web");
        container.host.cap_drop = vec!["ALL".to_owned()];
        container.host.cap_add = vec!["cap_net_raw".to_owned()];
        assert_eq!(security(&container).unwrap().capabilities, ["NET_RAW"]);
        container.host.cap_drop.clear();
        container.host.security_options = vec!["profile=compat-docker".to_owned()];
        assert_eq!(security(&container).unwrap().capabilities.len(), 14);
        container.host.security_options = vec!["nonsense".to_owned()];
        assert!(
            security(&container)
                .unwrap_err()
                .to_string()
                .contains("`nonsense`")
        );
    }

    #[test]
    fn half_a_cpu_is_half_of_each_period() {
        let mut container = record("web");
        container.host.nano_cpus = 500_000_000;
        assert_eq!(resources(&container).cpu_quota_us, 50_000);
    }
}
