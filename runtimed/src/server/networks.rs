//! The network service.

use std::collections::BTreeSet;
use std::sync::Arc;

use linkspan_proto::net_v1;
use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::runtime_v1::network_service_server::NetworkService;
use tonic::{Request, Response, Status};

use super::status::{invalid, of_container};
use crate::container::network::DEFAULT_NETWORK;
use crate::container::{Change, Command, ContainerError, Result as Outcome, convert};
use crate::engine::Engine;

type Answer<T> = Result<Response<T>, Status>;

/// The network service.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    async fn find(&self, name: &str) -> Outcome<net_v1::Network> {
        let mut networks = self.engine.network.networks().await?.into_iter();
        networks
            .find(|network| network.name == name)
            .ok_or_else(|| ContainerError::NetworkNotFound {
                network: name.to_owned(),
            })
    }

    /// The containers that run on a network, by name.
    fn members(&self, network: &str) -> Vec<wire::NetworkMember> {
        let mut members = Vec::new();
        for view in self.engine.containers.views() {
            let there = view.run.iter().flat_map(|run| &run.networks);
            members.extend(there.filter(|there| there.network == network).map(|there| {
                wire::NetworkMember {
                    container_id: view.record.id.clone(),
                    container_name: view.record.name.clone(),
                    settings: Some(convert::settings_to_wire(there)),
                }
            }));
        }
        members.sort_by(|one, other| one.container_name.cmp(&other.container_name));
        members
    }

    /// Removes the networks that no container is on, running or not.
    async fn prune(&self) -> Outcome<Vec<String>> {
        let mut removed = Vec::new();
        for network in self.engine.network.networks().await? {
            // Read anew for each: a container may have come meanwhile.
            let views = self.engine.containers.views();
            let used: BTreeSet<&str> = views
                .iter()
                .flat_map(|view| &view.record.host.networks)
                .map(|config| config.network.as_str())
                .collect();
            if network.name == DEFAULT_NETWORK || used.contains(network.name.as_str()) {
                continue;
            }
            self.remove(&network.name).await?;
            removed.push(network.name);
        }
        Ok(removed)
    }

    async fn remove(&self, name: &str) -> Outcome<()> {
        self.engine.network.delete_network(name).await?;
        self.event("destroy", name);
        Ok(())
    }

    fn event(&self, action: &str, network: &str) {
        let attributes = [("name", network), ("type", "bridge")];
        let attributes = attributes
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        self.engine
            .events
            .send("network", action, network, attributes);
    }
}

#[tonic::async_trait]
impl NetworkService for Service {
    async fn create_network(
        &self,
        request: Request<wire::CreateNetworkRequest>,
    ) -> Answer<wire::CreateNetworkResponse> {
        let settings = request.into_inner().settings;
        let settings = settings.ok_or_else(|| invalid("the settings are missing"))?;
        let made = self.engine.network.create_network(settings).await;
        let network = made.map_err(|e| of_container(&e.into()))?;
        self.event("create", &network.name);
        Ok(Response::new(wire::CreateNetworkResponse {
            network: Some(network),
        }))
    }

    async fn remove_network(
        &self,
        request: Request<wire::RemoveNetworkRequest>,
    ) -> Answer<wire::RemoveNetworkResponse> {
        let name = request.into_inner().network;
        let remove = async {
            self.find(&name).await?;
            self.remove(&name).await
        };
        remove.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::RemoveNetworkResponse {}))
    }

    async fn list_networks(
        &self,
        _request: Request<wire::ListNetworksRequest>,
    ) -> Answer<wire::ListNetworksResponse> {
        let networks = self.engine.network.networks().await;
        let networks = networks.map_err(|e| of_container(&e.into()))?;
        Ok(Response::new(wire::ListNetworksResponse { networks }))
    }

    async fn get_network(
        &self,
        request: Request<wire::GetNetworkRequest>,
    ) -> Answer<wire::GetNetworkResponse> {
        let found = self.find(&request.into_inner().network).await;
        let network = found.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::GetNetworkResponse {
            members: self.members(&network.name),
            network: Some(network),
        }))
    }

    async fn connect_network(
        &self,
        request: Request<wire::ConnectNetworkRequest>,
    ) -> Answer<wire::ConnectNetworkResponse> {
        let wire::ConnectNetworkRequest { container, config } = request.into_inner();
        let config = config.ok_or_else(|| invalid("the network is missing"))?;
        let connect = async {
            let config = convert::network_from_wire(config)?;
            let handle = self.engine.containers.find(&container)?;
            handle
                .ask(|reply| Command::Change(Change::Connect { config, reply }))
                .await
        };
        connect.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::ConnectNetworkResponse {}))
    }

    async fn disconnect_network(
        &self,
        request: Request<wire::DisconnectNetworkRequest>,
    ) -> Answer<wire::DisconnectNetworkResponse> {
        let wire::DisconnectNetworkRequest { container, network } = request.into_inner();
        let disconnect = async {
            let handle = self.engine.containers.find(&container)?;
            handle
                .ask(|reply| Command::Change(Change::Disconnect { network, reply }))
                .await
        };
        disconnect.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::DisconnectNetworkResponse {}))
    }

    async fn prune_networks(
        &self,
        _request: Request<wire::PruneNetworksRequest>,
    ) -> Answer<wire::PruneNetworksResponse> {
        let networks = self.prune().await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::PruneNetworksResponse { networks }))
    }
}
