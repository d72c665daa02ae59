//! Runs a command in a sandbox with the daemons, then audits what is left.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::sandbox::main()
}
