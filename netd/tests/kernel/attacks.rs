//! Attacks from inside a container, from the LAN and from the host's own settings.

mod addresses;
mod dials;
mod frames;
mod lies;
mod siblings;
mod stage;
mod wire;
