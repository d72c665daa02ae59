//! Live changes of what a container opens: its links and its ports, and the hosts file
//! that follows them.
//!
//! A change is in the record before netd is asked, with what was before beside it, so that
//! whoever finds it there can finish it or take it back.

use std::path::Path;

use super::super::record::{Link, NetworkSettings, Openings, Run};
use super::super::state::Request;
use super::super::{Change, ContainerError, Result, attachment, hosts, launch, link, network};
use super::{Actor, answer};
use crate::network_client::NetworkError;

impl Actor {
    pub(super) async fn answer_change(&mut self, change: Change) {
        match change {
            Change::AddLink { link, reply } => answer(reply, self.add_link(link).await),
            Change::RemoveLink { alias, reply } => answer(reply, self.remove_link(&alias).await),
            Change::AddPorts { mappings, reply } => answer(reply, self.add_ports(mappings).await),
            Change::RemovePorts { ports, reply } => answer(reply, self.remove_ports(&ports).await),
            Change::Connect { config, reply } => answer(reply, self.connect(config).await),
            Change::Disconnect { network, reply } => {
                answer(reply, self.disconnect(&network).await);
            }
            Change::GivePort {
                ports,
                to,
                inner,
                reply,
            } => answer(reply, self.give_port(&ports, &to, inner).await),
            Change::TakePort {
                mappings,
                from_runs,
                from,
                reply,
            } => answer(reply, self.take_port(mappings, from_runs, &from).await),
        }
    }

    /// Gives the container another link, and the warnings about it.
    pub(super) async fn add_link(&mut self, mut link: Link) -> Result<(Link, Vec<String>)> {
        self.admit(Request::Change)?;
        self.check_own_network()?;
        let source = link::judge(&self.engine, &self.record, &mut link)?;
        if link.source == self.record.name {
            return Err(ContainerError::Invalid {
                what: "link",
                rule: format!("container `{}` cannot be its own source", link.source),
            });
        }
        let mut openings = self.record.openings();
        openings.links.push(link.clone());
        link::check_collisions(&openings.links)?;
        self.change(openings).await?;
        self.refresh_hosts().await;
        self.event("link", &link_attributes(&link));
        let warnings = link::warnings(&link, source.as_deref());
        Ok((link, warnings))
    }

    /// Takes a link away.
    pub(super) async fn remove_link(&mut self, alias: &str) -> Result<()> {
        self.admit(Request::Change)?;
        let mut openings = self.record.openings();
        let position = openings.links.iter().position(|link| link.alias == alias);
        let Some(position) = position else {
            return Err(ContainerError::LinkNotFound {
                consumer: self.record.name.clone(),
                alias: alias.to_owned(),
            });
        };
        let link = openings.links.remove(position);
        self.change(openings).await?;
        self.refresh_hosts().await;
        self.event("unlink", &link_attributes(&link));
        Ok(())
    }

    /// Makes links and ports what `openings` says: in the record, and in netd while the
    /// container runs. All or nothing.
    pub(super) async fn change(&mut self, openings: Openings) -> Result<()> {
        let before = self.begin_change(openings).await?;
        if self.running.is_none() {
            self.publish(false);
            return Ok(());
        }
        match self.realize().await {
            Ok(networks) => {
                self.settle(networks).await;
                Ok(())
            }
            Err(error) => {
                self.take_back(before, &error).await;
                Err(error)
            }
        }
    }

    /// Makes netd have what the record says now.
    async fn realize(&self) -> Result<Vec<NetworkSettings>> {
        let current = match (&self.record.before_change, &self.running) {
            // Nobody knows how far an earlier attempt came.
            (Some(_), Some(_)) if !self.is_plain() => {
                attachment::present(&self.engine, &self.record.id).await?
            }
            (_, Some(running)) => running.run.networks.clone(),
            (_, None) => Vec::new(),
        };
        attachment::realize(&self.engine, &self.record, &current).await
    }

    /// Whether a change is one call of netd, which does all of it or nothing.
    fn is_plain(&self) -> bool {
        let before = self.record.before_change.as_ref();
        let is_plain = |openings: &Openings| {
            openings.networks.len() == 1 && network::is_plain(&openings.networks)
        };
        is_plain(&self.record.openings()) && before.is_none_or(is_plain)
    }

