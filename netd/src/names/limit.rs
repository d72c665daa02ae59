//! What one client, and all together, may ask of the server at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Questions of one client in one second; a resolver that is in a hurry asks a tenth.
const QUESTIONS_PER_SECOND: u32 = 5_000;
/// Questions of one client that wait for servers outside. Each holds a socket.
const FORWARDS_PER_CLIENT: u32 = 64;
const FORWARDS: u32 = 512;
const CONNECTIONS_PER_CLIENT: u32 = 16;
const CONNECTIONS: u32 = 256;
/// When so many clients are known, those that do nothing are forgotten.
const CLIENTS: usize = 2_048;

/// What a client holds while it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A question that waits for a server outside.
    Forward,
    /// A connection.
    Connection,
}

/// The clients of the server.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    clients: HashMap<IpAddr, Client>,
    total: Counts,
}

#[derive(Debug)]
struct Client {
    counts: Counts,
    second: Instant,
    questions: u32,
}

#[derive(Debug, Default)]
struct Counts {
    forwards: u32,
    connections: u32,
}

impl Counts {
    fn of(&mut self, kind: Use) -> &mut u32 {
        match kind {
            Use::Forward => &mut self.forwards,
            Use::Connection => &mut self.connections,
        }
    }
}

/// The right of a client to go on; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    clients: Clients,
    ip: IpAddr,
    kind: Use,
}

impl Clients {
    /// Whether a client may ask one more question.
    pub(super) fn may_ask(&self, ip: IpAddr, now: Instant) -> bool {
        let mut state = self.lock();
        let client = state.client(ip, now);
        if now.saturating_duration_since(client.second) >= Duration::from_secs(1) {
            client.second = now;
            client.questions = 0;
        }
        client.questions = client.questions.saturating_add(1);
        client.questions <= QUESTIONS_PER_SECOND
    }

    /// Lets a client hold one more, if neither it nor all together have too many.
    pub(super) fn admit(&self, ip: IpAddr, kind: Use, now: Instant) -> Option<Permit> {
        let (own_limit, limit) = match kind {
            Use::Forward => (FORWARDS_PER_CLIENT, FORWARDS),
            Use::Connection => (CONNECTIONS_PER_CLIENT, CONNECTIONS),
        };
        let mut state = self.lock();
        if *state.total.of(kind) >= limit || *state.client(ip, now).counts.of(kind) >= own_limit {
            return None;
        }
        *state.total.of(kind) += 1;
        *state.client(ip, now).counts.of(kind) += 1;
        Some(Permit {
            clients: self.clone(),
            ip,
            kind,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn client(&mut self, ip: IpAddr, now: Instant) -> &mut Client {
        if self.clients.len() >= CLIENTS && !self.clients.contains_key(&ip) {
            self.clients
                .retain(|_, client| client.counts.forwards + client.counts.connections > 0);
        }
        self.clients.entry(ip).or_insert_with(|| Client {
            counts: Counts::default(),
            second: now,
            questions: 0,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.clients.lock();
        *state.total.of(self.kind) -= 1;
        if let Some(client) = state.clients.get_mut(&self.ip) {
            *client.counts.of(self.kind) -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 5, 0, last])
    }

    /// C-05: one client takes nothing from the others.
    #[test]
    fn a_client_that_has_all_that_it_may_leaves_the_rest_to_others() {
        let clients = Clients::default();
        let now = Instant::now();
        for kind in [Use::Forward, Use::Connection] {
            let held: Vec<_> = std::iter::from_fn(|| clients.admit(ip(2), kind, now)).collect();
            assert!(held.len() < 100, "{}", held.len());
            assert!(clients.admit(ip(3), kind, now).is_some());
            drop(held);
            assert!(clients.admit(ip(2), kind, now).is_some());
        }
    }

    #[test]
    fn all_together_have_a_limit() {
        let clients = Clients::default();
        let now = Instant::now();
        let held: Vec<_> = (0..=255)
            .flat_map(|last| std::iter::repeat_n(last, 8))
            .filter_map(|last| clients.admit(ip(last), Use::Connection, now))
            .collect();
        assert_eq!(held.len(), usize::try_from(CONNECTIONS).unwrap());
    }

    #[test]
    fn a_flood_is_stopped_and_a_second_later_forgiven() {
        let clients = Clients::default();
        let now = Instant::now();
        let passed = (0..20_000).filter(|_| clients.may_ask(ip(2), now)).count();
        assert_eq!(passed, usize::try_from(QUESTIONS_PER_SECOND).unwrap());
        assert!(clients.may_ask(ip(3), now));
        assert!(clients.may_ask(ip(2), now + Duration::from_secs(1)));
    }

    #[test]
    fn clients_that_do_nothing_are_forgotten() {
        let clients = Clients::default();
        let now = Instant::now();
        let busy = clients.admit(ip(1), Use::Forward, now);
        for number in 0..100_000_u32 {
            clients.may_ask(IpAddr::from(number.to_be_bytes()), now);
        }
        let state = clients.lock();
        assert!(state.clients.len() <= CLIENTS);
        assert!(state.clients.contains_key(&ip(1)));
        drop(state);
        drop(busy);
    }
}
