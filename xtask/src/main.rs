//! The project's own commands: `cargo xtask --help` lists them.
//!
//! Drives the built binaries and the ordinary tools from outside; depends on none
//! of the project's crates.

#![forbid(unsafe_code)]

mod codegen;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the Rust code of the contracts in proto/
    Codegen {
        /// Only tell whether the committed code is what would be written
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Codegen { check } => codegen::run(check),
    }
}
