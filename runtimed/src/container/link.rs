//! Links of a container: judged when they are asked for, resolved whenever they are used.
//!
//! A link is kept by the name of its source. [`judge`] turns what a user wrote into that
//! name and refuses what collides; [`resolve`] finds who has the name now.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::environment::{LinkSource, crosses, looks_secret, prefix};
use super::network::{NetworkConfig, NetworkMode};
use super::record::{Addresses, HostsLine, Link, LinkWait, Record};
use super::state::State;
use super::{ContainerError, Result, View, hosts};
use crate::engine::Engine;
use crate::port::Port;

/// The longest alias: that of a DNS label.
const MAX_ALIAS: usize = 63;

/// The source of a link as it is now.
#[derive(Debug)]
pub(crate) struct ResolvedLink {
    pub(crate) link: Link,
    pub(crate) source: Option<Arc<View>>,
    /// The networks of the consumer, in its order.
    networks: Vec<String>,
    /// The source is down and has, itself or by others, a link back to the consumer: if
    /// each waited for the other, neither could ever start.
    cyclic: bool,
}

impl ResolvedLink {
    /// The addresses that the source has now, on the first network of the consumer that it
    /// is on as well.
    pub(crate) fn current(&self) -> Option<Addresses> {
        let run = self.source.as_ref()?.run.as_ref()?;
        self.on_networks(|network| run.addresses_on(network))
    }

    /// Whether the source runs.
    pub(crate) fn source_runs(&self) -> bool {
        self.source.as_ref().is_some_and(|view| view.run.is_some())
    }

    /// Those, or the ones that are leased to its name.
    fn known(&self) -> Option<Addresses> {
        let last = || {
            let last = self.source.as_ref()?.record.last_run.as_ref()?;
            self.on_networks(|network| last.addresses_on(network))
        };
        self.current().or_else(last)
    }

    fn on_networks(&self, find: impl Fn(&str) -> Option<Addresses>) -> Option<Addresses> {
        self.networks.iter().find_map(|network| find(network))
    }

    /// Whether a start is to wait for the source.
    pub(crate) fn waits(&self) -> bool {
        self.link.wait != LinkWait::Nothing && !self.cyclic
    }

    /// The lines for the hosts file; none while the source is down.
    pub(crate) fn hosts_lines(&self) -> Vec<HostsLine> {
        match (&self.source, self.current()) {
            (Some(source), Some(addresses)) => {
                let record = &source.record;
                hosts::link_lines(&self.link.alias, record.hostname(), &record.name, addresses)
            }
            _ => Vec::new(),
        }
    }

    /// The ports that the link opens: its own, or all that the source exposes.
    pub(crate) fn ports(&self) -> Vec<Port> {
        match (&self.source, self.link.ports.as_slice()) {
            (Some(source), []) => source.record.exposed(),
            (_, ports) => ports.to_vec(),
        }
    }

    /// What it carries into the environment; none while nobody has the source's name.
    pub(crate) fn carried(&self) -> Option<LinkSource<'_>> {
        let source = &self.source.as_ref()?.record;
        Some(LinkSource {
            link: &self.link,
            addresses: self.known(),
            ports: self.ports(),
            env: source.shareable_env().collect(),
        })
    }
}

/// Looks up the sources of all links of a container.
pub(crate) fn resolve(engine: &Engine, record: &Record) -> Vec<ResolvedLink> {
    let resolve = |link: &Link| {
        let handle = engine.containers.by_name(&link.source);
        let source = handle.map(|handle| handle.view());
        let down = source.as_ref().is_some_and(|view| view.run.is_none());
        ResolvedLink {
            networks: network_names(record),
            link: link.clone(),
            cyclic: down && leads_to(engine, &link.source, &record.name),
            source,
        }
    };
    record.host.links.iter().map(resolve).collect()
}

/// Whether a container has a link to another, itself or by those that it has links to.
fn leads_to(engine: &Engine, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut left = vec![from.to_owned()];
    while let Some(name) = left.pop() {
        if name == to {
            return true;
        }
        if let Some(handle) = engine.containers.by_name(&name)
            && seen.insert(name)
        {
            let view = handle.view();
            left.extend(
                view.record
                    .host
                    .links
                    .iter()
                    .map(|link| link.source.clone()),
            );
        }
    }
    false
}

/// Refuses a start while a source is down for which nobody said to wait. Among containers
/// that have links to each other, any may start first.
pub(crate) fn check_sources(record: &Record, links: &[ResolvedLink]) -> Result<()> {
    if let Some(apart) = links
        .iter()
        .find(|link| link.source_runs() && link.current().is_none())
    {
        return Err(no_common_network(record, &apart.link));
    }
    let refuses = |link: &&ResolvedLink| {
        link.current().is_none() && link.link.wait == LinkWait::Nothing && !link.cyclic
    };
    match links.iter().find(refuses) {
        None => Ok(()),
        Some(down) => Err(ContainerError::LinkSourceDown {
            consumer: consumer(record),
            alias: down.link.alias.clone(),
            source_name: down.link.source.clone(),
        }),
    }
}

fn network_names(record: &Record) -> Vec<String> {
    let networks = record.host.networks.iter();
    networks.map(|config| config.network.clone()).collect()
}

fn no_common_network(consumer: &Record, link: &Link) -> ContainerError {
    ContainerError::LinkNoCommonNetwork {
        consumer: self::consumer(consumer),
        source_name: link.source.clone(),
    }
}

