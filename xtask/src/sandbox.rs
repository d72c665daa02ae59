//! Runs a command, or a shell, in the sandbox with the daemons and the images.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::images::{self, Images};
use crate::{tools, workspace};

/// Who runs COMMAND.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The engine's host.
    Host,
    /// The host beside it.
    Lan,
}

/// Builds all, makes the images, and runs the command; gives its status, or 70 on a leak.
pub(crate) fn run(place: Place, command: &[OsString]) -> anyhow::Result<ExitCode> {
    let (binaries, images) = prepare()?;
    let shell = [env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    let words = if command.is_empty() { &shell } else { command };
    let mut sandbox = sandbox(&binaries, &images);
    if place == Place::Lan {
        sandbox.arg("--lan");
    }
    let status = sandbox
        .arg("--")
        .args(words)
        .status()
        .context("run the sandbox")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// What every command in a sandbox needs: tools, binaries and images.
pub(crate) fn prepare() -> anyhow::Result<(std::path::PathBuf, Images)> {
    anyhow::ensure!(
        cfg!(target_os = "linux"),
        "containers are a feature of Linux; run this on a Linux machine"
    );
    anyhow::ensure!(
        workspace::is_root(),
        "the sandbox makes namespaces and needs root rights; run it as root"
    );
    tools::ensure(tools::SANDBOX)?;
    let binaries = workspace::build()?;
    let images = images::make(&images::default_directory())?;
    Ok((binaries, images))
}

/// A sandbox with daemons and images, still without a command.
pub(crate) fn sandbox(binaries: &Path, images: &Images) -> Command {
    let mut command = Command::new(binaries.join("linkspan-sandbox"));
    for archive in images.archives() {
        command.arg("--image").arg(archive);
    }
    command.env("LINKSPAN_TEST_IMAGES", &images.directory);
    command
}
