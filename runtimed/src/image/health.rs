//! The health check in the configuration of an image: an extension of Docker's that the OCI
//! image specification does not have. Pure.

use serde::Deserialize;

use crate::container::ContainerError;
use crate::container::health::HealthCheck;

/// The parts of a configuration that are read here; times are nanoseconds.
#[derive(Debug, Deserialize)]
struct Configuration {
    config: Option<Settings>,
}

#[derive(Debug, Deserialize)]
struct Settings {
    #[serde(rename = "Healthcheck")]
    health_check: Option<Docker>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Docker {
    test: Option<Vec<String>>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

/// The health check of a configuration that is valid otherwise.
pub(super) fn of(bytes: &[u8]) -> Result<Option<HealthCheck>, ContainerError> {
    let refused = |rule: String| ContainerError::Invalid {
        what: "health check",
        rule,
    };
    let found: Configuration =
        serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
    let Some(docker) = found.config.and_then(|config| config.health_check) else {
        return Ok(None);
    };
    let ms = |nanoseconds: i64| {
        u64::try_from(nanoseconds)
            .map(|nanoseconds| nanoseconds.div_ceil(1_000_000))
            .map_err(|_negative| refused("a time is negative".to_owned()))
    };
    let check = HealthCheck {
        command: HealthCheck::command_of(docker.test.unwrap_or_default())?,
        interval_ms: ms(docker.interval)?,
        timeout_ms: ms(docker.timeout)?,
        start_period_ms: ms(docker.start_period)?,
        start_interval_ms: ms(docker.start_interval)?,
        retries: u32::try_from(docker.retries)
            .map_err(|_negative| refused("the number of retries cannot be".to_owned()))?,
    };
    check.validate()?;
    Ok(Some(check))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_is_read_as_docker_writes_it() {
        let text = br#"{"config":{"Healthcheck":{"Test":["CMD-SHELL","true"],
            "Interval":5000000000,"Retries":2}}}"#;
        let check = of(text).unwrap().unwrap();
        assert_eq!(check.command, ["/bin/sh", "-c", "true"]);
        assert_eq!(
            (check.interval_ms, check.retries, check.timeout_ms),
            (5000, 2, 0)
        );
        for none in [&br#"{"config":{}}"#[..], b"{}", br#"{"config":null}"#] {
            assert_eq!(of(none).unwrap(), None);
        }
    }

    #[test]
    fn times_and_commands_that_cannot_be_are_refused() {
        for bad in [
            &br#"{"config":{"Healthcheck":{"Test":["CMD","x"],"Interval":-1}}}"#[..],
            br#"{"config":{"Healthcheck":{"Test":["CMD","x"],"Interval":1}}}"#,
            br#"{"config":{"Healthcheck":{"Test":["BOGUS"]}}}"#,
            br#"{"config":{"Healthcheck":{"Test":["CMD","x"],"Retries":-1}}}"#,
        ] {
            of(bad).unwrap_err();
        }
    }
}
