//! Which cgroup hierarchies the host has, and where.

use std::path::PathBuf;

/// The version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    pub(crate) mount: PathBuf,
    controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether a v1 hierarchy was mounted with this controller.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// The hierarchies of a host: v1, v2, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    pub(crate) v1: Vec<Hierarchy>,
    pub(crate) v2: Option<Hierarchy>,
}

impl Hierarchies {
    /// Reads the text of `/proc/self/mountinfo`.
    pub(crate) fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else {
                continue;
            };
            let mut mount = mount.split(' ').skip(3);
            // Only the whole hierarchy: a container's view of its own part has another root.
            let (Some("/"), Some(point)) = (mount.next(), mount.next()) else {
                continue;
            };
            let mut filesystem = filesystem.split(' ');
            let (kind, options) = (filesystem.next(), filesystem.nth(1).unwrap_or_default());
            let controllers = options.split(',').map(str::to_owned).collect();
            let mount = PathBuf::from(point);
            match kind {
                Some("cgroup") => {
                    let hierarchy = Hierarchy {
                        version: Version::V1,
                        mount,
                        controllers,
                    };
                    // The same hierarchy may be mounted twice; one is enough.
                    if !found
                        .v1
                        .iter()
                        .any(|known| known.controllers == hierarchy.controllers)
                    {
                        found.v1.push(hierarchy);
                    }
                }
                Some("cgroup2") if found.v2.is_none() => {
                    let controllers = Vec::new();
                    found.v2 = Some(Hierarchy {
                        version: Version::V2,
                        mount,
                        controllers,
                    });
                }
                _ => {}
            }
        }
        found
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Hierarchy> {
        self.v1.iter().chain(&self.v2)
    }

    /// Where limits are set: on v1 as long as there is one with controllers.
    pub(crate) fn limits(&self) -> Version {
        if self.of_v1("memory").is_some() || self.v2.is_none() {
            Version::V1
        } else {
            Version::V2
        }
    }

    /// The hierarchy that has this controller; v2 has all that no v1 hierarchy has.
    pub(crate) fn of(&self, controller: &str) -> Option<&Hierarchy> {
        match self.limits() {
            Version::V1 => self.of_v1(controller),
            Version::V2 => self.v2.as_ref(),
        }
    }

    fn of_v1(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|hierarchy| hierarchy.has(controller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
29 25 0:24 /part /elsewhere rw - cgroup cgroup rw,memory
";

    #[test]
    fn a_hybrid_host_sets_limits_on_v1_and_has_v2_beside() {
        let found = Hierarchies::parse(HYBRID);
        assert_eq!(found.limits(), Version::V1);
        assert_eq!(
            found.of("cpu").unwrap().mount,
            PathBuf::from("/sys/fs/cgroup/cpu")
        );
        assert_eq!(
            found.of("memory").unwrap().mount,
            PathBuf::from("/sys/fs/cgroup/memory")
        );
        assert_eq!(found.of("pids"), None);
        assert_eq!(
            found.v2.as_ref().unwrap().mount,
            PathBuf::from("/sys/fs/cgroup/unified")
        );
        assert_eq!(found.all().count(), 3);
    }

    #[test]
    fn a_unified_host_has_every_controller_in_one_place() {
        let found = Hierarchies::parse("25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(found.limits(), Version::V2);
        assert_eq!(found.of("memory"), found.v2.as_ref());
    }

    #[test]
    fn a_mangled_table_has_no_hierarchies() {
        assert_eq!(
            Hierarchies::parse("1 2 3\n - \n - cgroup\n\n"),
            Hierarchies::default()
        );
    }
}
