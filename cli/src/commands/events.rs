//! `events`: what happens.

use std::collections::BTreeMap;
use std::process::ExitCode;

use linkspan_proto::runtime_v1::{WatchEventsRequest, WatchEventsResponse};
use serde_json::json;

use super::time;
use crate::args::EventsArguments;
use crate::client::Client;
use crate::printer;
use crate::template::Format;

/// Prints events until the engine or the user ends the stream.
pub(crate) async fn run(
    mut client: Client,
    arguments: EventsArguments,
) -> anyhow::Result<ExitCode> {
    let format = arguments.format.as_deref();
    let template = format
        .filter(|text| *text != "json")
        .map(Format::parse)
        .transpose()?;
    let request = WatchEventsRequest {
        since: arguments.since.as_deref().map(time::parse).transpose()?,
        until: arguments.until.as_deref().map(time::parse).transpose()?,
        filters: arguments.filter,
    };
    let mut events = client.system.watch_events(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        let text = match (&template, format) {
            (Some(template), _) => template.render(&to_json(&event))?,
            (None, Some(_json)) => to_json(&event).to_string(),
            (None, None) => line(&event),
        };
        printer::line(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn line(event: &WatchEventsResponse) -> String {
    let attributes: BTreeMap<_, _> = event.attributes.iter().collect();
    let attributes: Vec<String> = attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let time = time::rfc3339(event.time.as_ref());
    format!(
        "{time} {} {} {} ({})",
        event.r#type,
        event.action,
        event.id,
        attributes.join(", ")
    )
}

fn to_json(event: &WatchEventsResponse) -> serde_json::Value {
    let time = event.time.unwrap_or_default();
    json!({
        "Type": event.r#type,
        "Action": event.action,
        "status": event.action,
        "id": event.id,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": time.seconds,
        "timeNano": time.seconds * 1_000_000_000 + i64::from(time.nanos),
    })
}
