//! The rules for what a specification may ask.

use super::*;

fn spec() -> wire::ContainerSpec {
    wire::ContainerSpec {
        rootfs: Some(wire::RootFilesystem {
            lower_dirs: vec!["/layers/1".into()],
            upper_dir: "/c/upper".into(),
            work_dir: "/c/work".into(),
            read_only: false,
        }),
        process: Some(wire::ProcessSpec {
            args: vec!["true".into()],
            ..Default::default()
        }),
        cgroup_path: "/linkspan/abc".into(),
        exit_record_path: "/run/exit".into(),
        security: Some(wire::SecurityProfile {
            capabilities: vec!["CHOWN".into(), "KILL".into()],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn with_tmpfs(target: &str, options: &str) -> Result<Container, SpecError> {
    let mount = wire::TmpfsMount {
        target: target.into(),
        options: options.into(),
    };
    Container::from_wire(wire::ContainerSpec {
        tmpfs: vec![mount],
        ..spec()
    })
}

#[test]
fn a_small_specification_gets_the_defaults() {
    let container = Container::from_wire(spec()).unwrap();
    assert_eq!(container.shm_bytes, 64 << 20);
    assert_eq!(container.cgroup_path, Path::new("linkspan/abc"));
    assert_eq!(container.process.cwd, Path::new("/"));
    assert_eq!(container.process.stdin, Stdin::Null);
    assert_eq!(
        container.profile.capabilities,
        CapabilitySet::CHOWN | CapabilitySet::KILL
    );
    assert!(container.log.is_none());
}

#[test]
fn a_control_group_cannot_leave_its_hierarchy() {
    assert!(matches!(
        cgroup_path("/a/../../b"),
        Err(SpecError::Path { .. })
    ));
    assert!(matches!(cgroup_path("/"), Err(SpecError::Missing(_))));
    assert_eq!(cgroup_path("a//b/"), Ok(PathBuf::from("a/b")));
}

#[test]
fn nothing_is_mounted_over_what_the_engine_mounts() {
    for target in [
        "/",
        "/dev",
        "/proc",
        "/proc/sys",
        "/sys/fs/cgroup",
        "relative",
        "/a/../proc",
    ] {
        assert!(with_tmpfs(target, "").is_err(), "{target}");
    }
    with_tmpfs("/dev/shm", "").unwrap();
    with_tmpfs("/process", "").unwrap();
}

#[test]
fn tmpfs_options_are_an_allow_list() {
    let mount = &with_tmpfs("/tmp", "size=64m,mode=1777,exec,ro")
        .unwrap()
        .tmpfs[0];
    assert_eq!(
        mount.options,
        [
            ("size".into(), "64m".into()),
            ("mode".into(), "1777".into())
        ]
    );
    assert_eq!(
        (mount.access, mount.no_exec, mount.no_suid),
        (Access::ReadOnly, false, true)
    );
    for options in ["dev", "lowerdir=/etc", "size", "mode=17 77"] {
        assert!(
            matches!(with_tmpfs("/tmp", options), Err(SpecError::TmpfsOption(_))),
            "{options}"
        );
    }
}

#[test]
fn strings_that_no_system_call_can_take_are_refused() {
    let process = |args: &[&str], env: &[&str]| {
        Process::from_wire(wire::ProcessSpec {
            args: args.iter().map(|&text| text.into()).collect(),
            env: env.iter().map(|&text| text.into()).collect(),
            ..Default::default()
        })
    };
    process(&["sh", ""], &["A=", "B=C=D"]).unwrap();
    assert!(matches!(
        process(&[], &[]),
        Err(SpecError::Missing("command"))
    ));
    assert!(matches!(
        process(&[""], &[]),
        Err(SpecError::Missing("command"))
    ));
    assert!(matches!(
        process(&["a\0b"], &[]),
        Err(SpecError::NulByte(_))
    ));
    for entry in ["=x", "novalue", ""] {
        assert!(
            matches!(process(&["sh"], &[entry]), Err(SpecError::Environment(_))),
            "{entry}"
        );
    }
}

#[test]
fn unknown_capabilities_and_negative_limits_are_refused() {
    let mut wrong = spec();
    wrong
        .security
        .as_mut()
        .unwrap()
        .capabilities
        .push("CAP_CHOWN".into());
    assert!(matches!(
        Container::from_wire(wrong),
        Err(SpecError::Capability(_))
    ));
    let resources = wire::Resources {
        memory_bytes: -5,
        ..Default::default()
    };
    let wrong = wire::ContainerSpec {
        resources: Some(resources),
        ..spec()
    };
    assert!(matches!(
        Container::from_wire(wrong),
        Err(SpecError::Range { .. })
    ));
}
