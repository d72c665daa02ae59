//! Live changes of the published ports of a container.
//!
//! A move has two owners in it. That of the container which gives the port drives it, and
//! asks the other one in the middle; moves are made one at a time ([`super::super::moves`]),
//! so no two owners ever wait for each other.

use super::super::ports::{self, HostPorts};
use super::super::record::{NetworkSettings, PortMapping, Run};
use super::super::state::Request;
use super::super::{Change, Command, ContainerError, Handle, Result};
use super::Actor;
use crate::port::Port;

impl Actor {
    /// Publishes more ports; gives what they became, if the container runs.
    pub(super) async fn add_ports(&mut self, more: Vec<PortMapping>) -> Result<Vec<PortMapping>> {
        self.admit(Request::Change)?;
        self.check_own_network()?;
        if self.running.is_some() {
            self.publisher()?;
        }
        let known = self.published().to_vec();
        let mut openings = self.record.openings();
        openings.port_mappings.extend(more);
        self.change(openings).await?;
        self.event("port-add", &[]);
        if self.running.is_none() {
            return Ok(Vec::new());
        }
        let is_new = |mapping: &&PortMapping| !known.contains(mapping);
        Ok(self.published().iter().filter(is_new).cloned().collect())
    }

    /// The network on which ports of the running container are published.
    fn publisher(&self) -> Result<&NetworkSettings> {
        let run = self.running.as_ref().map(|running| &running.run);
        run.and_then(Run::publisher)
            .ok_or_else(|| ContainerError::NoWayOutside {
                name: self.record.name.clone(),
            })
    }

    /// Ends the publication of ports.
    pub(super) async fn remove_ports(&mut self, wanted: &HostPorts) -> Result<()> {
        self.admit(Request::Change)?;
        let (openings, gone) = ports::without(&self.record, self.published(), wanted);
        if gone.is_empty() {
            return Err(self.not_published(wanted));
        }
        self.change(openings).await?;
        self.event("port-remove", &[("port", wanted.to_string())]);
        Ok(())
    }

    /// Gives a port to another container. That one's owner asks netd.
    pub(super) async fn give_port(
        &mut self,
        wanted: &HostPorts,
        to: &Handle,
        inner: Option<Port>,
    ) -> Result<()> {
        self.admit(Request::Change)?;
        let (openings, gone) = ports::without(&self.record, self.published(), wanted);
        let Some(first) = gone.first() else {
            return Err(self.not_published(wanted));
        };
        let inner = inner.unwrap_or(first.container);
        let mappings = ports::redirected(&gone, *wanted.numbers.start(), inner);
        let from_runs = self.running.is_some();
        let rest = to
            .ask(|reply| {
                Command::Change(Change::TakePort {
                    mappings,
                    from_runs,
                    from: self.record.name.clone(),
                    reply,
                })
            })
            .await?;
        self.begin_change(openings).await?;
        match rest {
            Some(settings) => self.settle_run(|run| run.update(settings)).await,
            None => self.publish(false),
        }
        self.event("port-remove", &[("port", wanted.to_string())]);
        Ok(())
    }

    /// Takes a port from another container; gives what netd says that one has from now on.
    pub(super) async fn take_port(
        &mut self,
        mappings: Vec<PortMapping>,
        from_runs: bool,
        from: &str,
    ) -> Result<Option<NetworkSettings>> {
        self.admit(Request::Change)?;
        if from_runs != self.running.is_some() {
            let (runs, down) = if from_runs {
                (from, self.record.name.as_str())
            } else {
                (self.record.name.as_str(), from)
            };
            return Err(ContainerError::MoveNeedsBoth {
                runs: runs.to_owned(),
                down: down.to_owned(),
            });
        }
        self.check_own_network()?;
        let Some(first) = mappings.first().cloned() else {
            return Ok(None);
        };
        let endpoint = match from_runs {
            true => Some(self.publisher()?.endpoint_id.clone()),
            false => None,
        };
        let mut openings = self.record.openings();
        openings.port_mappings.extend(mappings);
        let before = self.begin_change(openings).await?;
        let rest = if let Some(endpoint) = endpoint {
            match self.engine.network.move_port(&endpoint, &first).await {
                Ok((rest, own)) => {
                    self.settle_run(|run| run.update(own)).await;
                    Some(rest)
                }
                Err(error) => {
                    let error = error.into();
                    self.take_back(before, &error).await;
                    return Err(error);
                }
            }
        } else {
            self.publish(false);
            None
        };
        self.event("port-add", &[("port", first.host_port.to_string())]);
        Ok(rest)
    }

    fn published(&self) -> &[PortMapping] {
        let run = self.running.as_ref().map(|running| &running.run);
        ports::published(&self.record, run)
    }

    fn not_published(&self, wanted: &HostPorts) -> ContainerError {
        ContainerError::PortNotFound {
            who: format!("container `{}` does not publish", self.record.name),
            port: wanted.to_string(),
        }
    }
}
