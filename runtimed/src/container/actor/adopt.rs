//! The ends of runs that nobody watched: what an earlier process left, and a shim that died.

use std::time::SystemTime;

use linkspan_proto::shim_v1::shim_message::Content;
use linkspan_proto::shim_v1::shim_request::Operation;
use linkspan_proto::shim_v1::{Exit, StateRequest};
use linkspan_proto::time::unix_nanos;

use super::super::record::{LastRun, Run, RunPhase};
use super::super::{launch, orphan};
use super::health::Monitor;
use super::{Actor, Running, kill_all};
use crate::engine::Engine;
use crate::shim_client::ShimClient;

/// The exit code when nobody could tell the true one.
const UNKNOWN_EXIT_CODE: i32 = 255;

impl Actor {
    /// The connection to the shim broke: it ended, or was killed.
    pub(super) async fn shim_lost(&mut self) {
        if let Some(running) = &self.running {
            orphan::end(&self.engine, &running.run).await;
        }
        let exit = recorded_exit(&self.engine, &self.record.id);
        self.ended(exit).await;
    }

    /// Takes over a run that an earlier process began.
    pub(super) async fn adopt(&mut self, run: Run) {
        let directory = self.engine.run_dir(&self.record.id);
        let connected = ShimClient::connect(&directory, &self.engine.tracker);
        let Ok((shim, events)) = connected else {
            if run.phase == RunPhase::Starting {
                return launch::clean_up(&self.engine, &self.record).await;
            }
            orphan::end(&self.engine, &run).await;
            let exit = recorded_exit(&self.engine, &self.record.id);
            return self.finish(run, exit, Vec::new()).await;
        };
        let state = shim.request(Operation::State(StateRequest {}), &[]).await;
        let Ok(Content::State(state)) = state else {
            orphan::end(&self.engine, &run).await;
            let exit = recorded_exit(&self.engine, &self.record.id);
            return self.finish(run, exit, Vec::new()).await;
        };
        if state.pid == 0 && state.exit.is_none() {
            return launch::clean_up(&self.engine, &self.record).await;
        }
        if run.phase == RunPhase::Starting {
            // It runs, but nobody was told so: the start was not acknowledged.
            shim.request(kill_all(), &[]).await.ok();
        }
        let mut run = run;
        run.pid = state.pid;
        self.record.last_run.get_or_insert_with(|| LastRun {
            started_at_ns: run.started_at_ns,
            ..LastRun::default()
        });
        self.running = Some(Running {
            run,
            shim,
            events,
            stop: None,
            monitor: Monitor::new(self.record.config.health_check.as_ref()),
        });
        self.publish(false);
        if let Some(exit) = state.exit {
            return self.ended(exit).await;
        }
        self.finish_change().await;
        self.refresh_hosts().await;
    }
}

/// How a run ended by the record that its shim left, or for all that is known.
fn recorded_exit(engine: &Engine, id: &str) -> Exit {
    launch::read_exit_record(engine, id).unwrap_or_else(|| {
        tracing::error!(container_id = id, "the shim died and left no exit record");
        Exit {
            exit_code: UNKNOWN_EXIT_CODE,
            finished_at_ns: unix_nanos(SystemTime::now()),
            oom_killed: false,
        }
    })
}
