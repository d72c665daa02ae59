//! Whether a container works: a command that is run in it at intervals, and what its
//! results say. Pure; the owner of the container runs the command (`actor/health.rs`).
//!
//! ```text
//!             success                 `retries` failures in a row
//!  starting ----------> healthy <------------------------------> unhealthy
//!     |                          success                              ^
//!     +---------------------------------------------------------------+
//! ```
//!
//! Failures while a container is starting, and its start period lasts, do not count.
//! Source: Docker's reference of `HEALTHCHECK`, whose defaults these are.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ContainerError, Result};

const DEFAULT_INTERVAL_MS: u64 = 30_000;
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
const DEFAULT_START_INTERVAL_MS: u64 = 5_000;
const DEFAULT_RETRIES: u32 = 3;
/// A command that is run more often would be most of what a container does.
const SHORTEST_MS: u64 = 1_000;
/// The longest of all times: a day.
const LONGEST_MS: u64 = 24 * 3600 * 1000;
/// How many results are remembered.
const RESULTS: usize = 5;
/// How much of the output of a command is remembered.
pub(crate) const OUTPUT_BYTES: usize = 4096;
/// The exit code of a command that took too long.
pub(crate) const TIMED_OUT: i32 = -1;

/// The command, and how often it is run; 0 means the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HealthCheck {
    /// The command and its arguments.
    pub(crate) command: Vec<String>,
    pub(crate) interval_ms: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) start_period_ms: u64,
    pub(crate) start_interval_ms: u64,
    pub(crate) retries: u32,
}

/// What the results say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

/// The result of one run of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Nanoseconds since 1970.
    pub(crate) started_at_ns: i64,
    /// Nanoseconds since 1970.
    pub(crate) ended_at_ns: i64,
    pub(crate) exit_code: i32,
    pub(crate) output: String,
}

/// What is known of the health of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) status: HealthStatus,
    /// How many failures there were in a row.
    pub(crate) failing_streak: u32,
    /// The last results, oldest first.
    pub(crate) log: VecDeque<Probe>,
}

impl HealthStatus {
    /// The word that Docker's users know.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl HealthCheck {
    /// The command as Docker writes it: `CMD` and words, `CMD-SHELL` and a text for a shell,
    /// or `NONE`, which takes the image's away.
    pub(crate) fn command_of(test: Vec<String>) -> Result<Vec<String>> {
        let mut words = test.into_iter();
        match (words.next().as_deref(), words.as_slice()) {
            (None, _) | (Some("NONE"), []) => Ok(Vec::new()),
            (Some("CMD"), [_, ..]) => Ok(words.collect()),
            (Some("CMD-SHELL"), [script]) => Ok(vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                script.to_owned(),
            ]),
            _ => Err(invalid(
                "the command must be NONE, CMD and its words, or CMD-SHELL and one text".to_owned(),
            )),
        }
    }

    /// Refuses times that cannot be.
    pub(crate) fn validate(&self) -> Result<()> {
        for (what, ms) in [
            ("interval", self.interval_ms),
            ("timeout", self.timeout_ms),
            ("start interval", self.start_interval_ms),
        ] {
            if ms != 0 && !(SHORTEST_MS..=LONGEST_MS).contains(&ms) {
                return Err(invalid(format!("its {what} must be from 1 s to 24 h")));
            }
        }
        if self.start_period_ms > LONGEST_MS {
            return Err(invalid("its start period must be at most 24 h".to_owned()));
        }
        Ok(())
    }

    /// How long after a result, or after the start, the command is run again.
    pub(crate) fn pause(&self, health: &Health, since_start: Duration) -> Duration {
        if health.status == HealthStatus::Starting && self.is_starting(since_start) {
            or_default(self.start_interval_ms, DEFAULT_START_INTERVAL_MS)
        } else {
            or_default(self.interval_ms, DEFAULT_INTERVAL_MS)
        }
    }

    /// How long the command may take.
    pub(crate) fn timeout(&self) -> Duration {
        or_default(self.timeout_ms, DEFAULT_TIMEOUT_MS)
    }

    fn is_starting(&self, since_start: Duration) -> bool {
        since_start < Duration::from_millis(self.start_period_ms)
    }
}

