//! The link service.

use std::sync::Arc;

use linkspan_proto::net_v1::{self, LinkStatus, Traffic};
use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::runtime_v1::link_service_server::LinkService;
use tonic::{Request, Response, Status};

use super::explain;
use super::status::{invalid, of_container};
use crate::container::environment::{crosses, link_environment};
use crate::container::link::{self, ResolvedLink};
use crate::container::{Change, Command, ContainerError, View, convert};
use crate::engine::Engine;

type Answer<T> = Result<Response<T>, Status>;

/// The link service.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl LinkService for Service {
    async fn add_link(
        &self,
        request: Request<wire::AddLinkRequest>,
    ) -> Answer<wire::AddLinkResponse> {
        let wire::AddLinkRequest { container, link } = request.into_inner();
        let link = link.ok_or_else(|| invalid("the link is missing"))?;
        let add = async {
            let link = convert::link_from_wire(link)?;
            let consumer = self.engine.containers.find(&container)?;
            consumer
                .ask(|reply| Command::Change(Change::AddLink { link, reply }))
                .await
        };
        let (link, warnings) = add.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::AddLinkResponse {
            link: Some(convert::link_to_wire(&link)),
            warnings,
        }))
    }

    async fn remove_link(
        &self,
        request: Request<wire::RemoveLinkRequest>,
    ) -> Answer<wire::RemoveLinkResponse> {
        let wire::RemoveLinkRequest { container, alias } = request.into_inner();
        let remove = async {
            let consumer = self.engine.containers.find(&container)?;
            consumer
                .ask(|reply| Command::Change(Change::RemoveLink { alias, reply }))
                .await
        };
        remove.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::RemoveLinkResponse {}))
    }

    async fn list_links(
        &self,
        request: Request<wire::ListLinksRequest>,
    ) -> Answer<wire::ListLinksResponse> {
        let wire::ListLinksRequest { container, alias } = request.into_inner();
        let mut consumers = self.engine.containers.views();
        if !container.is_empty() {
            let consumer = self.engine.containers.find(&container);
            consumers = vec![consumer.map_err(|e| of_container(&e))?.view()];
        }
        consumers.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        let statuses = self.engine.network.links().await;
        let statuses = statuses.map_err(|e| of_container(&e.into()))?;
        let mut links = Vec::new();
        for consumer in &consumers {
            let mut own = link::resolve(&self.engine, &consumer.record);
            own.retain(|link| alias.is_empty() || link.link.alias == alias);
            own.sort_by(|a, b| a.link.alias.cmp(&b.link.alias));
            links.extend(own.iter().map(|link| view(consumer, link, &statuses)));
        }
        if links.is_empty() && !alias.is_empty() {
            return Err(of_container(&ContainerError::LinkNotFound {
                consumer: container,
                alias,
            }));
        }
        Ok(Response::new(wire::ListLinksResponse { links }))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Answer<wire::ExplainResponse> {
        let answer = explain::explain(&self.engine, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| of_container(&e))
    }
}

/// A link as it is now.
fn view(consumer: &View, resolved: &ResolvedLink, statuses: &[LinkStatus]) -> wire::LinkView {
    let (link, source) = (&resolved.link, &resolved.source);
    // One for each network of the consumer; it is open where the source is as well.
    let own: Vec<&LinkStatus> = statuses
        .iter()
        .filter(|status| {
            let known = status.link.as_ref();
            status.consumer_name == consumer.record.name
                && known.is_some_and(|known| known.alias == link.alias)
        })
        .collect();
    let open = own.iter().find(|status| status.open).copied();
    let state = match (source, resolved.source_runs(), &consumer.run, open) {
        (None, ..) => wire::LinkState::SourceMissing,
        (Some(_), false, ..) => wire::LinkState::SourceDown,
        (Some(_), true, None, _) => wire::LinkState::ConsumerDown,
        (Some(_), true, Some(_), None) => wire::LinkState::NoCommonNetwork,
        (Some(_), true, Some(_), Some(_)) => wire::LinkState::Open,
    };
    let ports: Vec<net_v1::Port> = match open {
        Some(status) => status.open_ports.clone(),
        None => resolved.ports().iter().map(|port| port.to_wire()).collect(),
    };
    let name_of = |entry: &String| entry.split_once('=').map(|(name, _)| name.to_owned());
    let variables = resolved.carried().map_or_else(Vec::new, |source| {
        let entries = link_environment(&consumer.record.name, &source);
        entries.iter().filter_map(name_of).collect()
    });
    let (crossing, withheld) = source.as_ref().map_or_else(Default::default, |source| {
        let shareable: Vec<&str> = source
            .record
            .shareable_env()
            .map(|(name, _)| name)
            .collect();
        let own = source.record.config.env.iter().filter_map(name_of);
        own.partition(|name| shareable.contains(&name.as_str()) && crosses(&link.env, name))
    });
    let lines = consumer.run.iter().flat_map(|run| &run.hosts_lines);
    let line = lines.into_iter().find(|line| line.alias == link.alias);
    wire::LinkView {
        consumer: consumer.record.name.clone(),
        consumer_id: consumer.record.id.clone(),
        link: Some(convert::link_to_wire(link)),
        source_id: source
            .as_ref()
            .map_or_else(String::new, |s| s.record.id.clone()),
        state: state.into(),
        network: open.map_or_else(String::new, |status| status.network.clone()),
        ports,
        traffic: sum(own.iter().filter_map(|status| status.traffic)),
        variables,
        crossing,
        withheld,
        hosts_line: line.map_or_else(String::new, |line| line.text.clone()),
    }
}

/// What passed on all networks; none while the link is open on none.
fn sum(all: impl Iterator<Item = Traffic>) -> Option<Traffic> {
    all.reduce(|one, other| Traffic {
        packets: one.packets + other.packets,
        bytes: one.bytes + other.bytes,
        connections: one.connections + other.connections,
        open_connections: one.open_connections + other.open_connections,
    })
}
