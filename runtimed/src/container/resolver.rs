//! The resolver configuration of a container, made from the host's and the user's.
//!
//! Pure but for [`host_configuration`]. Format: resolv.conf(5).

use std::net::IpAddr;
use std::path::Path;

/// What a container asks when the host names no server that it could reach.
const PUBLIC_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// The host's configuration.
const HOST_FILE: &str = "/etc/resolv.conf";
/// The servers behind systemd-resolved's stub, which only the host can reach.
const RESOLVED_FILE: &str = "/run/systemd/resolve/resolv.conf";

/// What the user asked for; an empty part comes from the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) servers: &'a [String],
    pub(crate) search: &'a [String],
    pub(crate) options: &'a [String],
}

/// The host's configuration; behind a local stub, that of the stub's own servers.
pub(crate) fn host_configuration() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let text = read(HOST_FILE);
    let servers: Vec<&str> = values(&text, "nameserver").collect();
    if servers == ["127.0.0.53"] {
        let behind = read(RESOLVED_FILE);
        if !behind.is_empty() {
            return behind;
        }
    }
    text
}

/// The host's configuration as it is, for a container that shares the host's network and
/// wants nothing else.
pub(crate) fn of_host(wanted: Wanted<'_>) -> String {
    let text = std::fs::read_to_string(Path::new(HOST_FILE)).unwrap_or_default();
    let asks_for_nothing =
        wanted.servers.is_empty() && wanted.search.is_empty() && wanted.options.is_empty();
    if asks_for_nothing {
        text
    } else {
        render(&text, wanted, None)
    }
}

/// The container's configuration. Servers on the host's loopback are left out, since the
/// container has its own; `search` of `.` alone means none. On a network with names the
/// gateway is the one server, which asks the others itself.
pub(crate) fn render(host: &str, wanted: Wanted<'_>, gateway: Option<&str>) -> String {
    let given = match gateway {
        Some(gateway) => &[gateway.to_owned()][..],
        None => wanted.servers,
    };
    let mut servers: Vec<String> = match given {
        [] => values(host, "nameserver")
            .filter(|s| is_reachable(s))
            .map(str::to_owned)
            .collect(),
        given => given.to_vec(),
    };
    if servers.is_empty() {
        servers = PUBLIC_SERVERS.iter().map(|s| (*s).to_owned()).collect();
    }
    let from_host = |key| {
        values(host, key)
            .last()
            .map(|v| v.split_whitespace().map(str::to_owned).collect())
    };
    let search: Vec<String> = match wanted.search {
        [] => from_host("search").unwrap_or_default(),
        [dot] if dot == "." => Vec::new(),
        given => given.to_vec(),
    };
    let mut options: Vec<String> = match wanted.options {
        [] => from_host("options").unwrap_or_default(),
        given => given.to_vec(),
    };
    // A name of the network has no dot, and is asked for as it is.
    if gateway.is_some() && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    let mut text = String::new();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let line = line.trim();
        let rest = line.strip_prefix(key)?;
        rest.starts_with(char::is_whitespace).then(|| rest.trim())
    })
}

fn is_reachable(server: &str) -> bool {
    server
        .split('%')
        .next()
        .is_some_and(|s| s.parse::<IpAddr>().is_ok_and(|a| !a.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Wanted<'_> = Wanted {
        servers: &[],
        search: &[],
        options: &[],
    };

    /// Row S54: name resolution works by default.
    #[test]
    fn servers_on_the_hosts_loopback_are_left_out() {
        let host = "nameserver 127.0.0.1\nnameserver 10.0.0.2\nsearch a b\n# nameserver 1.1.1.1\n";
        assert_eq!(
            render(host, NOTHING, None),
            "search a b\nnameserver 10.0.0.2\n"
        );
        assert_eq!(
            render("nameserver ::1\n", NOTHING, None),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
    }

    #[test]
    fn each_part_that_the_user_gives_replaces_the_hosts() {
        let servers = ["9.9.9.9".to_owned()];
        let search = [".".to_owned()];
        let wanted = Wanted {
            servers: &servers,
            search: &search,
            options: &[],
        };
        let host = "search x\nnameserver 10.0.0.2\noptions ndots:2 edns0\n";
        assert_eq!(
            render(host, wanted, None),
            "nameserver 9.9.9.9\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn a_network_with_names_has_one_server() {
        let host = "nameserver 10.0.0.2\nsearch x\n";
        assert_eq!(
            render(host, NOTHING, Some("172.18.0.1")),
            "search x\nnameserver 172.18.0.1\noptions ndots:0\n"
        );
        let options = ["ndots:2".to_owned()];
        let wanted = Wanted {
            options: &options,
            ..NOTHING
        };
        let text = render(host, wanted, Some("172.18.0.1"));
        assert!(text.ends_with("options ndots:2\n"), "{text}");
    }
}
