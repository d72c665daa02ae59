//! What the sandbox looks like from within: its mounts, its interfaces, its LAN.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use nix::mount::{MsFlags, mount};

use super::LAN_NETNS;

/// Where temporary files go; never on an overlay, since containers keep theirs here.
pub(super) const TEMPORARY: &str = "/run/tmp";
/// Where the logs of the daemons go by default.
pub(super) const LOGS: &str = "/run/logs";

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
const RESOLVER: &str = "nameserver 10.200.1.9\n";

/// The host of the engine, and the LAN that plays the internet. Addresses beyond those
/// of the link let tests listen as a name server, as a far host and as cloud metadata.
const TOPOLOGY: [&str; 20] = [
    "link set lo up",
    "netns add lan1",
    "link add eth-lan type veth peer name eth0 netns lan1",
    "address add 10.200.1.1/24 dev eth-lan",
    "address add fd00:200:1::1/64 dev eth-lan nodad",
    "link set eth-lan up",
    "-n lan1 link set lo up",
    "-n lan1 address add 10.200.1.2/24 dev eth0",
    "-n lan1 address add 10.200.1.9/24 dev eth0",
    "-n lan1 address add fd00:200:1::2/64 dev eth0 nodad",
    "-n lan1 address add 198.51.100.1/32 dev lo",
    "-n lan1 address add 169.254.169.254/32 dev lo",
    "-n lan1 address add 2001:db8:1::1/128 dev lo nodad",
    "-n lan1 link set eth0 up",
    "route add default via 10.200.1.2",
    "-6 route add default via fd00:200:1::2",
    "link show lo",
    "link show eth-lan",
    "-n lan1 link show eth0",
    "-n lan1 route show",
];

/// Makes the mounts and the network. Only PID 1 of new namespaces may call it.
pub(super) fn build() -> anyhow::Result<()> {
    mounts()?;
    only_interfaces(&["lo"])?;
    nix::unistd::sethostname("sandbox").context("set the hostname")?;
    for line in TOPOLOGY {
        ip(line)?;
    }
    anyhow::ensure!(
        Path::new(LAN_NETNS).exists(),
        "no {LAN_NETNS} after `ip netns add`"
    );
    only_interfaces(&["lo", "eth-lan"])
}

/// The interfaces that are there.
pub(super) fn interfaces() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("/sys/class/net").context("list the interfaces")? {
        let entry = entry?;
        // `bonding_masters` is a file among the interfaces.
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Runs a program and gives what it printed.
pub(super) fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip(line: &str) -> anyhow::Result<String> {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    output("ip", &arguments)
}

fn mounts() -> anyhow::Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let sealed = quiet | MsFlags::MS_NOEXEC;
    fresh("proc", "/proc", sealed, None)?;
    fresh("tmpfs", "/run", quiet, Some("mode=755,size=4g"))?;
    for directory in [TEMPORARY, LOGS, "/run/sandbox/cgroup"] {
        fs::create_dir_all(directory)?;
    }
    // sysfs shows the interfaces of the namespace it was mounted in.
    move_mount(
        "/sys/fs/cgroup",
        "/run/sandbox/cgroup",
        MsFlags::MS_BIND | MsFlags::MS_REC,
    )?;
    fresh("sysfs", "/sys", sealed, None)?;
    move_mount("/run/sandbox/cgroup", "/sys/fs/cgroup", MsFlags::MS_MOVE)?;
    fs::create_dir_all("/var/lib/linkspan")?;
    fresh(
        "tmpfs",
        "/var/lib/linkspan",
        quiet,
        Some("mode=700,size=8g"),
    )?;
    for (name, text) in [("hosts", HOSTS), ("resolv.conf", RESOLVER)] {
        let own = format!("/run/sandbox/{name}");
        fs::write(&own, text)?;
        let real = fs::canonicalize(Path::new("/etc").join(name))
            .with_context(|| format!("find /etc/{name}"));
        // A resolv.conf that was a link into the machine's /run is not there any more.
        if let Ok(real) = real {
            move_mount(&own, &real.to_string_lossy(), MsFlags::MS_BIND)?;
        }
    }
    Ok(())
}

fn fresh(kind: &str, at: &str, flags: MsFlags, data: Option<&str>) -> anyhow::Result<()> {
    mount(Some(kind), at, Some(kind), flags, data).with_context(|| format!("mount {kind} on {at}"))
}

fn move_mount(from: &str, to: &str, flags: MsFlags) -> anyhow::Result<()> {
    let none: Option<&str> = None;
    mount(Some(from), to, none, flags, none).with_context(|| format!("mount {from} on {to}"))
}

fn only_interfaces(allowed: &[&str]) -> anyhow::Result<()> {
    let found = interfaces()?;
    // Kernels make some devices in each namespace by themselves; they lead nowhere.
    let built_in = [
        "sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0",
    ];
    for name in &found {
        anyhow::ensure!(
            allowed.contains(&name.as_str())
                || built_in.contains(&name.as_str())
                || name.starts_with("ip_vti")
                || name.starts_with("ip6_vti"),
            "the interface {name} is in the sandbox; refusing to go on"
        );
    }
    Ok(())
}
