//! Containers: one owner task each, and the handle by which others reach it.
//!
//! ```text
//!            create            start               exit, stop, kill
//!   (nothing) ----> created ----------> running ----------------------> stopped
//!                      |                   ^                               |
//!                      |                   +------------- start -----------+
//!                      |  remove                                  remove   |
//!                      +--------------------> deleting <-------------------+
//! ```
//!
//! Others send bounded requests with a reply channel and read the state from a `watch`.
//! Legal transitions stand in [`state::admit`]. The owner ([`actor`]) is the only one that
//! changes a container's record, its run and its files.

pub(crate) mod actor;
pub(crate) mod attachment;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod environment;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod hosts;
pub(crate) mod launch;
pub(crate) mod link;
pub(crate) mod listen;
pub(crate) mod logs;
pub(crate) mod moves;
pub(crate) mod name;
pub(crate) mod network;
pub(crate) mod orphan;
pub(crate) mod ports;
pub(crate) mod record;
pub(crate) mod resolver;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod streams;
pub(crate) mod wait;

use std::sync::Arc;
use std::time::Duration;

use linkspan_proto::shim_v1::{FailureKind, TerminalSize};
use tokio::sync::{mpsc, oneshot, watch};

use self::health::Health;
use self::name::NameError;
use self::network::NetworkConfig;
use self::ports::HostPorts;
use self::record::{Link, NetworkSettings, PortMapping, Record, Run};
use self::spec::ProfileError;
use self::state::State;
use self::streams::ShimStreams;
use crate::image::ImageError;
use crate::network_client::NetworkError;
use crate::port::{Port, PortError};
use crate::shim_client::ShimError;
use crate::store::StoreError;

/// Why a request about containers failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    #[error("no container has the id or name `{text}`; linkspan ps -a lists them")]
    NotFound { text: String },
    #[error("the id `{prefix}` is ambiguous: it begins the ids of {count} containers")]
    Ambiguous { prefix: String, count: usize },
    #[error(
        "the name `{name}` is in use by container {holder}; remove or rename that one: linkspan rm {name}"
    )]
    NameInUse { name: String, holder: String },
    #[error("{act}: container `{name}` is {state}{hint}")]
    WrongState {
        act: &'static str,
        name: String,
        state: &'static str,
        hint: &'static str,
    },
    #[error("cannot link to `{source_name}`: no container has that id or name")]
    LinkSourceMissing { source_name: String },
    #[error(
        "cannot start {consumer}: its link `{alias}` needs container `{source_name}`, which is not running; start it first: linkspan start {source_name}"
    )]
    LinkSourceDown {
        /// A quoted name, or words for a container that has none yet.
        consumer: String,
        alias: String,
        source_name: String,
    },
    #[error(
        "the links `{first}` and `{second}` collide: both aliases give variables that begin with {prefix}_"
    )]
    LinkConflict {
        first: String,
        second: String,
        prefix: String,
    },
    #[error(
        "{consumer} cannot link to `{source_name}`: they have no network in common; put one on a network of the other: linkspan network connect"
    )]
    LinkNoCommonNetwork {
        consumer: String,
        source_name: String,
    },
    #[error("there is no network `{network}`; make it: linkspan network create {network}")]
    NetworkNotFound { network: String },
    #[error("container `{name}` is on network `{network}` already")]
    AlreadyConnected { name: String, network: String },
    #[error("container `{name}` is not on network `{network}`")]
    NotConnected { name: String, network: String },
    #[error("container `{name}` uses the network of {owner}, so it has none of its own to change")]
    NoOwnNetwork { name: String, owner: &'static str },
    #[error(
        "cannot start `{name}`: it shares the network of container `{owner}`, which is not running"
    )]
    NetworkOwnerDown { name: String, owner: String },
    #[error("cannot start {consumer}: its link `{alias}` waited {waited}, and {lacking}")]
    LinkWaitOver {
        consumer: String,
        alias: String,
        /// What is not as it should be, as a clause.
        lacking: String,
        waited: String,
    },
    #[error("the start was given up while it waited for a link: whoever asked for it has left")]
    WaitAbandoned,
    #[error("container `{consumer}` has no link `{alias}`; linkspan link ls {consumer} lists them")]
    LinkNotFound { consumer: String, alias: String },
    #[error("{who} port {port} of the host; linkspan port ls lists all")]
    PortNotFound { who: String, port: String },
    #[error(
        "container `{runs}` runs and `{down}` does not; a port moves only between two that run, or two that do not"
    )]
    MoveNeedsBoth { runs: String, down: String },
    #[error(
        "container `{name}` is on no network that leads outside, so it cannot publish a port; linkspan network ls shows which are internal"
    )]
    NoWayOutside { name: String },
    #[error("invalid {what}: {rule}")]
    Invalid { what: &'static str, rule: String },
    #[error(transparent)]
    Shim(#[from] ShimError),
    #[error(
        "container `{name}` does not end: the kernel holds a process of it that even SIGKILL does not reach"
    )]
    Stuck { name: String },
    #[error("{act}")]
    Files { act: String, source: std::io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the container is being removed")]
    Gone,
}

