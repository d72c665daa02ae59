//! Unpacks one layer into a directory, as overlayfs wants it.
//!
//! The archive is hostile. Every path is resolved beneath the target directory without
//! following any symbolic link, so that nothing outside can be named. Whiteouts become
//! what overlayfs understands: a character device 0/0, and `trusted.overlay.opaque`.
//! Format: OCI image specification, "Image Layer Filesystem Changeset".

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use tar::EntryType;

/// The most entries of one layer.
const MAX_ENTRIES: u64 = 1_000_000;
/// The longest path, as Linux has it.
const MAX_PATH_BYTES: usize = 4096;
/// What marks a path of a lower layer as gone.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// What marks a directory as new, whatever is below it.
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("read the layer")]
    Read { source: io::Error },
    #[error("unpack `{}`: {rule}", path.display())]
    Refused { path: PathBuf, rule: &'static str },
    #[error("unpack `{}`: {act}", path.display())]
    Write {
        path: PathBuf,
        act: &'static str,
        source: io::Error,
    },
    #[error("the layer has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
}

type Result<T> = std::result::Result<T, LayerError>;

/// Unpacks the uncompressed archive `source` into the directory `target`; returns the
/// sum of the sizes of the regular files.
pub(crate) fn unpack(source: impl Read, target: &Path) -> Result<u64> {
    let root = rustix::fs::open(
        target,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| write_error(target, "open the directory", e))?;
    let mut layer = Layer {
        root,
        size: 0,
        parent: None,
        directory_times: Vec::new(),
    };
    let mut archive = tar::Archive::new(source);
    let entries = archive
        .entries()
        .map_err(|source| LayerError::Read { source })?;
    for (count, entry) in (1..).zip(entries) {
        if count > MAX_ENTRIES {
            return Err(LayerError::TooManyEntries);
        }
        layer.apply(entry.map_err(|source| LayerError::Read { source })?)?;
    }
    layer.set_directory_times()?;
    Ok(layer.size)
}

struct Layer {
    root: OwnedFd,
    size: u64,
    /// The directory that was used last, since archives go directory by directory.
    parent: Option<(PathBuf, OwnedFd)>,
    directory_times: Vec<(PathBuf, Timespec)>,
}

/// Where an entry goes.
struct Place<'a> {
    parent: &'a OwnedFd,
    name: &'a OsStr,
    /// From the root of the layer, for messages.
    path: &'a Path,
}

/// What an entry's header says about its inode.
struct Attributes {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    mtime: Timespec,
}

impl Layer {
    fn apply<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let path = clean(&entry.path_bytes())?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.apply_root(&entry);
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        let attributes = attributes(&path, &entry)?;
        let parent = self.open_parent(&parent_path, &path)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX) {
            let result = whiteout(&parent, &name, hidden, &path);
            self.parent = Some((parent_path, parent));
            return result;
        }
        let place = Place {
            parent: &parent,
            name: &name,
            path: &path,
        };
        self.make(&mut entry, kind, &place, &attributes)?;
        set_attributes(&mut entry, kind, &parent, &name, &path, &attributes)?;
        if kind == EntryType::Directory {
            self.directory_times.push((path, attributes.mtime));
        }
        self.parent = Some((parent_path, parent));
        Ok(())
    }

    /// An entry for the root itself sets its owner and mode.
    fn apply_root<R: Read>(&self, entry: &tar::Entry<'_, R>) -> Result<()> {
        let path = Path::new("/");
        let Attributes {
            uid,
            gid,
            mode,
            mtime: _,
        } = attributes(path, entry)?;
        let root = rustix::fs::openat(
            &self.root,
            ".",
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| write_error(path, "open it", e))?;
        rustix::fs::fchown(&root, Some(uid), Some(gid))
            .map_err(|e| write_error(path, "set the owner", e))?;
        rustix::fs::fchmod(&root, mode).map_err(|e| write_error(path, "set the mode", e))
    }

    fn make<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        place: &Place<'_>,
        attributes: &Attributes,
    ) -> Result<()> {
        let Place { parent, name, path } = *place;
        remove_previous(parent, name, path, kind)?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.size += write_file(entry, parent, name, path)?;
                Ok(())
            }
            EntryType::Directory => make_directory(parent, name, path),
            EntryType::Symlink => {
                let target = link_name(entry, path)?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), parent, name)
                    .map_err(|e| write_error(path, "make the symbolic link", e))
            }
            EntryType::Link => self.make_hard_link(&link_name(entry, path)?, parent, name, path),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                make_node(entry, kind, parent, name, path, attributes)
            }
            _ => Err(refused(path, "its type is unknown")),
        }
    }

    fn make_hard_link(
        &self,
        target: &[u8],
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        let target = clean(target)?;
        let Some(target_name) = target.file_name() else {
            return Err(refused(path, "it is a hard link to a directory"));
        };
        let directory = open_beneath(&self.root, target.parent().unwrap_or(Path::new("")), path)?;
        let stat = rustix::fs::statat(&directory, target_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| write_error(path, "find the target of the hard link", e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(refused(path, "it is a hard link to a directory"));
        }
        rustix::fs::linkat(&directory, target_name, parent, name, AtFlags::empty())
            .map_err(|e| write_error(path, "make the hard link", e))
    }

    /// Opens the directory of an entry, making what is missing.
    fn open_parent(&mut self, parent: &Path, path: &Path) -> Result<OwnedFd> {
        if let Some((known, fd)) = self.parent.take()
            && known == parent
        {
            return Ok(fd);
        }
        match open_beneath(&self.root, parent, path) {
            Err(LayerError::Write { source, .. })
                if source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            result => return result,
        }
        let mut made = PathBuf::new();
        for component in parent.components() {
            let directory = open_beneath(&self.root, &made, path)?;
            match rustix::fs::mkdirat(
                &directory,
                component.as_os_str(),
                Mode::from_raw_mode(0o755),
            ) {
                Ok(()) | Err(Errno::EXIST) => made.push(component),
                Err(e) => return Err(write_error(path, "make its directory", e)),
            }
        }
        open_beneath(&self.root, parent, path)
    }

    /// Times of directories come last, since what is made in them changes them.
    fn set_directory_times(&mut self) -> Result<()> {
        for (path, mtime) in std::mem::take(&mut self.directory_times) {
            let directory = match open_beneath(&self.root, &path, &path) {
                Ok(directory) => directory,
                // A later entry of the same archive took its place.
                Err(_replaced) => continue,
            };
            set_times(
                directory.as_fd(),
                OsStr::new(""),
                AtFlags::EMPTY_PATH,
                mtime,
            )
            .map_err(|e| write_error(&path, "set the time", e))?;
        }
        Ok(())
    }
}

