//! The project's own commands: `cargo xtask --help` lists them.
//!
//! Drives the built binaries and the ordinary tools from outside; depends on none
//! of the project's crates.

#![forbid(unsafe_code)]

mod bench;
mod check;
mod codegen;
mod demo;
mod images;
mod sandbox;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
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
    /// Measure Linkspan beside the engines that are installed
    Bench {
        /// Print JSON in place of a table
        #[arg(long)]
        json: bool,
        /// Set for the process in the sandbox: the image, and where the results go
        #[arg(long, hide = true, num_args = 1..=2)]
        inside: Vec<PathBuf>,
        /// Set for the process that measures another engine
        #[arg(long, hide = true)]
        reference: Option<String>,
        /// Set for the server at the end of a measured path
        #[arg(long, hide = true, value_name = "PORT")]
        serve: Option<u16>,
        /// Set for the client at its other end
        #[arg(long, hide = true, value_name = "ADDRESS")]
        probe: Option<String>,
    },
    /// Run every check of the code itself
    Check,
    /// Tell the manual's story with real containers
    Demo {
        /// Set for the process in the sandbox: what the images are made of
        #[arg(long, hide = true, value_name = "KIND")]
        inside: Option<String>,
    },
    /// Run every test, or those whose names contain FILTER
    Test {
        /// A part of the names
        filter: Option<String>,
    },
    /// Make the images that tests and the demo run
    Images {
        /// Where the archives go [default: target/images]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Run a command, or a shell, in a sandbox with the engine
    Sandbox {
        /// Run it on the LAN host
        #[arg(long)]
        lan: bool,
        /// What to run [default: $SHELL]
        #[arg(trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    run(Arguments::parse().command).unwrap_or_else(|error| {
        tools::say(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Codegen { check } => codegen::run(check),
        Command::Bench {
            serve: Some(port), ..
        } => bench::traffic::serve(port).map(|()| ExitCode::SUCCESS),
        Command::Bench {
            probe: Some(place), ..
        } => bench::traffic::probe(&place).map(|()| ExitCode::SUCCESS),
        Command::Bench {
            json,
            inside,
            reference,
            ..
        } => match (reference, inside.first()) {
            (Some(name), Some(busybox)) => bench::reference(&name, busybox),
            (_, Some(_)) => bench::inside(&inside),
            _ if json => bench::run(bench::Format::Json),
            _ => bench::run(bench::Format::Table),
        },
        Command::Check => Ok(check::run()),
        Command::Demo { inside: None } => demo::run(),
        Command::Demo { inside: Some(kind) } => demo::inside(&kind),
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Images { out } => {
            images::make(&out.unwrap_or_else(images::default_directory))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sandbox { lan, command } => {
            let place = if lan {
                sandbox::Place::Lan
            } else {
                sandbox::Place::Host
            };
            sandbox::run(place, &command)
        }
    }
}
