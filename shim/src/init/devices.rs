//! `/dev`: a small tmpfs with the harmless devices, terminals, shared memory and queues.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::mount::MountAttrFlags;

use super::mount::{Root, attach, copy_of, new_filesystem};
use crate::failure::{Failure, Step};

const NO_SUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const INERT: MountAttrFlags = NO_SUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// Mounts `/dev` and what belongs in it. The umask must be 0.
pub(crate) fn populate(root: &Root, shm_bytes: u64) -> Result<(), Failure> {
    let target = root.ordinary_directory("dev")?;
    let options = [("mode", "755"), ("size", "64k")];
    let dev = new_filesystem("tmpfs", &options, NO_SUID).step("mount /dev")?;
    attach(&dev, &target).step("mount /dev")?;
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            &dev,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )
        .step(&format!("make /dev/{name}"))?;
    }
    for (name, to) in LINKS {
        symlinkat(to, &dev, name).step(&format!("make /dev/{name}"))?;
    }
    let shm_bytes = shm_bytes.to_string();
    let no_exec = NO_SUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount_in(
        &dev,
        "pts",
        "devpts",
        &[("ptmxmode", "0666"), ("mode", "620"), ("gid", "5")],
        no_exec,
    )?;
    mount_in(
        &dev,
        "shm",
        "tmpfs",
        &[("mode", "1777"), ("size", &shm_bytes)],
        INERT,
    )?;
    mount_in(&dev, "mqueue", "mqueue", &[], INERT)
}

/// Binds the container's terminal to `/dev/console`.
pub(crate) fn bind_console(root: &Root, terminal: &OwnedFd) -> Result<(), Failure> {
    let step = "mount /dev/console";
    let dev = root.resolve("/dev".as_ref()).step(step)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let console = openat(&dev, "console", flags, Mode::from_raw_mode(0o600)).step(step)?;
    attach(copy_of(terminal).step(step)?, console).step(step)
}

/// Opens `/dev/null` of the container: its streams must not hold on to a mount of the host.
pub(crate) fn open_null() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let null = openat(CWD, "/dev/null", flags, Mode::empty()).step("open /dev/null")?;
    let stat = rustix::fs::fstat(&null).step("stat /dev/null")?;
    if stat.st_rdev != makedev(1, 3)
        || FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
    {
        return Err(Failure::invalid(
            "open /dev/null",
            "/dev/null of the container is not the null device",
        ));
    }
    Ok(null)
}

fn mount_in(
    dev: &OwnedFd,
    name: &str,
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<(), Failure> {
    let step = format!("mount /dev/{name}");
    mkdirat(dev, name, Mode::from_raw_mode(0o755)).step(&step)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(dev, name, flags, Mode::empty()).step(&step)?;
    let mount = new_filesystem(kind, options, attributes).step(&step)?;
    attach(mount, target).step(&step)
}
