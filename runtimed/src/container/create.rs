//! Makes a container from a request: validates, reserves the name, merges the image's
//! defaults, and makes it durable. All or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use linkspan_proto::time::unix_nanos;
use rustix::rand::{GetRandomFlags, getrandom};

use super::network::{self, NetworkMode};
use super::record::{Config, HostSettings, RECORD_VERSION, Record};
use super::{ContainerError, Handle, Result, View, actor, link, name, spec};
use crate::engine::Engine;
use crate::image::record::ImageRecord;
use crate::image::reference::Reference;

/// How often a made-up name may be taken before the id is the name.
const NAME_ATTEMPTS: u32 = 6;
/// The most that the environment of a container may hold.
const MAX_ENV_BYTES: usize = 1 << 20;

/// What a user asked for, decoded but not yet judged.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) config: Config,
    pub(crate) has_entrypoint: bool,
    pub(crate) host: HostSettings,
    pub(crate) request_id: String,
    pub(crate) discard_on_start_failure: bool,
}

/// A container that was made.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) handle: Handle,
    pub(crate) warnings: Vec<String>,
}

/// A request that was judged.
struct Planned {
    record: Record,
    /// Of each link; none for one that does not exist yet.
    sources: Vec<Option<Arc<View>>>,
    warnings: Vec<String>,
}

/// Makes a container.
pub(crate) async fn create(engine: &Arc<Engine>, request: Request) -> Result<Created> {
    if !request.request_id.is_empty()
        && let Some(handle) = engine.containers.by_request(&request.request_id)
    {
        return Ok(Created {
            handle,
            warnings: Vec::new(),
        });
    }
    let image = engine.images.find(&request.image)?;
    let mut known = Vec::new();
    if !network::is_plain(&request.host.networks) {
        known = engine.network.networks().await?;
        network::check_known(&request.host.networks, &known)?;
    }
    let Planned {
        record,
        sources,
        mut warnings,
    } = plan(engine, request, &image)?;
    // A run that would be refused is refused before anything is made.
    if record.discard_on_start_failure {
        let links = link::resolve(engine, &record);
        link::check_sources(&record, &links)?;
        link::check_health(&links)?;
    }
    warnings.extend(network::check_published(&record.host, &known));
    let links = record.host.links.iter().zip(&sources);
    warnings.extend(links.flat_map(|(link, source)| link::warnings(link, source.as_deref())));
    let record = reserve_name(engine, record)?;
    match make(engine, &record).await {
        Ok(()) => {}
        Err(error) => {
            engine.containers.forget(&record.id);
            return Err(error);
        }
    }
    let handle = actor::spawn(engine, record.clone());
    engine.containers.publish(&record.id, handle.clone());
    engine
        .containers
        .remember_request(&record.request_id, &record.id);
    let attributes = [("name", &record.name), ("image", &record.image)];
    let attributes = attributes
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).clone()))
        .collect();
    engine
        .events
        .send("container", "create", &record.id, attributes);
    Ok(Created { handle, warnings })
}

async fn make(engine: &Arc<Engine>, record: &Record) -> Result<()> {
    let record = record.clone();
    engine
        .blocking(move |engine| {
            let directory = engine.container_dir(&record.id);
            let make = || -> std::io::Result<()> {
                std::fs::create_dir(&directory)?;
                for name in ["upper", "work", "log"] {
                    std::fs::create_dir(directory.join(name))?;
                }
                Ok(())
            };
            make().map_err(|source| ContainerError::Files {
                act: format!("make `{}`", directory.display()),
                source,
            })?;
            Ok(engine.store.put_container(&record)?)
        })
        .await
}

