//! Errors as people and scripts see them: one sentence and an exit code.

use std::process::ExitCode;

use linkspan_proto::reason::{ErrorReason, reason_of};
use tonic::{Code, Status};

use crate::args::Command;
use crate::printer;

/// Which rule gives the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    /// `run`, `create`, `exec` and `explain`: 125, 126, 127.
    Run,
    /// Everything else: 1.
    Other,
}

impl Context {
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Run(_) | Command::Create(_) | Command::Exec(_) | Command::Explain(_) => {
                Self::Run
            }
            _ => Self::Other,
        }
    }
}

/// Prints an error and gives its exit code. A reader that closed the pipe is no error.
pub(crate) fn report(error: &anyhow::Error, context: Context) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    printer::talk(&format!("linkspan: {}", sentence(error)));
    ExitCode::from(match context {
        Context::Other => 1,
        Context::Run => run_code(error),
    })
}

/// The text of an error with its causes.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => format!("{error:#}"),
    }
}

fn run_code(error: &anyhow::Error) -> u8 {
    let reason = error
        .downcast_ref::<Status>()
        .and_then(reason_of)
        .map(|(reason, _)| reason);
    match reason {
        Some(ErrorReason::CommandNotFound) => 127,
        Some(ErrorReason::CommandNotExecutable) => 126,
        _ => 125,
    }
}

/// Whether an engine's answer says that there is no such object.
pub(crate) fn is_not_found(status: &Status) -> bool {
    status.code() == Code::NotFound
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use linkspan_proto::reason::status;

    use super::*;

    #[test]
    fn the_exit_code_tells_why_a_run_failed() {
        let error = |reason| {
            anyhow::Error::from(status(
                Code::FailedPrecondition,
                reason,
                "x",
                HashMap::new(),
            ))
        };
        assert_eq!(run_code(&error(ErrorReason::CommandNotFound)), 127);
        assert_eq!(run_code(&error(ErrorReason::CommandNotExecutable)), 126);
        assert_eq!(run_code(&error(ErrorReason::PortInUse)), 125);
        assert_eq!(run_code(&anyhow::anyhow!("other")), 125);
    }
}
