//! The owner of one container: the only task that changes it.
//!
//! A loop over three kinds of events: requests, what the shim says, and the deadline of a
//! stop. Each is handled to its end before the next. Policy is in [`super::state`]; the
//! steps of a start in [`super::launch`].

mod adopt;
mod health;
mod links;
mod networks;
mod ports;
mod process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use linkspan_proto::shim_v1::shim_request::Operation;
use linkspan_proto::shim_v1::{Exit, ResizeRequest, SignalRequest};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::health::{Ended, Monitor};
use super::launch::{self, DownSources, Launched};
use super::record::{LastRun, Record, Run};
use super::state::{Admission, Request, State, admit};
use super::streams::ShimStreams;
use super::{Command, ContainerError, Handle, Result, View, convert};
use crate::engine::Engine;
use crate::shim_client::{ShimClient, ShimEvent};

/// How many requests may wait for a container.
const QUEUE: usize = 64;
/// How long a stop waits when nobody says otherwise.
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long SIGKILL may take before the container is called stuck.
const KILL_TIMEOUT: Duration = Duration::from_secs(15);
/// The owner of a container.
pub(crate) struct Actor {
    engine: Arc<Engine>,
    record: Record,
    running: Option<Running>,
    view: watch::Sender<Arc<View>>,
    commands: mpsc::Receiver<Command>,
    ended_runs: u64,
    deleting: bool,
}

struct Running {
    run: Run,
    shim: ShimClient,
    events: mpsc::Receiver<ShimEvent>,
    stop: Option<Stop>,
    monitor: Option<Monitor>,
}

/// A stop under way.
struct Stop {
    deadline: Instant,
    killed: bool,
    /// Answered when the container has ended.
    waiting: Vec<Goal>,
}

/// What is to follow the end of the run.
enum Goal {
    Stopped(oneshot::Sender<Result<()>>),
    Restarted(oneshot::Sender<Result<()>>),
    Removed(oneshot::Sender<Result<()>>),
}

enum Next {
    Command(Option<Command>),
    Shim(Option<ShimEvent>),
    Deadline,
    NamesChanged,
    HealthDue,
    HealthResult(Ended),
}

/// Makes the handle of a container and starts its owner.
pub(crate) fn spawn(engine: &Arc<Engine>, record: Record) -> Handle {
    let (handle, owner) = prepare(engine, record, None);
    owner.start();
    handle
}

/// An owner that does nothing yet, while others can see its container already.
pub(crate) struct Prepared {
    actor: Actor,
    run: Option<Run>,
}

impl Prepared {
    /// Lets the owner begin; with a run left by an earlier process, it first takes that over.
    pub(crate) fn start(self) {
        let engine = Arc::clone(&self.actor.engine);
        engine.tracker.spawn(self.actor.run(self.run));
    }
}

/// Makes the handle of a container and its owner.
pub(crate) fn prepare(
    engine: &Arc<Engine>,
    record: Record,
    run: Option<Run>,
) -> (Handle, Prepared) {
    let (sender, commands) = mpsc::channel(QUEUE);
    let state = if record.last_run.is_some() {
        State::Stopped
    } else {
        State::Created
    };
    let first = View {
        record: record.clone(),
        run: run.clone(),
        state,
        health: None,
        ended_runs: 0,
        removed: false,
    };
    let (view, receiver) = watch::channel(Arc::new(first));
    let actor = Actor {
        engine: Arc::clone(engine),
        record,
        running: None,
        view,
        commands,
        ended_runs: 0,
        deleting: false,
    };
    (Handle::new(sender, receiver), Prepared { actor, run })
}

impl Actor {
    async fn run(mut self, left: Option<Run>) {
        let mut names = self.engine.names.subscribe();
        if let Some(run) = left {
            self.adopt(run).await;
        }
        if self.record.deleting {
            self.delete().await;
        }
        while !self.deleting {
            let next = self.next(&mut names).await;
            match next {
                Next::Command(None) => return,
                Next::Command(Some(command)) => Box::pin(self.command(command)).await,
                Next::Shim(Some(ShimEvent::Exited(exit))) => Box::pin(self.ended(exit)).await,
                Next::Shim(Some(ShimEvent::Closed) | None) => Box::pin(self.shim_lost()).await,
                Next::Deadline => self.stop_deadline().await,
                Next::NamesChanged => self.refresh_hosts().await,
                Next::HealthDue => Box::pin(self.health_due()).await,
                Next::HealthResult(ended) => self.health_result(ended),
            }
        }
    }

