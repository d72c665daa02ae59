//! Host ports: chosen, and reserved by a bound socket before they are promised.
//!
//! Translation does not bind: without the socket a process of the host could take a
//! published port and hear nothing. TCP sockets do not listen, so a packet that is not
//! translated is answered with a reset; UDP sockets have the smallest buffer there is.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use super::error::{NetworkError, PortConflict};
use super::holder::{self, Holder};
use super::model::{HostPort, InvalidValue, Name, Port, PortMapping, Protocol, PublishedPort};
use crate::ipam::KeptPort;

const NEXT_FREE_ATTEMPTS: usize = 1000;

/// A published port and the socket that keeps others from it.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// The port.
    pub(crate) published: PublishedPort,
    /// None if the kernel does not have the protocol, or someone else was faster while
    /// netd was away. One may stand for a port at both families.
    pub(crate) socket: Option<Arc<OwnedFd>>,
}

/// What the ports of a request became.
#[derive(Debug)]
pub(crate) struct Reserved {
    /// The reservations, in the order of the mappings, IPv4 first.
    pub(crate) reservations: Vec<Reservation>,
    /// The ports that were chosen and stay with the name.
    pub(crate) kept: Vec<KeptPort>,
}

/// Chooses and reserves host ports.
pub(crate) struct Reserver<'a> {
    /// Where chosen ports come from.
    pub(crate) range: &'a RangeInclusive<u16>,
    /// What was chosen for the name before.
    pub(crate) kept: &'a [KeptPort],
    /// What was chosen for others.
    pub(crate) claimed: HashSet<u16>,
    /// The name that asks.
    pub(crate) name: &'a Name,
    /// What the name holds already.
    pub(crate) held: &'a [PublishedPort],
    /// Who of ours holds a port.
    pub(crate) holder_of: &'a dyn Fn(IpAddr, u16, Protocol) -> Option<Name>,
}

