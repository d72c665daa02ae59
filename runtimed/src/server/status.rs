//! Maps errors to gRPC statuses, each with a reason for programs.

use std::collections::HashMap;

use linkspan_proto::reason::{ErrorReason, status};
use linkspan_proto::shim_v1::FailureKind;
use tonic::{Code, Status};

use crate::container::ContainerError;
use crate::engine::chain;
use crate::image::ImageError;
use crate::image::layer::LayerError;
use crate::network_client::NetworkError;
use crate::shim_client::ShimError;

/// The status of a failed request about containers.
pub(crate) fn of_container(error: &ContainerError) -> Status {
    if let Some(NetworkError::Refused { status }) = network_error(error) {
        // netd's own status carries its reason already; the consumer's name is added.
        let mut copy = Status::with_details(
            status.code(),
            chain(error),
            status.details().to_vec().into(),
        );
        *copy.metadata_mut() = status.metadata().clone();
        return copy;
    }
    let (code, reason) = classify(error);
    let mut metadata = HashMap::new();
    if let ContainerError::NameInUse { name: _, holder } = error {
        metadata.insert("holder".to_owned(), holder.clone());
    }
    if code == Code::Internal {
        tracing::error!(error = chain(error), "request failed");
    }
    status(code, reason, chain(error), metadata)
}

/// The status of a failed request about images.
pub(crate) fn of_image(error: &ImageError) -> Status {
    let (code, reason) = classify_image(error);
    if code == Code::Internal {
        tracing::error!(error = chain(error), "request failed");
    }
    status(code, reason, chain(error), HashMap::new())
}

/// The status for a field that cannot be.
pub(crate) fn invalid(message: impl Into<String>) -> Status {
    status(
        Code::InvalidArgument,
        ErrorReason::InvalidRequest,
        message,
        HashMap::new(),
    )
}

fn network_error(error: &ContainerError) -> Option<&NetworkError> {
    match error {
        ContainerError::Network(error) => Some(error),
        _ => None,
    }
}

fn classify(error: &ContainerError) -> (Code, ErrorReason) {
    match error {
        ContainerError::NotFound { .. } | ContainerError::LinkSourceMissing { .. } => {
            (Code::NotFound, ErrorReason::ContainerNotFound)
        }
        ContainerError::Ambiguous { .. } => (Code::InvalidArgument, ErrorReason::AmbiguousId),
        ContainerError::NameInUse { .. } => (Code::AlreadyExists, ErrorReason::NameInUse),
        ContainerError::WrongState { .. } | ContainerError::Gone => {
            (Code::FailedPrecondition, ErrorReason::WrongState)
        }
        ContainerError::MoveNeedsBoth { .. } | ContainerError::NoWayOutside { .. } => {
            (Code::FailedPrecondition, ErrorReason::WrongState)
        }
        ContainerError::WaitAbandoned => (Code::Cancelled, ErrorReason::WrongState),
        ContainerError::LinkNotFound { .. } => (Code::NotFound, ErrorReason::LinkNotFound),
        ContainerError::PortNotFound { .. } => (Code::NotFound, ErrorReason::PortNotFound),
        ContainerError::NetworkNotFound { .. } => (Code::NotFound, ErrorReason::NetworkNotFound),
        ContainerError::AlreadyConnected { .. }
        | ContainerError::NotConnected { .. }
        | ContainerError::NoOwnNetwork { .. }
        | ContainerError::NetworkOwnerDown { .. } => {
            (Code::FailedPrecondition, ErrorReason::WrongState)
        }
        ContainerError::LinkNoCommonNetwork { .. } => {
            (Code::FailedPrecondition, ErrorReason::LinkConflict)
        }
        ContainerError::LinkSourceDown { .. } | ContainerError::LinkWaitOver { .. } => {
            (Code::FailedPrecondition, ErrorReason::LinkSourceNotRunning)
        }
        ContainerError::LinkConflict { .. } => {
            (Code::FailedPrecondition, ErrorReason::LinkConflict)
        }
        ContainerError::Invalid { .. }
        | ContainerError::Name(_)
        | ContainerError::Port(_)
        | ContainerError::Profile(_) => (Code::InvalidArgument, ErrorReason::InvalidRequest),
        ContainerError::Stuck { .. } => (Code::DeadlineExceeded, ErrorReason::Stuck),
        ContainerError::Shim(error) => classify_shim(error),
        ContainerError::Network(NetworkError::Unavailable { .. }) => {
            (Code::Unavailable, ErrorReason::NetdUnavailable)
        }
        ContainerError::Network(_) | ContainerError::Store(_) => {
            (Code::Internal, ErrorReason::Internal)
        }
        ContainerError::Files { act: _, source } => classify_io(source),
        ContainerError::Image(error) => classify_image(error),
    }
}

