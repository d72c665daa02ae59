//! The two-way streams of attach and exec: a client's messages to a process, and back.
//!
//! Both have the same messages on the wire in types of their own; [`Duplex`] is where the
//! two meet, so that the pumping is written once.

use std::pin::Pin;
use std::sync::Arc;

use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::shim_v1::TerminalSize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Response, Status, Streaming};

use super::status::{invalid, of_container};
use crate::container::streams::{ClientStreams, Wanted, connect};
use crate::container::{Command, ContainerError, ExecRequest, Handle, convert, create, wait};
use crate::engine::Engine;

/// How much of a pipe goes into one message.
const CHUNK_BYTES: usize = 32 << 10;
/// How many messages may wait for a slow client.
const QUEUE: usize = 16;

type Outgoing<T> = Response<Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>>;

/// What a client sends after its first message.
enum Input {
    Stdin(Vec<u8>),
    StdinEnd,
    Resize(TerminalSize),
    Signal(String),
}

/// What a client is sent.
enum Output {
    Attached,
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Exit(i32),
}

/// The messages of one of the two calls.
trait Duplex {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn decode(request: Self::Request) -> Option<Input>;
    fn encode(output: Output) -> Self::Response;
}

macro_rules! duplex {
    ($name:ident, $request:ident, $response:ident, $request_module:ident, $response_module:ident) => {
        struct $name;

        impl Duplex for $name {
            type Request = wire::$request;
            type Response = wire::$response;

            fn decode(request: Self::Request) -> Option<Input> {
                use wire::$request_module::Message;
                match request.message? {
                    Message::Start(_) => None,
                    Message::Stdin(bytes) => Some(Input::Stdin(bytes)),
                    Message::StdinEnd(_) => Some(Input::StdinEnd),
                    Message::Resize(size) => Some(Input::Resize(size_from(size))),
                    Message::Signal(signal) => Some(Input::Signal(signal)),
                }
            }

            fn encode(output: Output) -> Self::Response {
                use wire::$response_module::Message;
                let message = match output {
                    Output::Attached => Message::Attached(wire::Attached {}),
                    Output::Stdout(bytes) => Message::Stdout(bytes),
                    Output::Stderr(bytes) => Message::Stderr(bytes),
                    Output::Exit(exit_code) => Message::Exit(wire::ProcessExit { exit_code }),
                };
                wire::$response {
                    message: Some(message),
                }
            }
        }
    };
}

duplex!(
    AttachCall,
    AttachContainerRequest,
    AttachContainerResponse,
    attach_container_request,
    attach_container_response
);
duplex!(
    ExecCall,
    ExecContainerRequest,
    ExecContainerResponse,
    exec_container_request,
    exec_container_response
);

fn size_from(size: wire::TerminalSize) -> TerminalSize {
    TerminalSize {
        rows: size.rows,
        columns: size.columns,
    }
}

/// Connects a client to the first process, and starts it if that is asked.
pub(crate) async fn attach(
    engine: &Arc<Engine>,
    mut incoming: Streaming<wire::AttachContainerRequest>,
) -> Result<Outgoing<wire::AttachContainerResponse>, Status> {
    use wire::attach_container_request::Message;
    let Some(Message::Start(start)) = incoming.message().await?.and_then(|m| m.message) else {
        return Err(invalid(
            "the first message of a stream must be its parameters",
        ));
    };
    let handle = engine
        .containers
        .find(&start.container)
        .map_err(|e| of_container(&e))?;
    if start.start {
        let ready = wait::for_sources(engine, &handle).await;
        ready.map_err(|e| of_container(&e))?;
    }
    let view = handle.view();
    let config = &view.record.config;
    let wanted = Wanted {
        stdin: start.stdin && config.open_stdin,
        stdout: start.stdout,
        stderr: start.stderr && !config.tty,
    };
    let (shim, client) =
        connect(wanted).map_err(|e| Status::internal(format!("make pipes: {e}")))?;
    let ended_runs = view.ended_runs;
    let result = match start.start {
        true => {
            handle
                .ask(|reply| Command::Start {
                    streams: Some(shim),
                    reply,
                })
                .await
        }
        false => {
            handle
                .ask(|reply| Command::Attach {
                    streams: shim,
                    reply,
                })
                .await
        }
    };
    result.map_err(|e| of_container(&e))?;
    if let Some(size) = start.size.map(size_from) {
        resize(&handle, size, "").await;
    }
    let end = {
        let handle = handle.clone();
        async move {
            let last = handle.wait_end(ended_runs).await;
            last.record.last_run.as_ref().map_or(0, |run| run.exit_code)
        }
    };
    Ok(pump::<AttachCall>(
        engine,
        handle,
        String::new(),
        incoming,
        client,
        end,
    ))
}

