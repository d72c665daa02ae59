//! runtimed: the lifecycle of containers, images and logs. No network code.

#![forbid(unsafe_code)]

mod async_fd;
mod config;
mod container;
mod directory_watch;
mod engine;
mod events;
mod image;
mod network_client;
mod port;
mod server;
mod shim_client;
mod store;
mod table_keeper;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{Arguments, Config};
use crate::engine::Engine;
use crate::table_keeper::TableKeeper;

/// EX_USAGE of sysexits(3).
const EXIT_USAGE: u8 = 64;
/// How long requests may take to end after the signal to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

#[expect(
    clippy::print_stderr,
    reason = "there is no log before the settings are known"
)]
fn main() -> ExitCode {
    let config = match Config::try_from(Arguments::parse()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("linkspan-runtimed: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("linkspan-runtimed: it needs root rights; run it as root");
        return ExitCode::FAILURE;
    }
    let filter =
        EnvFilter::try_from_env("LINKSPAN_LOG").unwrap_or_else(|_unset| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    if let Err(error) = linkspan_sys::process::prepare_for_many_descriptors() {
        tracing::warn!(%error, "no room for many containers, ignoring");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(config)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM or SIGINT. Containers go on.
async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let engine = Engine::open(config)?;
    let stop = CancellationToken::new();
    // Before the recovery, which waits for netd, which may wait for what is kept.
    let keeper = TableKeeper::listen(&engine.config.run)?;
    for_ever(&engine, &stop, "keep netd's tables", keeper.serve());
    engine.recover().await?;
    let repairs = network_client::repairs::follow(Arc::clone(&engine));
    for_ever(&engine, &stop, "follow netd's repairs", repairs);
    let listener = server::bind(&engine.config.run)?;
    let stopped = stop.clone();
    let mut serving = Box::pin(server::serve(engine, listener, stopped));
    // A service manager that is not there needs no word.
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    tracing::info!("ready");
    // Each arm ends the program; none is awaited again.
    tokio::select! {
        result = &mut serving => return result,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down, containers go on");
    stop.cancel();
    match tokio::time::timeout(DRAIN_LIMIT, serving).await {
        Ok(result) => result,
        Err(_elapsed) => Ok(()),
    }
}

/// Runs what ends only with the engine, or by a failure that the engine can live with.
fn for_ever(
    engine: &Arc<Engine>,
    stop: &CancellationToken,
    act: &'static str,
    task: impl Future<Output = std::io::Error> + Send + 'static,
) {
    let stop = stop.clone();
    engine.tracker.spawn(async move {
        if let Some(error) = stop.run_until_cancelled(task).await {
            tracing::error!(act, %error, "not done any more, ignoring");
        }
    });
}
