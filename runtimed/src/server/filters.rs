//! The filters of `ps`: which containers a list shows. Pure.

use crate::container::View;
use crate::container::network::{NO_NETWORK, NetworkMode};
use crate::container::state::State;
use crate::port::Port;

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("invalid filter `{text}`: expected NAME=VALUE")]
    Form { text: String },
    #[error(
        "unknown filter `{key}`: known are ancestor, before, exited, expose, health, id, label, link, name, network, publish, since and status"
    )]
    Key { key: String },
    #[error("invalid filter `{key}={value}`: {rule}")]
    Value {
        key: String,
        value: String,
        rule: &'static str,
    },
}

/// Filters; those of one key widen, those of different keys narrow. Labels always narrow.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<(String, String)>);

const KEYS: [&str; 13] = [
    "ancestor", "before", "exited", "expose", "health", "id", "label", "link", "name", "network",
    "publish", "since", "status",
];
const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];
const STATUSES: [&str; 6] = ["created", "running", "paused", "stopped", "exited", "dead"];

impl Filters {
    pub(crate) fn parse(texts: &[String]) -> Result<Self, FilterError> {
        let mut filters = Vec::new();
        for text in texts {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| FilterError::Form { text: text.clone() })?;
            if !KEYS.contains(&key) {
                return Err(FilterError::Key {
                    key: key.to_owned(),
                });
            }
            let invalid = |rule| FilterError::Value {
                key: key.to_owned(),
                value: value.to_owned(),
                rule,
            };
            if key == "status" && !STATUSES.contains(&value) {
                return Err(invalid("it is no state of a container"));
            }
            if key == "health" && !HEALTHS.contains(&value) {
                return Err(invalid(
                    "it is none of starting, healthy, unhealthy and none",
                ));
            }
            if key == "exited" && value.parse::<i32>().is_err() {
                return Err(invalid("it is no number"));
            }
            if (key == "publish" || key == "expose") && value.parse::<Port>().is_err() {
                return Err(invalid("it is no port"));
            }
            filters.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self(filters))
    }

    /// Whether a filter asks for a state, so that those that do not run are listed, too.
    pub(crate) fn names_a_state(&self) -> bool {
        self.0.iter().any(|(key, _)| key == "status")
    }

    /// Whether a container is shown. `created_at` gives the time of another container.
    pub(crate) fn admit(&self, view: &View, created_at: impl Fn(&str) -> Option<i64>) -> bool {
        KEYS.iter().all(|key| {
            let mut values = self
                .0
                .iter()
                .filter(|(k, _)| k == key)
                .map(|(_, v)| v.as_str())
                .peekable();
            let matches = |value: &str| matches(view, key, value, &created_at);
            match *key {
                "label" => values.all(matches),
                _ => values.peek().is_none() || values.any(matches),
            }
        })
    }
}

fn matches(view: &View, key: &str, value: &str, created_at: &impl Fn(&str) -> Option<i64>) -> bool {
    let record = &view.record;
    let last = record.last_run.as_ref();
    match key {
        "ancestor" => {
            record.image == value
                || record.image.strip_suffix(":latest") == Some(value)
                || record
                    .image_id
                    .trim_start_matches("sha256:")
                    .starts_with(value.trim_start_matches("sha256:"))
        }
        "before" => created_at(value).is_some_and(|time| record.created_at_ns < time),
        "since" => created_at(value).is_some_and(|time| record.created_at_ns > time),
        "exited" => {
            view.state == State::Stopped
                && last.is_some_and(|run| run.exit_code.to_string() == value)
        }
        "expose" => value
            .parse::<Port>()
            .is_ok_and(|port| record.exposed().contains(&port)),
        "publish" => value.parse::<Port>().is_ok_and(|port| {
            let held = |m: &crate::container::record::PortMapping| {
                m.host_port == port.number && m.container.protocol == port.protocol
            };
            let run = view.run.as_ref();
            run.is_some_and(|run| run.published().iter().any(held))
        }),
        "health" => {
            view.health
                .as_ref()
                .map_or("none", |health| health.status.word())
                == value
        }
        "id" => record.id.starts_with(value),
        "label" => match value.split_once('=') {
            Some((key, value)) => record.config.labels.get(key).is_some_and(|v| v == value),
            None => record.config.labels.contains_key(value),
        },
        "link" => record
            .host
            .links
            .iter()
            .any(|link| link.source == value || link.alias == value),
        "name" => record
            .name
            .contains(value.trim_start_matches(['^', '/']).trim_end_matches('$')),
        "network" => {
            let mut networks = record.host.networks.iter();
            let has_none = networks.len() == 0 && value == NO_NETWORK;
            networks.any(|config| config.network == value)
                || has_none && record.host.network_mode == NetworkMode::Networks
                || record.host.network_mode.word() == value
        }
        "status" => match view.state {
            State::Created => value == "created",
            State::Running => value == "running",
            State::Stopped => value == "stopped" || value == "exited",
            State::Deleting => value == "dead",
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    fn view() -> View {
        View {
            record: record("web"),
            run: None,
            state: State::Created,
            health: None,
            ended_runs: 0,
            removed: false,
        }
    }

    fn admits(texts: &[&str]) -> bool {
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        Filters::parse(&texts).unwrap().admit(&view(), |_| Some(1))
    }

    #[test]
    fn one_key_widens_and_different_keys_narrow() {
        assert!(admits(&["name=nope", "name=web"]));
        assert!(!admits(&["name=web", "status=running"]));
        assert!(admits(&["status=created", "before=x", "ancestor=busybox"]));
        assert!(!admits(&["label=a"]));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for text in [
            "bogus=1",
            "status=bogus",
            "noequals",
            "exited=x",
            "publish=abc",
        ] {
            assert!(Filters::parse(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
