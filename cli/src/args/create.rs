//! The flags of `run` and `create`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use linkspan_proto::runtime_v1::{ContainerConfig, CreateContainerRequest, HostConfig};

use super::environment;
use super::health::HealthArguments;
use super::link;
use super::network;
use super::port;
use super::size;

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The name; one is made up if it is not given
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Connect to these streams only: stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM", value_parser = ["stdin", "stdout", "stderr", "STDIN", "STDOUT", "STDERR"])]
    pub(crate) attach: Vec<String>,
    /// Remove the container when it stops
    #[arg(long)]
    pub(crate) rm: bool,
    #[arg(
        short,
        long,
        value_name = "PORT",
        help = "Publish a port: [[IP:][HOSTPORT]:]PORT[/PROTOCOL], ranges allowed"
    )]
    pub(crate) publish: Vec<String>,
    /// Publish every exposed port on a random host port
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Expose a port or range to links
    #[arg(long, value_name = "PORT")]
    pub(crate) expose: Vec<String>,
    #[arg(
        long,
        value_name = "LINK",
        help = "Link to a container: NAME[:ALIAS][,env=all|none|PATTERN][,ports=PORT[+PORT]][,wait=started|port|healthy][,timeout=60s]"
    )]
    pub(crate) link: Vec<String>,
    /// A variable, NAME=VALUE, or NAME for the caller's value
    #[arg(short, long, value_name = "ENV")]
    pub(crate) env: Vec<String>,
    /// A variable that no link carries to others
    #[arg(long, value_name = "ENV")]
    pub(crate) env_private: Vec<String>,
    /// A file of variables
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    #[arg(short, long, help = "Run as USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// A group to add
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Replace the image's entry point
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// The host name
    #[arg(short = 'h', long)]
    pub(crate) hostname: Option<String>,
    /// The domain name
    #[arg(long)]
    pub(crate) domainname: Option<String>,
    /// A label, KEY=VALUE
    #[arg(short, long, value_name = "LABEL")]
    pub(crate) label: Vec<String>,
    /// A line for /etc/hosts, NAME:ADDRESS; the address host-gateway is the host
    #[arg(long, value_name = "HOST")]
    pub(crate) add_host: Vec<String>,
    /// A name server
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<String>,
    /// A search domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// A resolver option
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,
    #[arg(
        long,
        visible_alias = "net",
        value_name = "NETWORK",
        help = "A network; given again for each more: NAME, or name=NAME[,alias=NAME][,ip=ADDRESS][,ip6=ADDRESS]; or host, none, container:NAME"
    )]
    pub(crate) network: Vec<String>,
    /// A name by which members of the network find it
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub(crate) network_alias: Vec<String>,
    /// The IPv4 address to have
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<String>,
    /// The IPv6 address to have
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip6: Option<String>,
    /// The most memory, such as 512m
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// The most memory and swap; -1 means no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// The most CPU time, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<String>,
    /// Relative CPU weight
    #[arg(short, long, value_name = "NUMBER")]
    pub(crate) cpu_shares: Option<u64>,
    /// The CPUs to run on, such as 0-1
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// The most processes; -1 means no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// The size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
    /// Make the root filesystem read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    #[arg(
        long,
        value_name = "TMPFS",
        help = "An in-memory filesystem, PATH[:OPTIONS]"
    )]
    pub(crate) tmpfs: Vec<String>,
    /// A capability to add
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// A capability to drop
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<String>,
    /// no-new-privileges=false, seccomp=unconfined or profile=compat-docker
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Run a reaper as the first process
    #[arg(long)]
    pub(crate) init: bool,
    /// The signal that asks to stop
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds to wait before SIGKILL
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<i64>,
    #[command(flatten)]
    pub(crate) health: HealthArguments,
    /// Write the id to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// When to get a missing image: `missing` and `never` do the same until there is a registry client
    #[arg(long, value_name = "WHEN", value_parser = ["missing", "never"], default_value = "missing")]
    pub(crate) pull: String,
    /// Print less
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Not supported yet
    #[arg(short, long, value_name = "VOLUME", hide = true)]
    pub(crate) volume: Vec<String>,
    /// Not supported yet
    #[arg(long, value_name = "MOUNT", hide = true)]
    pub(crate) mount: Vec<String>,
    /// Not supported yet
    #[arg(long, value_name = "CONTAINER", hide = true)]
    pub(crate) volumes_from: Vec<String>,
    /// Not supported yet, but for `no`
    #[arg(long, value_name = "POLICY", hide = true)]
    pub(crate) restart: Option<String>,
    /// Not supported yet
    #[arg(long, hide = true)]
    pub(crate) privileged: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub(crate) help: Option<bool>,
    /// The image
    pub(crate) image: String,
    /// The command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

