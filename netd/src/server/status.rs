//! Domain errors as gRPC statuses: one match, a code and a reason for each.

use std::collections::HashMap;

use linkspan_proto::reason::{ErrorReason, status};
use tonic::{Code, Status};

use crate::ipam::LeaseError;
use crate::network::NetworkError;
use crate::network::holder::Holder;
use crate::network::owner::chain;

/// The status of a failed request. What is the machine's fault is logged here, once, and
/// the client only learns which act failed.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it has the shape of `map_err`"
)]
pub(super) fn of(error: NetworkError) -> Status {
    let (code, reason) = class(&error);
    let metadata = metadata(&error);
    if reason == ErrorReason::Internal {
        tracing::error!(error = %chain(&error), "request failed");
        return status(
            code,
            reason,
            "netd could not do it; its log says why",
            metadata,
        );
    }
    status(code, reason, error.to_string(), metadata)
}

fn class(error: &NetworkError) -> (Code, ErrorReason) {
    match error {
        NetworkError::Invalid(_) => (Code::InvalidArgument, ErrorReason::InvalidRequest),
        NetworkError::NetworkNotFound { .. } => (Code::NotFound, ErrorReason::NetworkNotFound),
        NetworkError::NetworkExists { .. } => (Code::AlreadyExists, ErrorReason::NetworkExists),
        NetworkError::NetworkInUse { .. } => (Code::FailedPrecondition, ErrorReason::NetworkInUse),
        NetworkError::EndpointNotFound { .. } => (Code::NotFound, ErrorReason::EndpointNotFound),
        NetworkError::PortNotFound { .. } => (Code::NotFound, ErrorReason::PortNotFound),
        NetworkError::SubnetOverlaps { .. } => {
            (Code::FailedPrecondition, ErrorReason::SubnetOverlaps)
        }
        NetworkError::SubnetsExhausted => (Code::ResourceExhausted, ErrorReason::SubnetsExhausted),
        NetworkError::Lease(LeaseError::Taken { .. }) => {
            (Code::AlreadyExists, ErrorReason::AddressInUse)
        }
        NetworkError::Lease(LeaseError::Unusable { .. } | LeaseError::Mismatch { .. }) => {
            (Code::InvalidArgument, ErrorReason::InvalidRequest)
        }
        NetworkError::NameAttached { .. } | NetworkError::NameLeased { .. } => {
            (Code::AlreadyExists, ErrorReason::NameInUse)
        }
        NetworkError::EndpointAttached { .. } => {
            (Code::FailedPrecondition, ErrorReason::EndpointAttached)
        }
        NetworkError::ForeignDevice { .. } => (Code::FailedPrecondition, ErrorReason::NameInUse),
        NetworkError::PortInUse(_) => (Code::FailedPrecondition, ErrorReason::PortInUse),
        NetworkError::PortsExhausted { .. } => {
            (Code::ResourceExhausted, ErrorReason::PortsExhausted)
        }
        NetworkError::BridgeFull { .. } | NetworkError::Lease(LeaseError::Exhausted { .. }) => {
            (Code::ResourceExhausted, ErrorReason::AddressesExhausted)
        }
        NetworkError::ShuttingDown => (Code::Unavailable, ErrorReason::NetdUnavailable),
        NetworkError::Lease(LeaseError::Store(_))
        | NetworkError::Store(_)
        | NetworkError::Netns(_)
        | NetworkError::Sysctl(_)
        | NetworkError::Device { .. }
        | NetworkError::ForeignBridge { .. }
        | NetworkError::Firewall(_)
        | NetworkError::Reserve(_)
        | NetworkError::Watch(_)
        | NetworkError::Thread(_) => (Code::Internal, ErrorReason::Internal),
    }
}

fn metadata(error: &NetworkError) -> HashMap<String, String> {
    let conflict = match error {
        NetworkError::PortInUse(conflict) => conflict,
        NetworkError::NetworkInUse { endpoints, .. } => {
            return HashMap::from([("endpoints".to_owned(), endpoints.clone())]);
        }
        _ => return HashMap::new(),
    };
    let holder = match &conflict.holder {
        Holder::Container(name) => name.to_string(),
        other => other.to_string(),
    };
    let mut metadata = HashMap::from([
        ("holder".to_owned(), holder),
        ("host_ip".to_owned(), conflict.host_ip.to_string()),
        ("host_port".to_owned(), conflict.host_port.to_string()),
        ("protocol".to_owned(), conflict.protocol.name().to_owned()),
    ]);
    if let Some(port) = conflict.next_free {
        metadata.insert("next_free".to_owned(), port.to_string());
    }
    metadata
}
