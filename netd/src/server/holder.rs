//! Who holds a port of the host: what we know ourselves, and what the kernel tells.

use std::net::IpAddr;

use linkspan_proto::net_v1 as wire;

use super::convert;
use crate::network::holder::{self, Held};
use crate::network::{NetworkError, Port, PublishedPort, Registry, port};

/// A question for the holders of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    port: Port,
    ip: Option<IpAddr>,
}

impl Question {
    /// Reads a request.
    pub(super) fn of(request: &wire::FindPortHolderRequest) -> Result<Self, NetworkError> {
        let wire::FindPortHolderRequest {
            protocol: _,
            host_port,
            host_ip,
        } = request;
        let ip = match host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_not_an_address| {
                convert::invalid(format!("{text:?} is not an address of a host"))
            })?),
        };
        Ok(Self {
            port: convert::port(request.protocol(), *host_port)?,
            ip,
        })
    }

    /// Answers it. Blocks while the kernel lists sockets and processes.
    pub(super) fn answer(
        self,
        registry: &Registry,
    ) -> Result<wire::FindPortHolderResponse, NetworkError> {
        let Port { protocol, number } = self.port;
        let held = holder::all(number, protocol)?;
        let ours: Vec<_> = registry
            .by_name()
            .flat_map(|endpoint| {
                let published = endpoint.published.iter();
                published.map(move |published| (endpoint.name.to_string(), *published))
            })
            .filter(|(_, published)| {
                published.port.protocol == protocol && published.host_port == number
            })
            .collect();
        let containers = ours
            .iter()
            .filter(|(_, published)| self.means(published.host_ip))
            .map(|(name, published)| container(name, published));
        let processes = held
            .iter()
            .filter(|held| self.ip.is_none_or(|ip| held.overlaps(ip)))
            .filter(|held| !ours.iter().any(|(_, published)| reserves(held, published)))
            .map(process);
        let next_free = port::next_free(protocol, number, |candidate| {
            registry.by_name().any(|endpoint| {
                endpoint.published.iter().any(|published| {
                    published.port.protocol == protocol && published.host_port == candidate
                })
            })
        });
        Ok(wire::FindPortHolderResponse {
            holders: containers.chain(processes).collect(),
            next_free: next_free.unwrap_or(0).into(),
        })
    }

    fn means(self, host_ip: IpAddr) -> bool {
        self.ip
            .is_none_or(|ip| ip.is_ipv4() == host_ip.is_ipv4() && holder::overlaps(ip, host_ip))
    }
}

/// Whether a socket is the one that reserves a published port.
fn reserves(held: &Held, published: &PublishedPort) -> bool {
    let is_own = held
        .process
        .as_ref()
        .is_some_and(|process| process.pid == std::process::id());
    is_own && held.ip == published.host_ip
}

fn container(name: &str, published: &PublishedPort) -> wire::PortHolder {
    wire::PortHolder {
        host_ip: published.host_ip.to_string(),
        endpoint_name: name.to_owned(),
        container_port: published.port.number.into(),
        ..wire::PortHolder::default()
    }
}

fn process(held: &Held) -> wire::PortHolder {
    let base = wire::PortHolder {
        host_ip: held.ip.to_string(),
        user: held.user.clone(),
        ..wire::PortHolder::default()
    };
    let Some(process) = &held.process else {
        return base;
    };
    wire::PortHolder {
        pid: i32::try_from(process.pid).unwrap_or(0),
        command: process.command.clone(),
        unit: process
            .unit
            .as_ref()
            .map(|unit| unit.as_str().to_owned())
            .unwrap_or_default(),
        ..base
    }
}