/// The path of an entry without a leading `/` and without `.`; `..` is refused.
fn clean(bytes: &[u8]) -> Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(bytes));
    if bytes.len() > MAX_PATH_BYTES {
        let shown: PathBuf = path.iter().take(8).collect();
        return Err(refused(&shown, "the path is longer than 4096 bytes"));
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refused(path, "the path leads out of the image by `..`"));
            }
        }
    }
    Ok(clean)
}

fn open_beneath(root: &OwnedFd, directory: &Path, path: &Path) -> Result<OwnedFd> {
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, directory, flags, Mode::empty(), resolve).map_err(|errno| match errno
    {
        Errno::LOOP => refused(path, "the path leads through a symbolic link"),
        Errno::NOTDIR => refused(
            path,
            "the path leads through something that is no directory",
        ),
        other => write_error(path, "open its directory", other),
    })
}

fn remove_previous(parent: &OwnedFd, name: &OsStr, path: &Path, kind: EntryType) -> Result<()> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(write_error(path, "look for an earlier entry", e)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())
                .map_err(|e| write_error(path, "replace the earlier entry", e))
        }
        Ok(_) if kind == EntryType::Directory => Ok(()),
        Ok(_) => Err(refused(
            path,
            "it takes the place of a directory of the same layer",
        )),
    }
}

fn whiteout(parent: &OwnedFd, name: &OsStr, hidden: &[u8], path: &Path) -> Result<()> {
    if name.as_bytes() == OPAQUE_MARKER {
        let directory = rustix::fs::openat(
            parent,
            ".",
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| write_error(path, "open its directory", e))?;
        return rustix::fs::fsetxattr(
            &directory,
            "trusted.overlay.opaque",
            b"y",
            XattrFlags::empty(),
        )
        .map_err(|e| write_error(path, "mark the directory as opaque", e));
    }
    if hidden.starts_with(WHITEOUT_PREFIX) {
        // Bookkeeping of aufs, which means nothing here.
        return Ok(());
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(refused(path, "it is a whiteout of nothing"));
    }
    let hidden = OsStr::from_bytes(hidden);
    remove_previous(parent, hidden, path, EntryType::Char)?;
    rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(|e| write_error(path, "make the whiteout", e))
}

fn write_file<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
) -> Result<u64> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| write_error(path, "make the file", e))?;
    let expected = entry.size();
    let mut file = std::fs::File::from(file);
    let written = io::copy(entry, &mut file).map_err(|source| match source.kind() {
        io::ErrorKind::StorageFull => LayerError::Write {
            path: path.to_owned(),
            act: "write",
            source,
        },
        _ => LayerError::Read { source },
    })?;
    if written != expected {
        return Err(refused(path, "the archive is cut short"));
    }
    Ok(written)
}

