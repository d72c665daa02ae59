//! `network`: the networks that users make, and who is on them.

use std::io::BufRead;
use std::process::ExitCode;

use linkspan_proto::net_v1::{Network, NetworkPolicy};
use linkspan_proto::runtime_v1 as wire;
use serde_json::{Map, Value as Json, json};

use super::inspect::indented;
use super::ps::{default_table, render};
use super::time::rfc3339;
use crate::args::network::{
    ConnectArguments, NetworkArguments, NetworkCommand, NetworkListArguments,
};
use crate::client::Client;
use crate::error::{is_not_found, sentence};
use crate::printer;
use crate::template::Format;

/// The columns, with the names of their fields.
const COLUMNS: [(&str, &str); 6] = [
    ("NAME", "Name"),
    ("DRIVER", "Driver"),
    ("POLICY", "Policy"),
    ("SUBNET", "Subnet"),
    ("SUBNET6", "Subnet6"),
    ("RUNNING", "Running"),
];

/// Runs one of the commands on networks.
pub(crate) async fn run(
    mut client: Client,
    arguments: NetworkArguments,
) -> anyhow::Result<ExitCode> {
    match arguments.command {
        NetworkCommand::Create(create) => {
            let request = wire::CreateNetworkRequest {
                settings: Some(create.to_settings()?),
            };
            let made = client.networks.create_network(request).await?.into_inner();
            printer::line(&made.network.unwrap_or_default().name)?;
            Ok(ExitCode::SUCCESS)
        }
        NetworkCommand::Rm { networks, force } => remove(client, networks, force).await,
        NetworkCommand::Ls(list) => ls(client, list).await,
        NetworkCommand::Inspect { format, networks } => {
            inspect(client, format.as_deref(), networks).await
        }
        NetworkCommand::Connect(arguments) => connect(client, &arguments).await,
        NetworkCommand::Disconnect {
            force: _,
            network,
            container,
        } => {
            let request = wire::DisconnectNetworkRequest { container, network };
            client.networks.disconnect_network(request).await?;
            Ok(ExitCode::SUCCESS)
        }
        NetworkCommand::Prune { force } => prune(client, force).await,
    }
}

