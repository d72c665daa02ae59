//! The `linkspan` command: what a user of Docker knows, over runtimed's contract.
//!
//! `args` parse, `commands` act, `printer` prints. Standard output is data, standard
//! error is talk. Exit codes: 125 when the engine refused a run, 126 and 127 when the
//! command cannot be executed or is not there, else the command's own; `explain` exits with 1
//! when the connection would not be made, and 125 when that cannot be told; other commands
//! exit with 1 on failure and 2 on wrong usage.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod error;
mod printer;
mod session;
mod template;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;

/// The exit code of a `run` that the engine or the command line refused.
const EXIT_ENGINE: u8 = 125;
/// The exit code for wrong usage of other commands.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return error::report(&error.into(), error::Context::Other),
    };
    let context = error::Context::of(&arguments.command);
    let result = runtime.block_on(commands::run(arguments));
    // A thread may still be reading standard input; the process ends without it.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => error::report(&error, context),
    }
}

/// Prints clap's message. A run that was typed wrongly is a run that failed.
fn usage(error: &clap::Error) -> ExitCode {
    let shown = error.print().is_ok();
    if !error.use_stderr() {
        return if shown {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match std::env::args().nth(1).as_deref() {
        Some("run" | "create" | "exec" | "explain") => ExitCode::from(EXIT_ENGINE),
        _ => ExitCode::from(EXIT_USAGE),
    }
}
