//! Settings under `/proc/sys/net`, of the network namespace of the calling thread.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};

const ROOT: &str = "/proc/sys/net";

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("set net/{key} to {value}")]
pub(crate) struct SysctlError {
    key: String,
    value: String,
    #[source]
    source: io::Error,
}

/// The settings of the namespace of the thread that opens it, by a procfs of its own.
///
/// In one procfs the entries of all namespaces have the same names in the same directories,
/// and the kernel looks for the right one among all that were ever written.
#[derive(Debug)]
pub(crate) struct Settings {
    procfs: OwnedFd,
}

impl Settings {
    /// Opens the settings.
    pub(crate) fn open() -> Result<Self, SysctlError> {
        let open = || {
            let context = mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            mount::fsconfig_create(context.as_fd())?;
            let flags = FsMountFlags::FSMOUNT_CLOEXEC;
            mount::fsmount(context.as_fd(), flags, MountAttrFlags::empty())
        };
        let procfs = open().map_err(|errno| SysctlError {
            key: String::new(),
            value: "anything".to_owned(),
            source: errno.into(),
        })?;
        Ok(Self { procfs })
    }

    /// Writes settings of one directory.
    pub(crate) fn write_all(
        &self,
        directory: &str,
        settings: &[(&str, &str)],
    ) -> Result<(), SysctlError> {
        settings.iter().try_for_each(|(name, value)| {
            let key = format!("{directory}/{name}");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&self.procfs, format!("sys/net/{key}"), flags, Mode::empty())
                .map_err(io::Error::from)
                .and_then(|fd| File::from(fd).write_all(value.as_bytes()))
                .map_err(|source| SysctlError {
                    key,
                    value: (*value).to_owned(),
                    source,
                })
        })
    }
}

/// Where a setting, or a directory of them, is.
pub(crate) fn path(key: &str) -> PathBuf {
    Path::new(ROOT).join(key)
}

/// Writes a setting, named by its path below `/proc/sys/net`.
pub(crate) fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    fs::write(path(key), value).map_err(|source| SysctlError {
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Writes a setting unless it has the value already.
pub(crate) fn ensure(key: &str, value: &str) -> Result<(), SysctlError> {
    if read(key).as_deref() == Some(value) {
        Ok(())
    } else {
        write(key, value)
    }
}

/// The value of a setting; none if the kernel does not have it.
pub(crate) fn read(key: &str) -> Option<String> {
    let text = fs::read_to_string(path(key)).ok()?;
    Some(text.trim_end().to_owned())
}

/// The names in a directory of settings.
pub(crate) fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(path(directory))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
