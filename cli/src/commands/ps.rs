//! `ps`: the table of containers.

use std::process::ExitCode;

use linkspan_proto::net::protocol_name;
use linkspan_proto::net_v1::PortMapping;
use linkspan_proto::runtime_v1::{
    Container, ContainerState, Health, HealthStatus, ListContainersRequest,
};
use serde_json::{Value as Json, json};

use super::time::{rfc3339, seconds_since};
use crate::args::PsArguments;
use crate::client::Client;
use crate::printer::{self, human_duration};
use crate::template::Format;

/// How many characters of a command the table shows.
const COMMAND_WIDTH: usize = 30;
/// The columns, with the names of their fields.
const COLUMNS: [(&str, &str); 7] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];

/// Lists containers.
pub(crate) async fn run(mut client: Client, arguments: PsArguments) -> anyhow::Result<ExitCode> {
    let latest = if arguments.latest {
        1
    } else {
        arguments.last.unwrap_or(0)
    };
    let request = ListContainersRequest {
        all: arguments.all || arguments.last.is_some(),
        containers: arguments.containers,
        latest,
        filters: arguments.filter,
    };
    let containers = client
        .containers
        .list_containers(request)
        .await?
        .into_inner()
        .containers;
    let rows: Vec<Json> = containers
        .iter()
        .map(|c| fields(c, arguments.no_trunc))
        .collect();
    let text = match (arguments.quiet, arguments.format.as_deref()) {
        (true, _) => rows
            .iter()
            .map(|row| format!("{}\n", cell(row, "ID")))
            .collect(),
        (false, None) => default_table(&rows, &COLUMNS),
        (false, Some(format)) => render(format, &rows, &COLUMNS)?,
    };
    printer::out(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Renders rows by `json`, a template, or `table` and a template.
pub(super) fn render(
    format: &str,
    rows: &[Json],
    columns: &[(&str, &str)],
) -> anyhow::Result<String> {
    if format == "json" {
        return Ok(rows.iter().map(|row| format!("{row}\n")).collect());
    }
    let unescaped = format.replace("\\t", "\t").replace("\\n", "\n");
    let (is_table, template) = match unescaped.strip_prefix("table ") {
        Some(template) => (true, template.to_owned()),
        None => (false, unescaped),
    };
    let template = Format::parse(&template)?;
    let mut lines = Vec::new();
    if is_table {
        let header = columns
            .iter()
            .map(|(title, field)| ((*field).to_owned(), json!(title)));
        lines.push(template.render(&Json::Object(header.collect()))?);
    }
    for row in rows {
        lines.push(template.render(row)?);
    }
    if !is_table {
        return Ok(lines.iter().map(|line| format!("{line}\n")).collect());
    }
    let cells: Vec<Vec<String>> = lines
        .iter()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect();
    Ok(printer::table(&cells))
}

/// The table of rows by their columns.
pub(super) fn default_table(rows: &[Json], columns: &[(&str, &str)]) -> String {
    let mut table = vec![
        columns
            .iter()
            .map(|(title, _)| (*title).to_owned())
            .collect::<Vec<_>>(),
    ];
    table.extend(
        rows.iter()
            .map(|row| columns.iter().map(|(_, field)| cell(row, field)).collect()),
    );
    printer::table(&table)
}

fn cell(row: &Json, field: &str) -> String {
    row.get(field)
        .and_then(Json::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn fields(container: &Container, whole: bool) -> Json {
    let config = container.config.clone().unwrap_or_default();
    let command: Vec<&str> = config
        .entrypoint
        .iter()
        .chain(&config.command)
        .map(String::as_str)
        .collect();
    let command = command.join(" ");
    let id = if whole {
        container.id.as_str()
    } else {
        container.id.get(..12).unwrap_or(&container.id)
    };
    let mut labels: Vec<String> = config
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    json!({
        "ID": id,
        "Image": container.image,
        "Command": if whole { command } else { cut(&command, COMMAND_WIDTH) },
        "CreatedAt": rfc3339(container.created_at.as_ref()),
        "RunningFor": format!("{} ago", human_duration(seconds_since(container.created_at.as_ref()))),
        "State": state_word(container.state()),
        "Status": status(container),
        "Ports": ports(container),
        "Names": container.name,
        "Labels": labels.join(","),
        "Networks": networks(container),
        "HealthStatus": health_word(container),
    })
}

/// The networks of a container, or what it has instead.
fn networks(container: &Container) -> String {
    let host = container.host_config.clone().unwrap_or_default();
    let mut names: Vec<String> = host.networks.into_iter().map(|n| n.network).collect();
    if names.is_empty() {
        names.push(host.network_mode);
    }
    names.join(",")
}

/// The word that Docker's users know.
pub(super) fn state_word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Unspecified | ContainerState::Creating | ContainerState::Created => {
            "created"
        }
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Stopped => "exited",
        ContainerState::Deleting => "removing",
    }
}

/// What is known of the health of a container, in the word that Docker's users know.
pub(super) fn health_word(container: &Container) -> &'static str {
    match container.health.as_ref().map(Health::status) {
        None | Some(HealthStatus::Unspecified) => "none",
        Some(HealthStatus::Starting) => "starting",
        Some(HealthStatus::Healthy) => "healthy",
        Some(HealthStatus::Unhealthy) => "unhealthy",
    }
}

fn status(container: &Container) -> String {
    let since = |time| human_duration(seconds_since(time));
    match container.state() {
        ContainerState::Unspecified | ContainerState::Creating | ContainerState::Created => {
            "Created".to_owned()
        }
        ContainerState::Running => {
            let up = format!("Up {}", since(container.started_at.as_ref()));
            match health_word(container) {
                "none" => up,
                "starting" => format!("{up} (health: starting)"),
                word => format!("{up} ({word})"),
            }
        }
        ContainerState::Paused => format!("Up {} (Paused)", since(container.started_at.as_ref())),
        ContainerState::Stopped => {
            format!(
                "Exited ({}) {} ago",
                container.exit_code,
                since(container.finished_at.as_ref())
            )
        }
        ContainerState::Deleting => "Removal In Progress".to_owned(),
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// A port in the list: an exposed one has no host side.
#[derive(Debug, Clone)]
struct Shown {
    ip: String,
    host: u32,
    container: u32,
    protocol: &'static str,
}

/// The column PORTS; only a running container has one.
pub(super) fn ports(container: &Container) -> String {
    if container.networks.is_empty() {
        return String::new();
    }
    let mut shown: Vec<Shown> = container.published().map(shown).collect();
    for port in &container.exposed_ports {
        if !container
            .published()
            .any(|mapping| mapping.inner_port() == *port)
        {
            let protocol = protocol_name(port.protocol()).unwrap_or_default();
            shown.push(Shown {
                ip: String::new(),
                host: 0,
                container: port.number,
                protocol,
            });
        }
    }
    shown.sort_by(|a, b| {
        (a.container, &a.ip, a.host, a.protocol).cmp(&(b.container, &b.ip, b.host, b.protocol))
    });
    compress(&shown)
}

fn shown(mapping: &PortMapping) -> Shown {
    Shown {
        ip: bracketed(&mapping.host_ip),
        host: mapping.host_port,
        container: mapping.container_port,
        protocol: protocol_name(mapping.protocol()).unwrap_or_default(),
    }
}

/// An address as it stands before a port.
pub(super) fn bracketed(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

/// Joins runs of ports that keep their number; Docker has the same rule.
fn compress(ports: &[Shown]) -> String {
    struct Group {
        key: (String, &'static str),
        first: u32,
        last: u32,
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut done: Vec<String> = Vec::new();
    let mut mappings: Vec<String> = Vec::new();
    let text = |group: &Group| {
        let range = if group.first == group.last {
            group.first.to_string()
        } else {
            format!("{}-{}", group.first, group.last)
        };
        match group.key.0.as_str() {
            "" => format!("{range}/{}", group.key.1),
            ip => format!("{ip}:{range}->{range}/{}", group.key.1),
        }
    };
    for port in ports {
        if !port.ip.is_empty() && port.host != port.container {
            mappings.push(format!(
                "{}:{}->{}/{}",
                port.ip, port.host, port.container, port.protocol
            ));
            continue;
        }
        let key = (port.ip.clone(), port.protocol);
        match groups.iter_mut().find(|group| group.key == key) {
            Some(group) if port.container == group.last + 1 => group.last = port.container,
            Some(group) => {
                done.push(text(group));
                (group.first, group.last) = (port.container, port.container);
            }
            None => groups.push(Group {
                key,
                first: port.container,
                last: port.container,
            }),
        }
    }
    done.extend(groups.iter().map(text));
    done.extend(mappings);
    done.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, host: u32, container: u32, protocol: &'static str) -> Shown {
        Shown {
            ip: ip.to_owned(),
            host,
            container,
            protocol,
        }
    }

    /// Row S5.
    #[test]
    fn runs_of_ports_are_joined_as_docker_joins_them() {
        assert_eq!(
            compress(&[
                port("", 0, 53, "udp"),
                port("", 0, 5000, "tcp"),
                port("", 0, 5001, "tcp"),
                port("", 0, 5432, "tcp")
            ]),
            "5000-5001/tcp, 53/udp, 5432/tcp"
        );
        assert_eq!(
            compress(&[
                port("0.0.0.0", 49155, 5000, "tcp"),
                port("[::]", 49155, 5000, "tcp")
            ]),
            "0.0.0.0:49155->5000/tcp, [::]:49155->5000/tcp"
        );
        let run: Vec<Shown> = (7000..7004).map(|p| port("0.0.0.0", p, p, "tcp")).collect();
        assert_eq!(compress(&run), "0.0.0.0:7000-7003->7000-7003/tcp");
    }

    /// Row S4.
    #[test]
    fn a_long_command_is_cut_with_an_ellipsis() {
        assert_eq!(cut("python app.py", COMMAND_WIDTH), "python app.py");
        let long = cut(&"x".repeat(40), COMMAND_WIDTH);
        assert_eq!(long.chars().count(), 30);
        assert!(long.ends_with('…'));
    }
}
