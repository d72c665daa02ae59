//! Sandboxes: network namespaces that are there without an endpoint, for containers that
//! have no network, or none at the moment.
//!
//! A namespace that only endpoints need is no sandbox: it comes with the first of them and
//! goes with the last.

use super::Owner;
use crate::network::error::NetworkError;
use crate::network::model::EndpointId;
use crate::network::{ChangeKind, Publisher, device};
use crate::store::Change;
use crate::store::record::{SANDBOXES, SandboxRecord};

impl Owner {
    pub(super) fn create_sandbox(
        &mut self,
        id: &EndpointId,
        publisher: &Publisher,
    ) -> Result<(), NetworkError> {
        if self.registry.has_sandbox(id) {
            return Ok(());
        }
        let row = Change::put(SANDBOXES, id.as_str(), &SandboxRecord::new());
        self.store.commit(&[row])?;
        if self.registry.in_sandbox(id).next().is_none()
            && let Err(error) = self.make_sandbox(id)
        {
            // What this leaves, the next start removes.
            drop(self.netns.remove(id));
            self.store
                .commit(&[Change::remove(SANDBOXES, id.as_str())])?;
            return Err(error);
        }
        self.registry.insert_sandbox(id);
        tracing::info!(sandbox_id = %id, "sandbox created");
        publisher.publish(&self.registry, ChangeKind::Sandboxes);
        Ok(())
    }

    pub(super) fn delete_sandbox(
        &mut self,
        id: &EndpointId,
        publisher: &Publisher,
    ) -> Result<(), NetworkError> {
        if !self.registry.has_sandbox(id) {
            return Ok(());
        }
        if self.registry.in_sandbox(id).next().is_none() {
            self.netns.remove(id)?;
        }
        self.store
            .commit(&[Change::remove(SANDBOXES, id.as_str())])?;
        self.registry.remove_sandbox(id);
        tracing::info!(sandbox_id = %id, "sandbox removed");
        publisher.publish(&self.registry, ChangeKind::Sandboxes);
        Ok(())
    }

    fn make_sandbox(&self, id: &EndpointId) -> Result<(), NetworkError> {
        let netns = self.netns.create(id)?;
        device::start_loopback(netns)
    }
}
