//! `port`: the published ports of a container, and ports as live objects.

use std::process::ExitCode;

use anyhow::bail;
use linkspan_proto::net::protocol_name;
use linkspan_proto::net_v1::{PortHolder, PortMapping, PublishedPort};
use linkspan_proto::runtime_v1 as wire;
use serde_json::{Value as Json, json};

use super::ps::{bracketed, default_table, render};
use crate::args::live::{self, ListArguments, PortArguments, PortCommand};
use crate::args::port::{parse_all, parse_one, parse_publish};
use crate::client::Client;
use crate::printer;

/// The columns, with the names of their fields.
const COLUMNS: [(&str, &str); 6] = [
    ("HOST", "Host"),
    ("CONTAINER", "Container"),
    ("PORT", "Port"),
    ("PACKETS", "Packets"),
    ("BYTES", "Bytes"),
    ("OPEN", "Open"),
];

/// Lists the ports of a container, or runs one of the commands on ports.
pub(crate) async fn run(client: Client, arguments: PortArguments) -> anyhow::Result<ExitCode> {
    let PortArguments {
        command,
        container,
        port,
    } = arguments;
    match command {
        None => of_container(client, &container.unwrap_or_default(), port.as_deref()).await,
        Some(PortCommand::Ls(list)) => ls(client, list).await,
        Some(PortCommand::Add { container, publish }) => add(client, container, &publish).await,
        Some(PortCommand::Rm { what }) => remove(client, &what).await,
        Some(PortCommand::Mv { host_port, to }) => mv(client, &host_port, &to).await,
        Some(PortCommand::Who { host_port }) => who(client, &host_port).await,
    }
}

