//! End-to-end tests: the real binaries, each test in a sandbox of its own.
//!
//! `sandbox` makes the sandbox; the rest is what a test needs within one. Tests use
//! nothing but the command line, the files and the wire that every user has.

#![forbid(unsafe_code)]

pub mod sandbox;
