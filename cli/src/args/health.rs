//! The flags of `run` and `create` about the health of a container.

use anyhow::{Context, bail};
use clap::Args;
use linkspan_proto::runtime_v1::HealthCheck;

use super::link::duration;

#[derive(Debug, Args)]
pub(crate) struct HealthArguments {
    /// A command for a shell in the container, which succeeds while it is healthy
    #[arg(long, value_name = "COMMAND")]
    pub(crate) health_cmd: Option<String>,
    /// How long after a result it is run again, such as 30s
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_interval: Option<String>,
    /// How long it may take, such as 30s
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_timeout: Option<String>,
    /// How many failures in a row make a container unhealthy
    #[arg(long, value_name = "NUMBER")]
    pub(crate) health_retries: Option<u32>,
    /// How long failures at the start do not count
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_start_period: Option<String>,
    /// The interval while that lasts
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_start_interval: Option<String>,
    /// Take the image's health check away
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
}

impl HealthArguments {
    /// The health check; none means the image's.
    pub(crate) fn to_check(&self) -> anyhow::Result<Option<HealthCheck>> {
        let times = [
            ("--health-interval", &self.health_interval),
            ("--health-timeout", &self.health_timeout),
            ("--health-start-period", &self.health_start_period),
            ("--health-start-interval", &self.health_start_interval),
        ];
        let given = times.iter().find(|(_, text)| text.is_some());
        let given = given.map(|(flag, _)| *flag);
        let given = given.or(self.health_retries.map(|_| "--health-retries"));
        let test = match (&self.health_cmd, self.no_healthcheck) {
            (Some(_), true) => bail!("--health-cmd and --no-healthcheck exclude each other"),
            (Some(command), false) => vec!["CMD-SHELL".to_owned(), command.clone()],
            (None, true) => vec!["NONE".to_owned()],
            (None, false) => match given {
                None => return Ok(None),
                Some(flag) => bail!("{flag} needs a command: --health-cmd COMMAND"),
            },
        };
        let [interval, timeout, start_period, start_interval] = times.map(|(flag, text)| {
            let parsed = text.as_deref().map(duration).transpose();
            parsed.with_context(|| format!("invalid {flag}"))
        });
        Ok(Some(HealthCheck {
            test,
            interval: interval?,
            timeout: timeout?,
            start_period: start_period?,
            start_interval: start_interval?,
            retries: self.health_retries.unwrap_or(0),
        }))
    }
}
