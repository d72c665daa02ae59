//! Machine-readable reasons of errors, carried as `google.rpc.ErrorInfo`.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every reason of ours.
pub const DOMAIN: &str = "linkspan.dev";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a request failed, for programs. The text is part of the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorReason {
            $($(#[$doc])* $name,)*
        }

        impl ErrorReason {
            /// The text on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The reason with this text on the wire.
            pub fn from_wire(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// A field of the request has a value that cannot be.
    InvalidRequest = "INVALID_REQUEST",
    /// No container has that id or name.
    ContainerNotFound = "CONTAINER_NOT_FOUND",
    /// An id prefix fits several containers.
    AmbiguousId = "AMBIGUOUS_ID",
    /// The name belongs to another container.
    NameInUse = "NAME_IN_USE",
    /// The store has no such image.
    ImageNotFound = "IMAGE_NOT_FOUND",
    /// A container needs the image.
    ImageInUse = "IMAGE_IN_USE",
    /// The archive is damaged, hostile or of an unknown form.
    InvalidArchive = "INVALID_ARCHIVE",
    /// The archive passes a limit.
    ArchiveTooLarge = "ARCHIVE_TOO_LARGE",
    /// The container's state does not allow the request.
    WrongState = "WRONG_STATE",
    /// The source of a link does not run.
    LinkSourceNotRunning = "LINK_SOURCE_NOT_RUNNING",
    /// Two links have the same alias.
    LinkConflict = "LINK_CONFLICT",
    /// The command is not in the image.
    CommandNotFound = "COMMAND_NOT_FOUND",
    /// The command cannot be executed.
    CommandNotExecutable = "COMMAND_NOT_EXECUTABLE",
    /// The user or group is not in the image.
    UnknownUser = "UNKNOWN_USER",
    /// The kernel does not end a process.
    Stuck = "STUCK",
    /// netd does not answer.
    NetdUnavailable = "NETD_UNAVAILABLE",
    /// No network has that name.
    NetworkNotFound = "NETWORK_NOT_FOUND",
    /// Another network has that name.
    NetworkExists = "NETWORK_EXISTS",
    /// The network has members.
    NetworkInUse = "NETWORK_IN_USE",
    /// Something else routes the subnet.
    SubnetOverlaps = "SUBNET_OVERLAPS",
    /// No default subnet is free.
    SubnetsExhausted = "SUBNETS_EXHAUSTED",
    /// No endpoint has that id or name.
    EndpointNotFound = "ENDPOINT_NOT_FOUND",
    /// Another endpoint has the address.
    AddressInUse = "ADDRESS_IN_USE",
    /// The container has no link of that alias.
    LinkNotFound = "LINK_NOT_FOUND",
    /// The port is not published.
    PortNotFound = "PORT_NOT_FOUND",
    /// Something holds the port.
    PortInUse = "PORT_IN_USE",
    /// The subnet has no free address.
    AddressesExhausted = "ADDRESSES_EXHAUSTED",
    /// The range has no free port.
    PortsExhausted = "PORTS_EXHAUSTED",
    /// The name has an attached endpoint.
    EndpointAttached = "ENDPOINT_ATTACHED",
    /// The watcher was too slow.
    EventsLost = "EVENTS_LOST",
    /// The engine failed; its log says more.
    Internal = "INTERNAL",
}

/// Builds the status of a failed request.
pub fn status(
    code: Code,
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
) -> Status {
    let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// The reason that a status carries, with its metadata; none if it is not ours.
pub fn reason_of(status: &Status) -> Option<(ErrorReason, HashMap<String, String>)> {
    let info = status.get_details_error_info()?;
    if info.domain != DOMAIN {
        return None;
    }
    Some((ErrorReason::from_wire(&info.reason)?, info.metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_wire() {
        let metadata = HashMap::from([("holder".to_owned(), "web".to_owned())]);
        let sent = status(
            Code::FailedPrecondition,
            ErrorReason::PortInUse,
            "taken",
            metadata,
        );
        let (reason, metadata) = reason_of(&sent).expect("the reason is there");
        assert_eq!(reason, ErrorReason::PortInUse);
        assert_eq!(metadata["holder"], "web");
    }

    #[test]
    fn a_foreign_status_has_no_reason() {
        assert_eq!(reason_of(&Status::internal("other")), None);
    }
}
