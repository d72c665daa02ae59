//! Names on the gateway of each user network: a small DNS server for its members.
//!
//! ```text
//! registry ─> Vec<ServedNetwork> ─> server ─┬─ answer (pure) ── view ── zone
//!                                           └─ upstream ── resolv_conf (the host's)
//! ```
//!
//! It knows names and addresses, and nothing of leases, links or the firewall. It has a
//! thread of its own, so that a flood of questions costs requests to netd nothing.
//!
//! **Invariant:** nothing that is asked on an internal network leaves the host.

mod answer;
mod limit;
mod listener;
mod resolv_conf;
mod server;
#[cfg(test)]
mod tests;
mod upstream;
mod view;
mod zone;

use std::net::IpAddr;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

pub(crate) use server::{ServedNetworks, spawn};
pub(crate) use view::View;
pub(crate) use zone::{Host, Zone};

/// A network whose members get answers at its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServedNetwork {
    /// The name of the network.
    pub(crate) name: String,
    /// The gateway's addresses, where the server listens.
    pub(crate) gateways: Vec<IpAddr>,
    /// Whether nothing is ever asked of servers outside.
    pub(crate) internal: bool,
    /// What its members are called.
    pub(crate) zone: Zone,
    /// What members see beside that, by their addresses; most see nothing.
    pub(crate) views: RedBlackTreeMapSync<IpAddr, Arc<View>>,
}
