//! Network namespaces of containers, pinned by a bind mount so that they outlive every
//! process that is in them.
//!
//! Each is made on a thread of its own, which ends right after: the threads of the
//! daemon never change their namespace.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::CloneFlags;
use rustix::mount::UnmountFlags;

use crate::netlink::{NetlinkError, NetlinkSocket};
use crate::network::EndpointId;
use crate::sysctl::{self, SysctlError};

const SELF: &str = "/proc/thread-self/ns/net";

/// Settings of a container's namespace, in force before it has a device.
const SETTINGS: [(&str, &[(&str, &str)]); 3] = [
    (
        "ipv4",
        &[
            ("ping_group_range", "0 2147483647"),
            ("ip_unprivileged_port_start", "0"),
        ],
    ),
    (
        "ipv6/conf/default",
        &[
            ("disable_ipv6", "0"),
            ("accept_ra", "0"),
            ("accept_redirects", "0"),
            ("accept_dad", "0"),
        ],
    ),
    (
        "ipv6/conf/all",
        &[("disable_ipv6", "0"), ("accept_redirects", "0")],
    ),
];

/// Why a namespace could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetnsError {
    /// A system call failed.
    #[error("{act} netns `{path}`")]
    Io {
        /// What was tried.
        act: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A setting inside failed.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// No netlink socket inside.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// A namespace that was just made.
#[derive(Debug)]
pub(crate) struct Netns {
    /// The namespace.
    pub(crate) fd: OwnedFd,
    /// A routing socket inside.
    pub(crate) socket: NetlinkSocket,
}

/// The directory of pins.
#[derive(Debug, Clone)]
pub(crate) struct NetnsDirectory {
    path: PathBuf,
}

impl NetnsDirectory {
    /// Uses a directory, and makes it if need be.
    pub(crate) fn open(path: PathBuf) -> Result<Self, NetnsError> {
        fs::create_dir_all(&path)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
            .map_err(failed("make the directory of", &path))?;
        Ok(Self { path })
    }

    /// Where the namespace of an endpoint is pinned.
    pub(crate) fn pin_of(&self, id: &EndpointId) -> PathBuf {
        self.path.join(id.as_str())
    }

    /// Makes and pins a namespace.
    pub(crate) fn create(&self, id: &EndpointId) -> Result<Netns, NetnsError> {
        on_thread(&self.pin_of(id), make)
    }

    /// Opens a namespace that is pinned.
    pub(crate) fn enter(&self, id: &EndpointId) -> Result<Netns, NetnsError> {
        on_thread(&self.pin_of(id), |pin| {
            let fd = File::open(pin).map_err(failed("open", pin))?;
            nix::sched::setns(&fd, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| failed("enter", pin)(errno.into()))?;
            Ok(Netns {
                fd: fd.into(),
                socket: NetlinkSocket::open(libc::NETLINK_ROUTE)?,
            })
        })
    }

    /// Removes a pin; one that is gone is no error.
    pub(crate) fn remove(&self, id: &EndpointId) -> Result<(), NetnsError> {
        self.remove_entry(id.as_str())
    }

    /// Whether an endpoint has a pin that is a namespace.
    pub(crate) fn has(&self, id: &EndpointId) -> bool {
        const NSFS_MAGIC: i64 = 0x6e73_6673;
        rustix::fs::statfs(self.pin_of(id))
            .is_ok_and(|found| i128::from(found.f_type) == i128::from(NSFS_MAGIC))
    }

    /// Removes every pin that no endpoint claims.
    pub(crate) fn remove_orphans(
        &self,
        is_claimed: impl Fn(&str) -> bool,
    ) -> Result<(), NetnsError> {
        let entries = fs::read_dir(&self.path).map_err(failed("list", &self.path))?;
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.path))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !is_claimed(&name) {
                tracing::info!(pin = name, "orphaned netns removed");
                self.remove_entry(&name)?;
            }
        }
        Ok(())
    }

    fn remove_entry(&self, name: &str) -> Result<(), NetnsError> {
        let pin = self.path.join(name);
        loop {
            match rustix::mount::unmount(&pin, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // A crash between two attempts can leave more than one mount.
                Ok(()) => {}
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
                Err(errno) => return Err(failed("unmount", &pin)(errno.into())),
            }
        }
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("unlink", &pin)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Does something on a thread that is thrown away, whose namespace may change.
fn on_thread<T: Send + 'static>(
    pin: &Path,
    act: fn(&Path) -> Result<T, NetnsError>,
) -> Result<T, NetnsError> {
    let for_thread = pin.to_owned();
    let thread = thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || act(&for_thread))
        .map_err(failed("start a thread for", pin))?;
    thread.join().unwrap_or_else(|_| {
        Err(failed("enter", pin)(io::Error::other(
            "the thread panicked",
        )))
    })
}

fn make(pin: &Path) -> Result<Netns, NetnsError> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| failed("make", pin)(errno.into()))?;
    File::options()
        .write(true)
        .create_new(true)
        .open(pin)
        .map_err(failed("pin", pin))?;
    rustix::mount::mount_bind(SELF, pin).map_err(|errno| failed("pin", pin)(errno.into()))?;
    let inside = sysctl::Settings::open()?;
    for (directory, settings) in SETTINGS {
        inside.write_all(directory, settings)?;
    }
    let fd = File::open(SELF).map_err(failed("open", pin))?;
    Ok(Netns {
        fd: fd.into(),
        socket: NetlinkSocket::open(libc::NETLINK_ROUTE)?,
    })
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetnsError {
    move |source| NetnsError::Io {
        act,
        path: path.to_owned(),
        source,
    }
}
