//! `attach` and `exec`.

use std::process::ExitCode;

use anyhow::bail;
use linkspan_proto::runtime_v1 as wire;

use super::exit_code;
use crate::args::environment;
use crate::args::{AttachArguments, ExecArguments};
use crate::client::Client;
use crate::session::{self, AttachMessages, End, ExecMessages, Options};
use crate::terminal::{self, DetachKeys};

/// Connects the terminal to a running container.
pub(crate) async fn attach(client: Client, arguments: AttachArguments) -> anyhow::Result<ExitCode> {
    let AttachArguments {
        no_stdin,
        sig_proxy,
        detach_keys,
        container,
    } = arguments;
    let detach_keys = DetachKeys::parse(&detach_keys)?;
    connect(
        client,
        &container,
        Connect {
            start: false,
            stdin: !no_stdin,
            signal_proxy: sig_proxy,
        },
        detach_keys,
    )
    .await
}

/// How a terminal is connected to a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connect {
    /// Whether to start it.
    pub(super) start: bool,
    pub(super) stdin: bool,
    pub(super) signal_proxy: bool,
}

/// Connects the terminal to a container, and starts it if that is asked.
pub(super) async fn connect(
    mut client: Client,
    name: &str,
    how: Connect,
    detach_keys: DetachKeys,
) -> anyhow::Result<ExitCode> {
    let found = client.container(name).await?;
    let config = found.config.unwrap_or_default();
    let stdin = how.stdin && config.open_stdin;
    let first = wire::AttachContainerRequest {
        message: Some(wire::attach_container_request::Message::Start(
            wire::AttachContainerStart {
                container: found.id,
                start: how.start,
                stdin,
                stdout: true,
                stderr: true,
                size: if config.tty { terminal::size() } else { None },
            },
        )),
    };
    let (outgoing, stream) = session::outgoing(first);
    let response = client.containers.attach_container(stream).await?;
    let options = Options {
        stdin,
        tty: config.tty,
        signal_proxy: how.signal_proxy,
        detach_keys,
    };
    Ok(code_of(
        &session::run::<AttachMessages>(outgoing, response, options).await?,
    ))
}

/// Runs a command in a running container.
pub(crate) async fn exec(mut client: Client, arguments: ExecArguments) -> anyhow::Result<ExitCode> {
    let detach_keys = DetachKeys::parse(&arguments.detach_keys)?;
    if arguments.tty && arguments.interactive && !arguments.detach && !terminal::stdin_is_terminal()
    {
        bail!("-t with -i needs a terminal, and standard input is none; leave -t away");
    }
    let mut env = Vec::new();
    for file in &arguments.env_file {
        env.extend(environment::read_file(file)?);
    }
    env.extend(environment::entries(&arguments.env)?);
    let first = wire::ExecContainerRequest {
        message: Some(wire::exec_container_request::Message::Start(
            wire::ExecContainerStart {
                container: arguments.container,
                args: arguments.command,
                env: environment::last_wins(env),
                user: arguments.user.unwrap_or_default(),
                working_dir: arguments.workdir.unwrap_or_default(),
                tty: arguments.tty,
                stdin: arguments.interactive,
                detach: arguments.detach,
                size: if arguments.tty {
                    terminal::size()
                } else {
                    None
                },
            },
        )),
    };
    let (outgoing, stream) = session::outgoing(first);
    let response = client.containers.exec_container(stream).await?;
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options {
        stdin: arguments.interactive,
        tty: arguments.tty,
        signal_proxy: true,
        detach_keys,
    };
    Ok(code_of(
        &session::run::<ExecMessages>(outgoing, response, options).await?,
    ))
}

fn code_of(end: &End) -> ExitCode {
    match end {
        End::Exited(code) => exit_code(*code),
        End::Detached => ExitCode::SUCCESS,
    }
}
