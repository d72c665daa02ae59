//! The shim: one for each run of a container, between it and a runtimed that may come and go.
//!
//! It starts the container, keeps its streams and its log, reaps it, and records how it
//! ended. One thread, one event loop, no async runtime. It knows nothing of images,
//! networks or names: a specification and a network namespace come in, an exit goes out.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use linkspan_sys::process::{ignore_signal, take_inherited};
use rustix::process::{Pid, set_child_subreaper};

use crate::cgroup::Cgroup;
use crate::failure::Failure;
use crate::parent::Stage;
use crate::supervisor::Supervisor;

mod cgroup;
mod control;
mod failure;
mod init;
mod log;
mod parent;
mod process;
mod record;
mod spec;
mod stage;
mod stdio;
mod supervisor;

const USAGE: &str =
    "usage: linkspan-shim --id ID [--cgroup PATH], with the listening socket as descriptor 3";
const LISTENER: i32 = 3;

/// What the command line says.
#[derive(Debug, Default)]
struct Arguments {
    /// For people who read the process list.
    id: Option<String>,
    /// The control group of the specification to come, so that it can be entered ahead.
    cgroup: Option<String>,
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        warn(USAGE);
        return ExitCode::from(64);
    };
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            warn(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), Failure> {
    use crate::failure::Step;

    let listener: OwnedFd = take_inherited(LISTENER).step("take the listening socket")?;
    rustix::io::ioctl_fionbio(&listener, true).step("take the listening socket")?;
    detach()?;
    let cgroup = arguments
        .cgroup
        .as_deref()
        .map(spec::cgroup_path)
        .transpose()?;
    let cgroup = cgroup.map(Cgroup::new).transpose()?;
    let warm = match &cgroup {
        Some(cgroup) => {
            cgroup.create()?;
            Some(Stage::warm(cgroup)?)
        }
        None => None,
    };
    linkspan_sys::process::trim_heap();
    Supervisor::new(listener, cgroup, warm)
        .run()
        .step("wait for events")
}

/// Makes the end of whoever started this process no concern of it.
fn detach() -> Result<(), Failure> {
    use crate::failure::Step;

    // Fails for a process that leads its group: then the spawner has done it.
    let _already_detached = rustix::process::setsid();
    rustix::process::chdir("/").step("enter /")?;
    rustix::thread::set_name(c"linkspan-shim").step("set the process name")?;
    for signal in [libc::SIGHUP, libc::SIGPIPE, libc::SIGINT, libc::SIGTERM] {
        ignore_signal(signal).step("ignore signals")?;
    }
    set_child_subreaper(Pid::from_raw(1)).step("become a subreaper")
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--id" => arguments.id = Some(words.next()?),
            "--cgroup" => arguments.cgroup = Some(words.next()?),
            _ => return None,
        }
    }
    arguments.id.is_some().then_some(arguments)
}

/// Writes a line to standard error, which is the log of whoever started this process. A
/// logging framework would weigh more than all the rest of a shim.
fn warn(message: &str) {
    use std::io::Write;

    let _nobody_reads = writeln!(std::io::stderr(), "linkspan-shim: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Arguments> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_line_names_the_container_and_its_cgroup() {
        let arguments = words("--cgroup /a/b --id abc").unwrap();
        assert_eq!(
            (arguments.id.as_deref(), arguments.cgroup.as_deref()),
            (Some("abc"), Some("/a/b"))
        );
        for line in ["", "--id", "--cgroup /a", "--id a --other", "abc"] {
            assert!(words(line).is_none(), "{line}");
        }
    }
}
