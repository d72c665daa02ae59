//! The gRPC edge: requests become domain types here, and errors become statuses.
//!
//! Nothing past this module sees wire types.

mod convert;
mod explain;
mod exporter;
mod holder;
mod metrics;
mod service;
mod status;
mod watch;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linkspan_proto::FILE_DESCRIPTOR_SET;
use linkspan_proto::net_v1::network_service_server::NetworkServiceServer;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use service::NetworkEdge;
pub(crate) use service::NetworkInfo;

use crate::config::MetricsAddress;
use crate::network::Handle;

/// How long requests may take to end after the signal to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Why serving ended before it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The socket could not be made.
    #[error("listen on `{path}`")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Metrics cannot be served.
    #[error("serve metrics at {address}")]
    Metrics {
        /// Where.
        address: MetricsAddress,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("wait for signals")]
    Signal(#[source] io::Error),
    /// The reflection service could not be built.
    #[error("describe the contracts")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("serve")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until SIGTERM or SIGINT, then lets requests end.
pub(crate) async fn serve(
    path: &Path,
    handle: Handle,
    info: NetworkInfo,
) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let listener = listen(path).map_err(|source| ServeError::Listen {
        path: path.to_owned(),
        source,
    })?;
    let stopping = CancellationToken::new();
    let tasks = TaskTracker::new();
    if let Some(address) = info.metrics_address() {
        let failed = |source| ServeError::Metrics {
            address: address.clone(),
            source,
        };
        let listener = exporter::Listener::bind(address).await.map_err(failed)?;
        let serving = exporter::serve(listener, handle.clone());
        tasks.spawn(stopping.clone().run_until_cancelled_owned(serving));
        tracing::info!(%address, "metrics are served");
    }

    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter
        .set_serving::<NetworkServiceServer<NetworkEdge>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let edge = NetworkEdge::new(handle, info, stopping.clone());
    let server = Server::builder()
        .add_service(NetworkServiceServer::new(edge))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(listener),
            stopping.clone().cancelled_owned(),
        );

    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(error = %error, "service manager not notified, ignoring");
    }
    tracing::info!(socket = %path.display(), "ready");
    let stop = async {
        // Either signal means the same; both futures may be dropped at any time.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopping.cancel();
    };
    let mut server = std::pin::pin!(server);
    tokio::select! {
        // The server does not end by itself but on failure, and then it has nothing to lose.
        served = &mut server => return Ok(served?),
        () = stop => {}
    }
    match tokio::time::timeout(DRAIN_LIMIT, server).await {
        Ok(served) => Ok(served?),
        Err(_elapsed) => {
            tracing::warn!("requests did not end in time, ignoring");
            Ok(())
        }
    }
}

/// Listens at a path. The socket gets its mode before it gets its name, and takes the
/// place of one that an earlier run left.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let unnamed = path.with_extension("sock.new");
    match std::fs::remove_file(&unnamed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unnamed)?;
    std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&unnamed, path)?;
    Ok(listener)
}
