//! Which value goes into which file. Pure.

use linkspan_proto::shim_v1::Resources;

use super::hierarchy::Version;

const PERIOD_US: i64 = 100_000;
const DEFAULT_PIDS: i64 = 2048;

/// One value for one file of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) controller: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
}

/// The writes that set the limits, in order. What was not asked for is not written.
pub(crate) fn limits(resources: &Resources, version: Version) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut write = |controller, file, value: String| {
        writes.push(Write {
            controller,
            file,
            value,
        });
    };
    let pids = match resources.pids_limit {
        0 => DEFAULT_PIDS.to_string(),
        -1 => "max".to_owned(),
        limit => limit.to_string(),
    };
    write("pids", "pids.max", pids);
    if resources.memory_bytes > 0 {
        let memory = resources.memory_bytes;
        let total = match resources.memory_swap_bytes {
            0 => Some(memory.saturating_mul(2)),
            -1 => None,
            total => Some(total.max(memory)),
        };
        match version {
            // The limit with swap may never be below the one without.
            Version::V1 => {
                write("memory", "memory.limit_in_bytes", memory.to_string());
                if let Some(total) = total {
                    write("memory", "memory.memsw.limit_in_bytes", total.to_string());
                }
            }
            Version::V2 => {
                write("memory", "memory.max", memory.to_string());
                if let Some(total) = total {
                    write("memory", "memory.swap.max", (total - memory).to_string());
                }
            }
        }
    }
    match (version, resources.cpu_quota_us) {
        (_, 0) => {}
        (Version::V1, quota) => {
            write("cpu", "cpu.cfs_period_us", PERIOD_US.to_string());
            write("cpu", "cpu.cfs_quota_us", quota.to_string());
        }
        (Version::V2, quota) => write("cpu", "cpu.max", format!("{quota} {PERIOD_US}")),
    }
    match (version, resources.cpu_shares) {
        (_, 0) => {}
        (Version::V1, shares) => write("cpu", "cpu.shares", shares.to_string()),
        (Version::V2, shares) => write("cpu", "cpu.weight", weight(shares).to_string()),
    }
    if !resources.cpuset_cpus.is_empty() {
        write("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone());
    }
    writes
}

/// The v2 weight (1 to 10,000) that stands for v1 shares (2 to 262,144), as the OCI runtimes convert.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(resources: &Resources, version: Version) -> Vec<String> {
        limits(resources, version)
            .into_iter()
            .map(|write| format!("{}={}", write.file, write.value))
            .collect()
    }

    #[test]
    fn without_limits_only_the_process_limit_is_written() {
        let resources = Resources::default();
        assert_eq!(lines(&resources, Version::V1), ["pids.max=2048"]);
        assert_eq!(lines(&resources, Version::V2), ["pids.max=2048"]);
        let unlimited = Resources {
            pids_limit: -1,
            ..resources
        };
        assert_eq!(lines(&unlimited, Version::V1), ["pids.max=max"]);
    }

    #[test]
    fn each_version_gets_its_own_files() {
        let resources = Resources {
            memory_bytes: 1000,
            memory_swap_bytes: 1500,
            cpu_quota_us: 50_000,
            pids_limit: 7,
            cpu_shares: 1024,
            cpuset_cpus: "0-1".into(),
        };
        assert_eq!(
            lines(&resources, Version::V1),
            [
                "pids.max=7",
                "memory.limit_in_bytes=1000",
                "memory.memsw.limit_in_bytes=1500",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpu.shares=1024",
                "cpuset.cpus=0-1",
            ]
        );
        assert_eq!(
            lines(&resources, Version::V2),
            [
                "pids.max=7",
                "memory.max=1000",
                "memory.swap.max=500",
                "cpu.max=50000 100000",
                "cpu.weight=39",
                "cpuset.cpus=0-1",
            ]
        );
    }

    #[test]
    fn swap_is_as_much_again_unless_said_otherwise() {
        let resources = Resources {
            memory_bytes: 100,
            ..Default::default()
        };
        assert!(lines(&resources, Version::V2).contains(&"memory.swap.max=100".into()));
        let unlimited = Resources {
            memory_swap_bytes: -1,
            ..resources
        };
        assert_eq!(
            lines(&unlimited, Version::V2),
            ["pids.max=2048", "memory.max=100"]
        );
    }
}
