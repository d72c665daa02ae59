//! What is remembered of an image: the persisted type.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::health::HealthCheck;
use crate::port::Port;

/// The version of the records that this build writes.
pub(crate) const RECORD_VERSION: u32 = 1;

/// An image whose layers are unpacked in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) version: u32,
    /// The digest of the configuration, `sha256:…`.
    pub(crate) id: String,
    /// Nanoseconds since 1970, by the image's own word; 0 when it has none.
    pub(crate) created_at_ns: i64,
    /// The sum of the regular files of its layers.
    pub(crate) size_bytes: u64,
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) config: ImageConfig,
    /// Lowest first.
    pub(crate) layers: Vec<LayerRecord>,
}

/// The defaults that an image gives to its containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageConfig {
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) user: String,
    pub(crate) exposed: Vec<Port>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) stop_signal: String,
    /// Docker's extension; older records have none.
    #[serde(default)]
    pub(crate) health_check: Option<HealthCheck>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// The digest of the uncompressed archive, `sha256:…`.
    pub(crate) diff_id: String,
    /// Identifies this layer upon all below it, as the OCI image specification defines
    /// it; the name of its directory.
    pub(crate) chain_id: String,
    pub(crate) size_bytes: u64,
}