    /// Waits for the next thing to do. Every arm is cancel-safe: a queue, a watch, a clock.
    async fn next(&mut self, names: &mut watch::Receiver<u64>) -> Next {
        let Some(running) = &mut self.running else {
            return Next::Command(self.commands.recv().await);
        };
        let deadline = running.stop.as_ref().map(|stop| stop.deadline);
        let linked = !self.record.host.links.is_empty();
        let (due, results) = match &mut running.monitor {
            Some(monitor) => (Some(monitor.due), Some(&mut monitor.results)),
            None => (None, None),
        };
        tokio::select! {
            event = running.events.recv() => Next::Shim(event),
            command = self.commands.recv() => Next::Command(command),
            () = until(deadline) => Next::Deadline,
            () = until(due) => Next::HealthDue,
            Some(ended) = received(results) => Next::HealthResult(ended),
            changed = names.changed(), if linked => match changed {
                Ok(()) => Next::NamesChanged,
                Err(_engine_gone) => Next::Command(None),
            },
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Start { streams, reply } => {
                let result = self.start(streams).await;
                answer(reply, result);
            }
            Command::Stop { timeout, reply } => {
                self.stop(Request::Stop, timeout, Goal::Stopped(reply))
                    .await;
            }
            Command::Restart { timeout, reply } => {
                self.stop(Request::Restart, timeout, Goal::Restarted(reply))
                    .await;
            }
            Command::Remove { force, reply } => self.remove(force, reply).await,
            Command::Signal { signal, reply } => {
                answer(reply, self.signal(Request::Signal, signal, "").await);
            }
            Command::SignalExec {
                exec_id,
                signal,
                reply,
            } => {
                answer(reply, self.signal(Request::Exec, signal, &exec_id).await);
            }
            Command::Rename { new_name, reply } => answer(reply, self.rename(new_name).await),
            Command::Attach { streams, reply } => answer(reply, self.attach(&streams).await),
            Command::Resize {
                size,
                exec_id,
                reply,
            } => {
                let request = Operation::Resize(ResizeRequest {
                    exec_id,
                    size: Some(size),
                });
                answer(reply, self.ask_shim(Request::Attach, request).await);
            }
            Command::Exec { exec, reply } => answer(reply, self.exec(exec).await),
            Command::SourceRenamed {
                name,
                new_name,
                reply,
            } => answer(reply, self.source_renamed(&name, &new_name).await),
            Command::FailStart { error, reply } => {
                let error = self.start_failed(error).await;
                answer(reply, Err(error));
            }
            Command::Change(change) => self.answer_change(change).await,
        }
    }

    fn state(&self) -> State {
        match (&self.running, &self.record.last_run) {
            _ if self.deleting => State::Deleting,
            (Some(_), _) => State::Running,
            (None, Some(_)) => State::Stopped,
            (None, None) => State::Created,
        }
    }

    fn publish(&self, removed: bool) {
        let run = self.running.as_ref().map(|running| running.run.clone());
        let monitor = self
            .running
            .as_ref()
            .and_then(|running| running.monitor.as_ref());
        let health = monitor.map(|monitor| monitor.health.clone());
        let (record, state, ended_runs) = (self.record.clone(), self.state(), self.ended_runs);
        self.view.send_replace(Arc::new(View {
            record,
            run,
            state,
            health,
            ended_runs,
            removed,
        }));
    }

