//! Settings under `/proc/sys/net`, of the network namespace of the calling thread.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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

/// Writes a setting, named by its path below `/proc/sys/net`.
pub(crate) fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    fs::write(Path::new(ROOT).join(key), value).map_err(|source| SysctlError {
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
    let text = fs::read_to_string(Path::new(ROOT).join(key)).ok()?;
    Some(text.trim_end().to_owned())
}

/// Writes several settings of one directory.
pub(crate) fn write_all(directory: &str, settings: &[(&str, &str)]) -> Result<(), SysctlError> {
    settings
        .iter()
        .try_for_each(|(name, value)| write(&format!("{directory}/{name}"), value))
}

/// The names in a directory of settings.
pub(crate) fn names(directory: &str) -> Vec<String> {
    let path: PathBuf = Path::new(ROOT).join(directory);
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
