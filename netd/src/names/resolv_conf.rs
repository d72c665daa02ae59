//! The servers that the host asks, followed as its `resolv.conf` changes.
//!
//! The file may be written in place, replaced by rename, or be a symbolic link to a file
//! that is. So every directory on the way is watched, and the file itself as well, for
//! the writer who came by another path.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// The port of DNS.
pub(super) const PORT: u16 = 53;
/// As many as the C library looks at.
const SERVERS: usize = 3;
/// As many symbolic links as the kernel follows, and less.
const HOPS: usize = 16;

/// A file of servers, and a watch on it.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    watch: AsyncFd<OwnedFd>,
}

impl Follower {
    /// Follows a file from now on.
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        let watch = watch(&path)?;
        Ok(Self { path, watch })
    }

    /// The servers that the file names now. A file that is not there names none, and then
    /// the host asks itself.
    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        parse(&fs::read(&self.path).unwrap_or_default())
    }

    /// Waits until the file may be another. Cancel-safe.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        self.watch.readable().await?.clear_ready();
        // The way to the file may be another, too. The new watch is there before the file
        // is read again, so no change falls between.
        self.watch = watch(&self.path)?;
        Ok(())
    }
}

/// The servers in the text of a `resolv.conf`.
fn parse(text: &[u8]) -> Vec<SocketAddr> {
    let text = String::from_utf8_lossy(text);
    let servers: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            words.next().filter(|word| *word == "nameserver")?;
            parse_server(words.next()?)
        })
        .take(SERVERS)
        .collect();
    if servers.is_empty() {
        return vec![(Ipv4Addr::LOCALHOST, PORT).into()];
    }
    servers
}

fn parse_server(text: &str) -> Option<SocketAddr> {
    let Some((ip, zone)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, PORT));
    };
    let IpAddr::V6(ip) = ip.parse().ok()? else {
        return None;
    };
    let index = nix::net::if_::if_nametoindex(zone).ok()?;
    Some(SocketAddrV6::new(ip, PORT, 0, index).into())
}

fn watch(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let of_directories =
        WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
    let of_files = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB;
    let mut place = path.to_owned();
    for _ in 0..HOPS {
        // What cannot be watched is not there; the directory above tells when it is.
        let directories = place.ancestors().skip(1);
        for directory in directories {
            if add_watch(&inotify, directory, of_directories | WatchFlags::ONLYDIR).is_ok() {
                break;
            }
        }
        match fs::read_link(&place) {
            Ok(target) => place = place.parent().unwrap_or(Path::new("/")).join(target),
            Err(_no_link) => break,
        }
    }
    // A file that is not there has nothing to tell.
    let _absent = add_watch(&inotify, path, of_files);
    register(inotify)
}

#[expect(
    deprecated,
    reason = "the safe constructor; its hazard is a type that lends a closed descriptor, which OwnedFd cannot be"
)]
fn register(inotify: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(inotify)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_does() {
        let text = "# comment\nnameserver 10.0.0.1 trailing\n  nameserver\t2001:db8::1\n\
                    search example.com\nnameserver nonsense\nnameserver fe80::1%lo\n\
                    nameserver 10.0.0.9\n";
        let servers: Vec<_> = parse(text.as_bytes())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            servers,
            ["10.0.0.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]
        );
    }

    #[test]
    fn a_host_without_servers_asks_itself() {
        for text in [&b""[..], b"nameserver", b"\xff\xfe", b"options ndots:2\n"] {
            assert_eq!(parse(text), ["127.0.0.1:53".parse().unwrap()]);
        }
    }

    async fn servers_after(follower: &mut Follower, act: impl FnOnce()) -> Vec<String> {
        act();
        tokio::time::timeout(Duration::from_secs(5), follower.changed())
            .await
            .expect("the change is seen")
            .unwrap();
        let servers = follower.servers();
        servers
            .iter()
            .map(|server| server.ip().to_string())
            .collect()
    }

    #[tokio::test]
    async fn the_file_is_followed_however_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let line = |ip: &str| format!("nameserver {ip}\n");
        fs::create_dir(at("etc")).unwrap();
        fs::write(at("etc/resolv.conf"), line("10.0.0.1")).unwrap();
        let mut follower = Follower::new(at("etc/resolv.conf")).unwrap();

        let seen = servers_after(&mut follower, || {
            fs::write(at("etc/resolv.conf"), line("10.0.0.2")).unwrap();
        });
        assert_eq!(seen.await.last().unwrap(), "10.0.0.2", "written in place");
        let seen = servers_after(&mut follower, || {
            fs::write(at("new"), line("10.0.0.3")).unwrap();
            fs::rename(at("new"), at("etc/resolv.conf")).unwrap();
        });
        assert_eq!(seen.await, ["10.0.0.3"], "renamed over");
        let seen = servers_after(&mut follower, || {
            // A relative link to a directory that is not there yet.
            symlink("../run/resolve/stub.conf", at("new")).unwrap();
            fs::rename(at("new"), at("etc/resolv.conf")).unwrap();
        });
        assert_eq!(seen.await, ["127.0.0.1"], "a link to nothing");
        let seen = servers_after(&mut follower, || {
            fs::create_dir(at("run")).unwrap();
        });
        assert_eq!(seen.await, ["127.0.0.1"]);
        let seen = servers_after(&mut follower, || {
            fs::create_dir(at("run/resolve")).unwrap();
        });
        assert_eq!(seen.await, ["127.0.0.1"]);
        let seen = servers_after(&mut follower, || {
            fs::write(at("new"), line("10.0.0.4")).unwrap();
            fs::rename(at("new"), at("run/resolve/stub.conf")).unwrap();
        });
        assert_eq!(seen.await, ["10.0.0.4"], "through the link");
    }
}
