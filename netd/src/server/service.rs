//! The service itself: decode, ask, encode.

use linkspan_proto::net_v1 as wire;
use linkspan_proto::net_v1::network_service_server::NetworkService;
use linkspan_proto::time::system_time;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::holder::Question;
use super::watch::{self, RepairStream, WatchStream};
use super::{convert, explain, status};
use crate::config::{Config, MetricsAddress};
use crate::firewall::counter::Counter;
use crate::network::traffic::{self, NetworkTraffic};
use crate::network::{Endpoint, EndpointId, Handle, LeaseFate, NetworkError};

/// What is constant about the networks.
#[derive(Debug, Clone)]
pub(crate) struct NetworkInfo {
    pub(super) config: Config,
}

impl NetworkInfo {
    /// Where metrics are served, if at all.
    pub(super) fn metrics_address(&self) -> Option<&MetricsAddress> {
        self.config.metrics.as_ref()
    }

    /// What clients are told beside the registry.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            config: config.clone(),
        }
    }
}

/// The edge of the network.
#[derive(Debug)]
pub(crate) struct NetworkEdge {
    handle: Handle,
    info: NetworkInfo,
    stopping: CancellationToken,
}

impl NetworkEdge {
    /// An edge that ends its streams when netd stops.
    pub(super) fn new(handle: Handle, info: NetworkInfo, stopping: CancellationToken) -> Self {
        Self {
            handle,
            info,
            stopping,
        }
    }
}

impl NetworkEdge {
    fn written(&self, endpoint: &Endpoint) -> wire::Endpoint {
        convert::endpoint(endpoint, &self.handle.registry(), &self.info)
    }

    /// Asks the kernel for what it counted, on a thread that may wait.
    async fn counted<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, Status> {
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|_panic| status::of(NetworkError::ShuttingDown))?
            .map_err(status::of)
    }
}

#[tonic::async_trait]
impl NetworkService for NetworkEdge {
    async fn attach_endpoint(
        &self,
        request: Request<wire::AttachEndpointRequest>,
    ) -> Result<Response<wire::AttachEndpointResponse>, Status> {
        let request = convert::attach_request(request.into_inner()).map_err(status::of)?;
        let endpoint = self.handle.attach(request).await.map_err(status::of)?;
        let endpoint = Some(self.written(&endpoint));
        Ok(Response::new(wire::AttachEndpointResponse { endpoint }))
    }

    async fn detach_endpoint(
        &self,
        request: Request<wire::DetachEndpointRequest>,
    ) -> Result<Response<wire::DetachEndpointResponse>, Status> {
        let wire::DetachEndpointRequest {
            endpoint_id,
            release_lease,
        } = request.into_inner();
        let id = convert::parse(&endpoint_id).map_err(status::of)?;
        let lease = if release_lease {
            LeaseFate::Released
        } else {
            LeaseFate::Kept
        };
        self.handle.detach(id, lease).await.map_err(status::of)?;
        Ok(Response::new(wire::DetachEndpointResponse {}))
    }

    async fn rename_endpoint(
        &self,
        request: Request<wire::RenameEndpointRequest>,
    ) -> Result<Response<wire::RenameEndpointResponse>, Status> {
        let wire::RenameEndpointRequest { name, new_name } = request.into_inner();
        let name = convert::parse(&name).map_err(status::of)?;
        let new_name = convert::parse(&new_name).map_err(status::of)?;
        self.handle
            .rename(name, new_name)
            .await
            .map_err(status::of)?;
        Ok(Response::new(wire::RenameEndpointResponse {}))
    }

    async fn release_name(
        &self,
        request: Request<wire::ReleaseNameRequest>,
    ) -> Result<Response<wire::ReleaseNameResponse>, Status> {
        let wire::ReleaseNameRequest { name, network } = request.into_inner();
        let name = convert::parse(&name).map_err(status::of)?;
        let network = match network.as_str() {
            "" => None,
            text => Some(convert::network_name(text).map_err(status::of)?),
        };
        self.handle
            .release(name, network)
            .await
            .map_err(status::of)?;
        Ok(Response::new(wire::ReleaseNameResponse {}))
    }

    async fn create_sandbox(
        &self,
        request: Request<wire::CreateSandboxRequest>,
    ) -> Result<Response<wire::CreateSandboxResponse>, Status> {
        let id: EndpointId =
            convert::parse(&request.into_inner().sandbox_id).map_err(status::of)?;
        let pin = self.info.config.netns_directory().join(id.as_str());
        self.handle.create_sandbox(id).await.map_err(status::of)?;
        let netns_path = pin.to_string_lossy().into_owned();
        Ok(Response::new(wire::CreateSandboxResponse { netns_path }))
    }

    async fn delete_sandbox(
        &self,
        request: Request<wire::DeleteSandboxRequest>,
    ) -> Result<Response<wire::DeleteSandboxResponse>, Status> {
        let id = convert::parse(&request.into_inner().sandbox_id).map_err(status::of)?;
        self.handle.delete_sandbox(id).await.map_err(status::of)?;
        Ok(Response::new(wire::DeleteSandboxResponse {}))
    }

    async fn list_sandboxes(
        &self,
        _request: Request<wire::ListSandboxesRequest>,
    ) -> Result<Response<wire::ListSandboxesResponse>, Status> {
        let registry = self.handle.registry();
        let sandbox_ids = registry.sandboxes().map(ToString::to_string).collect();
        Ok(Response::new(wire::ListSandboxesResponse { sandbox_ids }))
    }

