//! The overlay of a container, as a mount that is nowhere yet.
//!
//! Kernels since 6.8 take the lower directories one by one, up to 500. Older ones take one text
//! of less than a page, with colons between paths: there the directories are named by
//! descriptors, since such a name is short and has no colon, comma or backslash.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, unmount,
};
use rustix::system::uname;

use super::mount::copy_of_path;
use crate::failure::{Failure, Step};
use crate::spec::Rootfs;

const STEP: &str = "mount overlay";
/// mount(2) takes a page of text, with a NUL byte at its end.
const LONGEST_TEXT: usize = 4095;

/// Device nodes of the image stay dead; /dev is a filesystem of its own. Where exec gives no
/// privileges, file capabilities are not even looked at: the kernel would refuse to run a
/// program that asks for more than the container has, such as Debian's ping.
pub(crate) fn new(rootfs: &Rootfs, no_new_privileges: bool) -> Result<OwnedFd, Failure> {
    let way = if takes_one_by_one(uname().release()) {
        one_by_one
    } else {
        by_text
    };
    way(rootfs, no_new_privileges)
}

/// By the version, since an older kernel that is asked writes an error to its log at each
/// start of a container.
fn takes_one_by_one(release: &CStr) -> bool {
    let release = release.to_string_lossy();
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit());
    let mut next = || numbers.next()?.parse::<u32>().ok();
    (next(), next()) >= (Some(6), Some(8))
}

fn one_by_one(rootfs: &Rootfs, no_new_privileges: bool) -> Result<OwnedFd, Failure> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step(STEP)?;
    for layer in &rootfs.lower {
        let step = || format!("add layer {}", layer.display());
        fsconfig_set_string(&context, "lowerdir+", layer)
            .map_err(|errno| Failure::system(step(), errno))?;
    }
    fsconfig_set_string(&context, "upperdir", &rootfs.upper).step("set the upper directory")?;
    fsconfig_set_string(&context, "workdir", &rootfs.work).step("set the work directory")?;
    fsconfig_create(&context).step(STEP)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    if no_new_privileges {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID;
    }
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step(STEP)
}

/// The mount is at its own work directory for a moment: a directory that always exists and
/// nobody else looks into, in a mount namespace that nobody else is in.
fn by_text(rootfs: &Rootfs, no_new_privileges: bool) -> Result<OwnedFd, Failure> {
    let lower = rootfs
        .lower
        .iter()
        .map(|layer| directory(layer))
        .collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (directory(&rootfs.upper)?, directory(&rootfs.work)?);
    let text = options(&lower, &upper, &work)?;
    let mut flags = MountFlags::NODEV;
    if no_new_privileges {
        flags |= MountFlags::NOSUID;
    }
    mount("overlay", &rootfs.work, "overlay", flags, text.as_c_str()).step(STEP)?;
    let overlay = copy_of_path(&rootfs.work).step(STEP)?;
    unmount(&rootfs.work, UnmountFlags::DETACH).step(STEP)?;
    Ok(overlay)
}

fn directory(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| Failure::system(format!("open {}", path.display()), errno))
}

fn options(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> Result<CString, Failure> {
    let name = |directory: &OwnedFd| format!("/proc/self/fd/{}", directory.as_raw_fd());
    let layers: Vec<_> = lower.iter().map(name).collect();
    let text = format!(
        "lowerdir={},upperdir={},workdir={}",
        layers.join(":"),
        name(upper),
        name(work)
    );
    if text.len() > LONGEST_TEXT {
        let message = format!(
            "the image has {} layers, more than this kernel mounts at once; make it of fewer, or use Linux 6.8, which takes 500",
            lower.len()
        );
        return Err(Failure::invalid(STEP, message));
    }
    Ok(CString::new(text).expect("numbers have no NUL byte"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sched::{CloneFlags, unshare};
    use rustix::mount::{MountPropagationFlags, mount_change};

    use super::*;
    use crate::spec::Access;

    /// Both ways give the same mount: the first layer is on top, and what is written is in the
    /// upper directory.
    #[test]
    fn an_older_kernel_mounts_the_same() {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        let place = tempfile::tempdir().unwrap();
        mount(c"tmpfs", place.path(), c"tmpfs", MountFlags::empty(), None).unwrap();
        let mut ways = vec![by_text as fn(&Rootfs, bool) -> Result<OwnedFd, Failure>];
        if takes_one_by_one(uname().release()) {
            ways.push(one_by_one);
        }
        for (number, way) in ways.into_iter().enumerate() {
            let of = |name: &str| {
                let path = place.path().join(format!("{number}:{name}"));
                fs::create_dir(&path).unwrap();
                path
            };
            let (top, bottom) = (of("top"), of("bottom"));
            fs::write(top.join("both"), "top").unwrap();
            fs::write(bottom.join("both"), "bottom").unwrap();
            fs::write(bottom.join("one"), "bottom").unwrap();
            let rootfs = Rootfs {
                lower: vec![top, bottom],
                upper: of("upper"),
                work: of("work"),
                access: Access::ReadWrite,
            };
            let overlay = way(&rootfs, true).unwrap();
            let inside = |name: &str| format!("/proc/self/fd/{}/{name}", overlay.as_raw_fd());
            assert_eq!(fs::read_to_string(inside("both")).unwrap(), "top");
            assert_eq!(fs::read_to_string(inside("one")).unwrap(), "bottom");
            fs::write(inside("new"), "written").unwrap();
            assert!(rootfs.upper.join("new").exists());
            let flags = rustix::fs::fstatvfs(&overlay).unwrap().f_flag;
            let both = rustix::fs::StatVfsMountFlags::NODEV | rustix::fs::StatVfsMountFlags::NOSUID;
            assert!(flags.contains(both), "{flags:?}");
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert!(!mounts.contains("overlay overlay"), "{mounts}");
        }
    }

    #[test]
    fn the_version_tells_the_way() {
        for (release, expected) in [
            (c"6.18.0-rc1", true),
            (c"6.8.0-45-generic", true),
            (c"10.0", true),
            (c"6.1.0-56-amd64", false),
            (c"5.15.167.4-microsoft-standard-WSL2", false),
            (c"unknown", false),
        ] {
            assert_eq!(takes_one_by_one(release), expected, "{release:?}");
        }
    }

    #[test]
    fn more_layers_than_a_page_names_are_refused() {
        let open = || directory(Path::new("/")).unwrap();
        let (upper, work) = (open(), open());
        let few: Vec<_> = (0..150).map(|_| open()).collect();
        options(&few, &upper, &work).unwrap();
        let many: Vec<_> = (0..400).map(|_| open()).collect();
        let refused = options(&many, &upper, &work).unwrap_err();
        assert!(refused.message.contains("400 layers"), "{refused:?}");
    }
}
