//! Mounts made by descriptor: no path of an image is ever parsed twice.
//!
//! Targets are resolved as if `/` were the root of the container and without following
//! magic links; a missing mount point is made one component at a time.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use linkspan_sys::mount::{MountAttributes, set_attributes};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::failure::{Failure, Step};

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// What a mount point must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Directory,
    File,
}

/// Makes a mount of a new filesystem; it is nowhere yet.
pub(crate) fn new_filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key)?;
        } else {
            fsconfig_set_string(&context, *key, *value)?;
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes a mount of what a path of the host leads to; it is nowhere yet.
pub(crate) fn copy_of_path(source: &Path) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, source, flags)
}

/// Makes a mount of what a descriptor holds; it is nowhere yet.
pub(crate) fn copy_of(source: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(source, c"", flags)
}

/// Puts a mount on top of what a descriptor holds.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// Makes a mount, or all that is mounted at a descriptor, read-only.
pub(crate) fn make_read_only(mount: impl AsFd, step: &str) -> Result<(), Failure> {
    set_attributes(
        mount,
        MountAttributes {
            read_only: true,
            ..Default::default()
        },
    )
    .step(step)
}

/// The root of the container, once the process has entered it.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// Opens `/`.
    pub(crate) fn open() -> Result<Self, Failure> {
        let root = openat(CWD, "/", PATH | OFlags::DIRECTORY, Mode::empty()).step("open /")?;
        Ok(Self(root))
    }

    /// The root itself.
    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.0
    }

    /// Finds what a path leads to; links stay within the root.
    pub(crate) fn resolve(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.0, path, PATH, Mode::empty(), resolve)
    }

    /// Finds a mount point, and makes it if it is missing.
    pub(crate) fn target(&self, path: &Path, kind: Target) -> Result<OwnedFd, Failure> {
        let step = || format!("make mount point {}", path.display());
        match self.resolve(path) {
            Ok(found) => Ok(found),
            Err(Errno::NOENT) => self
                .make(path, kind)
                .map_err(|errno| Failure::system(step(), errno)),
            Err(errno) => Err(Failure::system(step(), errno)),
        }
    }

    /// Finds a directory, and makes it and those above if they are missing.
    pub(crate) fn directory_at(&self, path: &Path) -> Result<OwnedFd, Failure> {
        self.target(path, Target::Directory)
    }

    /// One of the directories that the engine mounts over. A link or a file in its place
    /// would let the image choose where the masks and the devices end up, so it is refused.
    pub(crate) fn ordinary_directory(&self, name: &str) -> Result<OwnedFd, Failure> {
        match mkdirat(&self.0, name, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Failure::system(format!("make /{name}"), errno)),
        }
        let found = openat(&self.0, name, PATH | OFlags::NOFOLLOW, Mode::empty());
        let found = found.step(&format!("open /{name}"))?;
        let stat = rustix::fs::fstat(&found).step(&format!("stat /{name}"))?;
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Ok(found),
            FileType::Symlink => "a symbolic link",
            FileType::RegularFile => "a file",
            _ => "a special file",
        };
        let message = format!("/{name} of the image is {what}; it must be an ordinary directory");
        Err(Failure::invalid(format!("mount /{name}"), message))
    }

    fn make(&self, path: &Path, kind: Target) -> Result<OwnedFd, Errno> {
        let mut parts = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let last = parts.next_back().ok_or(Errno::INVAL)?;
        let mut parent = self.resolve(Path::new("/"))?;
        let mut above = Path::new("/").to_owned();
        for name in parts {
            above.push(name);
            parent = match self.resolve(&above) {
                Err(Errno::NOENT) => make_directory(&parent, Path::new(name))?,
                found => found?,
            };
        }
        match kind {
            Target::Directory => make_directory(&parent, Path::new(last)),
            Target::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&parent, last, flags | OFlags::RDONLY, FILE_MODE)
            }
        }
    }
}

fn make_directory(parent: &OwnedFd, name: &Path) -> Result<OwnedFd, Errno> {
    match mkdirat(parent, name, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(
        parent,
        name,
        PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

/// Whether a descriptor holds a directory.
pub(crate) fn is_directory(fd: impl AsFd) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
