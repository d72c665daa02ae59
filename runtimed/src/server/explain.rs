//! Explains a connection: who is meant is found here, the rest netd knows.

use std::net::IpAddr;
use std::sync::Arc;

use linkspan_proto::net_v1::{self, ExplainStep, Protocol};
use linkspan_proto::runtime_v1 as wire;

use crate::container::network::{DEFAULT_NETWORK, NetworkMode};
use crate::container::{ContainerError, Result, View};
use crate::engine::Engine;

/// What stands for the host.
const HOST: &str = "host";

/// One end of a connection.
enum End {
    /// The host, or an address: netd knows what it is.
    Given(String),
    Container(Arc<View>),
}

/// Whether a connection would be made, and why.
pub(super) async fn explain(
    engine: &Engine,
    request: wire::ExplainRequest,
) -> Result<wire::ExplainResponse> {
    let protocol = protocol(&request)?;
    let mut steps = Vec::new();
    let from = find(engine, &request.from)?;
    let to = match alias_of(&from, &request.to) {
        None => find(engine, &request.to)?,
        Some(source) => match engine.containers.by_name(&source) {
            Some(handle) => {
                let finding = format!(
                    "`{}` is the alias of a link to container `{source}`",
                    request.to
                );
                steps.push(step("name", finding, true));
                End::Container(handle.view())
            }
            None => {
                let finding = format!(
                    "`{}` is the alias of a link to `{source}`, and no container has that name",
                    request.to
                );
                steps.push(step("name", finding, false));
                let hint = format!("linkspan run -d --name {source} …");
                return Ok(unreachable(steps, hint));
            }
        },
    };
    for (end, other) in [(&from, &to), (&to, &from)] {
        let End::Container(view) = end else {
            continue;
        };
        let name = &view.record.name;
        let Some(run) = &view.run else {
            let finding = format!(
                "container `{name}` is {}, so it has no address",
                view.state.word()
            );
            steps.push(step("address", finding, false));
            return Ok(unreachable(steps, format!("linkspan start {name}")));
        };
        if run.networks.is_empty() {
            let finding = format!("container `{name}` is on no network");
            steps.push(step("address", finding, false));
            let network = other.network();
            let hint = format!("linkspan network connect {network} {name}");
            return Ok(unreachable(steps, hint));
        }
    }
    let question = net_v1::ExplainRequest {
        from: from.name(),
        to: to.name(),
        protocol: protocol.into(),
        port: request.port,
    };
    let answer = engine.network.explain(question).await?;
    steps.extend(answer.steps);
    Ok(wire::ExplainResponse {
        reachable: answer.reachable,
        steps,
        hint: answer.hint,
    })
}

impl End {
    /// What netd knows it by.
    fn name(&self) -> String {
        match self {
            Self::Given(text) => text.clone(),
            Self::Container(view) => view.record.name.clone(),
        }
    }

    /// A network on which others would reach it.
    fn network(&self) -> String {
        let run = match self {
            Self::Given(_) => None,
            Self::Container(view) => view.run.as_ref(),
        };
        let first = run.and_then(|run| run.networks.first());
        first.map_or_else(|| DEFAULT_NETWORK.to_owned(), |on| on.network.clone())
    }
}

fn protocol(request: &wire::ExplainRequest) -> Result<Protocol> {
    let invalid = |rule: &str| ContainerError::Invalid {
        what: "question",
        rule: rule.to_owned(),
    };
    if request.port > u32::from(u16::MAX) {
        return Err(invalid("the port is above 65535"));
    }
    match (Protocol::try_from(request.protocol), request.port) {
        (Ok(Protocol::Unspecified), 0) => Ok(Protocol::Unspecified),
        (Ok(Protocol::Unspecified), _) => Ok(Protocol::Tcp),
        (Ok(_), 0) => Err(invalid(
            "a protocol without a port; name both, or none for an echo request",
        )),
        (Ok(protocol), _) => Ok(protocol),
        (Err(_unknown), _) => Err(invalid("the protocol is not known")),
    }
}

fn find(engine: &Engine, text: &str) -> Result<End> {
    if text == HOST || text.parse::<IpAddr>().is_ok() {
        return Ok(End::Given(text.to_owned()));
    }
    let view = engine.containers.find(text)?.view();
    // Who shares a network is where that one is.
    match &view.record.host.network_mode {
        NetworkMode::Networks => Ok(End::Container(view)),
        NetworkMode::Host => Ok(End::Given(HOST.to_owned())),
        NetworkMode::Container(id) => find(engine, id),
    }
}

/// The source of a link of the first end that has this alias: the name means what the
/// consumer's hosts file says.
fn alias_of(from: &End, to: &str) -> Option<String> {
    let End::Container(view) = from else {
        return None;
    };
    let mut links = view.record.host.links.iter();
    let link = links.find(|link| link.alias == to && link.source != to)?;
    Some(link.source.clone())
}

fn step(subject: &str, finding: String, passes: bool) -> ExplainStep {
    ExplainStep {
        subject: subject.to_owned(),
        finding,
        passes,
    }
}

fn unreachable(steps: Vec<ExplainStep>, hint: String) -> wire::ExplainResponse {
    wire::ExplainResponse {
        reachable: false,
        steps,
        hint,
    }
}
