//! The service itself: decode, ask, encode.

use std::time::Duration;

use linkspan_proto::net_v1 as wire;
use linkspan_proto::net_v1::network_service_server::NetworkService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::watch::{self, WatchStream};
use super::{convert, status};
use crate::config::Config;
use crate::network::{DEFAULT_NETWORK, Handle, LeaseFate, Subnets};

/// What is constant about the network.
#[derive(Debug, Clone)]
pub(crate) struct NetworkInfo {
    pub(super) bridge_name: String,
    pub(super) subnets: Subnets,
    pub(super) quarantine: Duration,
    pub(super) config: Config,
}

impl NetworkInfo {
    /// What clients are told of a network with these subnets.
    pub(crate) fn of(config: &Config, subnets: Subnets) -> Self {
        Self {
            bridge_name: config.bridge_name.clone(),
            subnets,
            quarantine: config.quarantine,
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

#[tonic::async_trait]
impl NetworkService for NetworkEdge {
    async fn attach_endpoint(
        &self,
        request: Request<wire::AttachEndpointRequest>,
    ) -> Result<Response<wire::AttachEndpointResponse>, Status> {
        let request = convert::attach_request(request.into_inner()).map_err(status::of)?;
        let endpoint = self.handle.attach(request).await.map_err(status::of)?;
        let endpoint = Some(convert::endpoint(&endpoint, &self.info));
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
        let name = convert::parse(&request.into_inner().name).map_err(status::of)?;
        self.handle.release(name).await.map_err(status::of)?;
        Ok(Response::new(wire::ReleaseNameResponse {}))
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
        let links = self
            .handle
            .registry()
            .links()
            .into_iter()
            .map(convert::link_status)
            .collect();
        Ok(Response::new(wire::ListLinksResponse { links }))
    }

    async fn list_networks(
        &self,
        _request: Request<wire::ListNetworksRequest>,
    ) -> Result<Response<wire::ListNetworksResponse>, Status> {
        let NetworkInfo {
            bridge_name,
            subnets,
            quarantine,
            config: _,
        } = &self.info;
        let gateway = subnets.gateway();
        let network = wire::Network {
            name: DEFAULT_NETWORK.to_owned(),
            bridge_name: bridge_name.clone(),
            ipv4_subnet: subnets.ipv4.to_string(),
            ipv4_gateway: gateway.ipv4.to_string(),
            ipv6_subnet: subnets.ipv6.to_string(),
            ipv6_gateway: gateway.ipv6.to_string(),
            endpoint_count: u32::try_from(self.handle.registry().len()).unwrap_or(u32::MAX),
            quarantine: prost_types::Duration::try_from(*quarantine).ok(),
            ..wire::Network::default()
        };
        Ok(Response::new(wire::ListNetworksResponse {
            networks: vec![network],
        }))
    }

    async fn update_endpoint(
        &self,
        _request: Request<wire::UpdateEndpointRequest>,
    ) -> Result<Response<wire::UpdateEndpointResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn move_port(
        &self,
        _request: Request<wire::MovePortRequest>,
    ) -> Result<Response<wire::MovePortResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn list_ports(
        &self,
        _request: Request<wire::ListPortsRequest>,
    ) -> Result<Response<wire::ListPortsResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn find_port_holder(
        &self,
        _request: Request<wire::FindPortHolderRequest>,
    ) -> Result<Response<wire::FindPortHolderResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn explain(
        &self,
        _request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn create_network(
        &self,
        _request: Request<wire::CreateNetworkRequest>,
    ) -> Result<Response<wire::CreateNetworkResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn delete_network(
        &self,
        _request: Request<wire::DeleteNetworkRequest>,
    ) -> Result<Response<wire::DeleteNetworkResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn get_drop_counters(
        &self,
        _request: Request<wire::GetDropCountersRequest>,
    ) -> Result<Response<wire::GetDropCountersResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn keep_firewall(
        &self,
        _request: Request<wire::KeepFirewallRequest>,
    ) -> Result<Response<wire::KeepFirewallResponse>, Status> {
        Err(Status::unimplemented("not yet"))
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
