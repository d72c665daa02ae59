//! The container service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::runtime_v1::container_service_server::ContainerService;
use linkspan_proto::time::{duration, system_time, timestamp};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::attach;
use super::filters::Filters;
use super::status::{invalid, of_container};
use crate::container::logs::{LogReader, Stream as LogStream};
use crate::container::state::State;
use crate::container::{
    Command, ContainerError, Handle, View, convert, create, launch, name, wait,
};
use crate::directory_watch::DirectoryWatch;
use crate::engine::Engine;

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How many answers of a stream may wait for a slow client.
const STREAM_QUEUE: usize = 64;

/// The container service.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
    stop: CancellationToken,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>, stop: CancellationToken) -> Self {
        Self { engine, stop }
    }

    fn find(&self, text: &str) -> Result<Handle, Status> {
        self.engine
            .containers
            .find(text)
            .map_err(|e| of_container(&e))
    }

    fn to_wire(&self, view: &View) -> wire::Container {
        convert::container_to_wire(&self.engine, view)
    }

    async fn ask<T>(
        &self,
        container: &str,
        command: impl FnOnce(tokio::sync::oneshot::Sender<crate::container::Result<T>>) -> Command,
    ) -> Result<T, Status> {
        self.find(container)?
            .ask(command)
            .await
            .map_err(|e| of_container(&e))
    }
}

/// A timeout of a request; unset means the container's own.
fn timeout(wanted: Option<&prost_types::Duration>) -> Result<Option<Duration>, Status> {
    wanted
        .map(|d| duration(d).ok_or_else(|| invalid("the timeout is negative")))
        .transpose()
}

#[tonic::async_trait]
impl ContainerService for Service {
    async fn create_container(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Answer<wire::CreateContainerResponse> {
        let request =
            convert::create_request(request.into_inner()).map_err(|e| of_container(&e))?;
        let engine = Arc::clone(&self.engine);
        // On a task of its own: a client that leaves must not leave half a container.
        let made = self
            .engine
            .tracker
            .spawn(async move { create::create(&engine, request).await });
        let created = made
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| of_container(&e))?;
        let record = &created.handle.view().record;
        Ok(Response::new(wire::CreateContainerResponse {
            id: record.id.clone(),
            name: record.name.clone(),
            warnings: created.warnings,
        }))
    }

    async fn start_container(
        &self,
        request: Request<wire::StartContainerRequest>,
    ) -> Answer<wire::StartContainerResponse> {
        let handle = self.find(&request.into_inner().container)?;
        let start = async {
            wait::for_sources(&self.engine, &handle).await?;
            handle
                .ask(|reply| Command::Start {
                    streams: None,
                    reply,
                })
                .await
        };
        start.await.map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<wire::StopContainerRequest>,
    ) -> Answer<wire::StopContainerResponse> {
        let wire::StopContainerRequest {
            container,
            timeout: wanted,
        } = request.into_inner();
        let timeout = timeout(wanted.as_ref())?;
        self.ask(&container, |reply| Command::Stop { timeout, reply })
            .await?;
        Ok(Response::new(wire::StopContainerResponse {}))
    }

    async fn restart_container(
        &self,
        request: Request<wire::RestartContainerRequest>,
    ) -> Answer<wire::RestartContainerResponse> {
        let wire::RestartContainerRequest {
            container,
            timeout: wanted,
        } = request.into_inner();
        let timeout = timeout(wanted.as_ref())?;
        self.ask(&container, |reply| Command::Restart { timeout, reply })
            .await?;
        Ok(Response::new(wire::RestartContainerResponse {}))
    }

