//! What each command does: one verb a file, or a few that are alike.

mod attach;
mod create;
mod events;
mod explain;
mod images;
mod inspect;
mod lifecycle;
mod link;
mod logs;
mod network;
mod port;
mod ps;
mod system;
mod time;

use std::process::ExitCode;

use crate::args::{Arguments, Command};
use crate::client;

/// Runs the command.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    // What is wrong with the command line is told before the engine is asked.
    let request = match &arguments.command {
        Command::Run(run) => Some(run.create.to_request()?),
        Command::Create(create) => Some(create.to_request()?),
        _ => None,
    };
    let client = client::connect(arguments.host.as_deref()).await?;
    match arguments.command {
        Command::Run(run) => create::run(client, *run, request.unwrap_or_default()).await,
        Command::Create(create) => {
            create::create(client, *create, request.unwrap_or_default()).await
        }
        Command::Start(start) => lifecycle::start(client, start).await,
        Command::Stop(stop) => lifecycle::stop(client, stop).await,
        Command::Restart(stop) => lifecycle::restart(client, stop).await,
        Command::Kill(kill) => lifecycle::kill(client, kill).await,
        Command::Rm(remove) => lifecycle::remove(client, remove).await,
        Command::Wait(names) => lifecycle::wait(client, names).await,
        Command::Rename(rename) => lifecycle::rename(client, rename).await,
        Command::Ps(ps) => ps::run(client, ps).await,
        Command::Inspect(inspect) => inspect::run(client, inspect).await,
        Command::Logs(logs) => logs::run(client, logs).await,
        Command::Exec(exec) => attach::exec(client, exec).await,
        Command::Attach(attach) => attach::attach(client, attach).await,
        Command::Port(port) => port::run(client, port).await,
        Command::Link(link) => link::run(client, link).await,
        Command::Network(network) => network::run(client, network).await,
        Command::Explain(explain) => explain::run(client, explain).await,
        Command::Images(images) => images::list(client, images).await,
        Command::Load(load) => images::load(client, load).await,
        Command::Import(import) => images::import(client, import).await,
        Command::Tag(tag) => images::tag(client, tag).await,
        Command::Rmi(rmi) => images::remove(client, rmi).await,
        Command::Events(events) => events::run(client, events).await,
        Command::Version(format) => system::version(client, format).await,
        Command::Info(format) => system::info(client, format).await,
    }
}

/// The exit code of a process as this command's own.
fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}
