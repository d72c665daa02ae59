//! The environment of a first process, with what its links carry.
//!
//! Pure. The names and their order are those of Docker's manual; where versions of
//! Docker differ, 28.0 is followed for runs of ports, and the manual for everything else.

use super::record::{Addresses, Link, Record};
use crate::port::Port;

/// The search path when neither the user nor the image gives one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Parts of a variable's name that make its value look like a secret.
const SECRET_PARTS: [&str; 8] = [
    "PASS",
    "SECRET",
    "TOKEN",
    "PRIVATE_KEY",
    "APIKEY",
    "API_KEY",
    "CREDENTIAL",
    "ACCESS_KEY",
];

/// What a link carries from its source.
#[derive(Debug, Clone)]
pub(crate) struct LinkSource<'a> {
    pub(crate) link: &'a Link,
    /// None when the source never had any.
    pub(crate) addresses: Option<Addresses>,
    /// Ascending.
    pub(crate) ports: Vec<Port>,
    /// The variables that may cross.
    pub(crate) env: Vec<(&'a str, &'a str)>,
}

/// The whole environment of the first process: PATH, HOSTNAME, TERM, the links in the
/// order they were given, then the user's and the image's, which win over all before.
pub(crate) fn process_environment(consumer: &Record, links: &[LinkSource<'_>]) -> Vec<String> {
    let mut env = vec![
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={}", consumer.hostname()),
    ];
    if consumer.config.tty {
        env.push("TERM=xterm".to_owned());
    }
    for link in links {
        env.extend(link_environment(&consumer.name, link));
    }
    apply(&mut env, &consumer.config.env);
    env
}

/// Applies entries in order: `NAME=VALUE` replaces in place or is added at the end,
/// `NAME` removes.
pub(crate) fn apply(env: &mut Vec<String>, entries: &[String]) {
    for entry in entries {
        let Some((name, _)) = entry.split_once('=') else {
            env.retain(|known| name_of(known) != entry);
            continue;
        };
        match env.iter_mut().find(|known| name_of(known) == name) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
}

/// The variables of one link, as `NAME=VALUE`.
pub(crate) fn link_environment(consumer_name: &str, source: &LinkSource<'_>) -> Vec<String> {
    let alias = &source.link.alias;
    let prefix = prefix(alias);
    let mut env = vec![format!("{prefix}_NAME=/{consumer_name}/{alias}")];
    if let Some(Addresses { ipv4, .. }) = source.addresses {
        if let Some(lowest) = source.ports.first() {
            env.push(format!(
                "{prefix}_PORT={}://{ipv4}:{}",
                lowest.protocol.name(),
                lowest.number
            ));
        }
        for (position, port) in source.ports.iter().enumerate() {
            let (number, protocol) = (port.number, port.protocol.name());
            let name = format!("{prefix}_PORT_{number}_{}", protocol.to_ascii_uppercase());
            env.push(format!("{name}={protocol}://{ipv4}:{number}"));
            env.push(format!("{name}_PROTO={protocol}"));
            env.push(format!("{name}_PORT={number}"));
            env.push(format!("{name}_ADDR={ipv4}"));
            if let Some(first) = run_ending_at(&source.ports, position) {
                let name = format!(
                    "{prefix}_PORT_{}_{}",
                    first.number,
                    protocol.to_ascii_uppercase()
                );
                env.push(format!("{name}_START={protocol}://{ipv4}:{}", first.number));
                env.push(format!("{name}_PORT_START={}", first.number));
                env.push(format!("{name}_END={protocol}://{ipv4}:{number}"));
                env.push(format!("{name}_PORT_END={number}"));
            }
        }
    }
    let crossing = source
        .env
        .iter()
        .filter(|(name, _)| crosses(&source.link.env, name));
    env.extend(crossing.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    env
}

/// Whether a variable of the source crosses a link with this filter.
pub(crate) fn crosses(filter: &str, name: &str) -> bool {
    match filter {
        "" | "all" => true,
        "none" => false,
        pattern => matches_pattern(pattern.as_bytes(), name.as_bytes()),
    }
}

/// Whether the name of a variable suggests that its value is a secret.
pub(crate) fn looks_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    SECRET_PARTS.iter().any(|part| upper.contains(part))
}

/// The prefix of a link's variables: the alias in upper case, with `_` for every
/// character that the name of a variable cannot have.
pub(crate) fn prefix(alias: &str) -> String {
    let character = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    alias.chars().map(character).collect()
}

fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// If a run of two or more consecutive ports of one protocol ends at `position`, its first.
fn run_ending_at(ports: &[Port], position: usize) -> Option<Port> {
    let last = *ports.get(position)?;
    let has = |number: Option<u16>| {
        number.is_some_and(|number| {
            ports.contains(&Port {
                number,
                protocol: last.protocol,
            })
        })
    };
    if has(last.number.checked_add(1)) {
        return None;
    }
    let mut first = last.number;
    while has(first.checked_sub(1)) {
        first -= 1;
    }
    (first != last.number).then_some(Port {
        number: first,
        protocol: last.protocol,
    })
}

/// `*` stands for any text, `?` for one character.
fn matches_pattern(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, from)) = retry else {
                    return false;
                };
                retry = Some((star, from + 1));
                p = star + 1;
                t = from + 1;
            }
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|b| *b == b'*'))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const ADDRESSES: Addresses = Addresses {
        ipv4: Ipv4Addr::new(172, 17, 0, 5),
        ipv6: None,
    };

    fn ports(texts: &[&str]) -> Vec<Port> {
        let mut ports: Vec<Port> = texts.iter().map(|t| t.parse().unwrap()).collect();
        ports.sort();
        ports
    }

    fn environment(
        alias: &str,
        filter: &str,
        texts: &[&str],
        env: Vec<(&str, &str)>,
    ) -> Vec<String> {
        let link = Link {
            source: "db".into(),
            alias: alias.into(),
            env: filter.into(),
            ..Link::default()
        };
        let ports = ports(texts);
        let source = LinkSource {
            link: &link,
            addresses: Some(ADDRESSES),
            ports,
            env,
        };
        link_environment("web2", &source)
    }

    /// Rows S32, S33, S34, S36, S42, S43, S44, S45, S46 and S47 of the specification.
    #[test]
    fn a_link_carries_name_port_and_variables_in_the_order_of_the_manual() {
        assert_eq!(
            environment("db", "all", &["5432"], vec![("PGDATA", "/data")]),
            [
                "DB_NAME=/web2/db",
                "DB_PORT=tcp://172.17.0.5:5432",
                "DB_PORT_5432_TCP=tcp://172.17.0.5:5432",
                "DB_PORT_5432_TCP_PROTO=tcp",
                "DB_PORT_5432_TCP_PORT=5432",
                "DB_PORT_5432_TCP_ADDR=172.17.0.5",
                "DB_ENV_PGDATA=/data",
            ]
        );
        assert!(environment("db1", "all", &["5432"], vec![])[1].starts_with("DB1_PORT="));
    }

    /// Rows S37, S38, S39, S40 and S41: four ports make twelve of the three.
    #[test]
    fn four_ports_make_twelve_variables() {
        let env = environment("db", "all", &["1", "3", "5/udp", "7"], vec![]);
        let of = |suffix: &str| {
            env.iter()
                .filter(|e| name_of(e).ends_with(suffix) && name_of(e) != "DB_PORT")
                .count()
        };
        assert_eq!(of("_ADDR") + of("_PORT") + of("_PROTO"), 12);
        assert!(env.contains(&"DB_PORT_5_UDP=udp://172.17.0.5:5".to_owned()));
    }

    /// Rows S42 and S43: the lowest number, and tcp wins a tie.
    #[test]
    fn the_port_is_the_lowest_and_tcp_wins_a_tie() {
        let port = |texts: &[&str]| environment("db", "all", texts, vec![])[1].clone();
        assert_eq!(port(&["5432", "53/udp"]), "DB_PORT=udp://172.17.0.5:53");
        assert_eq!(port(&["53/udp", "53/tcp"]), "DB_PORT=tcp://172.17.0.5:53");
        assert_eq!(environment("db", "all", &[], vec![]), ["DB_NAME=/web2/db"]);
    }

    /// Row S47: runs of consecutive ports of one protocol.
    #[test]
    fn a_run_of_two_ports_has_a_start_and_an_end() {
        let env = environment("db", "all", &["5000", "5001", "5002/udp"], vec![]);
        let at = env
            .iter()
            .position(|e| e == "DB_PORT_5000_TCP_START=tcp://172.17.0.5:5000")
            .unwrap();
        assert_eq!(
            env[at + 1..at + 4],
            [
                "DB_PORT_5000_TCP_PORT_START=5000",
                "DB_PORT_5000_TCP_END=tcp://172.17.0.5:5001",
                "DB_PORT_5000_TCP_PORT_END=5001"
            ]
        );
        assert_eq!(env[at - 1], "DB_PORT_5001_TCP_ADDR=172.17.0.5");
        assert!(!env.iter().any(|e| e.contains("5002_UDP_START")));
    }

    /// Row S35: the filter of a link.
    #[test]
    fn a_filter_decides_what_crosses() {
        let vars = || vec![("PGDATA", "1"), ("PGUSER", "2"), ("TZ", "3")];
        let crossing = |filter: &str| {
            let env = environment("db", filter, &[], vars());
            env.iter().filter(|e| e.contains("_ENV_")).count()
        };
        assert_eq!(
            (
                crossing("all"),
                crossing("none"),
                crossing("PG*"),
                crossing("?Z")
            ),
            (3, 0, 2, 1)
        );
    }

    #[test]
    fn a_prefix_is_a_valid_name_whatever_the_alias() {
        assert_eq!(prefix("my-db.x"), "MY_DB_X");
        assert!(looks_secret("POSTGRES_PASSWORD") && !looks_secret("PGDATA"));
    }

    #[test]
    fn entries_replace_in_place_and_a_bare_name_removes() {
        let mut env = vec![
            "PATH=/bin".to_owned(),
            "DB_PORT=x".to_owned(),
            "A=1".to_owned(),
        ];
        apply(
            &mut env,
            &["DB_PORT=mine".to_owned(), "A".to_owned(), "B=".to_owned()],
        );
        assert_eq!(env, ["PATH=/bin", "DB_PORT=mine", "B="]);
    }

    proptest! {
        #[test]
        fn prop_every_name_of_a_link_begins_with_its_prefix(alias in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,20}") {
            let prefix = prefix(&alias);
            prop_assert!(prefix.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'));
            for entry in environment(&alias, "all", &["1", "2", "9/udp"], vec![("LD_PRELOAD", "x")]) {
                let (start, rest) = entry.split_at(prefix.len());
                prop_assert!(start == prefix && rest.starts_with('_'));
                prop_assert!(!entry.starts_with("LD_PRELOAD="));
            }
        }
    }
}
