//! What a start does before it begins: it waits for the sources of links that say so.
//!
//! Runs outside the owner of the consumer, which goes on to answer others meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::health::HealthStatus;
use super::link::{self, ResolvedLink};
use super::listen;
use super::record::LinkWait;
use super::state::State;
use super::{Command, ContainerError, Handle, Result};
use crate::engine::Engine;
use crate::port::{Port, Protocol};

/// How long a link waits when nobody says otherwise.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at the sockets of a source: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Waits until the sources of a container are as its links want them. After the time of
/// a link is over, or when the caller is gone, the start is over as well.
pub(crate) async fn for_sources(engine: &Arc<Engine>, handle: &Handle) -> Result<()> {
    let view = handle.view();
    let waits = |link: &super::record::Link| link.wait != LinkWait::Nothing;
    if view.state == State::Running || !view.record.host.links.iter().any(waits) {
        return Ok(());
    }
    let mut left = Left {
        engine,
        handle,
        done: false,
    };
    let result = all_ready(engine, handle).await;
    left.done = true;
    match result {
        Ok(()) => Ok(()),
        Err(error) => {
            handle
                .ask(|reply| Command::FailStart { error, reply })
                .await
        }
    }
}

/// Tells the owner that the start is off when the wait itself is dropped: the caller left.
struct Left<'a> {
    engine: &'a Arc<Engine>,
    handle: &'a Handle,
    done: bool,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let handle = self.handle.clone();
        self.engine.tracker.spawn(async move {
            let error = ContainerError::WaitAbandoned;
            // Nobody is left to read the answer, which is this error again.
            drop(
                handle
                    .ask(
                        |reply: tokio::sync::oneshot::Sender<Result<()>>| Command::FailStart {
                            error,
                            reply,
                        },
                    )
                    .await,
            );
        });
    }
}

async fn all_ready(engine: &Arc<Engine>, handle: &Handle) -> Result<()> {
    let began = Instant::now();
    let mut names = engine.names.subscribe();
    let mut pause = FIRST_PAUSE;
    loop {
        names.mark_unchanged();
        // Read anew each time: the consumer's links follow a source that is renamed.
        let view = handle.view();
        if view.removed {
            return Err(ContainerError::Gone);
        }
        let links = link::resolve(engine, &view.record);
        link::check_sources(&view.record, &links)?;
        link::check_health(&links)?;
        let Some((link, lacking)) = links
            .iter()
            .find_map(|link| lacking(link).map(|lacking| (link, lacking)))
        else {
            return Ok(());
        };
        let timeout = match link.link.timeout_ms {
            0 => DEFAULT_TIMEOUT,
            ms => Duration::from_millis(ms),
        };
        let deadline = began + timeout;
        if Instant::now() >= deadline {
            return Err(ContainerError::LinkWaitOver {
                consumer: link::consumer(&view.record),
                alias: link.link.alias.clone(),
                lacking: lacking.in_words(&link.link.source),
                waited: in_words(timeout),
            });
        }
        let until = match lacking {
            // Every start of a container is told, and every change of its health.
            Lacking::Container | Lacking::Run(_) | Lacking::Health(_) => deadline,
            // The kernel tells nobody that a socket listens; so this one is looked at
            // again and again, ever more seldom.
            Lacking::Listener(_) => {
                pause = (pause * 2).min(LONGEST_PAUSE);
                deadline.min(Instant::now() + pause)
            }
        };
        // Whatever ends the wait, the state is looked at again.
        tokio::time::timeout_at(until, names.changed()).await.ok();
    }
}

/// What a link still waits for.
enum Lacking {
    Container,
    Run(&'static str),
    Listener(Vec<Port>),
    Health(&'static str),
}

impl Lacking {
    fn in_words(&self, source: &str) -> String {
        match self {
            Self::Container => format!("no container has the name `{source}`"),
            Self::Run(state) => format!("container `{source}` is {state}, not running"),
            Self::Health(status) => format!("container `{source}` is {status}, not healthy"),
            Self::Listener(ports) => {
                let ports: Vec<String> = ports.iter().map(Port::to_string).collect();
                format!(
                    "container `{source}` does not listen on {}",
                    ports.join(", ")
                )
            }
        }
    }
}

fn lacking(link: &ResolvedLink) -> Option<Lacking> {
    if !link.waits() {
        return None;
    }
    let Some(source) = &link.source else {
        return Some(Lacking::Container);
    };
    let (Some(run), Some(_addresses)) = (&source.run, link.current()) else {
        return Some(Lacking::Run(source.state.word()));
    };
    match link.link.wait {
        LinkWait::Nothing | LinkWait::Started => return None,
        LinkWait::Healthy => {
            let status = source.health.as_ref().map(|health| health.status);
            return match status {
                Some(HealthStatus::Healthy) => None,
                other => Some(Lacking::Health(other.unwrap_or_default().word())),
            };
        }
        LinkWait::Port => {}
    }
    let mut ports = link.ports();
    ports.retain(|port| port.protocol == Protocol::Tcp);
    let listening = listen::ports(run.pid, link.current());
    ports.retain(|port| !listening.contains(&port.number));
    (!ports.is_empty()).then_some(Lacking::Listener(ports))
}

/// A duration as a sentence says it.
fn in_words(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (0, ms) => format!("{ms} ms"),
        (s, 0) => format!("{s} s"),
        (s, ms) => format!("{s}.{ms:03} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_no_needless_digits() {
        assert_eq!(in_words(Duration::from_secs(60)), "60 s");
        assert_eq!(in_words(Duration::from_millis(1500)), "1.500 s");
        assert_eq!(in_words(Duration::from_millis(20)), "20 ms");
    }
}
