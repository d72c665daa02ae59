//! `explain`: whether a connection would be made, and why.

use std::process::ExitCode;

use linkspan_proto::runtime_v1 as wire;
use serde_json::{Value as Json, json};

use super::inspect::indented;
use crate::args::live::{ExplainArguments, destination};
use crate::client::Client;
use crate::printer;
use crate::template::Format;

/// The exit code when the connection would not be made.
const EXIT_UNREACHABLE: u8 = 1;

/// Explains a connection; succeeds if it would be made.
pub(crate) async fn run(
    mut client: Client,
    arguments: ExplainArguments,
) -> anyhow::Result<ExitCode> {
    let ExplainArguments { format, from, to } = arguments;
    let (name, port) = destination(&to)?;
    let request = wire::ExplainRequest {
        from: from.clone(),
        to: name,
        protocol: port.map_or(0, |port| port.protocol),
        port: port.map_or(0, |port| port.number),
    };
    let answer = client.links.explain(request).await?.into_inner();
    let text = match format.as_deref().filter(|text| !text.is_empty()) {
        None => page(&from, &to, &answer),
        Some("json") => format!("{}\n", indented(&object(&answer))?),
        Some(template) => format!("{}\n", Format::parse(template)?.render(&object(&answer))?),
    };
    printer::out(text.as_bytes())?;
    Ok(if answer.reachable {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_UNREACHABLE)
    })
}

/// One page: the verdict, what was looked at, and what to do.
fn page(from: &str, to: &str, answer: &wire::ExplainResponse) -> String {
    let verdict = if answer.reachable {
        "reaches"
    } else {
        "does not reach"
    };
    let mut text = format!("{from} {verdict} {to}\n\n");
    let rows: Vec<Vec<String>> = answer
        .steps
        .iter()
        .map(|step| {
            let mark = if step.passes { "  ok" } else { "  no" };
            vec![mark.to_owned(), step.subject.clone(), step.finding.clone()]
        })
        .collect();
    text.push_str(&printer::table(&rows));
    if !answer.hint.is_empty() {
        text.push_str(&format!("\nhint: {}\n", answer.hint));
    }
    text
}

fn object(answer: &wire::ExplainResponse) -> Json {
    let step = |step: &linkspan_proto::net_v1::ExplainStep| json!({"Subject": step.subject, "Finding": step.finding, "Passes": step.passes});
    json!({
        "Reachable": answer.reachable,
        "Steps": answer.steps.iter().map(step).collect::<Vec<_>>(),
        "Hint": answer.hint,
    })
}

#[cfg(test)]
mod tests {
    use linkspan_proto::net_v1::ExplainStep;

    use super::*;

    #[test]
    fn a_page_has_the_verdict_first_and_the_hint_last() {
        let step = ExplainStep {
            subject: "link".to_owned(),
            finding: "web has no link to db".to_owned(),
            passes: false,
        };
        let answer = wire::ExplainResponse {
            reachable: false,
            steps: vec![step],
            hint: "linkspan link add web db".to_owned(),
        };
        assert_eq!(
            page("web", "db:80", &answer),
            "web does not reach db:80\n\n  no   link   web has no link to db\n\nhint: linkspan link add web db\n"
        );
    }
}
