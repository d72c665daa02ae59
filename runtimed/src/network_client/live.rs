//! The calls that change what is attached, and those that ask about it.

use linkspan_proto::net_v1;

use super::{NetworkClient, NetworkError, exposed, links, mappings, some_settings};
use crate::container::network::{NetworkConfig, endpoint_id};
use crate::container::record::{NetworkSettings, PortMapping, Record};

impl NetworkClient {
    /// Makes the ports and links of an endpoint what the record of its container says.
    pub(crate) async fn update(
        &self,
        record: &Record,
        config: &NetworkConfig,
        publishes: bool,
    ) -> Result<NetworkSettings, NetworkError> {
        let request = net_v1::UpdateEndpointRequest {
            endpoint_id: endpoint_id(&record.id, &config.network),
            port_mappings: mappings(record, publishes),
            links: links(record),
            exposed: exposed(record),
            aliases: config.aliases.clone(),
        };
        let response = call!(self, update_endpoint, request)?;
        some_settings(response.endpoint)
    }

    /// Gives a port to an attached container; returns what the one that had it has from
    /// now on, and what the other has.
    pub(crate) async fn move_port(
        &self,
        to_endpoint_id: &str,
        mapping: &PortMapping,
    ) -> Result<(NetworkSettings, NetworkSettings), NetworkError> {
        let inner = mapping.container.to_wire();
        let request = net_v1::MovePortRequest {
            protocol: inner.protocol,
            host_port: mapping.host_port.into(),
            to_endpoint_id: to_endpoint_id.to_owned(),
            container_port: inner.number,
        };
        let response = call!(self, move_port, request)?;
        Ok((some_settings(response.from)?, some_settings(response.to)?))
    }

    /// The links of everything that is attached.
    pub(crate) async fn links(&self) -> Result<Vec<net_v1::LinkStatus>, NetworkError> {
        let response = call!(self, list_links, net_v1::ListLinksRequest {})?;
        Ok(response.links)
    }

    /// The published ports of everything that is attached.
    pub(crate) async fn ports(&self) -> Result<Vec<net_v1::PublishedPort>, NetworkError> {
        let response = call!(self, list_ports, net_v1::ListPortsRequest {})?;
        Ok(response.ports)
    }

    /// Who holds a port of the host, and the next one that is free.
    pub(crate) async fn find_port_holder(
        &self,
        request: net_v1::FindPortHolderRequest,
    ) -> Result<net_v1::FindPortHolderResponse, NetworkError> {
        call!(self, find_port_holder, request)
    }

    /// Whether a connection would pass, and why.
    pub(crate) async fn explain(
        &self,
        request: net_v1::ExplainRequest,
    ) -> Result<net_v1::ExplainResponse, NetworkError> {
        call!(self, explain, request)
    }
}
