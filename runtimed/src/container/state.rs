//! The states of a container and which requests each of them allows. Pure.

/// Where a container is in its life, in OCI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Made, never run.
    Created,
    /// The first process runs.
    Running,
    /// The first process has ended.
    Stopped,
    /// Being removed.
    Deleting,
}

/// A request that changes the state or needs a certain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Stop,
    Restart,
    Signal,
    Remove,
    RemoveByForce,
    Attach,
    Exec,
    /// Of links, ports or networks.
    Change,
}

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Carry it out.
    Admit,
    /// It is already as asked.
    Nothing,
    /// Refuse it, with a hint for the user.
    Deny { hint: &'static str },
}

impl State {
    /// The word that people read.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Deleting => "being removed",
        }
    }
}

impl Request {
    /// What a refusal says was tried.
    pub(crate) fn act(self) -> &'static str {
        match self {
            Self::Start => "cannot start",
            Self::Stop => "cannot stop",
            Self::Restart => "cannot restart",
            Self::Signal => "cannot send a signal",
            Self::Remove | Self::RemoveByForce => "cannot remove",
            Self::Attach => "cannot attach",
            Self::Exec => "cannot run a command",
            Self::Change => "cannot change links, ports or networks",
        }
    }
}

/// The one table of legal transitions.
pub(crate) fn admit(state: State, request: Request) -> Admission {
    use Admission::{Admit, Deny, Nothing};
    let deny = Deny { hint: "" };
    match (state, request) {
        (State::Deleting, _) => deny,
        (State::Created | State::Stopped, Request::Start) => Admit,
        (State::Running, Request::Start) => Nothing,
        (State::Running, Request::Stop) => Admit,
        (State::Created | State::Stopped, Request::Stop) => Nothing,
        (_, Request::Restart | Request::RemoveByForce | Request::Change) => Admit,
        (State::Running, Request::Signal | Request::Attach | Request::Exec) => Admit,
        (State::Created | State::Stopped, Request::Signal | Request::Attach | Request::Exec) => {
            Deny {
                hint: "; start it first",
            }
        }
        (State::Created | State::Stopped, Request::Remove) => Admit,
        (State::Running, Request::Remove) => Deny {
            hint: "; stop it first, or force it with -f",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_container_is_removed_only_by_force() {
        assert!(matches!(
            admit(State::Running, Request::Remove),
            Admission::Deny { .. }
        ));
        assert_eq!(
            admit(State::Running, Request::RemoveByForce),
            Admission::Admit
        );
        assert_eq!(admit(State::Stopped, Request::Remove), Admission::Admit);
    }

    #[test]
    fn start_and_stop_are_idempotent() {
        assert_eq!(admit(State::Running, Request::Start), Admission::Nothing);
        assert_eq!(admit(State::Stopped, Request::Stop), Admission::Nothing);
        assert_eq!(admit(State::Created, Request::Stop), Admission::Nothing);
    }

    #[test]
    fn nothing_is_admitted_while_a_container_is_removed() {
        for request in [
            Request::Start,
            Request::Restart,
            Request::RemoveByForce,
            Request::Exec,
            Request::Change,
        ] {
            assert!(matches!(
                admit(State::Deleting, request),
                Admission::Deny { .. }
            ));
        }
    }
}
