//! One-time tickets: a browser cannot put a header on a WebSocket, so it first asks for a ticket over
//! HTTP, with cookie and CSRF token, and opens the socket with it. A ticket works once, for
//! [`TICKET_LIFETIME`], for the person and session that asked.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How long a ticket waits for its socket.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// Tickets that wait at a time; more are refused.
pub const MAX_TICKETS: usize = 10_000;

/// The tickets that wait, by hash. `T` is whom a ticket stands for.
#[derive(Debug)]
pub struct Tickets<T> {
    waiting: Mutex<HashMap<[u8; 32], (Instant, T)>>,
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

impl<T> Tickets<T> {
    /// A new ticket, or `None` when too many wait.
    #[must_use]
    pub fn issue(&self, holder: T, now: Instant) -> Option<String> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_TICKETS {
            waiting.retain(|_, (expires, _)| *expires > now);
        }
        if waiting.len() >= MAX_TICKETS {
            metrics::counter!("breeze_ws_tickets_refused_total").increment(1);
            return None;
        }
        let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        waiting.insert(hash(&ticket), (now + TICKET_LIFETIME, holder));
        Some(ticket)
    }

    /// Whom the ticket stands for; it is gone then.
    #[must_use]
    pub fn redeem(&self, ticket: &str, now: Instant) -> Option<T> {
        let (expires, holder) = self.waiting.lock().remove(&hash(ticket))?;
        (expires > now).then_some(holder)
    }
}

/// Looked up by hash, so that the time of a look-up tells nothing of a ticket's text.
fn hash(ticket: &str) -> [u8; 32] {
    Sha256::digest(ticket.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_works_once_and_not_for_long() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let ticket = tickets.issue("bob", now).expect("room");
        assert_ne!(tickets.issue("eve", now).expect("room"), ticket);
        assert_eq!(tickets.redeem("guess", now), None);
        assert_eq!(tickets.redeem(&ticket, now + TICKET_LIFETIME / 2), Some("bob"));
        assert_eq!(tickets.redeem(&ticket, now), None, "once");
        let late = tickets.issue("bob", now).expect("room");
        assert_eq!(tickets.redeem(&late, now + TICKET_LIFETIME), None);
    }

    #[test]
    fn those_that_wait_are_bounded_and_expired_ones_make_room() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        for _ in 0..MAX_TICKETS {
            assert!(tickets.issue((), now).is_some());
        }
        assert!(tickets.issue((), now).is_none());
        assert!(tickets.issue((), now + TICKET_LIFETIME).is_some());
    }
}
