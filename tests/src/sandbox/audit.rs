//! What must be as it was once COMMAND has ended and its containers are removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::events::Events;
use super::{cgroup, world};

/// How long the engine may take to clean up.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often to look: nothing announces most of what is looked at.
const INTERVAL: Duration = Duration::from_millis(25);

/// Directories with an entry for each container, or for each load that goes on.
const EMPTY: [&str; 4] = [
    "/run/linkspan/containers",
    "/run/linkspan/netns",
    "/var/lib/linkspan/containers",
    "/var/lib/linkspan/images/tmp",
];
/// What changes in a ruleset although nobody changed it.
const VOLATILE: [&str; 6] = [
    "handle", "packets", "bytes", "expires", "counter", "metainfo",
];

/// How often each thing was there before COMMAND.
type Census = BTreeMap<String, usize>;

/// What was there before COMMAND.
#[derive(Debug)]
pub(super) struct Baseline {
    group: String,
    mounts: Census,
    interfaces: Census,
    ruleset: Census,
}

impl Baseline {
    /// Looks at the sandbox as it is now.
    pub(super) fn record(group: &str) -> anyhow::Result<Self> {
        Ok(Self {
            group: group.to_owned(),
            mounts: mounts()?,
            interfaces: census(world::interfaces()?),
            ruleset: ruleset()?,
        })
    }

    fn findings(&self, events: &Events) -> anyhow::Result<Vec<String>> {
        let mut found = processes(events)?;
        found.extend(more("mount", &self.mounts, &mounts()?));
        found.extend(more(
            "interface",
            &self.interfaces,
            &census(world::interfaces()?),
        ));
        let ruleset = ruleset()?;
        found.extend(more("nftables object", &self.ruleset, &ruleset));
        found.extend(more("lost nftables object", &ruleset, &self.ruleset));
        for directory in cgroup::children(&self.group) {
            found.push(format!("control group {}", directory.display()));
        }
        for directory in EMPTY {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                found.push(format!("file {}", entry.path().display()));
            }
        }
        Ok(found)
    }
}

/// Waits until nothing is left, and tells what is left at the deadline.
pub(super) fn settle(events: &mut Events, baseline: &Baseline) -> anyhow::Result<Vec<String>> {
    let mut last = Vec::new();
    events.wait_until(DEADLINE, Some(INTERVAL), |events| {
        last = baseline.findings(events)?;
        Ok(last.is_empty())
    })?;
    Ok(last)
}

/// Processes other than this one and the daemons.
fn processes(events: &Events) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list the processes")? {
        let entry = entry?;
        let Ok(process) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let is_daemon = |pid: i32| {
            let mut daemons = events.daemons.iter();
            daemons.any(|daemon| daemon.process.is_some_and(|own| own.as_raw() == pid))
        };
        if process == 1 || is_daemon(process) {
            continue;
        }
        // It may end while it is looked at.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let state: String = stat.chars().take(60).collect();
        found.push(format!("process {state} {}", command.trim()));
    }
    Ok(found)
}

fn mounts() -> anyhow::Result<Census> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("list the mounts")?;
    Ok(census(text.lines().map(|line| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        let kind = line
            .split(" - ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        format!("{point} ({})", kind.unwrap_or_default())
    })))
}

/// Every object of the ruleset, without what changes by itself.
fn ruleset() -> anyhow::Result<Census> {
    let program = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(program) = program else {
        return Ok(Census::new());
    };
    let output = Command::new(program)
        .args(["--json", "list", "ruleset"])
        .output()
        .context("list the ruleset")?;
    anyhow::ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let mut parsed: Value = serde_json::from_slice(&output.stdout).context("read the ruleset")?;
    normalize(&mut parsed);
    let mut objects = Vec::new();
    for object in parsed["nftables"].as_array().into_iter().flatten() {
        let mut object = object.clone();
        // An element is a finding of its own, not its whole set.
        for kind in ["set", "map"] {
            let Some(set) = object.get_mut(kind).and_then(Value::as_object_mut) else {
                continue;
            };
            let name = set.get("name").cloned().unwrap_or_default();
            if let Some(Value::Array(elements)) = set.remove("elem") {
                objects.extend(
                    elements
                        .iter()
                        .map(|element| format!("{name} element {element}")),
                );
            }
        }
        objects.push(object.to_string());
    }
    Ok(census(objects))
}

fn normalize(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !VOLATILE.contains(&name.as_str()));
            fields.values_mut().for_each(normalize);
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        _ => {}
    }
}

fn census(things: impl IntoIterator<Item = String>) -> Census {
    let mut census = Census::new();
    for thing in things {
        *census.entry(thing).or_default() += 1;
    }
    census
}

/// What is there more often than before.
fn more(kind: &str, before: &Census, after: &Census) -> Vec<String> {
    after
        .iter()
        .filter(|(thing, count)| **count > before.get(*thing).copied().unwrap_or_default())
        .map(|(thing, _)| format!("{kind} {thing}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_that_is_there_twice_is_found() {
        let before = census(["a".to_owned(), "b".to_owned()]);
        let after = census(["a".to_owned(), "a".to_owned()]);
        assert_eq!(more("thing", &before, &after), ["thing a"]);
        assert_eq!(more("lost thing", &after, &before), ["lost thing b"]);
    }

    #[test]
    fn counters_and_handles_do_not_count() {
        let mut one =
            serde_json::json!({"rule": {"handle": 4, "expr": [{"counter": {"packets": 1}}]}});
        let mut other = serde_json::json!({"rule": {"handle": 5, "expr": [{}]}});
        normalize(&mut one);
        normalize(&mut other);
        assert_eq!(one, other);
    }
}
