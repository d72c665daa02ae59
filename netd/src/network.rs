//! The network: what is attached to it, and the one thread that changes it.
//!
//! ```text
//!  server ── Handle ── bounded queue ──> Owner (a thread)
//!     ▲                                    │ plan: leases, ports, elements   (pure)
//!     │                                    │ row: what is about to be done
//!     │                                    │ effect: netns, firewall, devices
//!     └──── Registry, Change <─────────────┘ row: what is
//! ```
//!
//! **Invariant:** only the owner writes to the kernel, and it writes down what it is about
//! to do first. A crash at any step is finished or rolled back by the next start.
//! Reads never queue: they see the last published [`Registry`].

pub(crate) mod bridge;
pub(crate) mod choose;
pub(crate) mod damage;
pub(crate) mod device;
pub(crate) mod error;
pub(crate) mod explain;
pub(crate) mod holder;
pub(crate) mod listener;
pub(crate) mod model;
pub(crate) mod monitor;
pub(crate) mod observe;
pub(crate) mod owner;
pub(crate) mod port;
pub(crate) mod recover;
pub(crate) mod registry;
pub(crate) mod repairs;
pub(crate) mod served;
pub(crate) mod subnet;
#[cfg(test)]
mod tests;
pub(crate) mod touched;
pub(crate) mod traffic;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::names::{ServedNetwork, ServedNetworks};

pub(crate) use error::NetworkError;
use error::StartError;
pub(crate) use model::{
    Addresses, AttachRequest, Egress, Endpoint, EndpointId, HostPort, InvalidValue, Link,
    MacAddress, MoveRequest, Name, Network, NetworkRequest, Policy, Port, PortMapping, Protocol,
    PublishedPort, UpdateRequest, WantedAddresses,
};
pub(crate) use monitor::Monitor;
pub(crate) use owner::Owner;
pub(crate) use registry::Registry;
pub(crate) use repairs::{Repair, Repairs, Subject};
pub(crate) use subnet::{Subnet, Subnets};

/// The name of the network that is always there.
pub(crate) const DEFAULT_NETWORK: &str = "bridge";

const QUEUE_LENGTH: usize = 64;
const CHANGES_KEPT: usize = 256;
/// How long damage may wait behind requests.
const LONGEST_DELAY: Duration = Duration::from_millis(200);

/// A change of what is attached, with the generation of the registry that first has it.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The generation.
    pub(crate) generation: u64,
    /// What happened.
    pub(crate) kind: ChangeKind,
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum ChangeKind {
    /// An endpoint is there, or has another name.
    Attached(Arc<Endpoint>),
    /// An endpoint is gone.
    Detached(Arc<Endpoint>),
    /// A network is there, or is gone; the registry says which.
    Networks,
    /// A sandbox is there, or is gone.
    Sandboxes,
}

/// A request to the owner.
#[derive(Debug)]
pub(crate) enum Request {
    /// Attach an endpoint.
    Attach(
        Box<AttachRequest>,
        oneshot::Sender<Result<Arc<Endpoint>, NetworkError>>,
    ),
    /// Change an endpoint.
    Update(
        Box<UpdateRequest>,
        oneshot::Sender<Result<Arc<Endpoint>, NetworkError>>,
    ),
    /// Give a published port to another endpoint.
    Move(
        MoveRequest,
        oneshot::Sender<Result<[Arc<Endpoint>; 2], NetworkError>>,
    ),
    /// Detach an endpoint.
    Detach(
        EndpointId,
        LeaseFate,
        oneshot::Sender<Result<(), NetworkError>>,
    ),
    /// Move a lease and the links to it from one name to another.
    Rename(Name, Name, oneshot::Sender<Result<(), NetworkError>>),
    /// Give a lease back: that on one network, or all.
    Release(
        Name,
        Option<Name>,
        oneshot::Sender<Result<(), NetworkError>>,
    ),
    /// Make a namespace without endpoints, or keep one.
    CreateSandbox(EndpointId, oneshot::Sender<Result<(), NetworkError>>),
    /// Let go of a namespace.
    DeleteSandbox(EndpointId, oneshot::Sender<Result<(), NetworkError>>),
    /// Make a network.
    CreateNetwork(
        Box<NetworkRequest>,
        oneshot::Sender<Result<Arc<Network>, NetworkError>>,
    ),
    /// Remove a network.
    DeleteNetwork(Name, oneshot::Sender<Result<(), NetworkError>>),
    /// Look at what somebody touched, and repair what is damaged.
    Look,
}

/// What becomes of the lease when an endpoint is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseFate {
    /// It stays with the name.
    Kept,
    /// It is given back.
    Released,
}

/// The way to the owner, and to what it published last.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    requests: mpsc::Sender<Request>,
    registry: watch::Receiver<Arc<Registry>>,
    changes: broadcast::Sender<Change>,
    repairs: Arc<Repairs>,
}

impl Handle {
    /// Attaches an endpoint.
    pub(crate) async fn attach(
        &self,
        request: AttachRequest,
    ) -> Result<Arc<Endpoint>, NetworkError> {
        self.ask(|reply| Request::Attach(Box::new(request), reply))
            .await
    }

    /// Detaches an endpoint.
    pub(crate) async fn detach(
        &self,
        id: EndpointId,
        lease: LeaseFate,
    ) -> Result<(), NetworkError> {
        self.ask(|reply| Request::Detach(id, lease, reply)).await
    }

    /// Moves a lease and the links to it from one name to another.
    pub(crate) async fn rename(&self, name: Name, new_name: Name) -> Result<(), NetworkError> {
        self.ask(|reply| Request::Rename(name, new_name, reply))
            .await
    }

