//! Address management: which name has which address, now and after a restart.
//!
//! `pool` decides, and is pure; `lease` makes decisions durable.

pub(crate) mod lease;
pub(crate) mod pool;

pub(crate) use lease::{KeptPort, LeaseError, Leases, now_seconds};
