//! The settings of runtimed: read and validated once, into their final types.

use std::path::PathBuf;

use clap::Parser;

/// Lifecycle, images and logs of containers.
#[derive(Debug, Parser)]
#[command(name = "linkspan-runtimed", version)]
pub(crate) struct Arguments {
    /// Where durable state is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/linkspan")]
    root: PathBuf,
    /// Where the state of this boot and the sockets are; a reboot must empty it
    #[arg(long, value_name = "DIR", default_value = "/run/linkspan")]
    run: PathBuf,
    /// The shim; by default the linkspan-shim beside this program
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
    /// The control group below which every container gets its own
    #[arg(long, value_name = "PATH", default_value = "/linkspan")]
    cgroup_parent: String,
}

/// The settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) shim: PathBuf,
    /// Begins with `/` and has no `/` at its end.
    pub(crate) cgroup_parent: String,
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{option} `{}` must be an absolute path", path.display())]
    Relative { option: &'static str, path: PathBuf },
    #[error("--cgroup-parent `{path}` must begin with `/` and have no `..`")]
    CgroupParent { path: String },
    #[error("the shim `{}` does not exist; name it with --shim", path.display())]
    NoShim { path: PathBuf },
}

impl TryFrom<Arguments> for Config {
    type Error = ConfigError;

    fn try_from(arguments: Arguments) -> Result<Self, ConfigError> {
        let Arguments {
            root,
            run,
            shim,
            cgroup_parent,
        } = arguments;
        for (option, path) in [("--root", &root), ("--run", &run)] {
            if !path.is_absolute() {
                return Err(ConfigError::Relative {
                    option,
                    path: path.clone(),
                });
            }
        }
        if !cgroup_parent.starts_with('/') || cgroup_parent.split('/').any(|part| part == "..") {
            return Err(ConfigError::CgroupParent {
                path: cgroup_parent,
            });
        }
        let shim = shim.unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name("linkspan-shim")
        });
        if !shim.is_file() {
            return Err(ConfigError::NoShim { path: shim });
        }
        Ok(Self {
            root,
            run,
            shim,
            cgroup_parent: cgroup_parent.trim_end_matches('/').to_owned(),
        })
    }
}
