//! `port`: the published ports of a container.

use std::process::ExitCode;

use anyhow::bail;

use super::ps::bracketed;
use crate::args::PortArguments;
use crate::args::port::parse_one;
use crate::client::Client;
use crate::printer;

/// Lists the ports; with a port given, only where that one is published.
pub(crate) async fn run(mut client: Client, arguments: PortArguments) -> anyhow::Result<ExitCode> {
    let PortArguments {
        container: name,
        port,
    } = arguments;
    let wanted = port.as_deref().map(parse_one).transpose()?;
    let container = client.container(&name).await?;
    let mut published = container.network_settings.unwrap_or_default().published;
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
        let host = format!("{}:{}", bracketed(&mapping.host_ip), mapping.host_port);
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
