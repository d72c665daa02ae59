//! The kernel's netlink interfaces, spoken synchronously.
//!
//! One encoder serves rtnetlink, nf_tables and ctnetlink. Each submodule knows the
//! messages of one kind of object and nothing of containers, leases or rules.
//!
//! A socket stays bound to the network namespace of the thread that opened it, so a
//! whole container is configured through one socket without entering its namespace
//! again.

pub(crate) mod address;
pub(crate) mod conntrack;
pub(crate) mod diag;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod neighbour;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod statistics;

pub(crate) use message::Message;
pub(crate) use socket::{NetlinkError, NetlinkSocket, Reply};