    async fn list_endpoints(
        &self,
        _request: Request<wire::ListEndpointsRequest>,
    ) -> Result<Response<wire::ListEndpointsResponse>, Status> {
        let endpoints = convert::endpoints(&self.handle.registry(), &self.info);
        Ok(Response::new(wire::ListEndpointsResponse { endpoints }))
    }

    async fn list_links(
        &self,
        _request: Request<wire::ListLinksRequest>,
    ) -> Result<Response<wire::ListLinksResponse>, Status> {
        let registry = self.handle.registry();
        let links = self.counted(move || traffic::links(&registry)).await?;
        let links = links.into_iter().map(convert::link_status).collect();
        Ok(Response::new(wire::ListLinksResponse { links }))
    }

    async fn list_networks(
        &self,
        _request: Request<wire::ListNetworksRequest>,
    ) -> Result<Response<wire::ListNetworksResponse>, Status> {
        let registry = self.handle.registry();
        let asked = std::sync::Arc::clone(&registry);
        let counted = self.counted(move || traffic::networks(&asked)).await?;
        let networks = registry
            .networks()
            .zip(counted)
            .map(|(found, traffic)| convert::network(found, &registry, &self.info, &traffic))
            .collect();
        Ok(Response::new(wire::ListNetworksResponse { networks }))
    }

    async fn update_endpoint(
        &self,
        request: Request<wire::UpdateEndpointRequest>,
    ) -> Result<Response<wire::UpdateEndpointResponse>, Status> {
        let request = convert::update_request(request.into_inner()).map_err(status::of)?;
        let endpoint = self.handle.update(request).await.map_err(status::of)?;
        let endpoint = Some(self.written(&endpoint));
        Ok(Response::new(wire::UpdateEndpointResponse { endpoint }))
    }

    async fn move_port(
        &self,
        request: Request<wire::MovePortRequest>,
    ) -> Result<Response<wire::MovePortResponse>, Status> {
        let request = convert::move_request(&request.into_inner()).map_err(status::of)?;
        let [from, to] = self.handle.move_port(request).await.map_err(status::of)?;
        Ok(Response::new(wire::MovePortResponse {
            from: Some(self.written(&from)),
            to: Some(self.written(&to)),
        }))
    }

    async fn list_ports(
        &self,
        _request: Request<wire::ListPortsRequest>,
    ) -> Result<Response<wire::ListPortsResponse>, Status> {
        let registry = self.handle.registry();
        let ports = self.counted(move || traffic::ports(&registry)).await?;
        let ports = ports.iter().map(convert::port_status).collect();
        Ok(Response::new(wire::ListPortsResponse { ports }))
    }

    async fn find_port_holder(
        &self,
        request: Request<wire::FindPortHolderRequest>,
    ) -> Result<Response<wire::FindPortHolderResponse>, Status> {
        let question = Question::of(request.get_ref()).map_err(status::of)?;
        let registry = self.handle.registry();
        let response = self.counted(move || question.answer(&registry)).await?;
        Ok(Response::new(response))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        let question = explain::question(&request.into_inner()).map_err(status::of)?;
        let registry = self.handle.registry();
        let config = self.info.config.clone();
        let answer = self.counted(move || explain::answer(&question, &registry, &config));
        Ok(Response::new(answer.await?))
    }

    async fn create_network(
        &self,
        request: Request<wire::CreateNetworkRequest>,
    ) -> Result<Response<wire::CreateNetworkResponse>, Status> {
        let request = convert::network_request(request.into_inner()).map_err(status::of)?;
        let made = self
            .handle
            .create_network(request)
            .await
            .map_err(status::of)?;
        let registry = self.handle.registry();
        let new = NetworkTraffic::default();
        let network = Some(convert::network(&made, &registry, &self.info, &new));
        Ok(Response::new(wire::CreateNetworkResponse { network }))
    }

    async fn delete_network(
        &self,
        request: Request<wire::DeleteNetworkRequest>,
    ) -> Result<Response<wire::DeleteNetworkResponse>, Status> {
        let name = convert::network_name(&request.into_inner().name).map_err(status::of)?;
        self.handle.delete_network(name).await.map_err(status::of)?;
        Ok(Response::new(wire::DeleteNetworkResponse {}))
    }

    async fn get_drop_counters(
        &self,
        _request: Request<wire::GetDropCountersRequest>,
    ) -> Result<Response<wire::GetDropCountersResponse>, Status> {
        let drops = self.counted(traffic::drops).await?;
        let counters = drops
            .into_iter()
            .map(|(rule, Counter { packets, bytes })| wire::DropCounter {
                rule,
                packets,
                bytes,
            })
            .collect();
        Ok(Response::new(wire::GetDropCountersResponse { counters }))
    }

    type WatchRepairsStream = RepairStream;

    async fn watch_repairs(
        &self,
        request: Request<wire::WatchRepairsRequest>,
    ) -> Result<Response<Self::WatchRepairsStream>, Status> {
        let after = request.into_inner().after.as_ref().and_then(system_time);
        let stream = watch::repairs(&self.handle, after, self.stopping.clone());
        Ok(Response::new(stream))
    }

    type WatchEndpointsStream = WatchStream;

    async fn watch_endpoints(
        &self,
        _request: Request<wire::WatchEndpointsRequest>,
    ) -> Result<Response<Self::WatchEndpointsStream>, Status> {
        let stream = watch::stream(
            self.handle.clone(),
            self.info.clone(),
            self.stopping.clone(),
        );
        Ok(Response::new(stream))
    }
}
