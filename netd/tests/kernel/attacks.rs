//! Attacks from inside a container, from the LAN and from the host's own settings.

mod addresses;
mod dials;
mod forwarding;
mod frames;
mod identity;
mod leases;
mod lies;
mod siblings;
mod stage;
mod wire;
