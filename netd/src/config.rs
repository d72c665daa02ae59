//! The command line, read once into final types. A wrong value is one sentence.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustix::thread::CapabilitySet;

use crate::firewall::{HostAccess, Ownership, Passage};
use crate::network::{InvalidValue, Subnet, subnet};

const LONGEST_IFNAME: usize = 15;
const SMALLEST_LIMIT: u32 = 1024;

/// Owns the kernel's network state for containers.
#[derive(Debug, Parser)]
#[command(name = "linkspan-netd", version)]
pub(crate) struct Arguments {
    /// Directory for what must survive a reboot
    #[arg(long, value_name = "DIR", default_value = "/var/lib/linkspan")]
    root: PathBuf,
    /// Directory for the socket and for what a reboot may take
    #[arg(long, value_name = "DIR", default_value = "/run/linkspan")]
    run: PathBuf,
    /// Name of the bridge
    #[arg(long, value_name = "IFNAME", default_value = "linkspan0")]
    bridge_name: String,
    /// IPv4 subnet of the bridge [default: 172.17.0.0/16, or the next that is free]
    #[arg(long, value_name = "CIDR")]
    subnet: Option<String>,
    /// IPv6 subnet of the bridge
    #[arg(long, value_name = "CIDR", default_value = "fd17:6c69:6e6b::/64")]
    subnet6: String,
    /// Host ports to choose from when none is named
    #[arg(long, value_name = "FIRST-LAST", default_value = "49153-65535")]
    port_range: String,
    /// How long a freed address rests before it is used again
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    quarantine_seconds: String,
    /// Whether containers may open connections to the host
    #[arg(long, value_enum, default_value = "deny")]
    host_access: PermissionArgument,
    /// Whether the host, if it forwards packets only for the sake of containers, forwards
    /// those of others as well
    #[arg(long, value_enum, default_value = "deny")]
    transit: PermissionArgument,
    /// Connections of each IP family that one container may have open; 0 means any number
    #[arg(long, value_name = "NUMBER", default_value = "32768")]
    max_connections: String,
    /// Whether only netd may write its nftables tables, or other programs too, as is the
    /// case on kernels before 6.9
    #[arg(long, value_enum, default_value = "owned", hide = true)]
    firewall_tables: FirewallTablesArgument,
    /// Where to serve metrics: unix:PATH, or a loopback address and port [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FirewallTablesArgument {
    Owned,
    Shared,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PermissionArgument {
    Deny,
    Allow,
}

/// Where metrics are served. They tell who talks to whom, so only the host may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MetricsAddress {
    /// At a unix socket.
    Unix(PathBuf),
    /// At a port of a loopback address.
    Loopback(SocketAddr),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(place) => write!(f, "{place}"),
        }
    }
}

/// What netd was told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    root: PathBuf,
    run: PathBuf,
    /// The name of the bridge.
    pub(crate) bridge_name: String,
    /// The IPv4 subnet; none means the first default that is free.
    pub(crate) subnet: Option<Subnet<Ipv4Addr>>,
    /// The IPv6 subnet.
    pub(crate) subnet6: Subnet<Ipv6Addr>,
    /// Where random host ports come from.
    pub(crate) port_range: RangeInclusive<u16>,
    /// How long a freed address rests.
    pub(crate) quarantine: Duration,
    /// Whether containers may open connections to the host itself.
    pub(crate) host_access: HostAccess,
    /// Whether a host that was no router becomes one for others.
    pub(crate) transit: Passage,
    /// How many connections of each family a container may have open; none means any.
    pub(crate) max_connections: Option<NonZeroU32>,
    /// Whether only netd may write its tables.
    pub(crate) ownership: Ownership,
    /// Where metrics are served; none means nowhere.
    pub(crate) metrics: Option<MetricsAddress>,
}

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// It could not be made or looked at.
    #[error("use the directory `{path}`")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others could replace what is in it.
    #[error("the directory `{path}` must belong to root and be writable by nobody else")]
    Unsafe {
        /// The directory.
        path: PathBuf,
    },
}

impl TryFrom<Arguments> for Config {
    type Error = InvalidValue;