fn classify_shim(error: &ShimError) -> (Code, ErrorReason) {
    let ShimError::Refused { failure } = error else {
        return (Code::Internal, ErrorReason::Internal);
    };
    match failure.kind() {
        FailureKind::CommandNotFound => (Code::FailedPrecondition, ErrorReason::CommandNotFound),
        FailureKind::CommandNotExecutable => {
            (Code::FailedPrecondition, ErrorReason::CommandNotExecutable)
        }
        FailureKind::UnknownUser => (Code::FailedPrecondition, ErrorReason::UnknownUser),
        FailureKind::WrongState => (Code::FailedPrecondition, ErrorReason::WrongState),
        FailureKind::Invalid => (Code::InvalidArgument, ErrorReason::InvalidRequest),
        FailureKind::System | FailureKind::Unspecified => (Code::Internal, ErrorReason::Internal),
    }
}

fn classify_image(error: &ImageError) -> (Code, ErrorReason) {
    match error {
        ImageError::NotFound { .. } => (Code::NotFound, ErrorReason::ImageNotFound),
        ImageError::Ambiguous { .. } => (Code::InvalidArgument, ErrorReason::AmbiguousId),
        ImageError::InUse { .. } | ImageError::SeveralReferences { .. } => {
            (Code::FailedPrecondition, ErrorReason::ImageInUse)
        }
        ImageError::Reference(_) | ImageError::Change(_) => {
            (Code::InvalidArgument, ErrorReason::InvalidRequest)
        }
        ImageError::Layer {
            source: LayerError::Write { source, .. },
            ..
        } if source.kind() == std::io::ErrorKind::StorageFull => {
            (Code::ResourceExhausted, ErrorReason::Internal)
        }
        ImageError::Archive { .. }
        | ImageError::Layer { .. }
        | ImageError::LayerDigest { .. }
        | ImageError::Refused { .. } => (Code::InvalidArgument, ErrorReason::InvalidArchive),
        ImageError::Read { source } => match source.kind() {
            std::io::ErrorKind::FileTooLarge => {
                (Code::ResourceExhausted, ErrorReason::ArchiveTooLarge)
            }
            std::io::ErrorKind::StorageFull => (Code::ResourceExhausted, ErrorReason::Internal),
            _ => (Code::InvalidArgument, ErrorReason::InvalidArchive),
        },
        ImageError::Store(_) => (Code::Internal, ErrorReason::Internal),
        ImageError::Files { act: _, source } => classify_io(source),
    }
}

fn classify_io(error: &std::io::Error) -> (Code, ErrorReason) {
    match error.kind() {
        std::io::ErrorKind::StorageFull => (Code::ResourceExhausted, ErrorReason::Internal),
        _ => (Code::Internal, ErrorReason::Internal),
    }
}

#[cfg(test)]
mod tests {
    use linkspan_proto::reason::reason_of;

    use super::*;

    /// Rows S15 and S16.
    #[test]
    fn a_taken_name_says_who_holds_it() {
        let error = ContainerError::NameInUse {
            name: "web".into(),
            holder: "0123456789ab".into(),
        };
        let status = of_container(&error);
        assert_eq!(status.code(), Code::AlreadyExists);
        let (reason, metadata) = reason_of(&status).unwrap();
        assert_eq!(
            (reason, metadata["holder"].as_str()),
            (ErrorReason::NameInUse, "0123456789ab")
        );
        assert!(status.message().contains("linkspan rm web"));
    }
}
