//! Losing a connection, and coming back: at once for one device with a reason of its own, over a spread
//! time when many were lost together, ever later when it does not work.

use super::{DOUBTFUL_PONG_US, Stage};
use crate::{
    clock::{MINUTE, Now, SECOND},
    command::{Command, LinkId, TransportKind},
    session::{REVOKED_ASK_US, Session},
    spool::Storage,
};
use breeze_proto::v1::{Goodbye, agent_frame::Body};
use rand::RngExt as _;

/// First step of the backoff.
const BACKOFF_US: u64 = SECOND;
/// Doublings of the backoff.
const MAX_DOUBLINGS: u32 = 16;
/// A connection that held that long counts as a success.
const SETTLED_US: u64 = MINUTE;

impl<S: Storage> Session<S> {
    pub(in crate::session) fn link_lost(&mut self, id: LinkId, reason: &str, now: Now) {
        if self.links.successor.as_ref().is_some_and(|link| link.id == id) {
            self.links.successor = None;
            self.plan_probe(now);
        } else if let Some(at) = self.links.racing.iter().position(|link| link.id == id) {
            self.links.racing.swap_remove(at);
            self.trouble = reason.to_owned();
            if let Some((_, relay)) = self.links.second_at.take() {
                // QUIC failed before its head start was over.
                self.race_with(relay, TransportKind::WebSocket, now);
            } else if self.links.racing.is_empty() {
                self.links.relay_index += 1;
                self.back_off(now);
            }
        } else if self.links.is_primary(id) {
            let settled = self
                .links
                .primary
                .take()
                .is_some_and(|link| link.is_ready() && now.mono_us.saturating_sub(link.since_us) >= SETTLED_US);
            self.in_flight.clear();
            self.trouble = reason.to_owned();
            self.drop_successor_unless_greeting();
            if self.links.primary.is_some() {
                return;
            }
            if settled {
                self.links.failures = 0;
                let spread = self.tuning.return_spread_us;
                self.links.connect_at = now.mono_us + self.rng.random_range(0..=spread);
            } else {
                self.back_off(now);
            }
        }
    }

    /// A successor that said hello may be why the primary ended: it is promoted.
    fn drop_successor_unless_greeting(&mut self) {
        match self.links.successor.take() {
            Some(link) if link.stage == Stage::Greeting => self.links.primary = Some(link),
            Some(link) => {
                self.commands.push_back(Command::Close { link: link.id, reason: "the connection it follows is gone" });
            }
            None => {}
        }
    }

    /// Full jitter: anywhere up to a doubling limit.
    fn back_off(&mut self, now: Now) {
        let limit = (BACKOFF_US << self.links.failures.min(MAX_DOUBLINGS)).min(self.tuning.backoff_cap_us);
        self.links.failures = self.links.failures.saturating_add(1);
        let wait = if self.revoked.is_some() {
            self.rng.random_range(REVOKED_ASK_US * 3 / 4..=REVOKED_ASK_US * 5 / 4)
        } else {
            self.rng.random_range(limit / 10..=limit)
        };
        self.links.connect_at = now.mono_us + wait;
    }

    /// Ends every link; the next race starts between `earliest_us` and twice that, at least after
    /// the usual backoff.
    pub(in crate::session) fn links_close_all(&mut self, reason: &'static str, earliest_us: u64, now: Now) {
        let links = &mut self.links;
        let all = links.racing.drain(..).chain(links.primary.take()).chain(links.successor.take());
        self.commands.extend(all.map(|link| Command::Close { link: link.id, reason }));
        links.second_at = None;
        links.succeed_at = None;
        self.in_flight.clear();
        self.back_off(now);
        if earliest_us > 0 {
            let wait = earliest_us + self.rng.random_range(0..=earliest_us);
            self.links.connect_at = self.links.connect_at.max(now.mono_us + wait);
        }
    }

    /// The primary `id` was replaced by our own successor, which goes on in its place.
    pub(in crate::session) fn links_promote(&mut self, id: LinkId, now: Now) -> bool {
        if !self.links.successor.as_ref().is_some_and(|link| link.stage == Stage::Greeting) {
            return false;
        }
        self.commands.push_back(Command::Close { link: id, reason: "replaced by a newer connection" });
        self.link_lost(id, "", now);
        true
    }

    pub(in crate::session) fn next_relay(&mut self) {
        self.links.relay_index += 1;
    }

    /// One device has a reason of its own to come back at once.
    pub(in crate::session) fn links_reconnect(&mut self, now: Now, reason: &'static str) {
        if self.revoked.is_some() {
            return;
        }
        self.links_close_all(reason, 0, now);
        self.links.failures = 0;
        self.links.connect_at = now.mono_us;
    }

    pub(in crate::session) fn links_woke_up(&mut self, now: Now) {
        self.links.failures = 0;
        if self.links.ready().is_some() {
            self.ping_primary(now, DOUBTFUL_PONG_US);
        } else if self.revoked.is_none() {
            self.links.connect_at = self.links.connect_at.min(now.mono_us);
        }
    }

    pub(in crate::session) fn links_network_changed(&mut self, now: Now) {
        if self.stopped || self.revoked.is_some() {
            return;
        }
        if let Some(id) = self.links.ready() {
            self.commands.push_back(Command::Rebind { link: id });
            self.ping_primary(now, DOUBTFUL_PONG_US);
            self.links.probes = 0;
            if self.links.successor.is_none() {
                self.plan_probe(now);
            }
        } else if self.links.is_waiting() {
            self.links.failures = 0;
            self.links.connect_at = now.mono_us;
        }
    }

    pub(in crate::session) fn links_stop(&mut self) {
        if let Some(id) = self.links.ready() {
            self.send(id, Body::Goodbye(Goodbye { reason: "stopping".into() }));
        }
        let links = &mut self.links;
        let all = links.racing.drain(..).chain(links.primary.take()).chain(links.successor.take());
        self.commands.extend(all.map(|link| Command::Close { link: link.id, reason: "stopping" }));
    }
}
