//! `link`: links as live objects.

use std::process::ExitCode;

use anyhow::bail;
use linkspan_proto::net_v1::Port;
use linkspan_proto::runtime_v1 as wire;
use serde_json::{Value as Json, json};

use super::inspect::indented;
use super::ps::{default_table, render};
use crate::args::link;
use crate::args::live::{LinkArguments, LinkCommand, ListArguments};
use crate::client::Client;
use crate::printer;
use crate::template::Format;

/// The columns, with the names of their fields.
const COLUMNS: [(&str, &str); 8] = [
    ("CONSUMER", "Consumer"),
    ("ALIAS", "Alias"),
    ("SOURCE", "Source"),
    ("STATE", "State"),
    ("PORTS", "Ports"),
    ("PACKETS", "Packets"),
    ("BYTES", "Bytes"),
    ("OPEN", "Open"),
];

/// Runs one of the commands on links.
pub(crate) async fn run(client: Client, arguments: LinkArguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        LinkCommand::Add { consumer, link } => add(client, consumer, &link).await,
        LinkCommand::Rm { consumer, alias } => remove(client, consumer, alias).await,
        LinkCommand::Ls(list) => ls(client, list).await,
        LinkCommand::Inspect {
            format,
            consumer,
            alias,
        } => inspect(client, format.as_deref(), consumer, alias).await,
    }
}

async fn add(mut client: Client, consumer: String, text: &str) -> anyhow::Result<ExitCode> {
    let request = wire::AddLinkRequest {
        container: consumer.clone(),
        link: Some(link::parse(text)?),
    };
    let response = client.links.add_link(request).await?.into_inner();
    for warning in &response.warnings {
        printer::talk(&format!("warning: {warning}"));
    }
    let link = response.link.unwrap_or_default();
    printer::line(&format!("{consumer}/{}", link.alias))?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(mut client: Client, consumer: String, alias: String) -> anyhow::Result<ExitCode> {
    let name = format!("{consumer}/{alias}");
    let request = wire::RemoveLinkRequest {
        container: consumer,
        alias,
    };
    client.links.remove_link(request).await?;
    printer::line(&name)?;
    Ok(ExitCode::SUCCESS)
}

async fn ls(mut client: Client, arguments: ListArguments) -> anyhow::Result<ExitCode> {
    let ListArguments { format, container } = arguments;
    let request = wire::ListLinksRequest {
        container: container.unwrap_or_default(),
        alias: String::new(),
    };
    let links = client.links.list_links(request).await?.into_inner().links;
    let rows: Vec<Json> = links.iter().map(row).collect();
    let text = match format.as_deref() {
        None => default_table(&rows, &COLUMNS),
        Some(format) => render(format, &rows, &COLUMNS)?,
    };
    printer::out(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn inspect(
    mut client: Client,
    format: Option<&str>,
    consumer: String,
    alias: Option<String>,
) -> anyhow::Result<ExitCode> {
    let template = format
        .filter(|text| !text.is_empty() && *text != "json")
        .map(Format::parse)
        .transpose()?;
    let named = alias.is_some();
    let request = wire::ListLinksRequest {
        container: consumer.clone(),
        alias: alias.unwrap_or_default(),
    };
    let links = client.links.list_links(request).await?.into_inner().links;
    if links.is_empty() && !named {
        bail!("container `{consumer}` has no links");
    }
    let objects: Vec<Json> = links.iter().map(object).collect();
    match (template, format) {
        (Some(template), _) => {
            for object in &objects {
                printer::line(&template.render(object)?)?;
            }
        }
        (None, Some("json")) => printer::line(&Json::Array(objects).to_string())?,
        (None, _) => printer::line(&indented(&Json::Array(objects))?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A row of the table; every value is a text.
fn row(view: &wire::LinkView) -> Json {
    let link = view.link.clone().unwrap_or_default();
    let traffic = view.traffic.unwrap_or_default();
    json!({
        "Consumer": view.consumer,
        "ConsumerID": view.consumer_id,
        "Alias": link.alias,
        "Source": link.source,
        "SourceID": view.source_id,
        "State": state_word(view.state()),
        "Network": view.network,
        "Ports": ports(&view.ports).join(", "),
        "Packets": traffic.packets.to_string(),
        "Bytes": traffic.bytes.to_string(),
        "Connections": traffic.connections.to_string(),
        "Open": traffic.open_connections.to_string(),
    })
}

/// Everything about a link.
fn object(view: &wire::LinkView) -> Json {
    let link = view.link.clone().unwrap_or_default();
    let traffic = view.traffic.unwrap_or_default();
    let timeout = link.timeout.map(|t| {
        let millis = i64::from(t.nanos) / 1_000_000;
        t.seconds * 1000 + millis
    });
    json!({
        "Consumer": view.consumer,
        "ConsumerID": view.consumer_id,
        "Alias": link.alias,
        "Source": link.source,
        "SourceID": view.source_id,
        "State": state_word(view.state()),
        "Network": view.network,
        "Ports": ports(&view.ports),
        "HostsLine": view.hosts_line,
        "Env": {
            "Filter": if link.env.is_empty() { "all" } else { link.env.as_str() },
            "Variables": view.variables,
            "Crossing": view.crossing,
            "Withheld": view.withheld,
        },
        "Wait": {
            "For": match link.wait() {
                wire::LinkWait::Unspecified => "",
                wire::LinkWait::Started => "started",
                wire::LinkWait::Port => "port",
                wire::LinkWait::Healthy => "healthy",
            },
            "TimeoutMs": timeout,
        },
        "Traffic": {
            "Packets": traffic.packets,
            "Bytes": traffic.bytes,
            "Connections": traffic.connections,
            "OpenConnections": traffic.open_connections,
        },
    })
}

fn ports(ports: &[Port]) -> Vec<String> {
    ports.iter().map(Port::to_string).collect()
}

fn state_word(state: wire::LinkState) -> &'static str {
    match state {
        wire::LinkState::Unspecified => "unknown",
        wire::LinkState::Open => "open",
        wire::LinkState::SourceMissing => "source missing",
        wire::LinkState::SourceDown => "source down",
        wire::LinkState::ConsumerDown => "consumer down",
        wire::LinkState::NoCommonNetwork => "no common network",
    }
}