async fn remove(mut client: Client, names: Vec<String>, force: bool) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for network in names {
        let request = wire::RemoveNetworkRequest {
            network: network.clone(),
        };
        match client.networks.remove_network(request).await {
            Ok(_) => printer::line(&network)?,
            Err(status) if force && is_not_found(&status) => {}
            Err(status) => {
                printer::talk(&format!("linkspan: {}", sentence(&status.into())));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn connect(mut client: Client, arguments: &ConnectArguments) -> anyhow::Result<ExitCode> {
    let request = wire::ConnectNetworkRequest {
        container: arguments.container.clone(),
        config: Some(arguments.to_config()?),
    };
    client.networks.connect_network(request).await?;
    Ok(ExitCode::SUCCESS)
}

async fn ls(mut client: Client, arguments: NetworkListArguments) -> anyhow::Result<ExitCode> {
    let filters = arguments
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let request = wire::ListNetworksRequest {};
    let networks = client.networks.list_networks(request).await?.into_inner();
    let rows: Vec<Json> = networks
        .networks
        .iter()
        .filter(|network| filters.iter().all(|filter| filter.admits(network)))
        .map(row)
        .collect();
    let text = match (arguments.quiet, arguments.format.as_deref()) {
        (true, _) => render("{{.Name}}", &rows, &COLUMNS)?,
        (false, None) => default_table(&rows, &COLUMNS),
        (false, Some(format)) => render(format, &rows, &COLUMNS)?,
    };
    printer::out(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn prune(mut client: Client, force: bool) -> anyhow::Result<ExitCode> {
    if !force {
        printer::talk("This removes every network that no container is on. Go on? [y/N]");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let request = wire::PruneNetworksRequest {};
    let pruned = client.networks.prune_networks(request).await?.into_inner();
    for network in pruned.networks {
        printer::line(&network)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn inspect(
    mut client: Client,
    format: Option<&str>,
    names: Vec<String>,
) -> anyhow::Result<ExitCode> {
    let format = format.filter(|text| !text.is_empty());
    let template = format
        .filter(|text| *text != "json")
        .map(Format::parse)
        .transpose()?;
    let mut objects = Vec::new();
    for network in names {
        let request = wire::GetNetworkRequest { network };
        let found = client.networks.get_network(request).await?.into_inner();
        objects.push(object(&found));
    }
    match (template, format) {
        (Some(template), _) => {
            for object in &objects {
                printer::line(&template.render(object)?)?;
            }
        }
        (None, Some(_json)) => printer::line(&Json::Array(objects).to_string())?,
        (None, None) => printer::line(&indented(&Json::Array(objects))?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A network and who is on it, in the shape that Docker's users know.
pub(super) fn object(found: &wire::GetNetworkResponse) -> Json {
    let network = found.network.clone().unwrap_or_default();
    let containers: Map<String, Json> = found
        .members
        .iter()
        .map(|member| {
            let settings = member.settings.clone().unwrap_or_default();
            let with_prefix = |address: &str, prefix: u32| match address {
                "" => String::new(),
                address => format!("{address}/{prefix}"),
            };
            let member_json = json!({
                "Name": member.container_name,
                "EndpointID": settings.endpoint_id,
                "MacAddress": settings.mac_address,
                "IPv4Address": with_prefix(&settings.ipv4_address, settings.ipv4_prefix),
                "IPv6Address": with_prefix(&settings.ipv6_address, settings.ipv6_prefix),
            });
            (member.container_id.clone(), member_json)
        })
        .collect();
    json!({
        "Name": network.name,
        "Id": network.name,
        "Created": rfc3339(network.created_at.as_ref()),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": true,
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [
                {
                    "Subnet": network.ipv4_subnet,
                    "IPRange": network.ipv4_range,
                    "Gateway": network.ipv4_gateway,
                },
                {
                    "Subnet": network.ipv6_subnet,
                    "IPRange": "",
                    "Gateway": network.ipv6_gateway,
                },
            ],
        },
        "Internal": network.internal,
        "Policy": policy(&network),
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": {"com.docker.network.bridge.name": network.bridge_name},
        "Labels": sorted_labels(&network),
    })
}

/// A row of the table; every value is a text.
fn row(network: &Network) -> Json {
    let labels: Vec<String> = network
        .labels
        .iter()
        .collect::<std::collections::BTreeMap<_, _>>()
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    json!({
        "ID": network.name,
        "Name": network.name,
        "Driver": "bridge",
        "Scope": "local",
        "Policy": policy(network),
        "Internal": network.internal.to_string(),
        "IPv4": "true",
        "IPv6": "true",
        "Subnet": network.ipv4_subnet,
        "Subnet6": network.ipv6_subnet,
        "Running": network.endpoint_count.to_string(),
        "CreatedAt": rfc3339(network.created_at.as_ref()),
        "Labels": labels.join(","),
    })
}

fn policy(network: &Network) -> String {
    let among = match network.policy() {
        NetworkPolicy::Isolated => "isolated",
        NetworkPolicy::Open | NetworkPolicy::Unspecified => "open",
    };
    if network.internal {
        format!("{among}, internal")
    } else {
        among.to_owned()
    }
}

fn sorted_labels(network: &Network) -> Json {
    let labels: std::collections::BTreeMap<_, _> = network.labels.iter().collect();
    json!(labels)
}

/// A filter of `network ls`.
#[derive(Debug)]
enum Filter {
    Name(String),
    Label(String, Option<String>),
    Dangling(bool),
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let wrong = || {
            anyhow::anyhow!(
                "invalid filter `{text}`; known are name=TEXT, label=KEY[=VALUE] and dangling=true|false"
            )
        };
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        match key {
            "name" => Ok(Self::Name(value.to_owned())),
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            }),
            "dangling" => Ok(Self::Dangling(value.parse().map_err(|_bad| wrong())?)),
            _ => Err(wrong()),
        }
    }

    fn admits(&self, network: &Network) -> bool {
        match self {
            Self::Name(text) => network.name.contains(text.as_str()),
            Self::Label(key, value) => network
                .labels
                .get(key)
                .is_some_and(|found| value.as_ref().is_none_or(|value| value == found)),
            Self::Dangling(wanted) => (network.endpoint_count == 0) == *wanted,
        }
    }
}
