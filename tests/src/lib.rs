//! End-to-end tests: the real binaries, each test in a sandbox of its own.
//!
//! `sandbox` makes the sandbox; the rest is what a test needs within one. Tests use
//! nothing but the command line, the files and the wire that every user has, so the
//! helpers end a test with a panic that shows what was run.

#![forbid(unsafe_code)]

pub mod console;
mod engine;
mod host;
mod image;
pub mod network;
pub mod rootfs;
pub mod sandbox;
mod skip;
pub mod terminal;
mod wait;

pub use engine::{Output, Running, linkspan, linkspan_command, start};
pub use host::{HOST_V4, HOST_V6, LAN_V4, LAN_V6, daemon_pid, host, kill_daemon, lan, lan_command};
pub use image::{ImageKind, image, image_kind};
pub use skip::{kernel_lacks, sandbox_required, skip};
pub use wait::{DEADLINE, wait_for};