    fn try_from(arguments: Arguments) -> Result<Self, InvalidValue> {
        let Arguments {
            root,
            run,
            bridge_name,
            subnet,
            subnet6,
            port_range,
            quarantine_seconds,
            host_access,
            transit,
            max_connections,
            firewall_tables,
            metrics,
        } = arguments;
        for (flag, path) in [("--root", &root), ("--run", &run)] {
            if !path.is_absolute() {
                return Err(InvalidValue(format!(
                    "{flag} must be an absolute path, not {path:?}"
                )));
            }
        }
        let subnet = subnet
            .map(|text| of_flag("--subnet", subnet::parse_ipv4(&text)))
            .transpose()?;
        let seconds = quarantine_seconds.parse().map_err(|_not_a_number| {
            InvalidValue(format!(
                "--quarantine-seconds must be a whole number of seconds, not {quarantine_seconds:?}"
            ))
        })?;
        Ok(Self {
            root,
            run,
            bridge_name: parse_ifname(bridge_name)?,
            subnet,
            subnet6: of_flag("--subnet6", subnet::parse_ipv6(&subnet6))?,
            port_range: parse_range(&port_range)?,
            quarantine: Duration::from_secs(seconds),
            host_access: match host_access {
                PermissionArgument::Deny => HostAccess::Deny,
                PermissionArgument::Allow => HostAccess::Allow,
            },
            transit: match transit {
                PermissionArgument::Deny => Passage::Closed,
                PermissionArgument::Allow => Passage::Open,
            },
            max_connections: parse_limit(&max_connections)?,
            ownership: match firewall_tables {
                FirewallTablesArgument::Owned => Ownership::Owned,
                FirewallTablesArgument::Shared => Ownership::Shared,
            },
            metrics: metrics.as_deref().map(parse_metrics).transpose()?,
        })
    }
}

impl Config {
    /// The file of leases.
    pub(crate) fn lease_file(&self) -> PathBuf {
        self.root.join("net.db")
    }

    /// The file of endpoints.
    pub(crate) fn endpoint_file(&self) -> PathBuf {
        self.run.join("netd.db")
    }

    /// The socket.
    pub(crate) fn socket_path(&self) -> PathBuf {
        self.run.join("netd.sock")
    }

    /// The directory of this boot's state.
    pub(crate) fn run_directory(&self) -> &Path {
        &self.run
    }

    /// The directory of pinned network namespaces.
    pub(crate) fn netns_directory(&self) -> PathBuf {
        self.run.join("netns")
    }

    /// Makes the directories, and refuses those that others could tamper with.
    pub(crate) fn prepare_directories(&self) -> Result<(), DirectoryError> {
        prepare(&self.root, 0o700)?;
        prepare(&self.run, 0o755)
    }
}

/// Whether the process may do what netd does.
pub(crate) fn is_privileged() -> bool {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// The first line of a complaint about the command line, as a sentence of ours.
pub(crate) fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn prepare(path: &Path, mode: u32) -> Result<(), DirectoryError> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let failed = |source| DirectoryError::Io {
        path: path.to_owned(),
        source,
    };
    if !path.exists() {
        fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
            .map_err(failed)?;
    }
    let found = fs::metadata(path).map_err(failed)?;
    let ours = rustix::process::geteuid().as_raw();
    if !found.is_dir() || found.uid() != ours || found.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(DirectoryError::Unsafe {
            path: path.to_owned(),
        });
    }
    Ok(())
}

fn parse_ifname(text: String) -> Result<String, InvalidValue> {
    let legal = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let reserved = matches!(text.as_str(), "" | "." | ".." | "lo" | "all" | "default");
    if legal && !reserved && text.len() <= LONGEST_IFNAME {
        Ok(text)
    } else {
        Err(InvalidValue(format!(
            "--bridge-name must be at most {LONGEST_IFNAME} letters, digits, `-`, `_` or `.`, not {text:?}"
        )))
    }
}

/// A value that is wrong, as the flag's own fault.
fn of_flag<T>(flag: &str, parsed: Result<T, InvalidValue>) -> Result<T, InvalidValue> {
    parsed.map_err(|InvalidValue(sentence)| InvalidValue(format!("{flag}: {sentence}")))
}