/// Judges a request and fills in what the image gives. Pure but for the lookups of links.
fn plan(engine: &Engine, request: Request, image: &ImageRecord) -> Result<Planned> {
    let id = random_id()?;
    let reference = match request.image.parse::<Reference>() {
        Ok(reference)
            if engine
                .images
                .references_of(&image.id)
                .contains(&reference.to_string()) =>
        {
            reference.to_string()
        }
        _ => request.image.clone(),
    };
    let mut config = request.config;
    merge_image(&mut config, request.has_entrypoint, image);
    config.exposed = config
        .exposed
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let generated_name = request.name.is_empty();
    let mut record = Record {
        version: RECORD_VERSION,
        id,
        name: if generated_name {
            String::new()
        } else {
            name::parse(&request.name)?.to_owned()
        },
        generated_name,
        image: reference,
        image_id: image.id.clone(),
        lower_dirs: engine.images.lower_dirs(image),
        created_at_ns: unix_nanos(SystemTime::now()),
        config,
        host: request.host,
        request_id: request.request_id,
        discard_on_start_failure: request.discard_on_start_failure,
        last_run: None,
        error: String::new(),
        start_exit_code: 0,
        before_change: None,
        deleting: false,
    };
    let warnings = network::check_shared(&mut record)?;
    share_network(engine, &mut record)?;
    let mut links = std::mem::take(&mut record.host.links);
    let sources = links
        .iter_mut()
        .map(|link| link::judge(engine, &record, link))
        .collect::<Result<_>>()?;
    record.host.links = links;
    link::check_collisions(&record.host.links)?;
    validate(&record)?;
    Ok(Planned {
        record,
        sources,
        warnings,
    })
}

/// Finds whose network the container shares, and gives it that one's host name.
fn share_network(engine: &Engine, record: &mut Record) -> Result<()> {
    let mut owner = match &record.host.network_mode {
        NetworkMode::Networks => return Ok(()),
        NetworkMode::Host => {
            if record.config.hostname.is_empty() {
                let name = rustix::system::uname();
                record.config.hostname = name.nodename().to_string_lossy().into_owned();
            }
            return Ok(());
        }
        NetworkMode::Container(text) => engine.containers.find(text)?.view(),
    };
    while let NetworkMode::Container(id) = &owner.record.host.network_mode {
        owner = engine.containers.find(id)?.view();
    }
    owner
        .record
        .hostname()
        .clone_into(&mut record.config.hostname);
    record.host.network_mode = NetworkMode::Container(owner.record.id.clone());
    Ok(())
}

/// The user's word wins over the image's; an entry point of the user's drops the image's command.
fn merge_image(config: &mut Config, has_entrypoint: bool, image: &ImageRecord) {
    let defaults = &image.config;
    if !has_entrypoint {
        config.entrypoint.clone_from(&defaults.entrypoint);
        if config.command.is_empty() {
            config.command.clone_from(&defaults.command);
        }
    }
    let given: BTreeSet<String> = config
        .env
        .iter()
        .map(|e| variable_name(e).to_owned())
        .collect();
    config.env.extend(
        defaults
            .env
            .iter()
            .filter(|e| !given.contains(variable_name(e)))
            .cloned(),
    );
    for (mine, default) in [
        (&mut config.working_dir, &defaults.working_dir),
        (&mut config.user, &defaults.user),
        (&mut config.stop_signal, &defaults.stop_signal),
    ] {
        if mine.is_empty() {
            mine.clone_from(default);
        }
    }
    for (key, value) in &defaults.labels {
        config
            .labels
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    config.exposed.extend(&defaults.exposed);
    if config.health_check.is_none() {
        config.health_check.clone_from(&defaults.health_check);
    }
}

fn validate(record: &Record) -> Result<()> {
    let invalid = |what, rule: &str| {
        Err(ContainerError::Invalid {
            what,
            rule: rule.to_owned(),
        })
    };
    let config = &record.config;
    if record.args().is_empty() {
        return invalid("request", "no command was given, and the image has none");
    }
    if config
        .env
        .iter()
        .any(|entry| variable_name(entry).is_empty())
    {
        return invalid("environment", "a variable has no name");
    }
    if config.env.iter().map(String::len).sum::<usize>() > MAX_ENV_BYTES {
        return invalid("environment", "it is larger than 1 MiB");
    }
    let texts = config
        .env
        .iter()
        .chain(&config.command)
        .chain(&config.entrypoint);
    if texts
        .chain([&config.user, &config.working_dir])
        .any(|text| text.contains('\0'))
    {
        return invalid("request", "a text has a zero byte");
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return invalid("working directory", "it must begin with `/`");
    }
    validate_names(record)?;
    if !config.stop_signal.is_empty() && super::convert::parse_signal(&config.stop_signal).is_none()
    {
        return Err(ContainerError::Invalid {
            what: "stop signal",
            rule: format!("`{}` is no signal", config.stop_signal),
        });
    }
    spec::security(record)?;
    Ok(())
}

/// Every text that ends up in a hosts file or a resolver configuration.
fn validate_names(record: &Record) -> Result<()> {
    let invalid = |what, rule: &str| {
        Err(ContainerError::Invalid {
            what,
            rule: rule.to_owned(),
        })
    };
    let config = &record.config;
    let hostname_character = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    for hostname in [&config.hostname, &config.domainname] {
        if hostname.len() > 63 || !hostname.bytes().all(hostname_character) {
            return invalid(
                "host name",
                "it must have at most 63 letters, digits, `.`, `_` and `-`",
            );
        }
    }
    for domain in &record.host.dns_search {
        if domain.len() > 253 || !domain.bytes().all(hostname_character) {
            return invalid("--dns-search", "it is no domain name");
        }
    }
    for option in &record.host.dns_options {
        if !option
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b))
        {
            return invalid(
                "--dns-option",
                "see resolv.conf(5) for the options that exist",
            );
        }
    }
    for server in &record.host.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(ContainerError::Invalid {
                what: "--dns",
                rule: format!("`{server}` is no IP address"),
            });
        }
    }
    for entry in &record.host.extra_hosts {
        super::files::extra_host(entry, "127.0.0.1")?;
    }
    Ok(())
}