impl ContainerError {
    /// What `State.ExitCode` says after a start that failed so; Docker's numbers.
    pub(crate) fn start_exit_code(&self) -> i32 {
        let Self::Shim(ShimError::Refused { failure }) = self else {
            return 128;
        };
        match failure.kind() {
            FailureKind::CommandNotFound => 127,
            FailureKind::CommandNotExecutable => 126,
            FailureKind::UnknownUser
            | FailureKind::WrongState
            | FailureKind::Invalid
            | FailureKind::System
            | FailureKind::Unspecified => 128,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, ContainerError>;

/// What everybody may read of a container.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) record: Record,
    pub(crate) run: Option<Run>,
    pub(crate) state: State,
    /// None without a health check, or while it does not run.
    pub(crate) health: Option<Health>,
    /// How many runs have ended since this process took the container over.
    pub(crate) ended_runs: u64,
    /// The container is gone; this is the last view.
    pub(crate) removed: bool,
}

/// A request to the owner of a container.
#[derive(Debug)]
pub(crate) enum Command {
    Start {
        streams: Option<ShimStreams>,
        reply: oneshot::Sender<Result<()>>,
    },
    Stop {
        timeout: Option<Duration>,
        reply: oneshot::Sender<Result<()>>,
    },
    Restart {
        timeout: Option<Duration>,
        reply: oneshot::Sender<Result<()>>,
    },
    Signal {
        signal: i32,
        reply: oneshot::Sender<Result<()>>,
    },
    Remove {
        force: bool,
        reply: oneshot::Sender<Result<()>>,
    },
    Rename {
        new_name: String,
        reply: oneshot::Sender<Result<()>>,
    },
    Attach {
        streams: ShimStreams,
        reply: oneshot::Sender<Result<()>>,
    },
    Resize {
        size: TerminalSize,
        exec_id: String,
        reply: oneshot::Sender<Result<()>>,
    },
    Exec {
        exec: ExecRequest,
        reply: oneshot::Sender<Result<oneshot::Receiver<i32>>>,
    },
    SignalExec {
        exec_id: String,
        signal: i32,
        reply: oneshot::Sender<Result<()>>,
    },
    /// The source of a link has another name now.
    SourceRenamed {
        name: String,
        new_name: String,
        reply: oneshot::Sender<Result<()>>,
    },
    /// What had to come before a start failed; answers with that error.
    FailStart {
        error: ContainerError,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Of what the container opens.
    Change(Change),
}

/// A change of links and ports, whatever the state.
#[derive(Debug)]
pub(crate) enum Change {
    AddLink {
        link: Link,
        reply: oneshot::Sender<Result<(Link, Vec<String>)>>,
    },
    RemoveLink {
        alias: String,
        reply: oneshot::Sender<Result<()>>,
    },
    AddPorts {
        mappings: Vec<PortMapping>,
        reply: oneshot::Sender<Result<Vec<PortMapping>>>,
    },
    RemovePorts {
        ports: HostPorts,
        reply: oneshot::Sender<Result<()>>,
    },
    Connect {
        config: NetworkConfig,
        reply: oneshot::Sender<Result<()>>,
    },
    Disconnect {
        network: String,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Only [`moves`] sends it, one at a time.
    GivePort {
        ports: HostPorts,
        to: Handle,
        inner: Option<Port>,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Only the owner that gives the port sends it.
    TakePort {
        mappings: Vec<PortMapping>,
        from_runs: bool,
        from: String,
        reply: oneshot::Sender<Result<Option<NetworkSettings>>>,
    },
}

/// A process to run beside the first one.
#[derive(Debug)]
pub(crate) struct ExecRequest {
    pub(crate) exec_id: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) working_dir: String,
    pub(crate) tty: bool,
    pub(crate) size: Option<TerminalSize>,
    pub(crate) streams: ShimStreams,
}

/// The way to reach a container.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<View>>,
}

impl Handle {
    pub(crate) fn new(commands: mpsc::Sender<Command>, view: watch::Receiver<Arc<View>>) -> Self {
        Self { commands, view }
    }

    /// The container as it is now.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Sends a request that `command` makes from a reply channel, and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_closed| ContainerError::Gone)?;
        answer.await.unwrap_or(Err(ContainerError::Gone))
    }

    /// Waits until the container has ended a run after `ended_runs`, or is gone.
    pub(crate) async fn wait_end(&self, ended_runs: u64) -> Arc<View> {
        let mut view = self.view.clone();
        let ended = |view: &Arc<View>| {
            view.removed || (view.ended_runs > ended_runs && !view.record.host.auto_remove)
        };
        // The owner is gone only after it published its last view.
        view.wait_for(ended).await.ok();
        Arc::clone(&*view.borrow_and_update())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::record::{Config, HostSettings, RECORD_VERSION, Record};

    /// A record with nothing special in it.
    pub(crate) fn record(name: &str) -> Record {
        Record {
            version: RECORD_VERSION,
            id: "0123456789ab".repeat(6)[..64].to_owned(),
            name: name.to_owned(),
            generated_name: false,
            image: "busybox:latest".to_owned(),
            image_id: String::new(),
            lower_dirs: Vec::new(),
            created_at_ns: 0,
            config: Config::default(),
            host: HostSettings::default(),
            request_id: String::new(),
            discard_on_start_failure: false,
            last_run: None,
            error: String::new(),
            start_exit_code: 0,
            before_change: None,
            deleting: false,
        }
    }
}
