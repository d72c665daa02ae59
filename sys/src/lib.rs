//! What rustix and nix lack: the only crate of the workspace that may say `unsafe`.
//!
//! A function here is safe to call, takes and returns owned or borrowed descriptors that
//! are closed on exec, and fails with an error that prints like a line of strace. It
//! knows nothing of containers, images or networks.

#![expect(
    unsafe_code,
    reason = "this crate exists so that no other one needs it"
)]

pub mod clone;
pub mod error;
pub mod keyring;
pub mod memfd;
pub mod mount;
pub mod pidfd;
pub mod process;
pub mod scm;
pub mod seccomp;

pub use error::SyscallError;
