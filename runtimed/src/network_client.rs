//! runtimed's side of netd's contract.
//!
//! Converts between records and the wire, and waits a bounded time for a netd that is
//! being restarted: every call is idempotent, so it is simply made again. What changes or
//! shows what is attached already is in [`live`].

/// Makes a call of netd that takes and gives a message as it is.
macro_rules! call {
    ($client:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $client
            .call(|mut client| {
                let request = request.clone();
                async move { client.$method(request).await }
            })
            .await
    }};
}
mod live;
mod networks;
pub(crate) mod repairs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use linkspan_proto::net_v1::network_service_client::NetworkServiceClient;
use linkspan_proto::net_v1::{
    self, AttachEndpointRequest, DetachEndpointRequest, Endpoint, ListEndpointsRequest,
    ListNetworksRequest, ReleaseNameRequest, RenameEndpointRequest,
};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::container::convert;
use crate::container::network::{NetworkConfig, endpoint_id};
use crate::container::record::{Link, NetworkSettings, Record};
use crate::directory_watch::DirectoryWatch;
use crate::port::PortError;

/// How long a call waits for netd to come back.
const NETD_DEADLINE: Duration = Duration::from_secs(10);

/// Why netd did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("netd does not answer at `{}`; is it running?", socket.display())]
    Unavailable { socket: PathBuf },
    /// netd's own word, with its reason and metadata.
    #[error("{}", status.message())]
    Refused { status: Box<Status> },
    #[error("netd gave an answer that makes no sense: {what}")]
    Protocol { what: String },
}

impl From<PortError> for NetworkError {
    fn from(error: PortError) -> Self {
        Self::Protocol {
            what: error.to_string(),
        }
    }
}

/// A client of netd.
#[derive(Debug, Clone)]
pub(crate) struct NetworkClient {
    socket: PathBuf,
    channel: Channel,
}

impl NetworkClient {
    /// A client for the socket; connects at the first call.
    pub(crate) fn new(socket: &Path) -> Self {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let path = path.clone();
            async move {
                tokio::net::UnixStream::connect(path)
                    .await
                    .map(TokioIo::new)
            }
        });
        let channel = tonic::transport::Endpoint::from_static("http://localhost")
            .connect_with_connector_lazy(connector);
        Self {
            socket: socket.to_owned(),
            channel,
        }
    }

    /// Attaches a container to a network by its name, with its links, and with its ports
    /// if it publishes there.
    pub(crate) async fn attach(
        &self,
        record: &Record,
        config: &NetworkConfig,
        publishes: bool,
    ) -> Result<NetworkSettings, NetworkError> {
        let text = |address: Option<String>| address.unwrap_or_default();
        let request = AttachEndpointRequest {
            endpoint_id: endpoint_id(&record.id, &config.network),
            name: record.name.clone(),
            hostname: record.hostname().to_owned(),
            network: config.network.clone(),
            exposed: exposed(record),
            port_mappings: mappings(record, publishes),
            links: links(record),
            host_access: record.reaches_host(),
            sandbox_id: record.id.clone(),
            aliases: config.aliases.clone(),
            ipv4_address: text(config.ipv4.map(|ip| ip.to_string())),
            ipv6_address: text(config.ipv6.map(|ip| ip.to_string())),
            dns_servers: record.host.dns.clone(),
        };
        let response = call!(self, attach_endpoint, request)?;
        some_settings(response.endpoint)
    }

    /// Removes an endpoint; its lease stays with the name unless `release` is set.
    pub(crate) async fn detach(&self, id: &str, release: bool) -> Result<(), NetworkError> {
        let request = DetachEndpointRequest {
            endpoint_id: id.to_owned(),
            release_lease: release,
        };
        call!(self, detach_endpoint, request).map(drop)
    }

    /// Moves the lease and the links of a name.
    pub(crate) async fn rename(&self, name: &str, new_name: &str) -> Result<(), NetworkError> {
        let request = RenameEndpointRequest {
            name: name.to_owned(),
            new_name: new_name.to_owned(),
        };
        call!(self, rename_endpoint, request).map(drop)
    }

    /// Gives the lease of a name back, on one network or, without one, on all.
    pub(crate) async fn release(&self, name: &str, network: &str) -> Result<(), NetworkError> {
        let request = ReleaseNameRequest {
            name: name.to_owned(),
            network: network.to_owned(),
        };
        call!(self, release_name, request).map(drop)
    }

    /// Everything that is attached, each with the id of its container.
    pub(crate) async fn endpoints(&self) -> Result<Vec<(String, NetworkSettings)>, NetworkError> {
        let response = self
            .call(|mut client| async move { client.list_endpoints(ListEndpointsRequest {}).await })
            .await?;
        let endpoints = response.endpoints.into_iter();
        endpoints
            .map(|endpoint| Ok((endpoint.sandbox_id.clone(), settings(endpoint)?)))
            .collect()
    }

    /// Whether netd answers now.
    pub(crate) async fn is_available(&self) -> bool {
        NetworkServiceClient::new(self.channel.clone())
            .list_networks(ListNetworksRequest {})
            .await
            .is_ok()
    }

    /// Makes a call, again whenever netd has come back, until the deadline.
    async fn call<T, F>(
        &self,
        attempt: impl Fn(NetworkServiceClient<Channel>) -> F,
    ) -> Result<T, NetworkError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + NETD_DEADLINE;
        // None at first: to give a watch up costs the kernel a grace period, and netd is
        // nearly always there.
        let mut watch = None;
        loop {
            match attempt(NetworkServiceClient::new(self.channel.clone())).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if !is_absent(&status) => {
                    return Err(NetworkError::Refused {
                        status: Box::new(status),
                    });
                }
                Err(status) => tracing::debug!(%status, "netd does not answer, waiting for it"),
            }
            if Instant::now() >= deadline {
                return Err(NetworkError::Unavailable {
                    socket: self.socket.clone(),
                });
            }
            match &watch {
                // Tried once more under the watch, so that no arrival falls in between.
                None => {
                    watch = self
                        .socket
                        .parent()
                        .and_then(|run| DirectoryWatch::new(run).ok());
                }
                Some(watch) => wait_for_change(watch, deadline).await,
            }
        }
    }
}

