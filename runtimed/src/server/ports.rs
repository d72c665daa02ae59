//! The port service.

use std::ops::RangeInclusive;
use std::sync::Arc;

use linkspan_proto::net_v1;
use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::runtime_v1::port_service_server::PortService;
use tonic::{Request, Response, Status};

use super::status::{invalid, of_container};
use crate::container::moves::{self, move_port};
use crate::container::ports::HostPorts;
use crate::container::{Change, Command, ContainerError, Handle, Result as Outcome, convert};
use crate::engine::Engine;
use crate::port::Port;

type Answer<T> = Result<Response<T>, Status>;

/// The port service.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// The containers whose ports are meant: the one that is named, or all that have one.
    fn holders(&self, container: &str, ports: &HostPorts) -> Outcome<Vec<Handle>> {
        let containers = &self.engine.containers;
        if !container.is_empty() {
            return Ok(vec![containers.find(container)?]);
        }
        let (first, view) = moves::holder(&self.engine, ports)?;
        // What runs has the ports; what does not would only like to.
        let runs = view.run.is_some();
        let mut holders = vec![first];
        holders.extend(containers.handles().into_iter().filter(|handle| {
            let other = handle.view();
            other.record.id != view.record.id
                && other.run.is_some() == runs
                && moves::publishes(&other, ports)
        }));
        Ok(holders)
    }
}

#[tonic::async_trait]
impl PortService for Service {
    async fn add_port(
        &self,
        request: Request<wire::AddPortRequest>,
    ) -> Answer<wire::AddPortResponse> {
        let wire::AddPortRequest {
            container,
            port_mappings,
        } = request.into_inner();
        if port_mappings.is_empty() {
            return Err(invalid("there is no port to add"));
        }
        let add = async {
            let mappings = port_mappings.iter().map(convert::mapping_from_wire);
            let mappings = mappings.collect::<Result<Vec<_>, _>>()?;
            let handle = self.engine.containers.find(&container)?;
            handle
                .ask(|reply| Command::Change(Change::AddPorts { mappings, reply }))
                .await
        };
        let published = add.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::AddPortResponse {
            published: published.iter().map(convert::mapping_to_wire).collect(),
        }))
    }

    async fn remove_port(
        &self,
        request: Request<wire::RemovePortRequest>,
    ) -> Answer<wire::RemovePortResponse> {
        let request = request.into_inner();
        let ports = host_ports(request.protocol, request.host_port, request.host_port_end)?;
        let remove = async {
            for handle in self.holders(&request.container, &ports)? {
                let ports = ports.clone();
                handle
                    .ask(|reply| Command::Change(Change::RemovePorts { ports, reply }))
                    .await?;
            }
            Ok::<_, ContainerError>(())
        };
        remove.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::RemovePortResponse {}))
    }

    async fn move_port(
        &self,
        request: Request<wire::MovePortRequest>,
    ) -> Answer<wire::MovePortResponse> {
        let request = request.into_inner();
        let host = one_port(request.protocol, request.host_port)?;
        let inner = match request.container_port {
            0 => None,
            number => Some(one_port(request.protocol, number)?),
        };
        let to = self.engine.containers.find(&request.to_container);
        let to = to.map_err(|e| of_container(&e))?;
        let engine = Arc::clone(&self.engine);
        // On a task of its own: a client that leaves must not leave half a move.
        let task = async move { move_port(&engine, host, to, inner).await };
        let moved = self.engine.tracker.spawn(task).await;
        let from = moved
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::MovePortResponse { from }))
    }

    async fn list_ports(
        &self,
        request: Request<wire::ListPortsRequest>,
    ) -> Answer<wire::ListPortsResponse> {
        let container = request.into_inner().container;
        let list = async {
            let only = match container.as_str() {
                "" => None,
                text => Some(self.engine.containers.find(text)?.view()),
            };
            let mut ports = self.engine.network.ports().await?;
            if let Some(view) = only {
                ports.retain(|port| port.name == view.record.name);
            }
            Ok::<_, ContainerError>(ports)
        };
        let ports = list.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::ListPortsResponse { ports }))
    }

    async fn find_port_holder(
        &self,
        request: Request<wire::FindPortHolderRequest>,
    ) -> Answer<wire::FindPortHolderResponse> {
        let wire::FindPortHolderRequest {
            protocol,
            host_port,
        } = request.into_inner();
        let port = one_port(protocol, host_port)?.to_wire();
        let question = net_v1::FindPortHolderRequest {
            protocol: port.protocol,
            host_port: port.number,
            host_ip: String::new(),
        };
        let found = self.engine.network.find_port_holder(question).await;
        let net_v1::FindPortHolderResponse { holders, next_free } =
            found.map_err(|e| of_container(&e.into()))?;
        Ok(Response::new(wire::FindPortHolderResponse {
            holders,
            next_free,
        }))
    }
}

/// A port of a request, where no protocol means tcp.
fn one_port(protocol: i32, number: u32) -> Result<Port, Status> {
    let protocol = match net_v1::Protocol::try_from(protocol) {
        Ok(net_v1::Protocol::Unspecified) => net_v1::Protocol::Tcp.into(),
        _ => protocol,
    };
    let port = net_v1::Port { protocol, number };
    Port::from_wire(&port).map_err(|e| invalid(e.to_string()))
}

fn host_ports(protocol: i32, first: u32, last: u32) -> Result<HostPorts, Status> {
    let first = one_port(protocol, first)?;
    let last = match last {
        0 => first,
        last => one_port(protocol, last)?,
    };
    let numbers: RangeInclusive<u16> = first.number..=last.number;
    if numbers.is_empty() {
        return Err(invalid("the range of ports ends before it begins"));
    }
    Ok(HostPorts {
        protocol: first.protocol,
        numbers,
    })
}
