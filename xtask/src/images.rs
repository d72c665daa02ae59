//! Makes the images that tests and the demo run, as archives that `load` reads.
//!
//! `busybox` is one static program. `training/webapp` and `training/postgres` are the
//! images of the manual, made from the host's own Debian packages; they share a layer.
//! Where there is no Debian, the workspace's own static binary stands in for them.

mod archive;
mod debian;
mod guest;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::tools::{self, say};
use crate::workspace;

/// What a container of an image starts with.
pub(crate) struct Config<'a> {
    pub(crate) tag: &'a str,
    pub(crate) environment: &'a [String],
    pub(crate) command: &'a [&'a str],
    pub(crate) working_directory: &'a str,
    pub(crate) port: Option<u16>,
    pub(crate) stop_signal: Option<&'a str>,
}

/// What the images are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian packages: a real PostgreSQL and a real Python.
    Debian,
    /// The workspace's static binary, for want of Debian.
    Guest,
}

/// Archives that are ready to be loaded.
pub(crate) struct Images {
    pub(crate) kind: Kind,
    pub(crate) directory: PathBuf,
}

impl Images {
    /// The archives, in the order to load them.
    pub(crate) fn archives(&self) -> Vec<PathBuf> {
        ["busybox", "webapp", "postgres"]
            .iter()
            .map(|name| self.directory.join(format!("{name}.tar")))
            .collect()
    }
}

/// Where the images go unless told otherwise.
pub(crate) fn default_directory() -> PathBuf {
    workspace::target().join("images")
}

/// Makes the images that are not there, or not of the recipe of today.
pub(crate) fn make(directory: &Path) -> anyhow::Result<Images> {
    let needs = match tools::ensure(tools::IMAGES) {
        Ok(()) if !workspace::is_root() => {
            Err(anyhow::anyhow!("images of packages need root rights"))
        }
        other => other,
    };
    match needs {
        Ok(()) => debian_images(directory),
        Err(error) => {
            say(&format!(
                "{error:#}; the project's own static binary stands in"
            ));
            let directory = directory.join("guest");
            guest::make(&directory)?;
            Ok(Images {
                kind: Kind::Guest,
                directory,
            })
        }
    }
}

fn debian_images(directory: &Path) -> anyhow::Result<Images> {
    fs::create_dir_all(directory)?;
    // Two commands at once make the images once. The lock goes with the descriptor.
    let lock = File::create(directory.join("lock"))?;
    lock.lock().context("lock the images")?;
    let recipe = debian::recipe();
    let images = Images {
        kind: Kind::Debian,
        directory: directory.to_path_buf(),
    };
    let stamp = directory.join("recipe");
    let fresh = fs::read_to_string(&stamp).is_ok_and(|made| made == recipe);
    if fresh && images.archives().iter().all(|archive| archive.exists()) {
        return Ok(images);
    }
    // Without the stamp, a run that is interrupted is started again.
    if stamp.exists() {
        fs::remove_file(&stamp)?;
    }
    say("making the images busybox, training/webapp and training/postgres");
    debian::make(directory)?;
    fs::write(&stamp, recipe)?;
    Ok(images)
}

/// A digest as content addresses have it, without the name of the algorithm.
fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
