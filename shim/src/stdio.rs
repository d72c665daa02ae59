//! The standard streams of one process: its pipes or terminal, the log, and the clients.
//!
//! Output is lossless: while a client's pipe is full, the stream it belongs to is not
//! read, so the process waits, until the client reads on or goes away. Once the process
//! has ended there is only a pipe's content left; it is read at once, and what a slow
//! client has not taken yet waits in memory. The log never holds anything up.
//!
//! All descriptors are non-blocking, so [`Stdio::pump`] may run at any time.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};

use crate::init::terminal::set_size;
use crate::log::{Line, Log, Stream, now};
use crate::parent::Pipes;
use crate::spec::{Stdin, TerminalSize};

const CHUNK: usize = 16 << 10;
/// How many chunks one stream may deliver before the others get their turn.
const TURN: usize = 16;
/// Ctrl-D: the end of input, for a terminal in its usual mode.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// The client's ends that came with a request.
#[derive(Debug, Default)]
pub(crate) struct ClientStreams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// The streams of one process.
#[derive(Debug)]
pub(crate) struct Stdio {
    input: Input,
    outputs: [Output; 2],
    terminal: Option<OwnedFd>,
    state: State,
}

/// Whether the process that owns the streams runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Ended,
}

/// From clients to the process.
#[derive(Debug)]
struct Input {
    mode: Stdin,
    sink: Option<OwnedFd>,
    clients: Vec<OwnedFd>,
    pending: Vec<u8>,
}

/// From the process to the log and the clients.
#[derive(Debug)]
struct Output {
    stream: Stream,
    source: Option<OwnedFd>,
    line: Line,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    pending: Vec<u8>,
}

impl Stdio {
    /// Takes over the shim's ends and the first client's.
    pub(crate) fn new(pipes: Pipes, mode: Stdin, client: ClientStreams) -> Self {
        let output = |stream, source| Output {
            stream,
            source,
            line: Line::default(),
            clients: Vec::new(),
        };
        let mut stdio = Self {
            input: Input {
                mode,
                sink: pipes.stdin,
                clients: Vec::new(),
                pending: Vec::new(),
            },
            outputs: [
                output(Stream::Stdout, pipes.stdout),
                output(Stream::Stderr, pipes.stderr),
            ],
            terminal: None,
            state: State::Running,
        };
        stdio.attach(client);
        stdio
    }

    /// Takes over the terminal that the process has made.
    pub(crate) fn connect_terminal(&mut self, master: OwnedFd) -> Result<(), Errno> {
        ioctl_fionbio(&master, true)?;
        self.outputs[0].source = Some(rustix::io::fcntl_dupfd_cloexec(&master, 0)?);
        if self.input.mode != Stdin::Null {
            self.input.sink = Some(rustix::io::fcntl_dupfd_cloexec(&master, 0)?);
        }
        self.terminal = Some(master);
        Ok(())
    }

    /// Connects one more client. Its descriptors become non-blocking.
    pub(crate) fn attach(&mut self, client: ClientStreams) {
        let usable = |fd: &OwnedFd| ioctl_fionbio(fd, true).is_ok();
        if self.input.mode != Stdin::Null {
            self.input.clients.extend(client.stdin.filter(usable));
        }
        for (output, fd) in self.outputs.iter_mut().zip([client.stdout, client.stderr]) {
            output.clients.extend(fd.filter(usable).map(|fd| Client {
                fd,
                pending: Vec::new(),
            }));
        }
    }

    /// Sets the size of the terminal. `false` when there is none.
    pub(crate) fn resize(&self, size: TerminalSize) -> Result<bool, Errno> {
        self.terminal
            .as_ref()
            .map_or(Ok(false), |master| set_size(master, size).map(|()| true))
    }

