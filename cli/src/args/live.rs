//! The command lines of `link`, `port` and `explain`.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use linkspan_proto::net_v1::{Port, Protocol};

use super::port::parse_expose;

#[derive(Debug, Args)]
pub(crate) struct LinkArguments {
    #[command(subcommand)]
    pub(crate) command: LinkCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// Link a container to another; at once if both run
    Add {
        /// The container that gets the link
        consumer: String,
        #[arg(
            value_name = "LINK",
            help = "What it links to: NAME[:ALIAS][,env=all|none|PATTERN][,ports=PORT[+PORT]][,wait=started|port|healthy][,timeout=60s]"
        )]
        link: String,
    },
    /// Take a link away and cut its connections
    Rm {
        /// The container that has the link
        consumer: String,
        /// The alias
        alias: String,
    },
    /// List links, and what passed through them
    Ls(ListArguments),
    /// Show all about the links of a container, as JSON
    Inspect {
        /// Print by a Go template, or `json`
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        /// The container that has the links
        consumer: String,
        /// Only the link of this alias
        alias: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Print by a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
    /// Only those of this container
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "linkspan port CONTAINER [PORT]\n       linkspan port ls|add|rm|mv|who …"
)]
pub(crate) struct PortArguments {
    #[command(subcommand)]
    pub(crate) command: Option<PortCommand>,
    /// List the published ports of this container; one called `ls`, say, goes by its id
    #[arg(required = true)]
    pub(crate) container: Option<String>,
    /// Only this port of the container, NUMBER[/PROTOCOL]
    #[arg(value_name = "PORT")]
    pub(crate) port: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// List the published ports of running containers, and what passed through them
    Ls(ListArguments),
    /// Publish more ports of a container; at once if it runs
    Add {
        /// The container
        container: String,
        #[arg(
            required = true,
            value_name = "PORT",
            help = "What to publish: [[IP:][HOSTPORT]:]PORT[/PROTOCOL], ranges allowed"
        )]
        publish: Vec<String>,
    },
    /// End the publication of ports of the host and cut their connections
    Rm {
        #[arg(
            required = true,
            num_args = 1..=2,
            value_name = "[CONTAINER] HOSTPORT[-END][/PROTOCOL]",
            help = "The ports of the host; with a container before them, only of that one"
        )]
        what: Vec<String>,
    },
    /// Give a published port to another container, with no moment at which it is closed
    Mv {
        #[arg(value_name = "HOSTPORT[/PROTOCOL]", help = "The port of the host")]
        host_port: String,
        #[arg(
            value_name = "CONTAINER[:PORT]",
            help = "Who gets it, and the port inside; without one, the port stays the same"
        )]
        to: String,
    },
    /// Tell who holds a port of the host, and which is free next
    Who {
        #[arg(value_name = "HOSTPORT[/PROTOCOL]", help = "The port of the host")]
        host_port: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// Print by a Go template, or `json`
    #[arg(short, long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
    /// Where the connection begins: a container, `host`, or an address outside
    pub(crate) from: String,
    #[arg(
        value_name = "TO[:PORT[/PROTOCOL]]",
        help = "Where it goes: a container, an alias of a link, `host` or an address; without a port, an echo request"
    )]
    pub(crate) to: String,
}

/// Ports of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostPorts {
    pub(crate) protocol: Protocol,
    pub(crate) first: u32,
    pub(crate) last: u32,
}

/// Reads `HOSTPORT[-END][/PROTOCOL]`.
pub(crate) fn host_ports(text: &str) -> anyhow::Result<HostPorts> {
    let ports = parse_expose(text)?;
    let (Some(first), Some(last)) = (ports.first(), ports.last()) else {
        bail!("`{text}` names no port");
    };
    Ok(HostPorts {
        protocol: first.protocol(),
        first: first.number,
        last: last.number,
    })
}

/// Reads `CONTAINER[:PORT]`.
pub(crate) fn target(text: &str) -> anyhow::Result<(String, u32)> {
    let Some((container, port)) = text.rsplit_once(':') else {
        return Ok((text.to_owned(), 0));
    };
    if container.is_empty() {
        bail!("`{text}` names no container; expected CONTAINER[:PORT]");
    }
    let port = port.parse::<u16>().ok().filter(|port| *port != 0);
    let port =
        port.with_context(|| format!("`{text}` has an invalid port; expected CONTAINER[:PORT]"))?;
    Ok((container.to_owned(), port.into()))
}

/// Reads `TO[:PORT[/PROTOCOL]]`, where TO may be an IPv6 address, in brackets before a port.
pub(crate) fn destination(text: &str) -> anyhow::Result<(String, Option<Port>)> {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest
            .split_once(']')
            .with_context(|| format!("`{text}` has no `]` after the IPv6 address"))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((address.to_owned(), Some(super::port::parse_one(port)?))),
            None if after.is_empty() => Ok((address.to_owned(), None)),
            None => bail!("`{text}` has no `:` after the IPv6 address"),
        };
    }
    match text.split_once(':') {
        Some((to, port)) => Ok((to.to_owned(), Some(super::port::parse_one(port)?))),
        None => Ok((text.to_owned(), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_name_or_an_address_and_perhaps_a_port() {
        let read = |text: &str| {
            let (to, port) = destination(text).unwrap();
            format!(
                "{to} {}",
                port.map_or_else(String::new, |port| port.to_string())
            )
        };
        for (text, expected) in [
            ("db", "db "),
            ("db:5432", "db 5432/tcp"),
            ("db:53/udp", "db 53/udp"),
            ("10.0.0.1:80", "10.0.0.1 80/tcp"),
            ("fd00::1", "fd00::1 "),
            ("[fd00::1]:80", "fd00::1 80/tcp"),
            ("[fd00::1]", "fd00::1 "),
        ] {
            assert_eq!(read(text), expected);
        }
        for bad in ["db:", "db:x", "db:80-81", "[::1", "[::1]80", "db:70000"] {
            assert!(destination(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_target_is_a_container_and_perhaps_a_port() {
        assert_eq!(target("web").unwrap(), ("web".to_owned(), 0));
        assert_eq!(target("web:80").unwrap(), ("web".to_owned(), 80));
        for bad in [":80", "web:0", "web:x", "web:"] {
            assert!(target(bad).is_err(), "{bad}");
        }
        let range = host_ports("8000-8010/udp").unwrap();
        assert_eq!((range.first, range.last), (8000, 8010));
        assert_eq!(range.protocol, Protocol::Udp);
    }
}
