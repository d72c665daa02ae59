//! The commands that take a list of containers: each is tried, each success is echoed, and
//! one failure makes the whole command fail.

use std::process::ExitCode;

use anyhow::bail;
use linkspan_proto::runtime_v1 as wire;
use tonic::Status;

use super::attach::{Connect, connect};
use crate::args::{
    KillArguments, Names, RemoveArguments, RenameArguments, StartArguments, StopArguments,
};
use crate::client::Client;
use crate::error::{is_not_found, sentence};
use crate::printer;
use crate::terminal::{DEFAULT_DETACH_KEYS, DetachKeys};

/// Calls `act` for each name, one after the other.
async fn each<F>(names: Vec<String>, mut act: impl FnMut(String) -> F) -> anyhow::Result<ExitCode>
where
    F: Future<Output = Result<String, Status>>,
{
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match act(name).await {
            Ok(text) => printer::line(&text)?,
            Err(status) => {
                printer::talk(&format!("linkspan: {}", sentence(&status.into())));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn seconds(time: Option<u32>) -> Option<prost_types::Duration> {
    time.map(|seconds| prost_types::Duration {
        seconds: seconds.into(),
        nanos: 0,
    })
}

pub(crate) async fn start(client: Client, arguments: StartArguments) -> anyhow::Result<ExitCode> {
    let StartArguments {
        attach,
        interactive,
        containers: Names { names },
    } = arguments;
    if attach || interactive {
        let [name] = names.as_slice() else {
            bail!("-a and -i connect the terminal to one container; name only one");
        };
        let how = Connect {
            start: true,
            stdin: interactive,
            signal_proxy: true,
        };
        return connect(client, name, how, DetachKeys::parse(DEFAULT_DETACH_KEYS)?).await;
    }
    each(names, |name| {
        let mut containers = client.containers.clone();
        async move {
            containers
                .start_container(wire::StartContainerRequest {
                    container: name.clone(),
                })
                .await?;
            Ok(name)
        }
    })
    .await
}

pub(crate) async fn stop(client: Client, arguments: StopArguments) -> anyhow::Result<ExitCode> {
    let timeout = seconds(arguments.time);
    each(arguments.containers.names, |name| {
        let mut containers = client.containers.clone();
        async move {
            containers
                .stop_container(wire::StopContainerRequest {
                    container: name.clone(),
                    timeout,
                })
                .await?;
            Ok(name)
        }
    })
    .await
}

pub(crate) async fn restart(client: Client, arguments: StopArguments) -> anyhow::Result<ExitCode> {
    let timeout = seconds(arguments.time);
    each(arguments.containers.names, |name| {
        let mut containers = client.containers.clone();
        async move {
            containers
                .restart_container(wire::RestartContainerRequest {
                    container: name.clone(),
                    timeout,
                })
                .await?;
            Ok(name)
        }
    })
    .await
}

pub(crate) async fn kill(client: Client, arguments: KillArguments) -> anyhow::Result<ExitCode> {
    let signal = arguments.signal;
    each(arguments.containers.names, |name| {
        let (mut containers, signal) = (client.containers.clone(), signal.clone());
        async move {
            containers
                .kill_container(wire::KillContainerRequest {
                    container: name.clone(),
                    signal,
                })
                .await?;
            Ok(name)
        }
    })
    .await
}

/// With force, a container that does not exist is as good as removed.
pub(crate) async fn remove(client: Client, arguments: RemoveArguments) -> anyhow::Result<ExitCode> {
    let force = arguments.force;
    each(arguments.containers.names, |name| {
        let mut containers = client.containers.clone();
        async move {
            let request = wire::RemoveContainerRequest {
                container: name.clone(),
                force,
            };
            match containers.remove_container(request).await {
                Err(status) if !(force && is_not_found(&status)) => Err(status),
                _ => Ok(name),
            }
        }
    })
    .await
}

pub(crate) async fn wait(client: Client, arguments: Names) -> anyhow::Result<ExitCode> {
    each(arguments.names, |container| {
        let mut containers = client.containers.clone();
        async move {
            let response = containers
                .wait_container(wire::WaitContainerRequest { container })
                .await?;
            Ok(response.into_inner().exit_code.to_string())
        }
    })
    .await
}

pub(crate) async fn rename(
    mut client: Client,
    arguments: RenameArguments,
) -> anyhow::Result<ExitCode> {
    let RenameArguments {
        container,
        new_name,
    } = arguments;
    client
        .containers
        .rename_container(wire::RenameContainerRequest {
            container,
            new_name,
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}