    /// Adds what is to be waited for.
    pub(crate) fn interests<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let input = &self.input;
        if let Some(sink) = &input.sink {
            let idle = input.pending.is_empty();
            if idle {
                fds.extend(
                    input
                        .clients
                        .iter()
                        .map(|fd| PollFd::new(fd, PollFlags::IN)),
                );
            }
            // A terminal without a process on it is not news again and again.
            if !idle || self.terminal.is_none() {
                let wanted = if idle {
                    PollFlags::empty()
                } else {
                    PollFlags::OUT
                };
                fds.push(PollFd::new(sink, wanted));
            }
        }
        for output in &self.outputs {
            if let Some(source) = &output.source
                && output
                    .clients
                    .iter()
                    .all(|client| client.pending.is_empty())
            {
                fds.push(PollFd::new(source, PollFlags::IN));
            }
            for client in &output.clients {
                let idle = client.pending.is_empty();
                let wanted = if idle {
                    PollFlags::empty()
                } else {
                    PollFlags::OUT
                };
                fds.push(PollFd::new(&client.fd, wanted));
            }
        }
    }

    /// Moves whatever can be moved now.
    pub(crate) fn pump(&mut self, mut log: Option<&mut Log>) {
        self.input.pump(self.terminal.is_some());
        for output in &mut self.outputs {
            output.pump(log.as_deref_mut(), self.state);
        }
    }

    /// The process has ended: reads the rest, and lets the clients go once they have it.
    pub(crate) fn end(&mut self, log: Option<&mut Log>) {
        self.state = State::Ended;
        self.input.close();
        self.pump(log);
    }

    /// Whether a client still has something to take.
    pub(crate) fn is_owed(&self) -> bool {
        self.outputs.iter().any(|output| !output.clients.is_empty())
    }

    /// Whether somebody may still write.
    pub(crate) fn is_open(&self) -> bool {
        self.outputs.iter().any(|output| output.source.is_some())
    }

    /// Closes the process's side: the log has all that there will be.
    pub(crate) fn close(&mut self, mut log: Option<&mut Log>) {
        for output in &mut self.outputs {
            output.end_source(log.as_deref_mut());
        }
        self.terminal = None;
    }
}

impl Input {
    fn pump(&mut self, is_terminal: bool) {
        let Some(sink) = &self.sink else { return };
        // A terminal hangs up and comes back; only writing to it tells.
        if !is_terminal && is_hung_up(sink) || self.flush().is_err() {
            return self.close();
        }
        let mut buffer = [0; CHUNK];
        let mut index = 0;
        while self.sink.is_some() && self.pending.is_empty() && index < self.clients.len() {
            match read(&self.clients[index], &mut buffer) {
                Ok(0) => self.end_of_client(index, is_terminal),
                Ok(length) => {
                    self.pending.extend_from_slice(&buffer[..length]);
                    if self.flush().is_err() {
                        self.close();
                    }
                }
                Err(Errno::AGAIN) => index += 1,
                Err(Errno::INTR) => {}
                Err(_broken) => self.end_of_client(index, is_terminal),
            }
        }
    }

    fn end_of_client(&mut self, index: usize, is_terminal: bool) {
        self.clients.remove(index);
        if self.mode == Stdin::Once {
            if is_terminal {
                self.pending.extend_from_slice(END_OF_TRANSMISSION);
                let _hung_up = self.flush();
            }
            self.close();
        }
    }

    fn flush(&mut self) -> Result<(), Errno> {
        let Some(sink) = &self.sink else {
            return Ok(());
        };
        while !self.pending.is_empty() {
            match write(sink, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.pending = Vec::new();
        Ok(())
    }

    /// Nobody will be read from any more; clients that write notice by EPIPE.
    fn close(&mut self) {
        self.mode = Stdin::Null;
        self.sink = None;
        self.clients.clear();
        self.pending = Vec::new();
    }
}

impl Output {
    fn pump(&mut self, mut log: Option<&mut Log>, state: State) {
        self.clients
            .retain_mut(|client| client.flush().is_ok() && !is_hung_up(&client.fd));
        let mut buffer = [0; CHUNK];
        let mut turns = TURN;
        while let Some(source) = &self.source {
            let blocked = self.clients.iter().any(|client| !client.pending.is_empty());
            if state == State::Running && (blocked || turns == 0) {
                break;
            }
            turns = turns.saturating_sub(1);
            match read(source, &mut buffer) {
                // EIO is how a terminal says that its last process has gone.
                Ok(0) | Err(Errno::IO) => self.end_source(log.as_deref_mut()),
                Ok(length) => self.deliver(&buffer[..length], log.as_deref_mut()),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_broken) => self.end_source(log.as_deref_mut()),
            }
        }
        if self.source.is_none() || state == State::Ended {
            self.clients.retain(|client| !client.pending.is_empty());
        }
    }

    fn deliver(&mut self, bytes: &[u8], log: Option<&mut Log>) {
        if let Some(log) = log {
            log.append(&self.line.push(self.stream, bytes, now()));
        }
        self.clients.retain_mut(|client| {
            client.pending.extend_from_slice(bytes);
            client.flush().is_ok()
        });
    }

    fn end_source(&mut self, log: Option<&mut Log>) {
        self.source = None;
        if let (Some(log), Some(rest)) = (log, self.line.finish(self.stream, now())) {
            log.append(&[rest]);
        }
    }
}

impl Client {
    fn flush(&mut self) -> Result<(), Errno> {
        while !self.pending.is_empty() {
            match write(&self.fd, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.pending = Vec::new();
        Ok(())
    }
}

/// Whether the other end of something written to is closed.
fn is_hung_up(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}
