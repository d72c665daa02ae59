//! Images of Debian packages: a root filesystem by mmdebstrap, and layers above it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::{Config, archive, digest};
use crate::tools::{self, say};
use crate::workspace;

const APP: &str = include_str!("../../assets/app.py");
const START_POSTGRES: &str = include_str!("../../assets/start-postgres");
const INSTALL_POSTGRES: &str = include_str!("../../assets/install-postgres");
/// What the shared layer has beyond the least that apt needs.
const BASE_PACKAGES: &str = "bash,iproute2,iputils-ping,netbase,procps,python3-psycopg2";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PGDATA: &str = "/var/lib/postgresql/data";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n";

/// Mounts what packages expect, runs the script in the image, and takes all of it away
/// with the mount namespace. Parameters: lower, upper, work, merged, program.
const IN_OVERLAY: &str = r#"
mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" overlay "$4"
mount -t proc proc "$4/proc"
mount --rbind /dev "$4/dev"
mount -t tmpfs tmpfs "$4/run"
touch "$4/etc/resolv.conf"
mount --bind "$(readlink -f /etc/resolv.conf)" "$4/etc/resolv.conf"
exec chroot "$4" /bin/sh -c "$5"
"#;

/// What identifies the result: the same recipe is not made twice.
pub(super) fn recipe() -> String {
    let release = tools::debian_release().unwrap_or_default();
    let parts = [
        "1",
        &release,
        APP,
        START_POSTGRES,
        INSTALL_POSTGRES,
        BASE_PACKAGES,
        PATH,
        PASSWD,
        GROUP,
    ];
    digest(parts.join("\0").as_bytes())
}

/// Makes the three archives.
pub(super) fn make(directory: &Path) -> anyhow::Result<()> {
    let work = directory.join("work");
    remove(&work)?;
    fs::create_dir_all(&work)?;
    busybox(directory, &work)?;
    let base = base(&work)?;
    let base_layer = pack(&base, &work.join("base.tar"))?;
    webapp(directory, &work, &base_layer)?;
    postgres(directory, &work, &base, &base_layer)?;
    remove(&work)
}

fn busybox(directory: &Path, work: &Path) -> anyhow::Result<()> {
    let root = work.join("busybox");
    for name in [
        "bin", "etc", "root", "tmp", "proc", "sys", "dev", "var", "usr/bin",
    ] {
        fs::create_dir_all(root.join(name))?;
    }
    let program = workspace::find("busybox").context("find busybox")?;
    fs::copy(&program, root.join("bin/busybox"))?;
    let listed = workspace::output(Command::new(&program).arg("--list"))?;
    for applet in listed.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    write(&root.join("etc/passwd"), PASSWD, 0o644)?;
    write(&root.join("etc/group"), GROUP, 0o644)?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700))?;
    workspace::run(
        Command::new("chroot")
            .arg(&root)
            .args(["/bin/busybox", "true"]),
    )
    .context("busybox is not static; install the package busybox-static")?;
    let layer = pack(&root, &work.join("busybox.tar"))?;
    let config = Config {
        tag: "busybox:latest",
        environment: &[PATH.to_owned()],
        command: &["sh"],
        working_directory: "/",
        port: None,
        stop_signal: None,
    };
    archive::write(&directory.join("busybox.tar"), &config, &[&layer])
}

/// The root filesystem that both images of the manual stand on.
fn base(work: &Path) -> anyhow::Result<PathBuf> {
    let root = work.join("base");
    let release = tools::debian_release().context("the release of this Debian has no name")?;
    say(&format!("making a root filesystem of {release}"));
    let mut command = Command::new("mmdebstrap");
    command
        .args([
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
        ])
        .arg(format!("--include={BASE_PACKAGES}"))
        .args([
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
        ])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*"])
        .arg(release)
        .arg(&root)
        .args(sources()?)
        .stdin(Stdio::null());
    workspace::run(&mut command)?;
    // A container gets these from the engine.
    for file in ["etc/resolv.conf", "etc/hostname"] {
        write(&root.join(file), "", 0o644)?;
    }
    symlink("python3", root.join("usr/bin/python"))?;
    Ok(root)
}