/// Docker's form: lists the ports; with a port given, only where that one is published.
async fn of_container(
    mut client: Client,
    name: &str,
    port: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let wanted = port.map(parse_one).transpose()?;
    let container = client.container(name).await?;
    let mut published: Vec<PortMapping> = container.published().cloned().collect();
    published.sort_by(|a, b| {
        (a.container_port, a.protocol, &a.host_ip, a.host_port).cmp(&(
            b.container_port,
            b.protocol,
            &b.host_ip,
            b.host_port,
        ))
    });
    let mut found = false;
    for mapping in &published {
        let host = host_side(mapping);
        match wanted {
            None => printer::line(&format!("{} -> {host}", mapping.inner_port()))?,
            Some(wanted) if mapping.inner_port() == wanted => printer::line(&host)?,
            Some(_) => continue,
        }
        found = true;
    }
    match wanted {
        Some(wanted) if !found => bail!("container `{name}` does not publish port {wanted}"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

async fn ls(mut client: Client, arguments: ListArguments) -> anyhow::Result<ExitCode> {
    let ListArguments { format, container } = arguments;
    let request = wire::ListPortsRequest {
        container: container.unwrap_or_default(),
    };
    let ports = client.ports.list_ports(request).await?.into_inner().ports;
    let rows: Vec<Json> = ports.iter().map(row).collect();
    let text = match format.as_deref() {
        None => default_table(&rows, &COLUMNS),
        Some(format) => render(format, &rows, &COLUMNS)?,
    };
    printer::out(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn add(
    mut client: Client,
    container: String,
    publish: &[String],
) -> anyhow::Result<ExitCode> {
    let request = wire::AddPortRequest {
        container,
        port_mappings: parse_all(publish, parse_publish)?,
    };
    let response = client.ports.add_port(request).await?.into_inner();
    let lines = response
        .published
        .iter()
        .map(|mapping| format!("{} -> {}\n", mapping.inner_port(), host_side(mapping)));
    printer::out(lines.collect::<String>().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(mut client: Client, what: &[String]) -> anyhow::Result<ExitCode> {
    let (container, text) = match what {
        [container, text] => (container.as_str(), text),
        [text] => ("", text),
        _ => bail!("expected [CONTAINER] HOSTPORT[-END][/PROTOCOL]"),
    };
    let ports = live::host_ports(text)?;
    let request = wire::RemovePortRequest {
        container: container.to_owned(),
        protocol: ports.protocol.into(),
        host_port: ports.first,
        host_port_end: ports.last,
    };
    client.ports.remove_port(request).await?;
    printer::line(text)?;
    Ok(ExitCode::SUCCESS)
}

async fn mv(mut client: Client, host_port: &str, to: &str) -> anyhow::Result<ExitCode> {
    let port = parse_one(host_port)?;
    let (to_container, container_port) = live::target(to)?;
    let request = wire::MovePortRequest {
        protocol: port.protocol,
        host_port: port.number,
        to_container: to_container.clone(),
        container_port,
    };
    let from = client.ports.move_port(request).await?.into_inner().from;
    printer::line(&format!("{port}: {from} -> {to_container}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn who(mut client: Client, host_port: &str) -> anyhow::Result<ExitCode> {
    let port = parse_one(host_port)?;
    let request = wire::FindPortHolderRequest {
        protocol: port.protocol,
        host_port: port.number,
    };
    let response = client.ports.find_port_holder(request).await?.into_inner();
    if response.holders.is_empty() {
        printer::line(&format!("port {port} is free"))?;
        return Ok(ExitCode::SUCCESS);
    }
    for holder in &response.holders {
        let place = format!("{}:{port}", bracketed(&holder.host_ip));
        printer::line(&format!("{place} is held by {}", in_words(holder)))?;
    }
    let next = match response.next_free {
        0 => "no other port is free".to_owned(),
        next => format!("the next free port is {next}"),
    };
    printer::line(&next)?;
    Ok(ExitCode::SUCCESS)
}

/// A holder as a sentence names it.
fn in_words(holder: &PortHolder) -> String {
    if !holder.endpoint_name.is_empty() {
        return format!(
            "container `{}`, port {}",
            holder.endpoint_name, holder.container_port
        );
    }
    let mut text = match (holder.pid, holder.command.as_str()) {
        (0, _) => "a process that cannot be seen".to_owned(),
        (pid, "") => format!("process {pid}"),
        (pid, command) => format!("process {pid} ({command})"),
    };
    for (what, value) in [("user", &holder.user), ("unit", &holder.unit)] {
        if !value.is_empty() {
            text.push_str(&format!(", {what} {value}"));
        }
    }
    text
}

fn host_side(mapping: &PortMapping) -> String {
    format!("{}:{}", bracketed(&mapping.host_ip), mapping.host_port)
}

fn numbers(first: u32, more: u32) -> String {
    match more {
        0 => first.to_string(),
        more => format!("{first}-{}", first + more),
    }
}

/// A row of the table, which may stand for a run of ports; every value is a text.
fn row(port: &PublishedPort) -> Json {
    let mapping = port.mapping.clone().unwrap_or_default();
    let traffic = port.traffic.unwrap_or_default();
    let more = port.host_port_end.saturating_sub(mapping.host_port);
    let host_port = numbers(mapping.host_port, more);
    let inner = numbers(mapping.container_port, more);
    let protocol = protocol_name(mapping.protocol()).unwrap_or_default();
    json!({
        "Host": format!("{}:{host_port}", bracketed(&mapping.host_ip)),
        "HostIP": mapping.host_ip,
        "HostPort": host_port,
        "Protocol": protocol,
        "Container": port.name,
        "Port": format!("{inner}/{protocol}"),
        "Packets": traffic.packets.to_string(),
        "Bytes": traffic.bytes.to_string(),
        "Connections": traffic.connections.to_string(),
        "Open": traffic.open_connections.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_reads_as_part_of_a_sentence() {
        let mut holder = PortHolder {
            endpoint_name: "web".to_owned(),
            container_port: 80,
            ..PortHolder::default()
        };
        assert_eq!(in_words(&holder), "container `web`, port 80");
        holder = PortHolder {
            pid: 7,
            command: "nginx".to_owned(),
            user: "www-data".to_owned(),
            unit: "nginx.service".to_owned(),
            ..PortHolder::default()
        };
        assert_eq!(
            in_words(&holder),
            "process 7 (nginx), user www-data, unit nginx.service"
        );
        holder.pid = 0;
        holder.unit.clear();
        assert_eq!(
            in_words(&holder),
            "a process that cannot be seen, user www-data"
        );
    }
}