impl Health {
    /// Takes a result; whether the status is another now.
    pub(crate) fn take(
        &mut self,
        probe: Probe,
        check: &HealthCheck,
        since_start: Duration,
    ) -> bool {
        let before = self.status;
        let retries = match check.retries {
            0 => DEFAULT_RETRIES,
            retries => retries,
        };
        if probe.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if before != HealthStatus::Starting || !check.is_starting(since_start) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        if self.log.len() == RESULTS {
            self.log.pop_front();
        }
        self.log.push_back(probe);
        self.status != before
    }
}

fn or_default(ms: u64, default: u64) -> Duration {
    Duration::from_millis(if ms == 0 { default } else { ms })
}

fn invalid(rule: String) -> ContainerError {
    ContainerError::Invalid {
        what: "health check",
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(exit_code: i32) -> Probe {
        Probe {
            started_at_ns: 0,
            ended_at_ns: 1,
            exit_code,
            output: String::new(),
        }
    }

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn failures_in_a_row_make_a_container_unhealthy_and_one_success_heals_it() {
        let check = HealthCheck {
            retries: 2,
            ..HealthCheck::default()
        };
        let mut health = Health::default();
        let mut take = |code| {
            let changed = health.take(probe(code), &check, Duration::ZERO);
            (changed, health.status, health.failing_streak)
        };
        assert_eq!(take(1), (false, HealthStatus::Starting, 1));
        assert_eq!(take(0), (true, HealthStatus::Healthy, 0));
        assert_eq!(take(1), (false, HealthStatus::Healthy, 1));
        assert_eq!(take(TIMED_OUT), (true, HealthStatus::Unhealthy, 2));
        assert_eq!(take(0), (true, HealthStatus::Healthy, 0));
        assert_eq!(health.log.len(), RESULTS);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count_and_it_is_looked_at_sooner() {
        let check = HealthCheck {
            start_period_ms: 10_000,
            start_interval_ms: 2_000,
            interval_ms: 60_000,
            retries: 1,
            ..HealthCheck::default()
        };
        let mut health = Health::default();
        let early = Duration::from_secs(5);
        assert!(!health.take(probe(1), &check, early));
        assert_eq!(check.pause(&health, early), Duration::from_secs(2));
        assert!(health.take(probe(1), &check, Duration::from_secs(11)));
        assert_eq!(health.status, HealthStatus::Unhealthy);
        assert_eq!(check.pause(&health, early), Duration::from_secs(60));
    }

    #[test]
    fn a_command_is_read_as_docker_writes_it() {
        let of = |test: &[&str]| HealthCheck::command_of(words(test));
        assert_eq!(of(&["CMD", "a", "b"]).unwrap(), words(&["a", "b"]));
        assert_eq!(
            of(&["CMD-SHELL", "x y"]).unwrap(),
            words(&["/bin/sh", "-c", "x y"])
        );
        assert!(of(&["NONE"]).unwrap().is_empty() && of(&[]).unwrap().is_empty());
        for bad in [
            &["CMD"][..],
            &["x"],
            &["CMD-SHELL"],
            &["CMD-SHELL", "a", "b"],
        ] {
            of(bad).unwrap_err();
        }
    }

    #[test]
    fn times_that_cannot_be_are_refused() {
        let check = |interval_ms| HealthCheck {
            interval_ms,
            ..HealthCheck::default()
        };
        for (ms, valid) in [(0, true), (1, false), (1000, true), (LONGEST_MS + 1, false)] {
            assert_eq!(check(ms).validate().is_ok(), valid, "{ms}");
        }
    }
}
