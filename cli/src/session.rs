//! A session with a process: the user's terminal on one side, a two-way stream on the other.
//!
//! attach and exec have the same messages in types of their own; [`Messages`] is where
//! they meet.

use std::io::Read;

use linkspan_proto::runtime_v1 as wire;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::printer;
use crate::terminal::{self, DetachKeys, RawMode};

/// How many messages may wait to be sent.
const QUEUE: usize = 16;
/// How much input goes into one message.
const CHUNK_BYTES: usize = 16 << 10;

/// How a session is to be.
#[derive(Debug)]
pub(crate) struct Options {
    /// Whether the user's input goes to the process.
    pub(crate) stdin: bool,
    /// Whether the process has a terminal.
    pub(crate) tty: bool,
    /// Whether signals for this command go to the process.
    pub(crate) signal_proxy: bool,
    pub(crate) detach_keys: DetachKeys,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process ended.
    Exited(i32),
    /// The user left it.
    Detached,
}

/// What the engine sends.
#[derive(Debug)]
pub(crate) enum Output {
    Attached,
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Exit(i32),
}

/// The messages of one of the two calls.
pub(crate) trait Messages {
    type Request: Send + 'static;
    type Response;

    fn stdin(bytes: Vec<u8>) -> Self::Request;
    fn stdin_end() -> Self::Request;
    fn resize(size: wire::TerminalSize) -> Self::Request;
    fn signal(name: &str) -> Self::Request;
    fn output(response: Self::Response) -> Option<Output>;
}

macro_rules! messages {
    ($name:ident, $request:ident, $response:ident, $request_module:ident, $response_module:ident) => {
        /// The messages of one of the two calls.
        #[derive(Debug)]
        pub(crate) struct $name;

        impl Messages for $name {
            type Request = wire::$request;
            type Response = wire::$response;

            fn stdin(bytes: Vec<u8>) -> Self::Request {
                wire::$request {
                    message: Some(wire::$request_module::Message::Stdin(bytes)),
                }
            }

            fn stdin_end() -> Self::Request {
                wire::$request {
                    message: Some(wire::$request_module::Message::StdinEnd(wire::StdinEnd {})),
                }
            }

            fn resize(size: wire::TerminalSize) -> Self::Request {
                wire::$request {
                    message: Some(wire::$request_module::Message::Resize(size)),
                }
            }

            fn signal(name: &str) -> Self::Request {
                wire::$request {
                    message: Some(wire::$request_module::Message::Signal(name.to_owned())),
                }
            }

            fn output(response: Self::Response) -> Option<Output> {
                use wire::$response_module::Message;
                Some(match response.message? {
                    Message::Attached(_) => Output::Attached,
                    Message::Stdout(bytes) => Output::Stdout(bytes),
                    Message::Stderr(bytes) => Output::Stderr(bytes),
                    Message::Exit(exit) => Output::Exit(exit.exit_code),
                })
            }
        }
    };
}

messages!(
    AttachMessages,
    AttachContainerRequest,
    AttachContainerResponse,
    attach_container_request,
    attach_container_response
);
messages!(
    ExecMessages,
    ExecContainerRequest,
    ExecContainerResponse,
    exec_container_request,
    exec_container_response
);

/// The sending side of a session, before it begins.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    sender: mpsc::Sender<T>,
}

/// A stream for a call, whose first message is `first`.
pub(crate) fn outgoing<T>(first: T) -> (Outgoing<T>, ReceiverStream<T>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    // The queue is empty, so there is room.
    sender.try_send(first).ok();
    (Outgoing { sender }, ReceiverStream::new(receiver))
}

/// Runs a session to its end.
pub(crate) async fn run<M: Messages>(
    outgoing: Outgoing<M::Request>,
    response: Response<Streaming<M::Response>>,
    options: Options,
) -> anyhow::Result<End> {
    let mut incoming = response.into_inner();
    let raw = options.tty && options.stdin && terminal::stdin_is_terminal();
    let _raw_mode = if raw { Some(RawMode::enter()?) } else { None };
    let mut detach_keys = options.detach_keys;
    let mut signals = Signals::new(options.tty, options.signal_proxy)?;
    let mut input = options.stdin.then(read_stdin);
    let sender = outgoing.sender;
    loop {
        // Every arm keeps its place when it is dropped: two queues and a stream.
        tokio::select! {
            message = incoming.message() => {
                match message.map_err(lost)?.and_then(M::output) {
                    Some(Output::Attached) => {}
                    Some(Output::Stdout(bytes)) => printer::out(&bytes)?,
                    Some(Output::Stderr(bytes)) => printer::err(&bytes)?,
                    Some(Output::Exit(code)) => return Ok(End::Exited(code)),
                    None => anyhow::bail!("the engine ended the session; the process may go on: see linkspan ps"),
                }
            }
            bytes = next_input(&mut input) => {
                let message = match bytes {
                    Some(bytes) if raw => {
                        let typed = detach_keys.feed(&bytes);
                        if typed.detach {
                            return Ok(End::Detached);
                        }
                        M::stdin(typed.bytes)
                    }
                    Some(bytes) => M::stdin(bytes),
                    None => {
                        input = None;
                        M::stdin_end()
                    }
                };
                // The engine has ended the session; its last message says how.
                sender.send(message).await.ok();
            }
            event = signals.next() => {
                let message = match event {
                    Event::Resized => terminal::size().map(M::resize),
                    Event::Signal(name) => Some(M::signal(name)),
                };
                if let Some(message) = message {
                    sender.send(message).await.ok();
                }
            }
        }
    }
}

fn lost(status: Status) -> anyhow::Error {
    match linkspan_proto::reason::reason_of(&status) {
        Some(_) => status.into(),
        None => anyhow::anyhow!(
            "the connection to the engine broke; the process goes on: see linkspan ps"
        ),
    }
}

async fn next_input(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads standard input on a thread of its own, which may block for ever.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = stdin.read(&mut buffer) {
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            if sender.blocking_send(bytes).is_err() {
                return;
            }
        }
    });
    receiver
}

enum Event {
    Resized,
    Signal(&'static str),
}

/// The signals that concern a session.
struct Signals {
    resize: Option<Signal>,
    proxied: Vec<(&'static str, Signal)>,
}

impl Signals {
    fn new(tty: bool, proxy: bool) -> std::io::Result<Self> {
        let resize = if tty {
            Some(signal(SignalKind::window_change())?)
        } else {
            None
        };
        let mut proxied = Vec::new();
        if proxy && !tty {
            for (name, kind) in [
                ("HUP", SignalKind::hangup()),
                ("INT", SignalKind::interrupt()),
                ("QUIT", SignalKind::quit()),
                ("TERM", SignalKind::terminate()),
                ("USR1", SignalKind::user_defined1()),
                ("USR2", SignalKind::user_defined2()),
            ] {
                proxied.push((name, signal(kind)?));
            }
        }
        Ok(Self { resize, proxied })
    }

    async fn next(&mut self) -> Event {
        let Self { resize, proxied } = self;
        std::future::poll_fn(|context| {
            if let Some(resize) = resize
                && resize.poll_recv(context).is_ready()
            {
                return std::task::Poll::Ready(Event::Resized);
            }
            for (name, signal) in proxied.iter_mut() {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Event::Signal(name));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