impl Reserver<'_> {
    /// Reserves what the mappings ask for. Ports that are named are taken first, so that
    /// the choice for others passes them by.
    pub(crate) fn reserve(&self, mappings: &[PortMapping]) -> Result<Reserved, NetworkError> {
        let mut order: Vec<_> = (0..mappings.len()).collect();
        order.sort_by_key(|index| match &mappings[*index].host_port {
            HostPort::OneOf(range) => range.len(),
            HostPort::Any => usize::MAX,
        });
        let mut slots: Vec<Vec<Reservation>> = mappings.iter().map(|_| Vec::new()).collect();
        let mut kept = self.kept.to_vec();
        let mut taken = self.held.to_vec();
        for index in order {
            let mapping = &mappings[index];
            let choice = match &mapping.host_port {
                HostPort::OneOf(range) => range,
                HostPort::Any => self.range,
            };
            slots[index] = if choice.len() == 1 {
                self.exactly(mapping, *choice.start(), &taken)?
            } else {
                let reservations = self.any_of(mapping, choice, &taken)?;
                kept.retain(|kept| !is_for(kept, mapping));
                kept.push(KeptPort {
                    port: mapping.port,
                    host_ip: mapping.host_ip,
                    host_port: reservations[0].published.host_port,
                });
                reservations
            };
            taken.extend(slots[index].iter().map(|slot| slot.published));
        }
        Ok(Reserved {
            reservations: slots.into_iter().flatten().collect(),
            kept,
        })
    }

    fn exactly(
        &self,
        mapping: &PortMapping,
        host_port: u16,
        taken: &[PublishedPort],
    ) -> Result<Vec<Reservation>, NetworkError> {
        self.reserve_at(mapping, host_port, taken)
            .map_err(|failure| {
                if failure.is_conflict() {
                    self.conflict(mapping, failure.ip, host_port, taken)
                } else {
                    failure.into()
                }
            })
    }

    /// The port that the name had, else the lowest that is free and kept for nobody,
    /// else the lowest that is free.
    fn any_of(
        &self,
        mapping: &PortMapping,
        range: &RangeInclusive<u16>,
        taken: &[PublishedPort],
    ) -> Result<Vec<Reservation>, NetworkError> {
        let mut had = self.kept.iter().filter(|kept| is_for(kept, mapping));
        let claimed = &self.claimed;
        let candidates = had
            .find(|kept| range.contains(&kept.host_port))
            .map(|kept| kept.host_port)
            .into_iter()
            .chain(range.clone().filter(|port| !claimed.contains(port)))
            .chain(range.clone().filter(|port| claimed.contains(port)));
        for host_port in candidates {
            match self.reserve_at(mapping, host_port, taken) {
                Ok(reservations) => return Ok(reservations),
                Err(failure) if failure.is_conflict() => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(exhausted(mapping, range))
    }

    /// Reserves one number at every address that a mapping means. Where the kernel has no
    /// sockets of the protocol, only our own ports can be in the way.
    fn reserve_at(
        &self,
        mapping: &PortMapping,
        host_port: u16,
        taken: &[PublishedPort],
    ) -> Result<Vec<Reservation>, BindFailure> {
        let protocol = mapping.port.protocol;
        let reservations = reserve_everywhere(mapping, host_port)?;
        for reservation in reservations
            .iter()
            .filter(|reservation| reservation.socket.is_none())
        {
            let ip = reservation.published.host_ip;
            let ours = taken
                .iter()
                .any(|other| other.conflicts_with(ip, host_port, protocol))
                || (self.holder_of)(ip, host_port, protocol).is_some();
            if ours {
                return Err(BindFailure {
                    ip,
                    source: io::ErrorKind::AddrInUse.into(),
                });
            }
        }
        Ok(reservations)
    }

    fn conflict(
        &self,
        mapping: &PortMapping,
        host_ip: IpAddr,
        host_port: u16,
        taken: &[PublishedPort],
    ) -> NetworkError {
        let protocol = mapping.port.protocol;
        let ours = taken
            .iter()
            .any(|other| other.conflicts_with(host_ip, host_port, protocol))
            .then(|| self.name.clone());
        let holder = ours
            .or_else(|| (self.holder_of)(host_ip, host_port, protocol))
            .map_or_else(
                || holder::find(host_ip, host_port, protocol),
                Holder::Container,
            );
        let next_free = (host_port..=u16::MAX)
            .skip(1)
            .take(NEXT_FREE_ATTEMPTS)
            .find(|port| self.reserve_at(mapping, *port, taken).is_ok());
        NetworkError::PortInUse(Box::new(PortConflict {
            host_ip,
            host_port,
            protocol,
            holder,
            next_free,
        }))
    }
}

impl PublishedPort {
    /// Whether a socket for this would exclude one for the other place.
    pub(crate) fn conflicts_with(&self, ip: IpAddr, port: u16, protocol: Protocol) -> bool {
        self.host_port == port
            && self.port.protocol == protocol
            && self.host_ip.is_ipv4() == ip.is_ipv4()
            && holder::overlaps(self.host_ip, ip)
    }
}

/// The next number after one that is free at all addresses of the host, or could be if
/// `is_ours` says that no container has it.
pub(crate) fn next_free(
    protocol: Protocol,
    after: u16,
    is_ours: impl Fn(u16) -> bool,
) -> Option<u16> {
    (after..=u16::MAX)
        .skip(1)
        .take(NEXT_FREE_ATTEMPTS)
        .find(|number| {
            let mapping = PortMapping {
                port: Port {
                    protocol,
                    number: *number,
                },
                host_port: HostPort::Any,
                host_ip: None,
            };
            !is_ours(*number) && reserve_everywhere(&mapping, *number).is_ok()
        })
}

/// Reserves a port that is published already, after a restart. If someone took it
/// meanwhile, the rule stays and the socket is missing.
pub(crate) fn adopt(published: PublishedPort) -> Reservation {
    let socket = bind_socket(
        published.host_ip,
        published.host_port,
        published.port.protocol,
    )
    .unwrap_or_else(|failure| {
        let holder = holder::find(
            published.host_ip,
            published.host_port,
            published.port.protocol,
        );
        tracing::warn!(
            host_ip = %published.host_ip,
            host_port = published.host_port,
            holder = %holder,
            error = %failure.source,
            "published port was taken while netd was away, ignoring"
        );
        None
    });
    Reservation { published, socket }
}

#[derive(Debug)]
struct BindFailure {
    ip: IpAddr,
    source: io::Error,
}

impl BindFailure {
    fn is_conflict(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

impl From<BindFailure> for NetworkError {
    fn from(failure: BindFailure) -> Self {
        match failure.source.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::EINVAL) => {
                InvalidValue(format!("{} is not an address of this host", failure.ip)).into()
            }
            _ => Self::Reserve(failure.source),
        }
    }
}

fn is_for(kept: &KeptPort, mapping: &PortMapping) -> bool {
    kept.port == mapping.port && kept.host_ip == mapping.host_ip
}

fn exhausted(mapping: &PortMapping, range: &RangeInclusive<u16>) -> NetworkError {
    NetworkError::PortsExhausted {
        protocol: mapping.port.protocol,
        first: *range.start(),
        last: *range.end(),
    }
}

/// Reserves one number at every address that a mapping means.
fn reserve_everywhere(
    mapping: &PortMapping,
    host_port: u16,
) -> Result<Vec<Reservation>, BindFailure> {
    let protocol = mapping.port.protocol;
    let at = |host_ip, socket| Reservation {
        published: PublishedPort {
            port: mapping.port,
            host_ip,
            host_port,
        },
        socket,
    };
    let alone = |host_ip| Ok(at(host_ip, bind_socket(host_ip, host_port, protocol)?));
    if let Some(ip) = mapping.host_ip {
        return Ok(vec![alone(ip)?]);
    }
    let everywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    // Sockets are most of what a run of ports costs. What one for both families cannot have
    // is asked for again by family, which tells whose fault it is.
    match bind_both(host_port, protocol) {
        Ok(socket) => Ok(everywhere.map(|host_ip| at(host_ip, socket.clone())).into()),
        Err(_conflict) => everywhere.into_iter().map(alone).collect(),
    }
}

/// A socket for one address, and only its family.
fn bind_socket(
    ip: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Result<Option<Arc<OwnedFd>>, BindFailure> {
    bind_for(ip, port, protocol, Families::One).map_err(|errno| BindFailure {
        ip,
        source: errno.into(),
    })
}

/// One socket for all addresses of both families.
fn bind_both(port: u16, protocol: Protocol) -> Result<Option<Arc<OwnedFd>>, Errno> {
    bind_for(Ipv6Addr::UNSPECIFIED.into(), port, protocol, Families::Both)
}

/// What a socket at the unspecified IPv6 address stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    One,
    Both,
}

fn bind_for(
    ip: IpAddr,
    port: u16,
    protocol: Protocol,
    families: Families,
) -> Result<Option<Arc<OwnedFd>>, Errno> {
    let family = if ip.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = match socket_with(family, kind, SocketFlags::CLOEXEC, Some(number)) {
        // The kernel forwards SCTP even if it has no SCTP sockets, and then nobody can take the port.
        Err(Errno::PROTONOSUPPORT) if protocol == Protocol::Sctp => return Ok(None),
        other => other?,
    };
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, families == Families::One)?;
    }
    if protocol == Protocol::Udp {
        sockopt::set_socket_recv_buffer_size(&socket, 0)?;
    }
    bind(&socket, &SocketAddr::new(ip, port))?;
    Ok(Some(Arc::new(socket)))
}
