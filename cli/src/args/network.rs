//! The command line of `network`, and what says which networks a container is on.

use std::net::IpAddr;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use linkspan_proto::net_v1::{CreateNetworkRequest, NetworkPolicy};
use linkspan_proto::runtime_v1::NetworkConfig;

use super::environment;

/// Docker's option for what `--isolate` says.
const ICC_OPTION: &str = "com.docker.network.bridge.enable_icc";

#[derive(Debug, Args)]
pub(crate) struct NetworkArguments {
    #[command(subcommand)]
    pub(crate) command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network, and print its name
    Create(NetworkCreateArguments),
    /// Remove networks on which no container runs
    #[command(alias = "remove")]
    Rm {
        /// The networks
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        /// Say nothing of networks that do not exist
        #[arg(short, long)]
        force: bool,
    },
    /// List networks
    #[command(alias = "list")]
    Ls(NetworkListArguments),
    /// Show all about networks, as JSON
    Inspect {
        /// Print by a Go template, or `json`
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        /// The networks
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
    },
    /// Put a container on one more network; at once if it runs
    Connect(ConnectArguments),
    /// Take a container off a network; at once if it runs
    Disconnect {
        /// Accepted for Docker's sake
        #[arg(short, long, hide = true)]
        force: bool,
        /// The network
        network: String,
        /// The container
        container: String,
    },
    /// Remove every network that no container is on
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NetworkCreateArguments {
    /// Only `bridge` exists
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge", value_parser = ["bridge"])]
    pub(crate) driver: String,
    /// The subnet, such as 10.5.0.0/24; given twice, one for each family
    #[arg(long, value_name = "SUBNET")]
    pub(crate) subnet: Vec<String>,
    /// The gateway's IPv4 address; the IPv6 one is at the same place of its subnet
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) gateway: Option<String>,
    /// The part of the IPv4 subnet that addresses are chosen from
    #[arg(long, value_name = "SUBNET")]
    pub(crate) ip_range: Option<String>,
    /// Every network has IPv6; said for Docker's sake
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) ipv6: bool,
    /// Let nothing in or out
    #[arg(long)]
    pub(crate) internal: bool,
    /// Close the members to each other; links open what they open
    #[arg(long)]
    pub(crate) isolate: bool,
    /// A label, KEY=VALUE
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Vec<String>,
    #[arg(
        short,
        long,
        value_name = "OPTION",
        help = format!("Only {ICC_OPTION}=false, which is --isolate")
    )]
    pub(crate) opt: Vec<String>,
    /// The name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkListArguments {
    /// Print names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Cut nothing short; nothing is
    #[arg(long, hide = true)]
    pub(crate) no_trunc: bool,
    /// Show only what fits: name=TEXT, label=KEY[=VALUE], dangling=BOOL
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// Print by a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArguments {
    /// A name by which members of the network find it
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Vec<String>,
    /// The IPv4 address to have
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<String>,
    /// The IPv6 address to have
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip6: Option<String>,
    /// The network
    pub(crate) network: String,
    /// The container
    pub(crate) container: String,
}

impl NetworkCreateArguments {
    /// The settings for the engine.
    pub(crate) fn to_settings(&self) -> anyhow::Result<CreateNetworkRequest> {
        if !self.ipv6 {
            bail!("--ipv6=false is not supported: every network has IPv6, as closed as its IPv4");
        }
        let mut isolate = self.isolate;
        for option in &self.opt {
            match option.split_once('=') {
                Some((ICC_OPTION, "false")) => isolate = true,
                Some((ICC_OPTION, "true")) => {}
                _ => bail!("unknown --opt `{option}`; known is {ICC_OPTION}=true|false"),
            }
        }
        let [ipv4_subnet, ipv6_subnet] = subnets(&self.subnet)?;
        let policy = if isolate {
            NetworkPolicy::Isolated
        } else {
            NetworkPolicy::Open
        };
        let labels = self.label.iter().map(|label| environment::label(label));
        Ok(CreateNetworkRequest {
            name: self.name.clone(),
            ipv4_subnet,
            ipv6_subnet,
            ipv4_gateway: address(self.gateway.as_deref(), "--gateway", IpAddr::is_ipv4)?,
            ipv4_range: self.ip_range.clone().unwrap_or_default(),
            policy: policy.into(),
            internal: self.internal,
            labels: labels.collect(),
        })
    }
}

impl ConnectArguments {
    /// What the container is to have.
    pub(crate) fn to_config(&self) -> anyhow::Result<NetworkConfig> {
        Ok(NetworkConfig {
            network: self.network.clone(),
            aliases: self.alias.clone(),
            ipv4_address: address(self.ip.as_deref(), "--ip", IpAddr::is_ipv4)?,
            ipv6_address: address(self.ip6.as_deref(), "--ip6", IpAddr::is_ipv6)?,
        })
    }
}

/// The subnet of each family.
fn subnets(texts: &[String]) -> anyhow::Result<[String; 2]> {
    let mut found = [String::new(), String::new()];
    for text in texts {
        let base: IpAddr = text
            .split_once('/')
            .and_then(|(base, _)| base.parse().ok())
            .with_context(|| format!("invalid --subnet `{text}`: expected ADDRESS/PREFIX"))?;
        let slot = &mut found[usize::from(base.is_ipv6())];
        if !slot.is_empty() {
            bail!("--subnet `{text}` and `{slot}` are of one family; a network has one of each");
        }
        slot.clone_from(text);
    }
    Ok(found)
}