    /// Writes the new openings down, with the old ones beside them while the container
    /// runs. Gives the old ones.
    pub(super) async fn begin_change(&mut self, openings: Openings) -> Result<Openings> {
        let before = self.record.openings();
        self.record.set_openings(openings);
        self.record.before_change = self.running.as_ref().map(|_| before.clone());
        if let Err(error) = self.save_record().await {
            self.record.set_openings(before);
            self.record.before_change = None;
            return Err(error);
        }
        Ok(before)
    }

    /// Remembers what netd made of a change of all endpoints.
    pub(super) async fn settle(&mut self, networks: Vec<NetworkSettings>) {
        self.settle_run(|run| run.networks = networks).await;
    }

    /// Remembers what netd made of a change.
    pub(super) async fn settle_run(&mut self, change: impl FnOnce(&mut Run)) {
        self.record.before_change = None;
        if let Err(error) = self.save_record().await {
            // The row still tells that netd is to be asked, who will say the same again.
            tracing::warn!(container_id = self.record.id, %error, "save a change, ignoring");
        }
        if let Some(running) = &mut self.running {
            change(&mut running.run);
            self.save_run().await;
        }
        self.publish(false);
        self.engine.names_changed();
    }

    /// Puts the old openings back after netd failed to make the new ones.
    pub(super) async fn take_back(&mut self, before: Openings, error: &ContainerError) {
        // A netd that does not answer may have done it all the same: to be asked again.
        let mut unsure = matches!(
            error,
            ContainerError::Network(NetworkError::Unavailable { .. })
        );
        let was_plain = self.is_plain();
        self.record.set_openings(before.clone());
        if !unsure && !was_plain {
            match self.realize().await {
                Ok(networks) => self.settle(networks).await,
                Err(error) => {
                    tracing::error!(container_id = self.record.id, %error, "take a change back");
                    unsure = true;
                }
            }
        }
        self.record.before_change = unsure.then_some(before);
        if let Err(error) = self.save_record().await {
            tracing::error!(container_id = self.record.id, %error, "take a change back");
        }
        self.publish(false);
    }

    /// Finishes a change that an earlier process began, or takes it back.
    pub(super) async fn finish_change(&mut self) {
        let Some(before) = self.record.before_change.clone() else {
            return;
        };
        match self.realize().await {
            Ok(networks) => self.settle(networks).await,
            Err(error @ ContainerError::Network(NetworkError::Unavailable { .. })) => {
                tracing::warn!(container_id = self.record.id, %error, "finish a change, ignoring");
            }
            Err(error) => {
                tracing::warn!(container_id = self.record.id, %error, "take a change back");
                self.take_back(before, &error).await;
            }
        }
    }

    /// The source of a link has another name now.
    pub(super) async fn source_renamed(&mut self, name: &str, new_name: &str) -> Result<()> {
        let mut changed = false;
        for link in self
            .record
            .host
            .links
            .iter_mut()
            .filter(|link| link.source == name)
        {
            new_name.clone_into(&mut link.source);
            changed = true;
        }
        if !changed {
            return Ok(());
        }
        let saved = self.save_record().await;
        self.publish(false);
        self.refresh_hosts().await;
        saved
    }

    /// Brings the lines of the links in the hosts file up to date.
    pub(super) async fn refresh_hosts(&mut self) {
        let links = link::resolve(&self.engine, &self.record);
        let Some(running) = &mut self.running else {
            return;
        };
        let own = hosts::own_lines(&self.record, &running.run.networks);
        let others = links.iter().flat_map(link::ResolvedLink::hosts_lines);
        let lines: Vec<_> = own.into_iter().chain(others).collect();
        if running.run.hosts_lines == lines {
            return;
        }
        let path = launch::run_paths(&self.engine, &self.record.id).hosts;
        if let Err(error) = hosts::rewrite(Path::new(&path), &running.run.hosts_lines, &lines) {
            tracing::warn!(container_id = self.record.id, %error, "rewrite the hosts file, ignoring");
            return;
        }
        running.run.hosts_lines = lines;
        self.save_run().await;
        self.publish(false);
    }

    pub(super) async fn save_run(&self) {
        let Some(running) = &self.running else {
            return;
        };
        let run = running.run.clone();
        let saved = self
            .engine
            .blocking(move |engine| Ok(engine.store.put_run(&run)?))
            .await;
        if let Err(error) = saved {
            tracing::warn!(container_id = self.record.id, %error, "save a run, ignoring");
        }
    }
}

fn link_attributes(link: &Link) -> [(&'static str, String); 2] {
    [
        ("alias", link.alias.clone()),
        ("source", link.source.clone()),
    ]
}
