//! `run` and `create`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::runtime_v1::attach_container_request::Message;

use super::exit_code;
use crate::args::RunArguments;
use crate::args::create::CreateArguments;
use crate::client::Client;
use crate::printer;
use crate::session::{self, AttachMessages, End, Options};
use crate::terminal::{self, DetachKeys};

/// Makes a container and prints its id.
pub(crate) async fn create(
    mut client: Client,
    arguments: CreateArguments,
    request: wire::CreateContainerRequest,
) -> anyhow::Result<ExitCode> {
    let created = make(&mut client, &arguments, request).await?;
    printer::line(&created.id)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a container and starts it.
pub(crate) async fn run(
    mut client: Client,
    arguments: RunArguments,
    mut request: wire::CreateContainerRequest,
) -> anyhow::Result<ExitCode> {
    let RunArguments {
        detach,
        detach_keys,
        sig_proxy,
        create,
    } = arguments;
    let detach_keys = DetachKeys::parse(&detach_keys)?;
    let tty_without_one =
        create.tty && create.interactive && !detach && !terminal::stdin_is_terminal();
    if tty_without_one {
        bail!("-t with -i needs a terminal, and standard input is none; leave -t away");
    }
    if detach && !create.attach.is_empty() {
        bail!("--detach and --attach exclude each other");
    }
    // A failed run leaves nothing behind and frees the name.
    request.discard_on_start_failure = true;
    let created = make(&mut client, &create, request).await?;
    if detach {
        let start = wire::StartContainerRequest {
            container: created.id.clone(),
        };
        client.containers.start_container(start).await?;
        printer::line(&created.id)?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |stream: &str| {
        create.attach.is_empty()
            || create
                .attach
                .iter()
                .any(|given| given.eq_ignore_ascii_case(stream))
    };
    let stdin = create.interactive && wanted("stdin");
    let first = wire::AttachContainerRequest {
        message: Some(Message::Start(wire::AttachContainerStart {
            container: created.id.clone(),
            start: true,
            stdin,
            stdout: wanted("stdout"),
            stderr: wanted("stderr"),
            size: if create.tty { terminal::size() } else { None },
        })),
    };
    let (outgoing, stream) = session::outgoing(first);
    let response = client.containers.attach_container(stream).await?;
    let options = Options {
        stdin,
        tty: create.tty,
        signal_proxy: sig_proxy,
        detach_keys,
    };
    match session::run::<AttachMessages>(outgoing, response, options).await? {
        End::Exited(code) => Ok(exit_code(code)),
        End::Detached => {
            printer::line(&created.id)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn make(
    client: &mut Client,
    arguments: &CreateArguments,
    request: wire::CreateContainerRequest,
) -> anyhow::Result<wire::CreateContainerResponse> {
    let id_file = arguments.cidfile.as_deref().map(open_id_file).transpose()?;
    let created = client.containers.create_container(request).await;
    let created = match created {
        Ok(created) => created.into_inner(),
        Err(status) => {
            if let Some(path) = &arguments.cidfile {
                std::fs::remove_file(path)
                    .with_context(|| format!("remove `{}`", path.display()))?;
            }
            return Err(status.into());
        }
    };
    if let Some(mut file) = id_file {
        file.write_all(created.id.as_bytes())
            .context("write --cidfile")?;
    }
    if !arguments.quiet {
        for warning in &created.warnings {
            printer::talk(&format!("warning: {warning}"));
        }
    }
    Ok(created)
}

fn open_id_file(path: &Path) -> anyhow::Result<std::fs::File> {
    std::fs::File::create_new(path).with_context(|| {
        format!(
            "make --cidfile `{}`; remove it if it is from an earlier container",
            path.display()
        )
    })
}