/// The host's own package sources: what serves this machine serves the image.
fn sources() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from("/etc/apt/sources.list")];
    for entry in fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
    {
        found.push(entry?.path());
    }
    found.retain(|path| {
        let known = path
            .extension()
            .is_some_and(|kind| kind == "list" || kind == "sources");
        known && fs::metadata(path).is_ok_and(|file| file.len() > 0)
    });
    found.sort();
    Ok(found)
}

fn webapp(directory: &Path, work: &Path, base_layer: &Path) -> anyhow::Result<()> {
    let root = work.join("webapp");
    fs::create_dir_all(root.join("opt/webapp"))?;
    write(&root.join("opt/webapp/app.py"), APP, 0o644)?;
    let layer = pack(&root, &work.join("webapp.tar"))?;
    let config = Config {
        tag: "training/webapp:latest",
        environment: &[PATH.to_owned()],
        command: &["python", "app.py"],
        working_directory: "/opt/webapp",
        port: Some(5000),
        stop_signal: None,
    };
    archive::write(
        &directory.join("webapp.tar"),
        &config,
        &[base_layer, &layer],
    )
}

fn postgres(directory: &Path, work: &Path, base: &Path, base_layer: &Path) -> anyhow::Result<()> {
    say("installing PostgreSQL into an image");
    let [upper, scratch, merged] = ["upper", "scratch", "merged"].map(|name| work.join(name));
    for path in [&upper, &scratch, &merged] {
        fs::create_dir_all(path)?;
    }
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-euc",
            IN_OVERLAY,
            "sh",
        ])
        .args([base, &upper, &scratch, &merged])
        .arg(INSTALL_POSTGRES)
        .stdin(Stdio::null());
    workspace::output(&mut command)?;
    let version = fs::read_to_string(upper.join("etc/postgresql-common/image-version"))
        .context("find the version of PostgreSQL")?;
    let start = upper.join("usr/local/bin/start-postgres");
    fs::create_dir_all(upper.join("usr/local/bin"))?;
    write(&start, START_POSTGRES, 0o755)?;
    turn_whiteouts(&upper)?;
    let layer = pack(&upper, &work.join("postgres.tar"))?;
    let config = Config {
        tag: "training/postgres:latest",
        environment: &[
            PATH.to_owned(),
            format!("PG_VERSION={}", version.trim()),
            format!("PGDATA={PGDATA}"),
        ],
        command: &["/usr/local/bin/start-postgres"],
        working_directory: "/",
        port: Some(5432),
        // The server's own word for an end that does not wait for clients.
        stop_signal: Some("SIGINT"),
    };
    archive::write(
        &directory.join("postgres.tar"),
        &config,
        &[base_layer, &layer],
    )
}

/// A file that is deleted is a device in an overlay, and a name in a layer.
fn turn_whiteouts(directory: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            turn_whiteouts(&path)?;
        } else if kind.is_char_device() && entry.metadata()?.rdev() == 0 {
            fs::remove_file(&path)?;
            let name = format!(".wh.{}", entry.file_name().to_string_lossy());
            fs::write(directory.join(name), "")?;
        }
    }
    Ok(())
}

fn pack(root: &Path, layer: &Path) -> anyhow::Result<PathBuf> {
    let mut command = Command::new("tar");
    command
        .args([
            "--create",
            "--numeric-owner",
            "--sort=name",
            "--format=posix",
            "--xattrs",
        ])
        .args(["--xattrs-include=security.capability", "--exclude=./dev/*"])
        .arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")
        .arg("--file")
        .arg(layer)
        .arg("--directory")
        .arg(root)
        .arg(".");
    workspace::run(&mut command)?;
    Ok(layer.to_path_buf())
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}
