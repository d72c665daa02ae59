//! Explains connections: decodes the question, looks at what listens and what was counted,
//! and lets the model answer.

use std::net::IpAddr;

use linkspan_proto::net_v1 as wire;

use super::convert;
use crate::config::Config;
use crate::network::explain::{Explainer, Explanation, Party, Question, Step};
use crate::network::{InvalidValue, NetworkError, Registry, listener, traffic};

/// Who is neither a container nor somebody at an address.
const HOST: &str = "host";

/// Reads a question.
pub(super) fn question(request: &wire::ExplainRequest) -> Result<Question, NetworkError> {
    let port = match (request.protocol(), request.port) {
        (wire::Protocol::Unspecified, 0) => None,
        (protocol, number) => Some(convert::port(protocol, number)?),
    };
    Ok(Question {
        from: party("from", &request.from)?,
        to: party("to", &request.to)?,
        port,
    })
}

/// Answers a question; waits for the kernel.
pub(super) fn answer(
    question: &Question,
    registry: &Registry,
    config: &Config,
) -> Result<wire::ExplainResponse, NetworkError> {
    let counted = traffic::Snapshot::take()?;
    let netns_directory = config.netns_directory();
    let explainer = Explainer {
        registry,
        host_access: config.host_access,
        max_connections: config.max_connections,
        opened: &|endpoint| counted.opened_by(endpoint),
        listens: &|endpoint, port| {
            let netns = netns_directory.join(endpoint.sandbox.as_str());
            listener::listening(&netns, port.protocol, port.number)
                .inspect_err(|error| {
                    tracing::warn!(endpoint_id = %endpoint.id, %error, "listeners not seen, ignoring");
                })
                .ok()
        },
        connections: &|open| counted.of_link(open).connections,
    };
    let told = explainer
        .explain(question)
        .map_err(|endpoint| NetworkError::EndpointNotFound { endpoint })?;
    let reachable = told.is_reachable();
    let Explanation { steps, hint } = told;
    Ok(wire::ExplainResponse {
        reachable,
        steps: steps.into_iter().map(step).collect(),
        hint,
    })
}

fn step(step: Step) -> wire::ExplainStep {
    let Step {
        subject,
        finding,
        passes,
    } = step;
    wire::ExplainStep {
        subject: subject.to_owned(),
        finding,
        passes,
    }
}

fn party(field: &str, text: &str) -> Result<Party, NetworkError> {
    match text {
        "" => Err(InvalidValue(format!(
            "the field `{field}` must name an endpoint, `host` or an address"
        ))
        .into()),
        HOST => Ok(Party::Host),
        text => Ok(text
            .parse::<IpAddr>()
            .map_or_else(|_name| Party::Container(text.to_owned()), Party::Address)),
    }
}