    fn event(&self, action: &str, more: &[(&str, String)]) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), self.record.name.clone()),
            ("image".to_owned(), self.record.image.clone()),
        ]);
        attributes.extend(
            more.iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone())),
        );
        self.engine
            .events
            .send("container", action, &self.record.id, attributes);
    }

    fn admit(&self, request: Request) -> Result<Admission> {
        match admit(self.state(), request) {
            Admission::Deny { hint } => Err(ContainerError::WrongState {
                act: request.act(),
                name: self.record.name.clone(),
                state: self.state().word(),
                hint,
            }),
            admitted => Ok(admitted),
        }
    }

    async fn save_record(&self) -> Result<()> {
        let record = self.record.clone();
        self.engine
            .blocking(move |engine| Ok(engine.store.put_container(&record)?))
            .await
    }

    async fn start(&mut self, streams: Option<ShimStreams>) -> Result<()> {
        if self.admit(Request::Start)? == Admission::Nothing {
            return Ok(());
        }
        self.launch(streams, DownSources::Refuse).await
    }

    async fn launch(&mut self, streams: Option<ShimStreams>, down: DownSources) -> Result<()> {
        match launch::launch(&self.engine, &self.record, streams, down).await {
            Ok(launched) => self.launched(launched).await,
            Err(error) => Err(self.start_failed(error).await),
        }
    }

    /// Remembers why a start failed, or gives the container up; gives the error back.
    async fn start_failed(&mut self, error: ContainerError) -> ContainerError {
        if self.running.is_some() || self.deleting {
            return error;
        }
        self.record.error = crate::engine::chain(&error);
        self.record.start_exit_code = error.start_exit_code();
        if self.record.discard_on_start_failure && self.record.last_run.is_none() {
            self.delete().await;
            return error;
        }
        if let Err(error) = self.save_record().await {
            tracing::error!(container_id = self.record.id, %error, "save a failed start");
        }
        self.publish(false);
        error
    }

    async fn launched(&mut self, Launched { run, shim, events }: Launched) -> Result<()> {
        self.record.error.clear();
        self.record.start_exit_code = 0;
        self.record.before_change = None;
        let mut last = LastRun::default();
        last.remember(&run);
        self.record.last_run = Some(last);
        self.running = Some(Running {
            run,
            shim,
            events,
            stop: None,
            monitor: Monitor::new(self.record.config.health_check.as_ref()),
        });
        self.publish(false);
        self.engine.names_changed();
        self.event("start", &[]);
        self.save_record().await
    }

    /// Begins to stop for `goal`, or answers at once.
    async fn stop(&mut self, request: Request, timeout: Option<Duration>, goal: Goal) {
        let admission = self.admit(request).and_then(|admission| {
            if request == Request::Restart {
                // Found out before anything is stopped.
                super::spec::security(&self.record)?;
            }
            Ok(admission)
        });
        match admission {
            Err(error) => return answer(goal.into_reply(), Err(error)),
            Ok(Admission::Nothing) => return answer(goal.into_reply(), Ok(())),
            Ok(_) if self.running.is_none() => return Box::pin(self.reach(goal)).await,
            Ok(_) => {}
        }
        let timeout = timeout
            .or(self
                .record
                .config
                .stop_timeout_ms
                .map(Duration::from_millis))
            .unwrap_or(DEFAULT_STOP_TIMEOUT);
        let signal = convert::parse_signal(&self.record.config.stop_signal)
            .unwrap_or(Signal::SIGTERM as i32);
        let Some(running) = &mut self.running else {
            return;
        };
        if let Some(stop) = &mut running.stop {
            stop.waiting.push(goal);
            stop.deadline = stop.deadline.min(Instant::now() + timeout);
            return;
        }
        running.stop = Some(Stop {
            deadline: Instant::now() + timeout,
            killed: false,
            waiting: vec![goal],
        });
        if timeout.is_zero() {
            return self.stop_deadline().await;
        }
        if let Err(error) = self.signal(Request::Signal, signal, "").await {
            tracing::warn!(container_id = self.record.id, %error, "send the stop signal, ignoring");
        }
    }

    /// The time of a stop is over: SIGKILL for everything, then the word that it is stuck.
    async fn stop_deadline(&mut self) {
        let Some(Running {
            stop: Some(stop), ..
        }) = &mut self.running
        else {
            return;
        };
        if stop.killed {
            for goal in std::mem::take(&mut stop.waiting) {
                let name = self.record.name.clone();
                answer(goal.into_reply(), Err(ContainerError::Stuck { name }));
            }
            if let Some(running) = &mut self.running {
                running.stop = None;
            }
            return;
        }
        stop.killed = true;
        stop.deadline = Instant::now() + KILL_TIMEOUT;
        if let Err(error) = self.ask_shim(Request::Signal, kill_all()).await {
            tracing::warn!(container_id = self.record.id, %error, "kill the container, ignoring");
        }
    }

    async fn remove(&mut self, force: bool, reply: oneshot::Sender<Result<()>>) {
        let request = if force {
            Request::RemoveByForce
        } else {
            Request::Remove
        };
        self.stop(request, Some(Duration::ZERO), Goal::Removed(reply))
            .await;
    }

    async fn rename(&mut self, new_name: String) -> Result<()> {
        let name = std::mem::replace(&mut self.record.name, new_name.clone());
        let generated = std::mem::replace(&mut self.record.generated_name, false);
        let renamed = self.engine.network.rename(&name, &new_name).await;
        let saved = match renamed {
            Ok(()) => self.save_record().await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = saved {
            self.record.name = name;
            self.record.generated_name = generated;
            return Err(error);
        }
        self.publish(false);
        self.engine.names_changed();
        self.event("rename", &[("oldName", name)]);
        Ok(())
    }

    async fn ended(&mut self, exit: Exit) {
        let Some(Running {
            run,
            shim,
            events,
            stop,
            monitor: _,
        }) = self.running.take()
        else {
            return;
        };
        drop((shim, events));
        self.finish(run, exit, stop.map(|stop| stop.waiting).unwrap_or_default())
            .await;
    }

    /// Cleans up after a run, remembers how it went, and does what was waiting for its end.
    async fn finish(&mut self, run: Run, exit: Exit, goals: Vec<Goal>) {
        launch::clean_up(&self.engine, &self.record).await;
        let Exit {
            exit_code,
            finished_at_ns,
            oom_killed,
        } = exit;
        let mut last = LastRun {
            finished_at_ns,
            exit_code,
            oom_killed,
            ..LastRun::default()
        };
        last.remember(&run);
        self.record.last_run = Some(last);
        self.ended_runs += 1;
        let restart = goals.iter().any(|goal| matches!(goal, Goal::Restarted(_)));
        let removes_itself = self.record.host.auto_remove && !restart;
        if !removes_itself && let Err(error) = self.save_record().await {
            tracing::error!(container_id = self.record.id, %error, "save the end of a run");
        }
        self.publish(false);
        self.engine.names_changed();
        self.event("die", &[("exitCode", exit_code.to_string())]);
        if !goals.is_empty() {
            self.event("stop", &[]);
        }
        if removes_itself {
            self.delete().await;
        }
        for goal in goals {
            Box::pin(self.reach(goal)).await;
        }
    }

    /// Does what follows the end of a run, and answers.
    async fn reach(&mut self, goal: Goal) {
        match goal {
            Goal::Stopped(reply) => answer(reply, Ok(())),
            Goal::Restarted(reply) => {
                let result = match self.running {
                    Some(_) => Ok(()),
                    None => self.launch(None, DownSources::Tolerate).await,
                };
                if result.is_ok() {
                    self.event("restart", &[]);
                }
                answer(reply, result);
            }
            Goal::Removed(reply) => {
                self.delete().await;
                answer(reply, Ok(()));
            }
        }
    }

    /// Removes the container and all that belongs to it; the owner ends after this.
    async fn delete(&mut self) {
        if self.deleting {
            return;
        }
        self.deleting = true;
        self.record.deleting = true;
        if let Err(error) = self.engine.forget(&self.record).await {
            tracing::error!(
                container_id = self.record.id,
                error = crate::engine::chain(&error),
                "remove a container"
            );
        }
        self.engine.containers.forget(&self.record.id);
        self.event("destroy", &[]);
        self.publish(true);
        self.engine.names_changed();
    }
}

impl Goal {
    fn into_reply(self) -> oneshot::Sender<Result<()>> {
        match self {
            Self::Stopped(reply) | Self::Restarted(reply) | Self::Removed(reply) => reply,
        }
    }
}

/// Asks for the end of every process of a container.
fn kill_all() -> Operation {
    Operation::Signal(SignalRequest {
        signal: Signal::SIGKILL as i32,
        exec_id: String::new(),
        all: true,
    })
}

/// Answers a request; one whose sender left needs no answer.
fn answer<T>(reply: oneshot::Sender<Result<T>>, result: Result<T>) {
    reply.send(result).ok();
}

/// The next result of a health check; for ever without one.
async fn received(results: Option<&mut mpsc::Receiver<Ended>>) -> Option<Ended> {
    match results {
        Some(results) => results.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
