//! Runs the health check of a container: one command at a time, with a deadline.
//!
//! The owner starts the command and goes on; a task reads its output and tells how it
//! ended. What comes after the deadline is not listened to any more.

use std::time::SystemTime;

use linkspan_proto::shim_v1::SignalRequest;
use linkspan_proto::shim_v1::shim_request::Operation;
use linkspan_proto::time::unix_nanos;
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::health::{Health, HealthCheck, OUTPUT_BYTES, Probe, TIMED_OUT};
use super::super::state::Request;
use super::super::streams::{Wanted, connect};
use super::super::{ExecRequest, Result, create};
use super::Actor;

/// The health check of a run.
pub(super) struct Monitor {
    check: HealthCheck,
    pub(super) health: Health,
    started: Instant,
    /// When the command is run next, or has run too long.
    pub(super) due: Instant,
    /// The command that runs, and when it was started.
    running: Option<(String, SystemTime)>,
    ended: mpsc::Sender<Ended>,
    pub(super) results: mpsc::Receiver<Ended>,
}

/// How a command ended.
pub(super) struct Ended {
    exec_id: String,
    exit_code: i32,
    output: String,
}

impl Monitor {
    /// The monitor of a run that begins now; none without a command.
    pub(super) fn new(check: Option<&HealthCheck>) -> Option<Self> {
        let check = check.filter(|check| !check.command.is_empty())?.clone();
        let health = Health::default();
        let started = Instant::now();
        // One that runs, and one that was given up.
        let (ended, results) = mpsc::channel(2);
        Some(Self {
            due: started + check.pause(&health, started.elapsed()),
            check,
            health,
            started,
            running: None,
            ended,
            results,
        })
    }
}

impl Actor {
    /// Runs the command, or ends the one that runs too long.
    pub(super) async fn health_due(&mut self) {
        let Some(monitor) = self.monitor() else {
            return;
        };
        if let Some((exec_id, _)) = &monitor.running {
            let seconds = monitor.check.timeout().as_secs();
            let ended = Ended {
                exec_id: exec_id.clone(),
                exit_code: TIMED_OUT,
                output: format!("the command took longer than {seconds} s"),
            };
            let kill = Operation::Signal(SignalRequest {
                signal: Signal::SIGKILL as i32,
                exec_id: exec_id.clone(),
                all: false,
            });
            if let Err(error) = self.ask_shim(Request::Exec, kill).await {
                tracing::debug!(container_id = self.record.id, %error, "end a health check, ignoring");
            }
            return self.health_result(ended);
        }
        let timeout = monitor.check.timeout();
        monitor.due = Instant::now() + timeout;
        let begun = self.begin_probe().await;
        if let (Err(error), Some(monitor)) = (begun, self.monitor()) {
            let (exec_id, started) = (String::new(), SystemTime::now());
            monitor.running = Some((exec_id.clone(), started));
            self.health_result(Ended {
                exec_id,
                exit_code: TIMED_OUT,
                output: crate::engine::chain(&error),
            });
        }
    }

    /// Takes the result of a command.
    pub(super) fn health_result(&mut self, ended: Ended) {
        let Some(monitor) = self.monitor() else {
            return;
        };
        let Some((_, started)) = monitor
            .running
            .take_if(|(exec_id, _)| *exec_id == ended.exec_id)
        else {
            return;
        };
        let probe = Probe {
            started_at_ns: unix_nanos(started),
            ended_at_ns: unix_nanos(SystemTime::now()),
            exit_code: ended.exit_code,
            output: ended.output,
        };
        let since_start = monitor.started.elapsed();
        let changed = monitor.health.take(probe, &monitor.check, since_start);
        monitor.due = Instant::now() + monitor.check.pause(&monitor.health, since_start);
        let status = monitor.health.status.word();
        self.publish(false);
        if changed {
            self.event(&format!("health_status: {status}"), &[]);
            // Starts may wait for it.
            self.engine.names_changed();
        }
    }

    fn monitor(&mut self) -> Option<&mut Monitor> {
        self.running.as_mut()?.monitor.as_mut()
    }

    /// Starts the command, and a task that waits for its end.
    async fn begin_probe(&mut self) -> Result<()> {
        let wanted = Wanted {
            stdin: false,
            stdout: true,
            stderr: true,
        };
        let pipes = connect(wanted).map_err(|source| super::super::ContainerError::Files {
            act: "make pipes".to_owned(),
            source,
        });
        let (streams, client) = pipes?;
        let exec_id = create::random_id()?;
        let Some(monitor) = self.monitor() else {
            return Ok(());
        };
        monitor.running = Some((exec_id.clone(), SystemTime::now()));
        let (sender, args) = (monitor.ended.clone(), monitor.check.command.clone());
        let exit = self
            .exec(ExecRequest {
                exec_id: exec_id.clone(),
                args,
                env: Vec::new(),
                user: String::new(),
                working_dir: String::new(),
                tty: false,
                size: None,
                streams,
            })
            .await?;
        self.engine.tracker.spawn(async move {
            let (mut output, more) = tokio::join!(first_of(client.stdout), first_of(client.stderr));
            output.push_str(&more);
            // Without a word the container ended, and nobody asks any more.
            let exit_code = exit.await.unwrap_or(TIMED_OUT);
            sender
                .send(Ended {
                    exec_id,
                    exit_code,
                    output,
                })
                .await
                .ok();
        });
        Ok(())
    }
}

/// The beginning of what is written to a pipe; the rest is read and thrown away.
async fn first_of(pipe: Option<pipe::Receiver>) -> String {
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = vec![0; OUTPUT_BYTES];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let room = OUTPUT_BYTES - kept.len();
        kept.extend(buffer.iter().take(length.min(room)));
    }
    String::from_utf8_lossy(&kept).into_owned()
}
