//! Attacks from inside a container, from the LAN and from the host's own settings.

mod frames;
mod lies;
mod stage;
mod wire;