/// Runs another process and connects a client to it.
pub(crate) async fn exec(
    engine: &Arc<Engine>,
    mut incoming: Streaming<wire::ExecContainerRequest>,
) -> Result<Outgoing<wire::ExecContainerResponse>, Status> {
    use wire::exec_container_request::Message;
    let Some(Message::Start(start)) = incoming.message().await?.and_then(|m| m.message) else {
        return Err(invalid(
            "the first message of a stream must be its parameters",
        ));
    };
    if start.args.is_empty() {
        return Err(invalid("no command was given"));
    }
    let handle = engine
        .containers
        .find(&start.container)
        .map_err(|e| of_container(&e))?;
    let wanted = Wanted {
        stdin: start.stdin && !start.detach,
        stdout: !start.detach,
        stderr: !start.detach && !start.tty,
    };
    let (shim, client) =
        connect(wanted).map_err(|e| Status::internal(format!("make pipes: {e}")))?;
    let exec_id = create::random_id().map_err(|e| of_container(&e))?;
    let exec = ExecRequest {
        exec_id: exec_id.clone(),
        args: start.args,
        env: start.env,
        user: start.user,
        working_dir: start.working_dir,
        tty: start.tty,
        size: start.size.map(size_from),
        streams: shim,
    };
    let exit = handle
        .ask(|reply| Command::Exec { exec, reply })
        .await
        .map_err(|e| of_container(&e))?;
    if start.detach {
        let attached = Ok(ExecCall::encode(Output::Attached));
        return Ok(Response::new(Box::pin(tokio_stream::once(attached))));
    }
    // Without a word the container ended, and the process with it.
    let end = async move { exit.await.unwrap_or(137) };
    Ok(pump::<ExecCall>(
        engine, handle, exec_id, incoming, client, end,
    ))
}

/// Moves bytes both ways until the process has ended and its output is read.
fn pump<D: Duplex + 'static>(
    engine: &Arc<Engine>,
    handle: Handle,
    exec_id: String,
    incoming: Streaming<D::Request>,
    client: ClientStreams,
    end: impl Future<Output = i32> + Send + 'static,
) -> Outgoing<D::Response> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let ClientStreams {
        stdin,
        stdout,
        stderr,
    } = client;
    let input = engine
        .tracker
        .spawn(pump_input::<D>(handle, exec_id, incoming, stdin));
    engine.tracker.spawn(async move {
        let first = sender.send(Ok(D::encode(Output::Attached))).await;
        if first.is_ok() {
            let gone = sender.clone();
            let output = async {
                tokio::join!(
                    pump_output::<D>(stdout, Output::Stdout, &sender),
                    pump_output::<D>(stderr, Output::Stderr, &sender)
                );
                let exit_code = end.await;
                // A client that left needs no exit code.
                sender
                    .send(Ok(D::encode(Output::Exit(exit_code))))
                    .await
                    .ok();
            };
            // Either the output is complete, or nobody is left to read it.
            tokio::select! {
                () = output => {}
                () = gone.closed() => {}
            }
        }
        input.abort();
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

async fn pump_output<D: Duplex>(
    pipe: Option<pipe::Receiver>,
    wrap: fn(Vec<u8>) -> Output,
    sender: &mpsc::Sender<Result<D::Response, Status>>,
) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(length) = pipe.read(&mut buffer).await {
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        if bytes.is_empty() || sender.send(Ok(D::encode(wrap(bytes)))).await.is_err() {
            return;
        }
    }
}

async fn pump_input<D: Duplex>(
    handle: Handle,
    exec_id: String,
    mut incoming: Streaming<D::Request>,
    mut stdin: Option<pipe::Sender>,
) {
    while let Some(Ok(request)) = incoming.next().await {
        match D::decode(request) {
            Some(Input::Stdin(bytes)) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(Input::StdinEnd) => stdin = None,
            Some(Input::Resize(size)) => resize(&handle, size, &exec_id).await,
            Some(Input::Signal(signal)) => send_signal(&handle, &signal, &exec_id).await,
            None => return,
        }
    }
}

async fn resize(handle: &Handle, size: TerminalSize, exec_id: &str) {
    let exec_id = exec_id.to_owned();
    let resized = handle
        .ask(|reply| Command::Resize {
            size,
            exec_id,
            reply,
        })
        .await;
    ignore_late(resized, "resize a terminal");
}

async fn send_signal(handle: &Handle, signal: &str, exec_id: &str) {
    let Some(signal) = convert::parse_signal(signal) else {
        return;
    };
    let sent = if exec_id.is_empty() {
        handle.ask(|reply| Command::Signal { signal, reply }).await
    } else {
        let exec_id = exec_id.to_owned();
        handle
            .ask(|reply| Command::SignalExec {
                exec_id,
                signal,
                reply,
            })
            .await
    };
    ignore_late(sent, "pass a signal on");
}

/// The process may have ended meanwhile, which is no error of the client's.
fn ignore_late(result: Result<(), ContainerError>, act: &str) {
    if let Err(error) = result {
        tracing::debug!(%error, act, "too late, ignoring");
    }
}
