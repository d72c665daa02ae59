//! The server: sockets come and go with networks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServedNetwork;
use super::limit::Clients;
use super::listener::{Listener, Shared};
use super::resolv_conf::{Follower, PORT};
use super::upstream::Upstream;

/// The networks that are served, as they are now.
pub(crate) type ServedNetworks = watch::Receiver<Arc<Vec<ServedNetwork>>>;

/// Serves networks on a thread of its own, until the sender of `networks` is gone.
pub(crate) fn spawn(
    networks: ServedNetworks,
    resolv_conf: PathBuf,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("names".to_owned())
        .spawn(move || runtime.block_on(serve(networks, resolv_conf)))
}

/// Serves networks until their sender is gone.
pub(super) async fn serve(mut networks: ServedNetworks, resolv_conf: PathBuf) {
    let (servers, latest) = watch::channel(Vec::new());
    let shared = Shared {
        clients: Clients::default(),
        upstream: Arc::new(Upstream::new(latest)),
        networks: networks.clone(),
        tasks: TaskTracker::new(),
    };
    shared
        .tasks
        .spawn(follow(resolv_conf, networks.clone(), servers));
    let mut server = Server {
        listening: BTreeMap::new(),
        failed: BTreeSet::new(),
        shared,
    };
    loop {
        let current = Arc::clone(&networks.borrow_and_update());
        server.listen(&current);
        if networks.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the servers outside what the host's file says, without ourselves.
async fn follow(
    path: PathBuf,
    mut networks: ServedNetworks,
    servers: watch::Sender<Vec<SocketAddr>>,
) {
    let mut follower = match Follower::new(path) {
        Ok(follower) => follower,
        Err(error) => {
            tracing::error!(error = %error, "resolv.conf cannot be followed: names of the outside are not answered");
            return;
        }
    };
    loop {
        let mut now = follower.servers();
        let gateways: BTreeSet<_> = networks
            .borrow_and_update()
            .iter()
            .flat_map(|network| network.gateways.clone())
            .collect();
        now.retain(|server| !gateways.contains(&server.ip()));
        servers.send_if_modified(|known| {
            let differs = *known != now;
            if differs {
                tracing::info!(servers = ?now, "servers for names of the outside");
                *known = now;
            }
            differs
        });
        // Both may be dropped at any time.
        let followed = tokio::select! {
            changed = follower.changed() => changed,
            changed = networks.changed() => match changed {
                Ok(()) => Ok(()),
                Err(_gone) => return,
            },
        };
        if let Err(error) = followed {
            tracing::error!(error = %error, "resolv.conf is not followed any more");
            return;
        }
    }
}

/// A network and one of its gateways.
type Place = (String, IpAddr);

struct Server {
    listening: BTreeMap<Place, Listening>,
    /// Where listening failed, and has been complained about.
    failed: BTreeSet<Place>,
    shared: Shared,
}

struct Listening {
    network: watch::Sender<Arc<ServedNetwork>>,
    /// Cancelled by whoever is first: the network that goes, or the socket that breaks.
    end: CancellationToken,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Server {
    /// Makes the listeners those of the networks.
    fn listen(&mut self, networks: &[ServedNetwork]) {
        let mut wanted = BTreeMap::new();
        for network in networks {
            let shared = Arc::new(network.clone());
            for gateway in &network.gateways {
                wanted.insert((network.name.clone(), *gateway), Arc::clone(&shared));
            }
        }
        self.listening
            .retain(|place, listening| wanted.contains_key(place) && !listening.end.is_cancelled());
        self.failed.retain(|place| wanted.contains_key(place));
        for (place, network) in wanted {
            if let Some(listening) = self.listening.get(&place) {
                listening.network.send_replace(network);
                continue;
            }
            match self.start(place.1, network) {
                Ok(listening) => {
                    self.failed.remove(&place);
                    self.listening.insert(place, listening);
                }
                Err(error) => {
                    if self.failed.insert(place.clone()) {
                        let (network, gateway) = place;
                        tracing::warn!(%network, %gateway, error = %error, "no server for names, ignoring: members find each other by address only");
                    }
                }
            }
        }
    }

    fn start(&self, gateway: IpAddr, network: Arc<ServedNetwork>) -> io::Result<Listening> {
        let name = network.name.clone();
        let (network, latest) = watch::channel(network);
        let place = SocketAddr::new(gateway, PORT);
        let listener = Listener::bind(place, latest, self.shared.clone())?;
        let end = CancellationToken::new();
        let ended = end.clone();
        self.shared.tasks.spawn(async move {
            if let Some(error) = ended.run_until_cancelled(listener.serve()).await {
                tracing::error!(network = %name, %gateway, error = %error, "server for names failed");
                ended.cancel();
            }
        });
        Ok(Listening { network, end })
    }
}