/// Whether the call failed for want of a netd, so that it may be made again.
fn is_absent(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
        || (status.code() == Code::Unknown && std::error::Error::source(status).is_some())
}

/// Waits for a change of the socket's directory, and at most a quarter of a second: a socket
/// that exists may not be listening yet, which no event tells.
async fn wait_for_change(watch: &DirectoryWatch, deadline: Instant) {
    let latest = deadline.min(Instant::now() + Duration::from_millis(250));
    // Either outcome leads to another attempt.
    tokio::time::timeout_at(latest, watch.changed()).await.ok();
}

fn exposed(record: &Record) -> Vec<net_v1::Port> {
    record.exposed().iter().map(|port| port.to_wire()).collect()
}

fn mappings(record: &Record, publishes: bool) -> Vec<net_v1::PortMapping> {
    if !publishes {
        return Vec::new();
    }
    let mappings = record.wanted_mappings();
    mappings.iter().map(convert::mapping_to_wire).collect()
}

fn links(record: &Record) -> Vec<net_v1::Link> {
    let link = |link: &Link| net_v1::Link {
        alias: link.alias.clone(),
        source_name: link.source.clone(),
        ports: link.ports.iter().map(|port| port.to_wire()).collect(),
    };
    record.host.links.iter().map(link).collect()
}

fn some_settings(endpoint: Option<Endpoint>) -> Result<NetworkSettings, NetworkError> {
    settings(endpoint.ok_or(NetworkError::Protocol {
        what: "no endpoint".to_owned(),
    })?)
}

fn settings(endpoint: Endpoint) -> Result<NetworkSettings, NetworkError> {
    let protocol = |what: String| NetworkError::Protocol { what };
    let published = endpoint
        .published
        .iter()
        .map(convert::mapping_from_wire)
        .collect::<Result<_, _>>()?;
    let ipv4 = endpoint
        .ipv4_address
        .parse()
        .map_err(|e| protocol(format!("an IPv4 address: {e}")))?;
    let ipv6 = match endpoint.ipv6_address.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|e| protocol(format!("an IPv6 address: {e}")))?,
        ),
    };
    Ok(NetworkSettings {
        endpoint_id: endpoint.id,
        aliases: endpoint.aliases,
        publishes: false,
        network: endpoint.network,
        mac_address: endpoint.mac_address,
        ipv4_address: ipv4,
        ipv4_prefix: endpoint.ipv4_prefix,
        ipv4_gateway: endpoint.ipv4_gateway,
        ipv6_address: ipv6,
        ipv6_prefix: endpoint.ipv6_prefix,
        ipv6_gateway: endpoint.ipv6_gateway,
        netns_path: endpoint.netns_path,
        published,
    })
}