impl CreateArguments {
    /// Refuses what cannot be done yet, by name: a flag is never ignored.
    fn refuse_unsupported(&self) -> anyhow::Result<()> {
        for (given, flag) in [
            (!self.volume.is_empty(), "--volume"),
            (!self.mount.is_empty(), "--mount"),
            (!self.volumes_from.is_empty(), "--volumes-from"),
            (self.privileged, "--privileged"),
        ] {
            if given {
                bail!("{flag} is not supported yet; run without it");
            }
        }
        match self.restart.as_deref() {
            None | Some("no" | "") => Ok(()),
            Some(policy) => bail!(
                "--restart {policy} is not supported yet; run without it, or with --restart no"
            ),
        }
    }

    /// The request for the engine.
    pub(crate) fn to_request(&self) -> anyhow::Result<CreateContainerRequest> {
        self.refuse_unsupported()?;
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(environment::read_file(file)?);
        }
        env.extend(environment::entries(&self.env)?);
        let exposed_ports =
            port::parse_all(&self.expose, port::parse_expose).context("invalid --expose")?;
        let config = ContainerConfig {
            image: self.image.clone(),
            command: self.command.clone(),
            entrypoint: self
                .entrypoint
                .iter()
                .filter(|e| !e.is_empty())
                .cloned()
                .collect(),
            has_entrypoint: self.entrypoint.is_some(),
            env: environment::last_wins(env),
            private_env: environment::private(&self.env_private)?,
            working_dir: self.workdir.clone().unwrap_or_default(),
            user: self.user.clone().unwrap_or_default(),
            hostname: self.hostname.clone().unwrap_or_default(),
            domainname: self.domainname.clone().unwrap_or_default(),
            tty: self.tty,
            open_stdin: self.interactive,
            labels: self
                .label
                .iter()
                .map(|label| environment::label(label))
                .collect(),
            exposed_ports,
            stop_signal: self.stop_signal.clone().unwrap_or_default(),
            stop_timeout: self
                .stop_timeout
                .map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            health_check: self.health.to_check()?,
        };
        Ok(CreateContainerRequest {
            name: self.name.clone().unwrap_or_default(),
            config: Some(config),
            host_config: Some(self.host_config()?),
            request_id: String::new(),
            discard_on_start_failure: false,
        })
    }

    fn host_config(&self) -> anyhow::Result<HostConfig> {
        let bytes = |text: &Option<String>, flag: &str| match text {
            None => Ok(0),
            Some(text) => size::parse_bytes(text).with_context(|| format!("invalid {flag}")),
        };
        let (network_mode, networks) = network::of_container(
            &self.network,
            &self.network_alias,
            self.ip.as_deref(),
            self.ip6.as_deref(),
        )?;
        Ok(HostConfig {
            links: self
                .link
                .iter()
                .map(|text| link::parse(text))
                .collect::<Result<_, _>>()?,
            port_mappings: port::parse_all(&self.publish, port::parse_publish)
                .context("invalid --publish")?,
            publish_all_ports: self.publish_all,
            auto_remove: self.rm,
            extra_hosts: self.add_host.clone(),
            network_mode,
            networks,
            memory_bytes: bytes(&self.memory, "--memory")?,
            memory_swap_bytes: match self.memory_swap.as_deref() {
                Some("-1") => -1,
                _ => bytes(&self.memory_swap, "--memory-swap")?,
            },
            nano_cpus: match &self.cpus {
                None => 0,
                Some(text) => size::parse_nano(text).context("invalid --cpus")?,
            },
            pids_limit: self.pids_limit.unwrap_or(0),
            cpu_shares: self.cpu_shares.unwrap_or(0),
            cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
            read_only_rootfs: self.read_only,
            tmpfs: self
                .tmpfs
                .iter()
                .map(|text| text.split_once(':').unwrap_or((text, "")))
                .map(|(path, options)| (path.to_owned(), options.to_owned()))
                .collect(),
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            security_options: self.security_opt.clone(),
            group_add: self.group_add.clone(),
            shm_size_bytes: bytes(&self.shm_size, "--shm-size")?,
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
            init: self.init,
        })
    }
}