fn make_directory(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(write_error(path, "make the directory", e)),
    }
}

fn make_node<R: Read>(
    entry: &tar::Entry<'_, R>,
    kind: EntryType,
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    attributes: &Attributes,
) -> Result<()> {
    let number = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
    let device: Dev = rustix::fs::makedev(
        number(entry.header().device_major()),
        number(entry.header().device_minor()),
    );
    // A character device 0/0 is how overlayfs writes a whiteout; an image gets none by this way.
    let (kind, device) = match kind {
        EntryType::Fifo => (FileType::Fifo, 0),
        EntryType::Char if device == 0 => {
            return Err(refused(path, "it is a character device 0:0"));
        }
        EntryType::Char => (FileType::CharacterDevice, device),
        _ => (FileType::BlockDevice, device),
    };
    rustix::fs::mknodat(parent, name, kind, attributes.mode, device)
        .map_err(|e| write_error(path, "make the device", e))
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> Result<Vec<u8>> {
    match entry.link_name_bytes() {
        Some(name) if !name.is_empty() && name.len() < MAX_PATH_BYTES && !name.contains(&0) => {
            Ok(name.into_owned())
        }
        _ => Err(refused(path, "it is a link without a valid target")),
    }
}

fn attributes<R: Read>(path: &Path, entry: &tar::Entry<'_, R>) -> Result<Attributes> {
    let header = entry.header();
    let read = |source| LayerError::Read { source };
    let id = |value: u64| match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(refused(path, "its owner is out of range")),
    };
    let seconds = i64::try_from(header.mtime().map_err(read)?).unwrap_or(0);
    Ok(Attributes {
        uid: Uid::from_raw(id(header.uid().map_err(read)?)?),
        gid: Gid::from_raw(id(header.gid().map_err(read)?)?),
        mode: Mode::from_raw_mode(header.mode().map_err(read)? & 0o7777),
        mtime: Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        },
    })
}

fn set_attributes<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    kind: EntryType,
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    attributes: &Attributes,
) -> Result<()> {
    if kind == EntryType::Link {
        return Ok(());
    }
    // The owner first: a change of owner clears set-user-id.
    rustix::fs::chownat(
        parent,
        name,
        Some(attributes.uid),
        Some(attributes.gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(|e| write_error(path, "set the owner", e))?;
    if kind != EntryType::Symlink {
        rustix::fs::chmodat(parent, name, attributes.mode, AtFlags::empty())
            .map_err(|e| write_error(path, "set the mode", e))?;
    }
    if matches!(
        kind,
        EntryType::Regular | EntryType::Continuous | EntryType::Directory
    ) {
        set_extended(entry, parent, name, path)?;
    }
    set_times(
        parent.as_fd(),
        name,
        AtFlags::SYMLINK_NOFOLLOW,
        attributes.mtime,
    )
    .map_err(|e| write_error(path, "set the time", e))
}

/// Sets the extended attributes of namespaces that an image may use; those that steer
/// overlayfs or a security module of the host are left out.
fn set_extended<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
) -> Result<()> {
    let Some(extensions) = entry
        .pax_extensions()
        .map_err(|source| LayerError::Read { source })?
    else {
        return Ok(());
    };
    let mut file = None;
    for extension in extensions {
        let extension = extension.map_err(|source| LayerError::Read { source })?;
        let Some(key) = extension
            .key()
            .ok()
            .and_then(|k| k.strip_prefix("SCHILY.xattr."))
        else {
            continue;
        };
        if key != "security.capability" && !key.starts_with("user.") {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match &file {
            Some(fd) => fd,
            None => file.insert(
                rustix::fs::openat(parent, name, flags, Mode::empty())
                    .map_err(|e| write_error(path, "open it", e))?,
            ),
        };
        match rustix::fs::fsetxattr(fd, key, extension.value_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(write_error(path, "set an extended attribute", e)),
        }
    }
    Ok(())
}

fn set_times(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    flags: AtFlags,
    mtime: Timespec,
) -> std::result::Result<(), Errno> {
    let times = Timestamps {
        last_access: mtime,
        last_modification: mtime,
    };
    rustix::fs::utimensat(directory, name, &times, flags)
}

fn refused(path: &Path, rule: &'static str) -> LayerError {
    LayerError::Refused {
        path: path.to_owned(),
        rule,
    }
}

fn write_error(path: &Path, act: &'static str, errno: Errno) -> LayerError {
    LayerError::Write {
        path: path.to_owned(),
        act,
        source: errno.into(),
    }
}

/// Removes a tree without following links, whatever its depth; what is gone already is no error.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
        Ok(_) => {}
    }
    std::fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests;