    /// Changes an endpoint.
    pub(crate) async fn update(
        &self,
        request: UpdateRequest,
    ) -> Result<Arc<Endpoint>, NetworkError> {
        self.ask(|reply| Request::Update(Box::new(request), reply))
            .await
    }

    /// Gives a published port to another endpoint; returns who had it and who has it.
    pub(crate) async fn move_port(
        &self,
        request: MoveRequest,
    ) -> Result<[Arc<Endpoint>; 2], NetworkError> {
        self.ask(|reply| Request::Move(request, reply)).await
    }

    /// Gives a lease back: that on one network, or all.
    pub(crate) async fn release(
        &self,
        name: Name,
        network: Option<Name>,
    ) -> Result<(), NetworkError> {
        self.ask(|reply| Request::Release(name, network, reply))
            .await
    }

    /// Makes a namespace without endpoints, or keeps one.
    pub(crate) async fn create_sandbox(&self, id: EndpointId) -> Result<(), NetworkError> {
        self.ask(|reply| Request::CreateSandbox(id, reply)).await
    }

    /// Lets go of a namespace.
    pub(crate) async fn delete_sandbox(&self, id: EndpointId) -> Result<(), NetworkError> {
        self.ask(|reply| Request::DeleteSandbox(id, reply)).await
    }

    /// Makes a network.
    pub(crate) async fn create_network(
        &self,
        request: NetworkRequest,
    ) -> Result<Arc<Network>, NetworkError> {
        self.ask(|reply| Request::CreateNetwork(Box::new(request), reply))
            .await
    }

    /// Removes a network.
    pub(crate) async fn delete_network(&self, name: Name) -> Result<(), NetworkError> {
        self.ask(|reply| Request::DeleteNetwork(name, reply)).await
    }

    /// What is attached.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.borrow())
    }

    /// Changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// What was damaged from outside and is whole again.
    pub(crate) fn repairs(&self) -> &Repairs {
        &self.repairs
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, NetworkError>>) -> Request,
    ) -> Result<T, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_closed| NetworkError::ShuttingDown)?;
        answer.await.map_err(|_closed| NetworkError::ShuttingDown)?
    }
}

/// What the owner publishes to.
#[derive(Debug)]
pub(crate) struct Publisher {
    registry: watch::Sender<Arc<Registry>>,
    changes: broadcast::Sender<Change>,
    served: watch::Sender<Arc<Vec<ServedNetwork>>>,
}

impl Publisher {
    /// Publishes a registry, and then what changed in it.
    pub(crate) fn publish(&self, registry: &Registry, kind: ChangeKind) {
        self.registry.send_replace(Arc::new(registry.clone()));
        self.served
            .send_if_modified(|served| served::follow(Arc::make_mut(served), registry, &kind));
        // No watcher is no error.
        drop(self.changes.send(Change {
            generation: registry.generation(),
            kind,
        }));
    }
}

/// The threads of the network.
#[derive(Debug)]
pub(crate) struct Threads {
    owner: thread::JoinHandle<()>,
    monitor: thread::JoinHandle<()>,
    stop: monitor::Stop,
}

impl Threads {
    /// Waits until the last handle is gone and every queued request is answered.
    pub(crate) fn join(self) -> Result<(), &'static str> {
        let Self {
            owner,
            monitor,
            stop,
        } = self;
        owner
            .join()
            .map_err(|_panic| "the network thread panicked")?;
        drop(stop);
        monitor
            .join()
            .map_err(|_panic| "the thread that listens to the network panicked")
    }
}

/// Starts the owner on a thread of its own, and the monitor on another. The owner ends when
/// the last handle is gone and every queued request is answered.
pub(crate) fn spawn(
    owner: Owner,
    monitor: Monitor,
) -> Result<(Handle, ServedNetworks, Threads), StartError> {
    let (requests, queue) = mpsc::channel(QUEUE_LENGTH);
    let (registry, latest) = watch::channel(Arc::new(owner.registry().clone()));
    let (changes, _) = broadcast::channel(CHANGES_KEPT);
    let (served, served_now) = watch::channel(Arc::new(served::networks(owner.registry())));
    let publisher = Publisher {
        registry,
        changes: changes.clone(),
        served,
    };
    let repairs = owner.repairs();
    let (stop, monitor) = monitor
        .spawn(owner.ownership()?, requests.downgrade())
        .map_err(NetworkError::Thread)?;
    let owner = thread::Builder::new()
        .name("network".to_owned())
        .spawn(move || run(owner, queue, &publisher))
        .map_err(NetworkError::Thread)?;
    let handle = Handle {
        requests,
        registry: latest,
        changes,
        repairs,
    };
    let threads = Threads {
        owner,
        monitor,
        stop,
    };
    Ok((handle, served_now, threads))
}

/// Requests go before looking: most of what was touched is what they did. They do not go
/// before it for ever.
fn run(mut owner: Owner, mut queue: mpsc::Receiver<Request>, publisher: &Publisher) {
    let mut asked_to_look: Option<Instant> = None;
    while let Some(request) = queue.blocking_recv() {
        if let Request::Look = request {
            asked_to_look.get_or_insert_with(Instant::now);
        } else {
            owner.handle(request, publisher);
        }
        let is_time = |since: Instant| queue.is_empty() || since.elapsed() > LONGEST_DELAY;
        if asked_to_look.is_some_and(is_time) {
            asked_to_look = None;
            owner.handle(Request::Look, publisher);
        }
    }
}