fn parse_metrics(text: &str) -> Result<MetricsAddress, InvalidValue> {
    let address = match text.strip_prefix("unix:") {
        Some(path) => Some(MetricsAddress::Unix(path.into()))
            .filter(|_| Path::new(path).is_absolute() && !path.ends_with('/')),
        None => text
            .parse()
            .ok()
            .filter(|place: &SocketAddr| place.ip().is_loopback() && place.port() != 0)
            .map(MetricsAddress::Loopback),
    };
    address.ok_or_else(|| {
        InvalidValue(format!(
            "--metrics must be unix: and an absolute path, or a loopback address and a port such as 127.0.0.1:9600, not {text:?}"
        ))
    })
}

/// A limit is counted in shares, and a small one would be refused long before it is reached.
fn parse_limit(text: &str) -> Result<Option<NonZeroU32>, InvalidValue> {
    match text.parse() {
        Ok(0) => Ok(None),
        Ok(limit) if limit >= SMALLEST_LIMIT => Ok(NonZeroU32::new(limit)),
        _ => Err(InvalidValue(format!(
            "--max-connections must be 0 or a number from {SMALLEST_LIMIT} to {}, not {text:?}",
            u32::MAX
        ))),
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, InvalidValue> {
    let refuse = || {
        InvalidValue(format!(
            "--port-range must be two ports such as 49153-65535, the lower one first, not {text:?}"
        ))
    };
    let (first, last) = text.split_once('-').ok_or_else(refuse)?;
    let first: u16 = first.parse().map_err(|_bad| refuse())?;
    let last: u16 = last.parse().map_err(|_bad| refuse())?;
    if first == 0 || first > last {
        Err(refuse())
    } else {
        Ok(first..=last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let all = std::iter::once("linkspan-netd").chain(arguments.iter().copied());
        let parsed = Arguments::try_parse_from(all).map_err(|error| first_line(&error))?;
        Config::try_from(parsed).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = config(&[]).unwrap();
        assert_eq!(config.subnet, None);
        assert_eq!(config.port_range, 49153..=65535);
        assert_eq!(config.quarantine, Duration::from_secs(60));
        assert_eq!(config.max_connections, NonZeroU32::new(32768));
    }

    #[test]
    fn metrics_are_served_on_the_host_only() {
        for address in ["unix:/run/metrics.sock", "127.0.0.1:9600", "[::1]:9600"] {
            let metrics = config(&["--metrics", address]).unwrap().metrics;
            assert_eq!(metrics.unwrap().to_string(), address);
        }
        assert_eq!(config(&[]).unwrap().metrics, None);
    }

    #[test]
    fn a_wrong_value_is_one_sentence_that_names_its_flag() {
        for (flag, value) in [
            ("--subnet", "172.17.0.0"),
            ("--subnet", "172.17.0.1/16"),
            ("--subnet", "10.0.0.0/31"),
            ("--subnet", "127.0.0.0/8"),
            ("--subnet6", "fd17::/120"),
            ("--subnet6", "fe80::/64"),
            ("--port-range", "9-8"),
            ("--port-range", "0-9"),
            ("--port-range", "1-70000"),
            ("--bridge-name", "sixteen-letters-"),
            ("--bridge-name", "br/0"),
            ("--quarantine-seconds", "soon"),
            ("--root", "relative"),
            ("--host-access", "maybe"),
            ("--max-connections", "1023"),
            ("--max-connections", "many"),
            ("--metrics", "0.0.0.0:9600"),
            ("--metrics", "192.0.2.1:9600"),
            ("--metrics", "127.0.0.1"),
            ("--metrics", "127.0.0.1:0"),
            ("--metrics", "[::]:9600"),
            ("--metrics", "unix:metrics.sock"),
            ("--metrics", "unix:"),
        ] {
            let sentence = config(&[flag, value]).unwrap_err();
            assert!(sentence.contains(flag), "{sentence}");
            assert!(!sentence.contains('\n'), "{sentence}");
        }
    }
}
