//! Live changes of the networks that a container is on.
//!
//! A change like those of links and ports: in the record first, then in netd, then in the
//! files of the container, which follow in place.

use std::path::Path;

use super::super::network::{self, NetworkConfig, NetworkMode};
use super::super::state::Request;
use super::super::{ContainerError, Result, files, launch};
use super::Actor;

impl Actor {
    /// Puts the container on one more network.
    pub(super) async fn connect(&mut self, mut config: NetworkConfig) -> Result<()> {
        self.admit(Request::Change)?;
        self.check_own_network()?;
        network::judge(&mut config)?;
        network::check_known(
            std::slice::from_ref(&config),
            &self.engine.network.networks().await?,
        )?;
        let network = config.network.clone();
        let mut openings = self.record.openings();
        if openings
            .networks
            .iter()
            .any(|there| there.network == network)
        {
            return Err(ContainerError::AlreadyConnected {
                name: self.record.name.clone(),
                network,
            });
        }
        let was_alone = openings.networks.is_empty();
        openings.networks.push(config);
        self.change(openings).await?;
        if was_alone && self.running.is_some() {
            self.engine.network.delete_sandbox(&self.record.id).await?;
        }
        self.networks_changed("connect", network).await;
        Ok(())
    }

    /// Takes the container off a network.
    pub(super) async fn disconnect(&mut self, network: &str) -> Result<()> {
        self.admit(Request::Change)?;
        self.check_own_network()?;
        let mut openings = self.record.openings();
        let count = openings.networks.len();
        openings.networks.retain(|there| there.network != network);
        if openings.networks.len() == count {
            return Err(ContainerError::NotConnected {
                name: self.record.name.clone(),
                network: network.to_owned(),
            });
        }
        self.change(openings).await?;
        if self.running.is_none() {
            // A running one gave it back with its endpoint.
            self.engine
                .network
                .release(&self.record.name, network)
                .await?;
        }
        self.networks_changed("disconnect", network.to_owned())
            .await;
        Ok(())
    }

    /// Refuses a change of what the container does not have.
    pub(super) fn check_own_network(&self) -> Result<()> {
        let owner = match self.record.host.network_mode {
            NetworkMode::Networks => return Ok(()),
            NetworkMode::Host => "the host",
            NetworkMode::Container(_) => "another container",
        };
        Err(ContainerError::NoOwnNetwork {
            name: self.record.name.clone(),
            owner,
        })
    }

    /// Lets the files of the container follow, and tells everybody.
    async fn networks_changed(&mut self, action: &str, network: String) {
        self.refresh_hosts().await;
        self.refresh_resolv_conf().await;
        let attributes = std::collections::BTreeMap::from([
            ("container".to_owned(), self.record.id.clone()),
            ("name".to_owned(), network.clone()),
            ("type".to_owned(), "bridge".to_owned()),
        ]);
        self.engine
            .events
            .send("network", action, &network, attributes);
    }

    /// A container asks the gateway of its first network that has names.
    async fn refresh_resolv_conf(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let text = files::resolv_conf(&self.record, &running.run.networks);
        if text == running.run.resolv_conf {
            return;
        }
        let path = launch::run_paths(&self.engine, &self.record.id).resolv_conf;
        match files::replace(Path::new(&path), &running.run.resolv_conf, &text) {
            Ok(true) => {
                running.run.resolv_conf = text;
                self.save_run().await;
            }
            Ok(false) => tracing::info!(
                container_id = self.record.id,
                "the container wrote its resolver configuration itself, leaving it"
            ),
            Err(error) => {
                tracing::warn!(container_id = self.record.id, %error, "rewrite the resolver configuration, ignoring");
            }
        }
    }
}
