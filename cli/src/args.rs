//! The command line: types for clap, and parsers for the texts in them. No behaviour.

pub(crate) mod create;
pub(crate) mod environment;
pub(crate) mod health;
pub(crate) mod link;
pub(crate) mod live;
pub(crate) mod network;
pub(crate) mod port;
pub(crate) mod size;

use clap::{Args, Parser, Subcommand};

use self::create::CreateArguments;
use self::live::{ExplainArguments, LinkArguments, PortArguments};
use self::network::NetworkArguments;

/// Containers that find each other over links, closed to everyone else.
#[derive(Debug, Parser)]
#[command(
    name = "linkspan",
    version,
    propagate_version = false,
    subcommand_required = true
)]
pub(crate) struct Arguments {
    /// The engine to talk to, as unix:///PATH; also LINKSPAN_HOST
    #[arg(short = 'H', long, global = true, value_name = "URL")]
    pub(crate) host: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create and start a container
    #[command(disable_help_flag = true)]
    Run(Box<RunArguments>),
    /// Create a container
    #[command(disable_help_flag = true)]
    Create(Box<CreateArguments>),
    /// Start containers
    Start(StartArguments),
    /// Stop containers
    Stop(StopArguments),
    /// Stop containers and start them again
    Restart(StopArguments),
    /// Send a signal to containers
    Kill(KillArguments),
    /// Remove containers
    Rm(RemoveArguments),
    /// List containers
    Ps(PsArguments),
    /// Show all about containers, images or networks, as JSON
    Inspect(InspectArguments),
    /// Show what a container wrote
    Logs(LogsArguments),
    /// Run a command in a running container
    Exec(ExecArguments),
    /// Connect the terminal to a running container
    Attach(AttachArguments),
    /// Wait until containers stop, and print their exit codes
    Wait(Names),
    /// Give a container another name
    Rename(RenameArguments),
    /// List the published ports of a container, or change them: ls, add, rm, mv, who
    Port(PortArguments),
    /// Links as live objects: add, rm, ls, inspect
    Link(LinkArguments),
    /// Networks: create, rm, ls, inspect, connect, disconnect, prune
    Network(NetworkArguments),
    /// Tell whether a connection would be made, and why
    Explain(ExplainArguments),
    /// List images
    Images(ImagesArguments),
    /// Load images from an archive of docker save or an OCI layout
    Load(LoadArguments),
    /// Make an image from the archive of a root filesystem
    Import(ImportArguments),
    /// Give an image another reference
    Tag(TagArguments),
    /// Remove images
    Rmi(RmiArguments),
    /// Show what happens, as it happens
    Events(EventsArguments),
    /// Show the versions of the command and the engine
    Version(FormatArguments),
    /// Show the state of the engine
    Info(FormatArguments),
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Run in the background and print the id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// The keys that leave the session
    #[arg(long, value_name = "KEYS", default_value = crate::terminal::DEFAULT_DETACH_KEYS)]
    pub(crate) detach_keys: String,
    /// Pass signals on to the process
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sig_proxy: bool,
    #[command(flatten)]
    pub(crate) create: CreateArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names, ids or id prefixes
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    /// Connect the terminal
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Connect standard input, too
    #[arg(short, long)]
    pub(crate) interactive: bool,
    #[command(flatten)]
    pub(crate) containers: Names,
}

#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    /// Seconds to wait before SIGKILL
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS")]
    pub(crate) time: Option<u32>,
    #[command(flatten)]
    pub(crate) containers: Names,
}

#[derive(Debug, Args)]
pub(crate) struct KillArguments {
    /// The signal
    #[arg(short, long, default_value = "KILL")]
    pub(crate) signal: String,
    #[command(flatten)]
    pub(crate) containers: Names,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Kill those that run
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) containers: Names,
}

#[derive(Debug, Args)]
pub(crate) struct PsArguments {
    /// Show those that do not run, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show only the newest
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Show only the newest N
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) last: Option<u32>,
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Cut nothing short
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Show only what fits, as NAME=VALUE
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// Print by a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
    /// Show only these: names, ids or id prefixes
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Print by a Go template, or `json`
    #[arg(short, long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
    /// Look for this kind only
    #[arg(long = "type", value_name = "KIND", value_parser = ["container", "image", "network"])]
    pub(crate) kind: Option<String>,
    /// Names, ids, id prefixes, image references or networks
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArguments {
    /// Go on as more is written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print the time of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Only the last N lines, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    pub(crate) tail: String,
    /// Only from this time on: RFC 3339, seconds since 1970, or a duration such as 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// The container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Connect standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// A variable, NAME=VALUE, or NAME for the caller's value
    #[arg(short, long, value_name = "ENV")]
    pub(crate) env: Vec<String>,
    /// A file of variables
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<String>,
    #[arg(short, long, help = "Run as USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The keys that leave the session
    #[arg(long, value_name = "KEYS", default_value = crate::terminal::DEFAULT_DETACH_KEYS)]
    pub(crate) detach_keys: String,
    /// The container
    pub(crate) container: String,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// Do not connect standard input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Pass signals on to the process
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sig_proxy: bool,
    /// The keys that leave the session
    #[arg(long, value_name = "KEYS", default_value = crate::terminal::DEFAULT_DETACH_KEYS)]
    pub(crate) detach_keys: String,
    /// The container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArguments {
    /// The container
    pub(crate) container: String,
    /// Its new name
    pub(crate) new_name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArguments {
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Cut nothing short
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print by a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
    /// Only this repository or reference
    #[arg(value_name = "REFERENCE")]
    pub(crate) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// The archive; standard input if it is not given
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<String>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// An instruction as in a Dockerfile, such as `CMD ["sh"]`
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// A comment for the image's history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) message: String,
    /// The archive, or `-` for standard input
    pub(crate) file: String,
    /// The reference to give to the image
    pub(crate) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TagArguments {
    /// The image
    pub(crate) image: String,
    /// Its new reference
    pub(crate) reference: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArguments {
    /// Remove all references of an id
    #[arg(short, long)]
    pub(crate) force: bool,
    /// References, ids or id prefixes
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    /// From this time on: RFC 3339, seconds since 1970, or a duration such as 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Until this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Show only what fits, as NAME=VALUE
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// Print by a Go template, or `json`
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FormatArguments {
    /// Print by a Go template, or `json`
    #[arg(short, long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_of_run_end_at_the_image() {
        let arguments = Arguments::try_parse_from([
            "linkspan", "run", "-it", "--rm", "-P", "--link", "db:db", "-h", "me", "img", "sh",
            "-c", "x", "-P",
        ])
        .unwrap();
        let Command::Run(run) = arguments.command else {
            panic!("not run")
        };
        assert_eq!(run.create.command, ["sh", "-c", "x", "-P"]);
        assert!(run.create.tty && run.create.interactive && run.create.publish_all);
        assert_eq!(run.create.hostname.as_deref(), Some("me"));
    }
}
