//! The calls about networks, and about namespaces without any.

use linkspan_proto::net_v1;

use super::{NetworkClient, NetworkError};

impl NetworkClient {
    /// Makes the namespace of a container that has no endpoint, or keeps the one it has;
    /// returns where it is pinned.
    pub(crate) async fn create_sandbox(&self, id: &str) -> Result<String, NetworkError> {
        let request = net_v1::CreateSandboxRequest {
            sandbox_id: id.to_owned(),
        };
        Ok(call!(self, create_sandbox, request)?.netns_path)
    }

    /// Lets the namespace of a container go with its last endpoint, or now.
    pub(crate) async fn delete_sandbox(&self, id: &str) -> Result<(), NetworkError> {
        let request = net_v1::DeleteSandboxRequest {
            sandbox_id: id.to_owned(),
        };
        call!(self, delete_sandbox, request).map(drop)
    }

    /// The ids of the containers whose namespaces are kept without endpoints.
    pub(crate) async fn sandboxes(&self) -> Result<Vec<String>, NetworkError> {
        let response = call!(self, list_sandboxes, net_v1::ListSandboxesRequest {})?;
        Ok(response.sandbox_ids)
    }

    /// The networks, by name.
    pub(crate) async fn networks(&self) -> Result<Vec<net_v1::Network>, NetworkError> {
        let response = call!(self, list_networks, net_v1::ListNetworksRequest {})?;
        Ok(response.networks)
    }

    /// Makes a network.
    pub(crate) async fn create_network(
        &self,
        request: net_v1::CreateNetworkRequest,
    ) -> Result<net_v1::Network, NetworkError> {
        let response = call!(self, create_network, request)?;
        response.network.ok_or_else(|| NetworkError::Protocol {
            what: "no network".to_owned(),
        })
    }

    /// Removes a network.
    pub(crate) async fn delete_network(&self, name: &str) -> Result<(), NetworkError> {
        let request = net_v1::DeleteNetworkRequest {
            name: name.to_owned(),
        };
        call!(self, delete_network, request).map(drop)
    }
}
