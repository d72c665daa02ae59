//! Why a start or an exec failed, in the words that reach the user.

use linkspan_proto::shim_v1 as wire;
use linkspan_sys::SyscallError;
use rustix::io::Errno;

pub(crate) use wire::FailureKind as Kind;

/// A failed step. Travels up the stage socket and on to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What was tried.
    pub(crate) step: String,
    /// The error number, 0 when there is none.
    pub(crate) errno: i32,
    /// One sentence for a person.
    pub(crate) message: String,
    /// Whose fault it is.
    pub(crate) kind: Kind,
}

impl Failure {
    /// The kernel refused a step that should have worked.
    pub(crate) fn system(step: impl Into<String>, errno: Errno) -> Self {
        let step = step.into();
        let message = format!("{step}: {errno}");
        Self {
            step,
            errno: errno.raw_os_error(),
            message,
            kind: Kind::System,
        }
    }

    /// The specification or the image asks for what cannot be.
    pub(crate) fn invalid(step: impl Into<String>, message: impl Into<String>) -> Self {
        Self::of(Kind::Invalid, step, message)
    }

    /// A failure without an error number.
    pub(crate) fn of(kind: Kind, step: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            errno: 0,
            message: message.into(),
            kind,
        }
    }

    /// The same failure with an error number.
    pub(crate) fn with_errno(self, errno: Errno) -> Self {
        Self {
            errno: errno.raw_os_error(),
            ..self
        }
    }
}

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        let Failure {
            step,
            errno,
            message,
            kind,
        } = failure;
        Self {
            step,
            errno,
            message,
            kind: kind.into(),
        }
    }
}

impl From<wire::Failure> for Failure {
    fn from(failure: wire::Failure) -> Self {
        let kind = failure.kind();
        let wire::Failure {
            step,
            errno,
            message,
            kind: _,
        } = failure;
        Self {
            step,
            errno,
            message,
            kind,
        }
    }
}

/// Names the step that a system call belongs to.
pub(crate) trait Step<T> {
    /// Turns an error into the failure of `step`.
    fn step(self, step: &str) -> Result<T, Failure>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::system(step, errno))
    }
}

impl<T> Step<T> for Result<T, SyscallError> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            message: format!("{step}: {error}"),
            ..Failure::system(step, error.errno())
        })
    }
}