/// Refuses to wait for the health of a source that has no health check.
pub(crate) fn check_health(links: &[ResolvedLink]) -> Result<()> {
    let is_unknown = |link: &&ResolvedLink| {
        let check = |view: &Arc<View>| view.record.config.health_check.clone();
        let source = link.source.as_ref();
        link.link.wait == LinkWait::Healthy
            && source.is_some_and(|view| check(view).is_none_or(|check| check.command.is_empty()))
    };
    match links.iter().find(is_unknown) {
        None => Ok(()),
        Some(link) => Err(ContainerError::Invalid {
            what: "link",
            rule: format!(
                "it waits for `{}` to be healthy, which has no health check; give it one with --health-cmd, or wait=port",
                link.link.source
            ),
        }),
    }
}

/// A container as a sentence names it, which may have no name yet.
pub(crate) fn consumer(record: &Record) -> String {
    match record.name.as_str() {
        "" => "the container".to_owned(),
        name => format!("`{name}`"),
    }
}

/// Replaces what names a source by its name, and an empty alias by that name. Gives the
/// source; none for one that does not exist yet, which a link that waits may name. A source
/// that shares the network of another container stands for that one.
pub(crate) fn judge(
    engine: &Engine,
    consumer: &Record,
    link: &mut Link,
) -> Result<Option<Arc<View>>> {
    let source_name = link.source.clone();
    let found = match engine.containers.find(&source_name) {
        Ok(handle) => Some(handle.view()),
        Err(ContainerError::NotFound { .. }) if link.wait != LinkWait::Nothing => {
            super::name::parse(&source_name)?;
            None
        }
        Err(ContainerError::NotFound { .. }) => {
            return Err(ContainerError::LinkSourceMissing { source_name });
        }
        Err(other) => return Err(other),
    };
    let found = match found {
        Some(view) => Some(with_own_network(engine, view)?),
        None => None,
    };
    if let Some(view) = &found {
        link.source.clone_from(&view.record.name);
        let shared = |config: &NetworkConfig| is_on(&view.record, &config.network);
        if !consumer.host.networks.iter().any(shared) {
            return Err(no_common_network(consumer, link));
        }
    }
    if link.alias.is_empty() {
        link.alias.clone_from(&link.source);
    }
    link.ports.sort_unstable();
    link.ports.dedup();
    validate_alias("link", &link.alias)?;
    Ok(found)
}

/// The container behind one that shares the network of another.
fn with_own_network(engine: &Engine, view: Arc<View>) -> Result<Arc<View>> {
    let lacking = |owner: &str| {
        Err(ContainerError::Invalid {
            what: "link",
            rule: format!(
                "`{}` has {owner}; a source needs a network of its own",
                view.record.name
            ),
        })
    };
    match &view.record.host.network_mode {
        NetworkMode::Networks if view.record.host.networks.is_empty() => lacking("no network"),
        NetworkMode::Networks => Ok(view),
        NetworkMode::Host => lacking("the network of the host"),
        NetworkMode::Container(id) => with_own_network(engine, engine.containers.find(id)?.view()),
    }
}

fn is_on(record: &Record, network: &str) -> bool {
    let mut networks = record.host.networks.iter();
    networks.any(|config| config.network == network)
}

/// Refuses two links whose aliases give the same variables.
pub(crate) fn check_collisions(links: &[Link]) -> Result<()> {
    for (position, link) in links.iter().enumerate() {
        let collides = |other: &&Link| prefix(&other.alias) == prefix(&link.alias);
        if let Some(first) = links.iter().take(position).find(collides) {
            return Err(ContainerError::LinkConflict {
                first: format!("{}:{}", first.source, first.alias),
                second: format!("{}:{}", link.source, link.alias),
                prefix: prefix(&link.alias),
            });
        }
    }
    Ok(())
}

/// What the user should know about a link: secrets that cross, a source that is down.
pub(crate) fn warnings(link: &Link, source: Option<&View>) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(source) = source else {
        return warnings;
    };
    let secret: Vec<&str> = source
        .record
        .shareable_env()
        .map(|(name, _)| name)
        .filter(|name| crosses(&link.env, name) && looks_secret(name))
        .collect();
    if !secret.is_empty() {
        warnings.push(format!(
            "link `{}` shows what looks like a secret of `{}` to this container: {}; \
             use --link {}:{},env=none, or give it to `{}` with --env-private",
            link.alias,
            link.source,
            secret.join(", "),
            link.source,
            link.alias,
            link.source
        ));
    }
    if source.state != State::Running && link.wait == LinkWait::Nothing {
        warnings.push(format!(
            "link `{}`: `{}` is {}; start it before this container",
            link.alias,
            link.source,
            source.state.word()
        ));
    }
    warnings
}

/// Refuses a name that cannot stand in a hosts file or be asked for.
pub(crate) fn validate_alias(what: &'static str, alias: &str) -> Result<()> {
    let valid = alias.len() <= MAX_ALIAS
        && alias
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && alias
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !alias.eq_ignore_ascii_case("localhost");
    if valid {
        return Ok(());
    }
    Err(ContainerError::Invalid {
        what,
        rule: format!(
            "the alias `{}` must have 1 to {MAX_ALIAS} letters, digits, `_`, `.` and `-`, begin with a letter or digit, and not be localhost",
            alias.escape_default()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_a_host_name() {
        for bad in ["", "a b", "a\nb", "a/b", "-a", "localhost", &"x".repeat(64)] {
            assert!(validate_alias("link", bad).is_err(), "{bad:?}");
        }
        validate_alias("link", "webdb").unwrap();
    }

    /// B16: aliases that give one prefix never meet.
    #[test]
    fn aliases_that_give_one_prefix_collide_and_both_are_named() {
        let link = |alias: &str| Link {
            source: "db".to_owned(),
            alias: alias.to_owned(),
            ..Link::default()
        };
        check_collisions(&[link("db"), link("db2")]).unwrap();
        let error = check_collisions(&[link("db-1"), link("DB_1")]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("db:db-1") && text.contains("db:DB_1"),
            "{text}"
        );
    }
}