fn address(
    text: Option<&str>,
    flag: &str,
    is_right: fn(&IpAddr) -> bool,
) -> anyhow::Result<String> {
    let Some(text) = text else {
        return Ok(String::new());
    };
    let is_address = text.parse().is_ok_and(|address| is_right(&address));
    if !is_address {
        bail!("invalid {flag} `{text}`: it is no address of that family");
    }
    Ok(text.to_owned())
}

/// What the flags of `run` say of networks: the mode, or the networks.
pub(crate) fn of_container(
    networks: &[String],
    aliases: &[String],
    ip: Option<&str>,
    ip6: Option<&str>,
) -> anyhow::Result<(String, Vec<NetworkConfig>)> {
    let own = NetworkConfig {
        network: String::new(),
        aliases: aliases.to_vec(),
        ipv4_address: address(ip, "--ip", IpAddr::is_ipv4)?,
        ipv6_address: address(ip6, "--ip6", IpAddr::is_ipv6)?,
    };
    let has_own = own != NetworkConfig::default();
    match networks {
        [] if has_own => {
            let network = "bridge".to_owned();
            Ok((String::new(), vec![NetworkConfig { network, ..own }]))
        }
        [] => Ok((String::new(), Vec::new())),
        [mode] if is_mode(mode) => {
            if has_own {
                bail!("--ip, --ip6 and --network-alias have no meaning with --network {mode}");
            }
            Ok((mode.clone(), Vec::new()))
        }
        [one] if has_own => {
            let mut config = parse(one)?;
            if config.ipv4_address.is_empty() {
                config.ipv4_address = own.ipv4_address;
            }
            if config.ipv6_address.is_empty() {
                config.ipv6_address = own.ipv6_address;
            }
            config.aliases.extend(own.aliases);
            Ok((String::new(), vec![config]))
        }
        several if has_own => bail!(
            "with {} networks, say to which one it belongs: --network name=NETWORK,ip=ADDRESS,alias=NAME",
            several.len()
        ),
        several => {
            let configs = several.iter().map(|text| parse(text));
            Ok((String::new(), configs.collect::<Result<_, _>>()?))
        }
    }
}

fn is_mode(text: &str) -> bool {
    matches!(text, "host" | "none") || text.starts_with("container:")
}

/// Reads `NETWORK`, or `name=NETWORK[,alias=NAME][,ip=ADDRESS][,ip6=ADDRESS]`.
fn parse(text: &str) -> anyhow::Result<NetworkConfig> {
    if !text.contains('=') {
        return Ok(NetworkConfig {
            network: text.to_owned(),
            ..NetworkConfig::default()
        });
    }
    let mut config = NetworkConfig::default();
    for option in text.split(',') {
        match option.split_once('=') {
            Some(("name", value)) => value.clone_into(&mut config.network),
            Some(("alias", value)) => config.aliases.push(value.to_owned()),
            Some(("ip", value)) => {
                config.ipv4_address = address(Some(value), "ip of --network", IpAddr::is_ipv4)?;
            }
            Some(("ip6", value)) => {
                config.ipv6_address = address(Some(value), "ip6 of --network", IpAddr::is_ipv6)?;
            }
            _ => bail!(
                "invalid --network `{text}`: `{option}` is not an option; known are name, alias, ip and ip6"
            ),
        }
    }
    if config.network.is_empty() {
        bail!("invalid --network `{text}`: name=NETWORK is missing");
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(networks: &[&str], ip: Option<&str>) -> anyhow::Result<(String, Vec<NetworkConfig>)> {
        let networks: Vec<String> = networks.iter().map(|n| (*n).to_owned()).collect();
        of_container(&networks, &[], ip, None)
    }

    #[test]
    fn networks_are_read_in_every_form() {
        assert_eq!(of(&[], None).unwrap(), (String::new(), Vec::new()));
        assert_eq!(of(&["host"], None).unwrap().0, "host");
        assert_eq!(of(&["container:db"], None).unwrap().0, "container:db");
        let (_, one) = of(&["front"], Some("10.0.0.2")).unwrap();
        assert_eq!(
            (one[0].network.as_str(), one[0].ipv4_address.as_str()),
            ("front", "10.0.0.2")
        );
        let (_, both) = of(&["front", "name=back,alias=a,alias=b,ip6=fd00::2"], None).unwrap();
        assert_eq!(
            (both[1].network.as_str(), both[1].aliases.len()),
            ("back", 2)
        );
        let (_, default) = of(&[], Some("172.17.0.9")).unwrap();
        assert_eq!(default[0].network, "bridge");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (networks, ip) in [
            (&["host"][..], Some("10.0.0.2")),
            (&["a", "b"], Some("10.0.0.2")),
            (&["a"], Some("fd00::1")),
            (&["alias=x"], None),
            (&["name=a,bogus=1"], None),
        ] {
            of(networks, ip).unwrap_err();
        }
        subnets(&["10.0.0.0/8".into(), "10.1.0.0/16".into()]).unwrap_err();
        subnets(&["x".into()]).unwrap_err();
        let both = subnets(&["fd00::/64".into(), "10.0.0.0/8".into()]).unwrap();
        assert_eq!(both, ["10.0.0.0/8", "fd00::/64"]);
    }
}
