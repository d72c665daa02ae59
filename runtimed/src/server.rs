//! The gRPC edge: decodes and validates requests, asks the owners, encodes answers.
//!
//! Nothing past this module sees wire types of requests; no policy lives here.

mod attach;
mod containers;
mod explain;
mod filters;
mod images;
mod links;
mod networks;
mod ports;
mod status;
mod system;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use linkspan_proto::FILE_DESCRIPTOR_SET;
use linkspan_proto::runtime_v1::container_service_server::ContainerServiceServer;
use linkspan_proto::runtime_v1::image_service_server::ImageServiceServer;
use linkspan_proto::runtime_v1::link_service_server::LinkServiceServer;
use linkspan_proto::runtime_v1::network_service_server::NetworkServiceServer;
use linkspan_proto::runtime_v1::port_service_server::PortServiceServer;
use linkspan_proto::runtime_v1::system_service_server::SystemServiceServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::engine::Engine;

/// The socket's name in the run directory.
const SOCKET_NAME: &str = "runtimed.sock";
/// The largest request.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The most requests at once on one connection.
const MAX_STREAMS: u32 = 1024;
/// The largest sum of headers of a request.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Binds the socket. The directory must belong to root and be closed to others.
pub(crate) fn bind(run: &Path) -> anyhow::Result<UnixListener> {
    let metadata = run
        .metadata()
        .with_context(|| format!("look at `{}`", run.display()))?;
    if metadata.uid() != 0 || metadata.permissions().mode() & 0o022 != 0 {
        anyhow::bail!(
            "`{}` must belong to root and be writable by nobody else",
            run.display()
        );
    }
    let path = run.join(SOCKET_NAME);
    match path.symlink_metadata() {
        Ok(existing) if existing.file_type().is_socket() => std::fs::remove_file(&path)?,
        Ok(_) => anyhow::bail!("`{}` exists and is no socket", path.display()),
        Err(_missing) => {}
    }
    let listener =
        UnixListener::bind(&path).with_context(|| format!("bind `{}`", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until `stop` is cancelled and the open requests have ended.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    listener: UnixListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let containers =
        ContainerServiceServer::new(containers::Service::new(Arc::clone(&engine), stop.clone()));
    let images = ImageServiceServer::new(images::Service::new(Arc::clone(&engine)));
    let links = LinkServiceServer::new(links::Service::new(Arc::clone(&engine)));
    let networks = NetworkServiceServer::new(networks::Service::new(Arc::clone(&engine)));
    let ports = PortServiceServer::new(ports::Service::new(Arc::clone(&engine)));
    let system = SystemServiceServer::new(system::Service::new(engine, stop.clone()));
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<ContainerServiceServer<containers::Service>>()
        .await;
    health
        .set_serving::<ImageServiceServer<images::Service>>()
        .await;
    health
        .set_serving::<LinkServiceServer<links::Service>>()
        .await;
    health
        .set_serving::<NetworkServiceServer<networks::Service>>()
        .await;
    health
        .set_serving::<PortServiceServer<ports::Service>>()
        .await;
    health
        .set_serving::<SystemServiceServer<system::Service>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(containers.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(images.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(links.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(networks.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(ports.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(system.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await
        .context("serve")
}
