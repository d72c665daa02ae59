//! The images that `cargo xtask images` made.

use std::collections::BTreeSet;
use std::env;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::engine::linkspan;

static LOADED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What the images are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// A real busybox, a real Python and a real PostgreSQL.
    Debian,
    /// One static binary that stands in for all of them.
    Guest,
}

/// Loads a test image once, `busybox`, `webapp` or `postgres`, and gives its name.
#[track_caller]
pub fn image(name: &str) -> &'static str {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.insert(name.to_owned()) {
        let archive = directory().join(format!("{name}.tar"));
        let _printed = linkspan(&["load", "-i", &archive.to_string_lossy()]).ok();
    }
    match name {
        "webapp" => "training/webapp",
        "postgres" => "training/postgres",
        _ => "busybox",
    }
}

/// What the images are made of on this machine.
#[must_use]
pub fn image_kind() -> ImageKind {
    match directory().ends_with("guest") {
        true => ImageKind::Guest,
        false => ImageKind::Debian,
    }
}

fn directory() -> PathBuf {
    let directory = env::var_os("LINKSPAN_TEST_IMAGES");
    PathBuf::from(directory.expect("LINKSPAN_TEST_IMAGES; run: cargo xtask test"))
}
