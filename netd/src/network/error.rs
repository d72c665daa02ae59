//! Why the network did not do what was asked.

use std::net::{IpAddr, SocketAddr};

use super::choose;
use super::holder::Holder;
use super::model::{EndpointId, InvalidValue, Name, Protocol};
use crate::firewall::FirewallError;
use crate::ipam::LeaseError;
use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use crate::store::StoreError;
use crate::sysctl::SysctlError;

/// Something holds a port that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortConflict {
    /// The host address.
    pub(crate) host_ip: IpAddr,
    /// The host port.
    pub(crate) host_port: u16,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// Who holds it.
    pub(crate) holder: Holder,
    /// The next port that is free, if there is one.
    pub(crate) next_free: Option<u16>,
}

impl std::fmt::Display for PortConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = SocketAddr::new(self.host_ip, self.host_port);
        write!(
            f,
            "port {place}/{} is held by {}",
            self.protocol.name(),
            self.holder
        )?;
        match self.next_free {
            Some(port) => write!(f, "; the next free port is {port}"),
            None => Ok(()),
        }
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// A value cannot be.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// No network has that name.
    #[error("there is no network {network:?}")]
    NetworkNotFound {
        /// The name.
        network: String,
    },
    /// A network of that name is there, and is different.
    #[error("the network {network:?} exists, with other settings", network = network.as_str())]
    NetworkExists {
        /// The name.
        network: Name,
    },
    /// Something is attached to the network.
    #[error("the network {network:?} is in use by {endpoints}", network = network.as_str())]
    NetworkInUse {
        /// The name.
        network: Name,
        /// The names of the endpoints.
        endpoints: String,
    },
    /// No endpoint has that id or name.
    #[error("no endpoint {endpoint:?} is attached")]
    EndpointNotFound {
        /// What was looked for.
        endpoint: String,
    },
    /// The port is not published.
    #[error("port {port}/{} of the host is not published by any container", protocol.name())]
    PortNotFound {
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// Something else has the subnet.
    #[error("the subnet {subnet} overlaps {other}, which {holder}; give another with --subnet")]
    SubnetOverlaps {
        /// The subnet.
        subnet: String,
        /// What is in the way.
        other: String,
        /// Whose it is.
        holder: choose::Holder,
    },
    /// No subnet is free.
    #[error(
        "every default subnet overlaps a network or a route of this host; give one with --subnet"
    )]
    SubnetsExhausted,
    /// A device that we did not make has the name of a bridge.
    #[error(
        "the device {name:?} exists and is no bridge of ours; remove it (ip link del {name}), or give netd another name with --bridge-name"
    )]
    ForeignBridge {
        /// The device.
        name: String,
    },
    /// A device of somebody else has the name of one that is to be made.
    #[error("the device {name:?} exists and is none of ours; remove it: ip link del {name}")]
    ForeignDevice {
        /// The device.
        name: String,
    },
    /// Another endpoint is attached by that name.
    #[error("the name {name:?} belongs to endpoint {holder}", name = name.as_str(), holder = holder.short())]
    NameAttached {
        /// The name.
        name: Name,
        /// Who has it.
        holder: EndpointId,
    },
    /// The name has a lease.
    #[error("the name {name:?} already has addresses", name = name.as_str())]
    NameLeased {
        /// The name.
        name: Name,
    },
    /// The lease of an attached endpoint cannot be given back.
    #[error("{name:?} is attached; detach it first", name = name.as_str())]
    EndpointAttached {
        /// The name.
        name: Name,
    },
    /// Something holds a port.
    #[error("{0}")]
    PortInUse(Box<PortConflict>),
    /// No port of a range is free.
    #[error("every {protocol} port from {first} to {last} is in use", protocol = protocol.name())]
    PortsExhausted {
        /// The protocol.
        protocol: Protocol,
        /// The first port of the range.
        first: u16,
        /// The last port of the range.
        last: u16,
    },
    /// The bridge takes no more devices.
    #[error("the bridge {bridge:?} is full: the kernel allows {limit} ports on one")]
    BridgeFull {
        /// The device.
        bridge: String,
        /// The limit.
        limit: usize,
    },
    /// No address, or no way to write the lease down.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The row could not be written.
    #[error("record the endpoint")]
    Store(#[from] StoreError),
    /// The namespace could not be made or removed.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A setting could not be made.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A device could not be made or removed.
    #[error("{act}")]
    Device {
        /// What was tried.
        act: &'static str,
        /// Why it failed.
        #[source]
        source: NetlinkError,
    },
    /// The firewall could not be changed.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// A host port could not be reserved for a reason of the machine.
    #[error("reserve a host port")]
    Reserve(#[source] std::io::Error),
    /// Changes cannot be heard.
    #[error("wait for changes of the network")]
    Watch(#[source] std::io::Error),
    /// No thread could be started.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
    /// netd stops.
    #[error("netd is shutting down")]
    ShuttingDown,
}

/// Turns a netlink error into one that says what was tried.
pub(super) fn device(act: &'static str) -> impl FnOnce(NetlinkError) -> NetworkError {
    move |source| NetworkError::Device { act, source }
}

/// Why netd could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A step failed.
    #[error(transparent)]
    Network(#[from] NetworkError),
}
