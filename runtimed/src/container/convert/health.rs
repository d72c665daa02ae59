//! Health checks and their results, to and from the wire.

use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::time::{duration, from_unix_nanos, timestamp};

use super::super::health::{Health, HealthCheck, HealthStatus, Probe};
use super::super::{ContainerError, Result};

/// A health check from the wire.
pub(super) fn check_from_wire(check: wire::HealthCheck) -> Result<HealthCheck> {
    let ms = |what: &str, given: Option<prost_types::Duration>| match given.as_ref().map(duration) {
        None => Ok(0),
        Some(Some(given)) => Ok(u64::try_from(given.as_millis()).unwrap_or(u64::MAX)),
        Some(None) => Err(ContainerError::Invalid {
            what: "health check",
            rule: format!("its {what} is negative"),
        }),
    };
    let check = HealthCheck {
        command: HealthCheck::command_of(check.test)?,
        interval_ms: ms("interval", check.interval)?,
        timeout_ms: ms("timeout", check.timeout)?,
        start_period_ms: ms("start period", check.start_period)?,
        start_interval_ms: ms("start interval", check.start_interval)?,
        retries: check.retries,
    };
    check.validate()?;
    Ok(check)
}

/// A health check for the wire.
pub(super) fn check_to_wire(check: &HealthCheck) -> wire::HealthCheck {
    let time = |ms: u64| {
        let time = prost_types::Duration::try_from(std::time::Duration::from_millis(ms)).ok();
        time.filter(|_| ms != 0)
    };
    let test = match check.command.as_slice() {
        [] => vec!["NONE".to_owned()],
        [shell, flag, script] if shell == "/bin/sh" && flag == "-c" => {
            vec!["CMD-SHELL".to_owned(), script.clone()]
        }
        words => std::iter::once("CMD".to_owned())
            .chain(words.iter().cloned())
            .collect(),
    };
    wire::HealthCheck {
        test,
        interval: time(check.interval_ms),
        timeout: time(check.timeout_ms),
        start_period: time(check.start_period_ms),
        start_interval: time(check.start_interval_ms),
        retries: check.retries,
    }
}

/// What is known of the health of a container, for the wire.
pub(super) fn to_wire(health: &Health) -> wire::Health {
    let status = match health.status {
        HealthStatus::Starting => wire::HealthStatus::Starting,
        HealthStatus::Healthy => wire::HealthStatus::Healthy,
        HealthStatus::Unhealthy => wire::HealthStatus::Unhealthy,
    };
    let probe = |probe: &Probe| wire::HealthProbe {
        started_at: Some(timestamp(from_unix_nanos(probe.started_at_ns))),
        ended_at: Some(timestamp(from_unix_nanos(probe.ended_at_ns))),
        exit_code: probe.exit_code,
        output: probe.output.clone(),
    };
    wire::Health {
        status: status.into(),
        failing_streak: health.failing_streak,
        log: health.log.iter().map(probe).collect(),
    }
}
