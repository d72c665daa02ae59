//! The end of tracked connections: of those that a change leaves without permission, of
//! those of an endpoint that goes, and of those that would lead past a new rule.

use super::Owner;
use crate::firewall::{Difference, flow};
use crate::netlink::conntrack::{self, Entry, Part, Scope};
use crate::network::error::{self, NetworkError};
use crate::network::model::{Addresses, Protocol, PublishedPort};

impl Owner {
    /// Ends the connections that only removed elements allowed.
    pub(in crate::network) fn cut(&mut self, difference: &Difference) -> Result<(), NetworkError> {
        self.cut_those(difference, |_| true)
    }

    /// Ends those of them of which `ends` says so.
    pub(super) fn cut_those(
        &mut self,
        difference: &Difference,
        ends: impl Fn(&Entry) -> bool,
    ) -> Result<(), NetworkError> {
        let gone = flow::Closed::by(difference);
        if gone.is_empty() {
            return Ok(());
        }
        self.flush(&gone.scope(), |entry| gone.covers(entry) && ends(entry))
    }

    /// Ends the connections of an endpoint: its addresses may become another's.
    pub(super) fn forget_flows(&mut self, addresses: &Addresses) -> Result<(), NetworkError> {
        let both = [addresses.ipv4.into(), addresses.ipv6.into()];
        let parts = both
            .into_iter()
            .flat_map(|ip| [Part::OpenedBy(ip), Part::AnsweredBy(ip)]);
        self.flush(&Scope::Of(parts.collect()), |entry| {
            both.into_iter().any(|ip| entry.mentions(ip))
        })
    }

    /// A client that sent datagrams to a port before it was published has an entry that
    /// would lead them past the new rule for as long as it goes on sending.
    pub(super) fn forget_stale_flows(
        &mut self,
        published: &[PublishedPort],
    ) -> Result<(), NetworkError> {
        let ports: Vec<_> = published
            .iter()
            .filter(|published| published.port.protocol == Protocol::Udp)
            .map(|published| published.host_port)
            .collect();
        if ports.is_empty() {
            return Ok(());
        }
        self.flush(&Scope::Every, |entry| {
            entry.protocol == Protocol::Udp.number()
                && ports.contains(&entry.destination_port)
                && entry.destination == entry.reply_source
        })
    }

    fn flush(
        &mut self,
        scope: &Scope,
        doomed: impl Fn(&Entry) -> bool,
    ) -> Result<(), NetworkError> {
        conntrack::flush(&mut self.tracking, scope, doomed)
            .map(drop)
            .map_err(error::device("flush connection tracking"))
    }
}