fn reserve_name(engine: &Engine, mut record: Record) -> Result<Record> {
    if !record.generated_name {
        let reserved = engine.containers.reserve(&record.name, &record.id);
        return match reserved {
            Ok(()) => Ok(record),
            Err(holder) => Err(name_in_use(&record.name, &holder)),
        };
    }
    for attempt in 0..NAME_ATTEMPTS {
        record.name = name::generate(random()?, attempt);
        if engine.containers.reserve(&record.name, &record.id).is_ok() {
            return Ok(record);
        }
    }
    record.name = record.short_id().to_owned();
    match engine.containers.reserve(&record.name, &record.id) {
        Ok(()) => Ok(record),
        Err(holder) => Err(name_in_use(&record.name, &holder)),
    }
}

/// The error for a name that is taken.
pub(crate) fn name_in_use(name: &str, holder: &str) -> ContainerError {
    let holder = holder.get(..12).unwrap_or(holder).to_owned();
    ContainerError::NameInUse {
        name: name.to_owned(),
        holder,
    }
}

fn variable_name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// 64 random hexadecimal digits. The first twelve, which people see, never look like a
/// number: some programs take such a host name for an address.
pub(crate) fn random_id() -> Result<String> {
    loop {
        let mut id = String::new();
        for _ in 0..4 {
            id.push_str(&format!("{:016x}", random()?));
        }
        if id
            .get(..12)
            .is_some_and(|short| short.bytes().any(|b| b.is_ascii_alphabetic()))
        {
            return Ok(id);
        }
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|e| ContainerError::Files {
        act: "get random bytes".to_owned(),
        source: e.into(),
    })?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::record::ImageConfig;

    fn image() -> ImageRecord {
        ImageRecord {
            version: 1,
            id: "sha256:0".to_owned(),
            created_at_ns: 0,
            size_bytes: 0,
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            config: ImageConfig {
                env: vec!["A=image".to_owned(), "B=image".to_owned()],
                entrypoint: vec!["entry".to_owned()],
                command: vec!["default".to_owned()],
                exposed: vec!["80".parse().unwrap()],
                ..ImageConfig::default()
            },
            layers: Vec::new(),
        }
    }

    #[test]
    fn the_users_word_wins_over_the_images() {
        let mut config = Config {
            env: vec!["A=mine".to_owned()],
            ..Config::default()
        };
        merge_image(&mut config, false, &image());
        assert_eq!(config.env, ["A=mine", "B=image"]);
        assert_eq!(
            (config.entrypoint.as_slice(), config.command.as_slice()),
            (&["entry".to_owned()][..], &["default".to_owned()][..])
        );
        let mut config = Config {
            entrypoint: vec!["mine".to_owned()],
            ..Config::default()
        };
        merge_image(&mut config, true, &image());
        assert_eq!(config.entrypoint, ["mine"]);
        assert!(config.command.is_empty());
    }

    #[test]
    fn an_id_has_64_digits_and_does_not_look_like_a_number() {
        let id = random_id().unwrap();
        assert_eq!(id.len(), 64);
        assert!(id[..12].bytes().any(|b| b.is_ascii_alphabetic()));
    }
}
