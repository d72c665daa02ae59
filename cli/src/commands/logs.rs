//! `logs`: what a container wrote.

use std::process::ExitCode;

use anyhow::bail;
use linkspan_proto::runtime_v1::{LogStream, ReadLogsRequest};

use super::time;
use crate::args::LogsArguments;
use crate::client::Client;
use crate::printer;

/// Prints the log, each stream to its own.
pub(crate) async fn run(mut client: Client, arguments: LogsArguments) -> anyhow::Result<ExitCode> {
    let tail = match arguments.tail.as_str() {
        "all" => None,
        text => match text.parse::<u64>() {
            Ok(lines) => Some(lines),
            Err(_) => bail!("invalid --tail `{text}`: it must be a number of lines, or all"),
        },
    };
    let request = ReadLogsRequest {
        container: arguments.container,
        follow: arguments.follow,
        tail,
        since: arguments.since.as_deref().map(time::parse).transpose()?,
        until: arguments.until.as_deref().map(time::parse).transpose()?,
    };
    let mut entries = client.containers.read_logs(request).await?.into_inner();
    let mut at_start = true;
    while let Some(entry) = entries.message().await? {
        let mut bytes = Vec::new();
        if arguments.timestamps && at_start {
            bytes.extend(time::rfc3339(entry.time.as_ref()).bytes());
            bytes.push(b' ');
        }
        bytes.extend(&entry.text);
        at_start = entry.text.ends_with(b"\n");
        match entry.stream() {
            LogStream::Stderr => printer::err(&bytes)?,
            LogStream::Stdout | LogStream::Unspecified => printer::out(&bytes)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
