//! netd owns the kernel's network state for containers: addresses, devices, published
//! ports, links and the firewall. It knows nothing of images, processes or files.
//!
//! `config` reads the command line; `network` holds the state and the one thread that
//! changes it; `server` speaks gRPC; `firewall`, `netlink`, `netns`, `ipam` and `store`
//! are what the network is made of; `hash` and `sysctl` are small tools of those.

#![forbid(unsafe_code)]

mod config;
mod firewall;
mod hash;
mod ipam;
mod keeper;
mod names;
mod netlink;
mod netns;
mod network;
mod server;
mod store;
mod sysctl;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use config::{Arguments, Config};
use network::{Monitor, Owner};

/// Where the host says whom it asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// A value on the command line is wrong (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let config = match Arguments::try_parse() {
        Ok(arguments) => Config::try_from(arguments).map_err(|error| error.to_string()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            // Nobody reads what a closed pipe would have shown.
            drop(error.print());
            return ExitCode::SUCCESS;
        }
        Err(error) => Err(config::first_line(&error)),
    };
    match config {
        Ok(config) => run(&config),
        Err(sentence) => {
            say(&sentence);
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn run(config: &Config) -> ExitCode {
    if !config::is_privileged() {
        say("needs CAP_NET_ADMIN and CAP_SYS_ADMIN; run it as root");
        return ExitCode::FAILURE;
    }
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("LINKSPAN_LOG")
                .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&network::owner::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    config.prepare_directories()?;
    if let Err(error) = linkspan_sys::process::prepare_for_many_descriptors() {
        tracing::warn!(%error, "no room for many ports, ignoring");
    }
    // It hears from here on, so that nothing falls between the first look and the next.
    let monitor = Monitor::open(config.run_directory())?;
    let owner = Owner::start(config, &monitor)?;
    let info = server::NetworkInfo::of(config);
    let (handle, served_networks, threads) = network::spawn(owner, monitor)?;
    let names = names::spawn(served_networks, RESOLV_CONF.into())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(server::serve(&config.socket_path(), handle, info));
    drop(runtime);
    // The last handle is gone, so the owner answers what is queued and ends.
    threads.join()?;
    // Nobody is told of networks any more, so the name server ends too.
    names
        .join()
        .map_err(|_panic| "the thread of names panicked")?;
    Ok(served?)
}

fn say(sentence: &str) {
    // There is nowhere left to report that standard error is closed.
    drop(writeln!(std::io::stderr(), "linkspan-netd: {sentence}"));
}
