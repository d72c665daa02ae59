//! The connection to runtimed.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use linkspan_proto::runtime_v1::container_service_client::ContainerServiceClient;
use linkspan_proto::runtime_v1::image_service_client::ImageServiceClient;
use linkspan_proto::runtime_v1::link_service_client::LinkServiceClient;
use linkspan_proto::runtime_v1::network_service_client::NetworkServiceClient;
use linkspan_proto::runtime_v1::port_service_client::PortServiceClient;
use linkspan_proto::runtime_v1::system_service_client::SystemServiceClient;
use linkspan_proto::runtime_v1::{Container, GetContainerRequest};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Where runtimed listens when nothing else is said.
const DEFAULT_HOST: &str = "unix:///run/linkspan/runtimed.sock";
/// The most that one answer may hold: a list of many containers is long.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The services of an engine.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) containers: ContainerServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    pub(crate) links: LinkServiceClient<Channel>,
    pub(crate) networks: NetworkServiceClient<Channel>,
    pub(crate) ports: PortServiceClient<Channel>,
    pub(crate) system: SystemServiceClient<Channel>,
}

impl Client {
    /// The container with this id, name or id prefix.
    pub(crate) async fn container(&mut self, name: &str) -> Result<Container, Status> {
        let request = GetContainerRequest {
            container: name.to_owned(),
        };
        let response = self.containers.get_container(request).await?.into_inner();
        response
            .container
            .ok_or_else(|| Status::internal("the engine named no container"))
    }
}

/// Connects to the engine that `host` names, or `LINKSPAN_HOST`, or the default.
pub(crate) async fn connect(host: Option<&str>) -> anyhow::Result<Client> {
    let from_environment = std::env::var("LINKSPAN_HOST")
        .ok()
        .filter(|text| !text.is_empty());
    let host = host
        .map(str::to_owned)
        .or(from_environment)
        .unwrap_or_else(|| DEFAULT_HOST.to_owned());
    let path = socket_path(&host)?;
    // Tried once by itself: its error says more than that of the channel.
    let first = tokio::net::UnixStream::connect(&path).await;
    let first = first.map_err(|error| explain(&path, &error))?;
    let mut first = Some(first);
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let ready = first.take();
        let path = path.clone();
        async move {
            match ready {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => tokio::net::UnixStream::connect(path)
                    .await
                    .map(TokioIo::new),
            }
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .context("talk to the engine")?;
    Ok(Client {
        containers: ContainerServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES),
        images: ImageServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES),
        links: LinkServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
        networks: NetworkServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES),
        ports: PortServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
        system: SystemServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
    })
}

fn socket_path(host: &str) -> anyhow::Result<PathBuf> {
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => bail!("the host `{host}` is not supported; it must be unix:///PATH"),
    }
}

fn explain(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let path = path.display();
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "no permission for the engine's socket `{path}`; run the command as root, or join the group that owns the socket"
        ),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            anyhow::anyhow!(
                "no engine listens at `{path}`; start linkspan-netd and linkspan-runtimed, or name another with LINKSPAN_HOST"
            )
        }
        _ => anyhow::anyhow!("cannot reach the engine at `{path}`: {error}"),
    }
}
