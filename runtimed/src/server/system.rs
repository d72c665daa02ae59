//! The system service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use linkspan_proto::reason::{ErrorReason, status};
use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::runtime_v1::system_service_server::SystemService;
use linkspan_proto::time::{system_time, timestamp};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::status::invalid;
use crate::container::state::State;
use crate::engine::Engine;
use crate::events::Event;
use crate::image::goarch;

type Answer<T> = Result<Response<T>, Status>;

const FILTER_KEYS: [&str; 5] = ["container", "event", "image", "label", "type"];

/// The system service.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
    stop: CancellationToken,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>, stop: CancellationToken) -> Self {
        Self { engine, stop }
    }
}

#[tonic::async_trait]
impl SystemService for Service {
    async fn get_version(
        &self,
        _request: Request<wire::GetVersionRequest>,
    ) -> Answer<wire::GetVersionResponse> {
        let uname = rustix::system::uname();
        Ok(Response::new(wire::GetVersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: "v1".to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            os: "linux".to_owned(),
            architecture: goarch().to_owned(),
        }))
    }

    async fn get_info(
        &self,
        _request: Request<wire::GetInfoRequest>,
    ) -> Answer<wire::GetInfoResponse> {
        let uname = rustix::system::uname();
        let views = self.engine.containers.views();
        let count = |state: State| {
            u32::try_from(views.iter().filter(|v| v.state == state).count()).unwrap_or(u32::MAX)
        };
        let containers = u32::try_from(views.len()).unwrap_or(u32::MAX);
        let running = count(State::Running);
        let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let info = rustix::system::sysinfo();
        Ok(Response::new(wire::GetInfoResponse {
            containers,
            running,
            paused: 0,
            stopped: containers - running,
            images: u32::try_from(self.engine.images.list().len()).unwrap_or(u32::MAX),
            root_dir: self.engine.config.root.to_string_lossy().into_owned(),
            run_dir: self.engine.config.run.to_string_lossy().into_owned(),
            cgroup_version: if unified { 2 } else { 1 },
            cpus: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            memory_bytes: i64::try_from(info.totalram * u64::from(info.mem_unit))
                .unwrap_or(i64::MAX),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            operating_system: operating_system(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            netd_available: self.engine.network.is_available().await,
        }))
    }

    type WatchEventsStream =
        Pin<Box<dyn Stream<Item = Result<wire::WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<wire::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let request = request.into_inner();
        let mut filters = Vec::new();
        for text in &request.filters {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| invalid(format!("invalid filter `{text}`: expected NAME=VALUE")))?;
            if !FILTER_KEYS.contains(&key) {
                let known = FILTER_KEYS.join(", ");
                return Err(invalid(format!(
                    "unknown filter `{key}`: known are {known}"
                )));
            }
            filters.push((key.to_owned(), value.to_owned()));
        }
        let since = request.since.as_ref().and_then(system_time);
        let until = request.until.as_ref().and_then(system_time);
        let (past, future) = self.engine.events.watch(since);
        let (sender, receiver) = mpsc::channel(64);
        let watcher = Watcher {
            filters,
            until,
            sender,
        };
        let stop = self.stop.clone();
        self.engine.tracker.spawn(async move {
            // A shutdown ends the stream; the client may ask again from where it was.
            tokio::select! {
                () = stop.cancelled() => {}
                () = watcher.run(past, future) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct Watcher {
    filters: Vec<(String, String)>,
    until: Option<SystemTime>,
    sender: mpsc::Sender<Result<wire::WatchEventsResponse, Status>>,
}

impl Watcher {
    async fn run(self, past: Vec<Event>, mut future: broadcast::Receiver<Event>) {
        for event in past {
            if !self.send(event).await {
                return;
            }
        }
        let end = async {
            match self
                .until
                .map(|until| until.duration_since(SystemTime::now()))
            {
                Some(left) => {
                    tokio::time::sleep_until(
                        tokio::time::Instant::now() + left.unwrap_or_default(),
                    )
                    .await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            // `recv` keeps its place when it is dropped.
            let event = tokio::select! {
                event = future.recv() => event,
                () = self.sender.closed() => return,
                () = &mut end => return,
            };
            match event {
                Ok(event) if self.send(event.clone()).await => {}
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let message = "events were lost, since they were not read in time; watch again";
                    let lost = status(
                        Code::ResourceExhausted,
                        ErrorReason::EventsLost,
                        message,
                        Default::default(),
                    );
                    self.sender.send(Err(lost)).await.ok();
                    return;
                }
                _ => return,
            }
        }
    }

    /// Sends an event if it is asked for; false when there is nothing more to send.
    async fn send(&self, event: Event) -> bool {
        if self.until.is_some_and(|until| event.time >= until) {
            return false;
        }
        if !self.fits(&event) {
            return true;
        }
        let response = wire::WatchEventsResponse {
            sequence: event.sequence,
            time: Some(timestamp(event.time)),
            r#type: event.kind.to_owned(),
            action: event.action,
            id: event.id,
            attributes: event.attributes.into_iter().collect(),
        };
        self.sender.send(Ok(response)).await.is_ok()
    }

    fn fits(&self, event: &Event) -> bool {
        FILTER_KEYS.iter().all(|key| {
            let mut values = self
                .filters
                .iter()
                .filter(|(k, _)| k == key)
                .map(|(_, v)| v)
                .peekable();
            let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
            let matches = |value: &String| match *key {
                "type" => event.kind == value,
                "event" => event.action == *value,
                "container" | "image" => {
                    event.kind == *key
                        && (event.id.starts_with(value.as_str()) || attribute("name") == value)
                        || (*key == "image" && attribute("image") == value)
                }
                _ => value
                    .split_once('=')
                    .is_some_and(|(k, v)| attribute(k) == v),
            };
            values.peek().is_none() || values.any(matches)
        })
    }
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}