    async fn kill_container(
        &self,
        request: Request<wire::KillContainerRequest>,
    ) -> Answer<wire::KillContainerResponse> {
        let wire::KillContainerRequest { container, signal } = request.into_inner();
        let name = if signal.is_empty() { "KILL" } else { &signal };
        let signal =
            convert::parse_signal(name).ok_or_else(|| invalid(format!("`{name}` is no signal")))?;
        self.ask(&container, |reply| Command::Signal { signal, reply })
            .await?;
        Ok(Response::new(wire::KillContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<wire::RemoveContainerRequest>,
    ) -> Answer<wire::RemoveContainerResponse> {
        let wire::RemoveContainerRequest { container, force } = request.into_inner();
        self.ask(&container, |reply| Command::Remove { force, reply })
            .await?;
        Ok(Response::new(wire::RemoveContainerResponse {}))
    }

    async fn rename_container(
        &self,
        request: Request<wire::RenameContainerRequest>,
    ) -> Answer<wire::RenameContainerResponse> {
        let wire::RenameContainerRequest {
            container,
            new_name,
        } = request.into_inner();
        let handle = self.find(&container)?;
        rename(&self.engine, &handle, &new_name)
            .await
            .map_err(|e| of_container(&e))?;
        Ok(Response::new(wire::RenameContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Answer<wire::ListContainersResponse> {
        let wire::ListContainersRequest {
            all,
            containers,
            latest,
            filters,
        } = request.into_inner();
        let filters = Filters::parse(&filters).map_err(|e| invalid(e.to_string()))?;
        let created_at = |text: &str| {
            self.engine
                .containers
                .find(text)
                .ok()
                .map(|h| h.view().record.created_at_ns)
        };
        let named = |view: &View| {
            containers.is_empty()
                || containers
                    .iter()
                    .any(|text| view.record.name == *text || view.record.id.starts_with(text))
        };
        let any_state = all || latest > 0 || filters.names_a_state();
        let most = if latest == 0 {
            usize::MAX
        } else {
            usize::try_from(latest).unwrap_or(usize::MAX)
        };
        let views = self.engine.containers.views();
        let shown = views
            .iter()
            .filter(|view| any_state || view.state == State::Running)
            .filter(|view| named(view) && filters.admit(view, created_at))
            .take(most);
        let containers = shown.map(|view| self.to_wire(view)).collect();
        Ok(Response::new(wire::ListContainersResponse { containers }))
    }

    async fn get_container(
        &self,
        request: Request<wire::GetContainerRequest>,
    ) -> Answer<wire::GetContainerResponse> {
        let view = self.find(&request.into_inner().container)?.view();
        Ok(Response::new(wire::GetContainerResponse {
            container: Some(self.to_wire(&view)),
        }))
    }

    async fn wait_container(
        &self,
        request: Request<wire::WaitContainerRequest>,
    ) -> Answer<wire::WaitContainerResponse> {
        let handle = self.find(&request.into_inner().container)?;
        let mut view = handle.view();
        if view.state != State::Stopped {
            view = handle.wait_end(view.ended_runs).await;
        }
        let exit_code = view.record.last_run.as_ref().map_or(0, |run| run.exit_code);
        Ok(Response::new(wire::WaitContainerResponse { exit_code }))
    }

    type AttachContainerStream = Streamed<wire::AttachContainerResponse>;

    async fn attach_container(
        &self,
        request: Request<Streaming<wire::AttachContainerRequest>>,
    ) -> Answer<Self::AttachContainerStream> {
        attach::attach(&self.engine, request.into_inner()).await
    }

    type ExecContainerStream = Streamed<wire::ExecContainerResponse>;

    async fn exec_container(
        &self,
        request: Request<Streaming<wire::ExecContainerRequest>>,
    ) -> Answer<Self::ExecContainerStream> {
        attach::exec(&self.engine, request.into_inner()).await
    }

    type ReadLogsStream = Streamed<wire::ReadLogsResponse>;

    async fn read_logs(
        &self,
        request: Request<wire::ReadLogsRequest>,
    ) -> Answer<Self::ReadLogsStream> {
        let request = request.into_inner();
        let handle = self.find(&request.container)?;
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let reader = LogStreamer {
            path: launch::run_paths(&self.engine, &handle.view().record.id)
                .log
                .into(),
            handle,
            since: request.since.as_ref().and_then(system_time),
            until: request.until.as_ref().and_then(system_time),
            follow: request.follow,
            tail: request.tail,
            sender,
        };
        let stop = self.stop.clone();
        self.engine.tracker.spawn(async move {
            // A shutdown may cut a log short; the reader holds nothing that could be lost.
            tokio::select! {
                () = stop.cancelled() => {}
                () = reader.run() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Moves a container to another name, and the links of others with it.
async fn rename(
    engine: &Arc<Engine>,
    handle: &Handle,
    new_name: &str,
) -> crate::container::Result<()> {
    let new_name = name::parse(new_name)?.to_owned();
    let old = handle.view();
    let (id, old_name) = (&old.record.id, old.record.name.clone());
    if old_name == new_name {
        return Err(ContainerError::Invalid {
            what: "new name",
            rule: format!("`{new_name}` is the container's name already"),
        });
    }
    if let Err(holder) = engine.containers.reserve_rename(&new_name, id) {
        return Err(create::name_in_use(&new_name, &holder));
    }
    let renamed = handle
        .ask(|reply| Command::Rename {
            new_name: new_name.clone(),
            reply,
        })
        .await;
    if let Err(error) = renamed {
        engine.containers.release_name(&new_name, id);
        return Err(error);
    }
    engine.containers.release_name(&old_name, id);
    for other in engine.containers.handles() {
        if other
            .view()
            .record
            .host
            .links
            .iter()
            .any(|link| link.source == old_name)
        {
            let (name, new_name) = (old_name.clone(), new_name.clone());
            let told = other
                .ask(|reply| Command::SourceRenamed {
                    name,
                    new_name,
                    reply,
                })
                .await;
            // A container that is gone has no interest.
            if let Err(error) = told.or_else(unless_gone) {
                tracing::error!(container_id = other.view().record.id, %error, "save a renamed link");
            }
        }
    }
    Ok(())
}

fn unless_gone(error: ContainerError) -> Result<(), ContainerError> {
    match error {
        ContainerError::Gone => Ok(()),
        other => Err(other),
    }
}

/// Sends a log to a client.
struct LogStreamer {
    path: std::path::PathBuf,
    handle: Handle,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    follow: bool,
    tail: Option<u64>,
    sender: mpsc::Sender<Result<wire::ReadLogsResponse, Status>>,
}

impl LogStreamer {
    async fn run(self) {
        if let Err(error) = self.stream().await {
            // A client that left needs no error.
            self.sender
                .send(Err(Status::internal(format!("read the log: {error}"))))
                .await
                .ok();
        }
    }

    async fn stream(&self) -> std::io::Result<()> {
        // Watched before it is read, so that no growth falls in between.
        let watch = if self.follow {
            Some(DirectoryWatch::new(
                self.path.parent().unwrap_or(&self.path),
            )?)
        } else {
            None
        };
        let mut reader = LogReader::open(&self.path);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next()? {
            entries.push(entry);
            if let Some(most) = self.tail
                && entries.len() as u64 > most.saturating_mul(2).saturating_add(1024)
            {
                let extra = entries.len() - usize::try_from(most).unwrap_or(0);
                entries.drain(..extra);
            }
            if self.tail.is_none() {
                for entry in entries.drain(..) {
                    if !self.send(entry).await {
                        return Ok(());
                    }
                }
            }
        }
        let most = self
            .tail
            .and_then(|tail| usize::try_from(tail).ok())
            .unwrap_or(usize::MAX);
        let skipped = entries.len().saturating_sub(most);
        for entry in entries.into_iter().skip(skipped) {
            if !self.send(entry).await {
                return Ok(());
            }
        }
        match watch {
            Some(watch) => self.follow(&watch, &mut reader).await,
            None => Ok(()),
        }
    }

    async fn follow(&self, watch: &DirectoryWatch, reader: &mut LogReader) -> std::io::Result<()> {
        let start = self.handle.view();
        let mut ended = start.state != State::Running;
        let end = self.handle.wait_end(start.ended_runs);
        tokio::pin!(end);
        loop {
            while let Some(entry) = reader.next()? {
                if !self.send(entry).await {
                    return Ok(());
                }
            }
            if ended {
                return Ok(());
            }
            // All arms only wait: the log itself is read above.
            tokio::select! {
                changed = watch.changed() => changed?,
                _last = &mut end => ended = true,
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    /// Sends an entry if it is asked for; false when the client has left.
    async fn send(&self, entry: crate::container::logs::Entry) -> bool {
        let early = self.since.is_some_and(|since| entry.time < since);
        let late = self.until.is_some_and(|until| entry.time >= until);
        if early || late {
            return true;
        }
        let stream = match entry.stream {
            LogStream::Stdout => wire::LogStream::Stdout,
            LogStream::Stderr => wire::LogStream::Stderr,
        };
        let response = wire::ReadLogsResponse {
            stream: stream.into(),
            time: Some(timestamp(entry.time)),
            text: entry.text,
        };
        self.sender.send(Ok(response)).await.is_ok()
    }
}
