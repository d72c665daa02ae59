//! The root of the container: overlay, pivot, and everything mounted inside.
//!
//! Mounts of host files are taken before the pivot and put in place after it; from the
//! pivot on, there is no path that leads out.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use super::mount::{
    Root, Target, attach, copy_of, copy_of_path, is_directory, make_read_only, new_filesystem,
};
use super::{devices, overlay};
use crate::failure::{Failure, Step};
use crate::spec::{Access, Bind, Container, Tmpfs};

const NO_SUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NO_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
/// What a filesystem of the kernel's own needs: nothing in it is a program or a device.
const INERT: MountAttrFlags = NO_SUID.union(NO_DEV).union(NO_EXEC);

/// Which view of control groups a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupView {
    /// Its own part of the one hierarchy, read-only.
    Unified,
    /// None: eight more mounts for v1 would be paid for by every start.
    None,
}

/// Builds the root in the new mount namespace of this process, and enters it.
pub(crate) fn enter(container: &Container, view: CgroupView) -> Result<Root, Failure> {
    let recursive = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", recursive).step("make mounts private")?;
    let binds = container
        .binds
        .iter()
        .map(take_bind)
        .collect::<Result<Vec<_>, _>>()?;
    let overlay = overlay::new(&container.rootfs, container.profile.no_new_privileges)?;
    pivot(&overlay, &container.rootfs.work)?;
    let root = Root::open()?;
    kernel_filesystems(&root, view)?;
    devices::populate(&root, container.shm_bytes)?;
    for mount in &container.tmpfs {
        mount_tmpfs(&root, mount)?;
    }
    for (bind, mount) in container.binds.iter().zip(&binds) {
        let step = format!("bind {}", bind.target.display());
        let kind = if is_directory(mount).step(&step)? {
            Target::Directory
        } else {
            Target::File
        };
        attach(mount, root.target(&bind.target, kind)?).step(&step)?;
    }
    Ok(root)
}

/// Hides and protects what the profile says, and closes the root. The last mounts of all.
pub(crate) fn protect(root: &Root, container: &Container) -> Result<(), Failure> {
    for path in &container.read_only_paths {
        let step = format!("make {} read-only", path.display());
        let Some(target) = existing(root, path, &step)? else {
            continue;
        };
        let mount = copy_of(&target).step(&step)?;
        make_read_only(&mount, &step)?;
        attach(&mount, &target).step(&step)?;
    }
    mask(root, &container.masked_paths)?;
    if container.rootfs.access == Access::ReadOnly {
        make_read_only(root.directory(), "make the root read-only")?;
    }
    Ok(())
}

/// Makes the overlay the root and lets go of the host's. It is mounted over its own work
/// directory for that moment: a directory that always exists and nobody else looks into.
fn pivot(overlay: &OwnedFd, scratch: &Path) -> Result<(), Failure> {
    let step = "enter the root";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let scratch = openat(CWD, scratch, flags, Mode::empty()).step(step)?;
    attach(overlay, &scratch).step(step)?;
    fchdir(overlay).step(step)?;
    pivot_root(".", ".").step(step)?;
    unmount(".", UnmountFlags::DETACH).step("leave the host's root")?;
    chdir("/").step(step)
}

fn take_bind(bind: &Bind) -> Result<OwnedFd, Failure> {
    let step = format!("bind {}", bind.source.display());
    let mount = copy_of_path(&bind.source).step(&step)?;
    let attributes = linkspan_sys::mount::MountAttributes {
        read_only: bind.access == Access::ReadOnly,
        no_suid: true,
        no_dev: true,
        no_exec: false,
    };
    linkspan_sys::mount::set_attributes(&mount, attributes).step(&step)?;
    Ok(mount)
}

fn kernel_filesystems(root: &Root, view: CgroupView) -> Result<(), Failure> {
    let proc = root.ordinary_directory("proc")?;
    let mount = new_filesystem("proc", &[], INERT).step("mount /proc")?;
    attach(&mount, &proc).step("mount /proc")?;
    let sys = root.ordinary_directory("sys")?;
    let mount = new_filesystem("sysfs", &[], INERT | READ_ONLY).step("mount /sys")?;
    attach(&mount, &sys).step("mount /sys")?;
    if view == CgroupView::Unified {
        let step = "mount /sys/fs/cgroup";
        let mount = new_filesystem("cgroup2", &[], INERT | READ_ONLY).step(step)?;
        let target = root.resolve(Path::new("/sys/fs/cgroup")).step(step)?;
        attach(&mount, &target).step(step)?;
    }
    Ok(())
}

fn mount_tmpfs(root: &Root, plan: &Tmpfs) -> Result<(), Failure> {
    let step = format!("mount tmpfs {}", plan.target.display());
    let options: Vec<_> = plan
        .options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let mut attributes = NO_DEV;
    attributes.set(NO_EXEC, plan.no_exec);
    attributes.set(NO_SUID, plan.no_suid);
    attributes.set(READ_ONLY, plan.access == Access::ReadOnly);
    let mount = new_filesystem("tmpfs", &options, attributes).map_err(|errno| match errno {
        Errno::INVAL => Failure::invalid(&step, format!("{step}: an option has a wrong value")),
        errno => Failure::system(&step, errno),
    })?;
    attach(&mount, root.directory_at(&plan.target)?).step(&step)
}

/// Covers files with `/dev/null` and directories with one empty, read-only tmpfs.
fn mask<P: AsRef<Path>>(root: &Root, paths: &[P]) -> Result<(), Failure> {
    let null = root
        .resolve(Path::new("/dev/null"))
        .step("open /dev/null")?;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let step = format!("mask {}", path.as_ref().display());
        let Some(target) = existing(root, path.as_ref(), &step)? else {
            continue;
        };
        if !is_directory(&target).step(&step)? {
            attach(copy_of(&null).step(&step)?, &target).step(&step)?;
            continue;
        }
        // Only a mount that is in place can be copied, so the first one is the original.
        let mount = match &empty {
            Some(first) => copy_of(first),
            None => new_filesystem(
                "tmpfs",
                &[("size", "0"), ("nr_inodes", "2")],
                INERT | READ_ONLY,
            ),
        }
        .step(&step)?;
        attach(&mount, &target).step(&step)?;
        empty.get_or_insert(mount);
    }
    Ok(())
}

/// What a path leads to; nothing when this kernel or image does not have it.
fn existing(root: &Root, path: &Path, step: &str) -> Result<Option<OwnedFd>, Failure> {
    match root.resolve(path) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Failure::system(step, errno)),
    }
}
