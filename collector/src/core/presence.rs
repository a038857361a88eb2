//! Whether a device is there: its live connections, told apart by relay and epoch, and the rules for
//! what replaces what.
//!
//! - The same installation (nonce) with a higher counter replaces its older connection.
//! - The end of a connection ends only that one, never a newer one.
//! - A standby connection counts as presence and nothing else.
//! - Two installations that take turns under one certificate are suspected of being clones. A
//!   reinstallation changes the nonce once and never back.

use breeze_proto::v1;
use bytes::Bytes;
use smallvec::SmallVec;

/// Connections of one device that are remembered as alive; the oldest is forgotten beyond.
pub const MAX_SESSIONS: usize = 4;
/// Ended connections of one device that are remembered.
const MAX_ENDED: usize = 4;
/// Installations that a device had before its present one.
const MAX_FORMER: usize = 4;
/// Returns to a former installation within [`CLONE_WINDOW_US`] that make a clone.
const CLONE_RETURNS: u8 = 2;
const CLONE_WINDOW_US: u64 = 3_600_000_000;
/// After the last connection has ended, so that a reconnect does not show.
pub const DISCONNECT_GRACE_US: u64 = 5_000_000;

/// Which connection: the relay (an index of the core's) and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionKey {
    pub relay: u16,
    pub epoch: u64,
}

pub type Nonce = [u8; 16];

/// A connection as its hello described it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub key: SessionKey,
    /// `None`: known from a heartbeat only.
    pub installation: Option<(Nonce, u64)>,
    pub is_standby: bool,
}

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    GoOn,
    /// The same installation is connected with this or a higher counter.
    Stale,
    CloneSuspected,
}

/// What a new connection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    pub verdict: Verdict,
    /// The primary connection that it replaced.
    pub replaced: Option<SessionKey>,
}

/// Of one device.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    sessions: SmallVec<[Session; 1]>,
    /// Those that ended, the newest last: what comes late of them is data and no sign of life. Entries that
    /// were stored in another region come after newer ones, so an end may come before its beginning.
    ended: SmallVec<[SessionKey; 1]>,
    /// When the last connection ended; 0 while there is one.
    pub ended_us: u64,
    /// Why the newest that ended did, as its relay said.
    ended_reason: &'static str,
    /// Nonce of the newest accepted primary connection.
    installation: Option<Nonce>,
    former: SmallVec<[Nonce; 1]>,
    returns: u8,
    returned_us: u64,
}

impl Presence {
    /// What would be done with a connection, without doing it.
    #[must_use]
    pub fn judge(&self, session: &Session, now_us: u64) -> Verdict {
        let Some((nonce, counter)) = session.installation else { return Verdict::GoOn };
        if session.is_standby && self.ended.contains(&session.key) {
            return Verdict::Stale;
        }
        if session.is_standby || self.sessions.iter().any(|held| held.key == session.key) {
            return Verdict::GoOn;
        }
        let outranked = self
            .sessions
            .iter()
            .filter(|held| !held.is_standby)
            .any(|held| held.installation.is_some_and(|(held_nonce, held)| held_nonce == nonce && held >= counter));
        if outranked || self.ended.contains(&session.key) {
            return Verdict::Stale;
        }
        if self.is_return(nonce) && self.recent_returns(now_us) + 1 >= CLONE_RETURNS {
            return Verdict::CloneSuspected;
        }
        Verdict::GoOn
    }

    fn is_return(&self, nonce: Nonce) -> bool {
        self.installation != Some(nonce) && self.former.contains(&nonce)
    }

    fn recent_returns(&self, now_us: u64) -> u8 {
        if now_us.saturating_sub(self.returned_us) < CLONE_WINDOW_US { self.returns } else { 0 }
    }

    /// A connection was accepted by a relay. Doing it again changes nothing.
    pub fn handle_connected(&mut self, session: Session, now_us: u64) -> Connected {
        let verdict = self.judge(&session, now_us);
        let mut connected = Connected { verdict, replaced: None };
        if verdict != Verdict::GoOn {
            return connected;
        }
        if let Some(held) = self.sessions.iter_mut().find(|held| held.key == session.key) {
            *held = session;
            return connected;
        }
        if let (false, Some((nonce, _))) = (session.is_standby, session.installation) {
            self.note_installation(nonce, now_us);
            let primary = self.sessions.iter().position(|held| !held.is_standby);
            connected.replaced = primary.map(|at| self.sessions.remove(at).key);
        }
        self.add(session);
        connected
    }

    fn note_installation(&mut self, nonce: Nonce, now_us: u64) {
        if self.is_return(nonce) {
            self.returns = self.recent_returns(now_us) + 1;
            self.returned_us = now_us;
        }
        let before = self.installation.replace(nonce).filter(|before| *before != nonce);
        self.former.retain(|former| *former != nonce);
        if let Some(before) = before {
            if self.former.len() >= MAX_FORMER {
                self.former.remove(0);
            }
            self.former.push(before);
        }
    }

    fn add(&mut self, session: Session) {
        if self.sessions.len() >= MAX_SESSIONS {
            self.sessions.remove(0);
        }
        self.sessions.push(session);
        self.ended_us = 0;
    }

    /// A connection ended. Whether it was the last.
    pub fn handle_disconnected(&mut self, key: SessionKey, at_us: u64, reason: &str) -> bool {
        let before = self.sessions.len();
        self.sessions.retain(|held| held.key != key);
        if self.sessions.len() == before {
            self.note_ended(key);
            return false;
        }
        self.remember_end(key, self.ended.len());
        self.ended_reason = known_reason(reason);
        let last = self.sessions.is_empty();
        if last {
            self.ended_us = at_us.max(1);
        }
        last
    }

    /// A connection is over whose beginning was not seen, or not heeded. What `end` tells stays.
    fn note_ended(&mut self, key: SessionKey) {
        if self.ended.contains(&key) {
            return;
        }
        let known_end = usize::from(self.end().is_some());
        self.remember_end(key, self.ended.len() - known_end);
    }

    fn remember_end(&mut self, key: SessionKey, mut at: usize) {
        if let Some(before) = self.ended.iter().position(|ended| *ended == key) {
            self.ended.remove(before);
            at -= usize::from(before < at);
        }
        if self.ended.len() >= MAX_ENDED {
            self.ended.remove(0);
            at = at.saturating_sub(1);
        }
        self.ended.insert(at, key);
    }

    /// The connection whose end left none, when that was, and why.
    #[must_use]
    pub fn end(&self) -> Option<(SessionKey, u64, &'static str)> {
        let ended = self.ended.last().filter(|_| self.sessions.is_empty() && self.ended_us > 0)?;
        Some((*ended, self.ended_us, self.ended_reason))
    }

    /// Something came over a connection. Whether that shows that the device is there.
    pub fn handle_sign_of_life(&mut self, key: SessionKey) -> bool {
        if self.sessions.iter().any(|held| held.key == key) {
            return true;
        }
        // Only a connection that ended, or one that was replaced by a newer one at the same relay,
        // can be older than what is known.
        let is_late = self.ended.iter().any(|ended| ended.relay == key.relay && ended.epoch >= key.epoch)
            || self.sessions.iter().any(|held| held.key.relay == key.relay && held.key.epoch > key.epoch);
        if is_late {
            return false;
        }
        if !self.sessions.iter().any(|held| !held.is_standby) {
            self.add(Session { key, installation: None, is_standby: false });
        }
        true
    }

    /// Given up: none of its connections was heard of for too long.
    pub fn handle_expired(&mut self) {
        self.sessions.clear();
    }

    /// As it crosses to another collector; [`Presence::import`] reads it.
    pub fn export(&self, device: &mut v1::LaneDevice) {
        let key = |key: SessionKey| v1::LaneSession {
            relay: key.relay.into(),
            epoch: key.epoch,
            ..v1::LaneSession::default()
        };
        let session = |held: &Session| v1::LaneSession {
            nonce: held.installation.map_or_else(Bytes::new, |(nonce, _)| Bytes::copy_from_slice(&nonce)),
            counter: held.installation.map_or(0, |(_, counter)| counter),
            standby: held.is_standby,
            ..key(held.key)
        };
        device.sessions = self.sessions.iter().map(session).collect();
        device.ended = self.ended.last().copied().map(key);
        device.ends = self.ended.iter().copied().map(key).collect();
        device.ended_us = self.ended_us;
        device.ended_reason = self.ended_reason.to_owned();
        device.installation = self.installation.map_or_else(Bytes::new, |nonce| Bytes::copy_from_slice(&nonce));
        device.former = self.former.iter().map(|nonce| Bytes::copy_from_slice(nonce)).collect();
        device.returns = self.returns.into();
        device.returned_us = self.returned_us;
    }

    /// From what [`Presence::export`] wrote.
    #[must_use]
    pub fn import(device: &v1::LaneDevice) -> Self {
        let key = |held: &v1::LaneSession| SessionKey { relay: held.relay as u16, epoch: held.epoch };
        let nonce = |bytes: &Bytes| Nonce::try_from(bytes.as_ref()).ok();
        let session = |held: &v1::LaneSession| Session {
            key: key(held),
            installation: nonce(&held.nonce).map(|nonce| (nonce, held.counter)),
            is_standby: held.standby,
        };
        Self {
            sessions: device.sessions.iter().take(MAX_SESSIONS).map(session).collect(),
            ended: match device.ends.as_slice() {
                // Of an earlier version.
                [] => device.ended.iter().map(key).collect(),
                ends => ends.iter().rev().take(MAX_ENDED).rev().map(key).collect(),
            },
            ended_us: device.ended_us,
            ended_reason: known_reason(&device.ended_reason),
            installation: nonce(&device.installation),
            former: device.former.iter().take(MAX_FORMER).filter_map(nonce).collect(),
            returns: device.returns.try_into().unwrap_or(u8::MAX),
            returned_us: device.returned_us,
        }
    }

    /// The connection that frames to the device should take.
    #[must_use]
    pub fn primary(&self) -> Option<SessionKey> {
        self.sessions.iter().rev().find(|held| !held.is_standby).map(|held| held.key)
    }

    /// When it counts as offline if nothing more comes. `live_since_us`: since when this collector
    /// has seen everything that there is, without lagging.
    #[must_use]
    pub fn deadline_us(&self, last_seen_us: u64, live_since_us: u64, period_us: u64) -> u64 {
        if self.sessions.is_empty() && self.ended_us > 0 {
            self.ended_us.max(live_since_us).saturating_add(DISCONNECT_GRACE_US)
        } else {
            last_seen_us.max(live_since_us).saturating_add(period_us)
        }
    }
}

/// Of the reasons that relays give, the one that is meant.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 5] = ["goodbye", "timeout", "replaced", "revoked", "drained"];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Nonce = [1; 16];
    const B: Nonce = [2; 16];

    fn session(relay: u16, epoch: u64, nonce: Nonce, counter: u64) -> Session {
        Session { key: SessionKey { relay, epoch }, installation: Some((nonce, counter)), is_standby: false }
    }

    fn key(relay: u16, epoch: u64) -> SessionKey {
        SessionKey { relay, epoch }
    }

    #[test]
    fn a_higher_counter_replaces_and_a_lower_or_equal_one_is_stale() {
        let mut presence = Presence::default();
        assert_eq!(presence.handle_connected(session(0, 5, A, 2), 0).verdict, Verdict::GoOn);
        assert_eq!(presence.judge(&session(1, 1, A, 2), 0), Verdict::Stale);
        assert_eq!(presence.judge(&session(1, 1, A, 1), 0), Verdict::Stale);
        assert_eq!(presence.judge(&session(0, 5, A, 2), 0), Verdict::GoOn, "it is itself");
        let connected = presence.handle_connected(session(1, 1, A, 3), 0);
        assert_eq!(connected, Connected { verdict: Verdict::GoOn, replaced: Some(key(0, 5)) });
        assert_eq!(presence.primary(), Some(key(1, 1)));
    }

    #[test]
    fn the_end_of_an_older_connection_never_ends_presence() {
        let mut presence = Presence::default();
        presence.handle_connected(session(0, 5, A, 2), 0);
        presence.handle_connected(session(0, 6, A, 3), 0);
        assert!(!presence.handle_disconnected(key(0, 5), 10, ""));
        assert_eq!(presence.deadline_us(100, 0, 50), 150);
        assert!(presence.handle_disconnected(key(0, 6), 20, ""));
        assert_eq!(presence.deadline_us(100, 0, 50), 20 + DISCONNECT_GRACE_US);
        assert!(!presence.handle_sign_of_life(key(0, 6)), "late data of an ended connection is no presence");
        assert!(!presence.handle_sign_of_life(key(0, 5)));
        assert!(presence.handle_sign_of_life(key(0, 7)), "a connection whose beginning was not seen");
        assert_eq!(presence.deadline_us(100, 0, 50), 150);
    }

    #[test]
    fn a_beginning_that_comes_after_its_end_is_no_presence() {
        let mut presence = Presence::default();
        for epoch in [5, 6] {
            assert!(!presence.handle_disconnected(key(0, epoch), 10, ""), "nobody knew it");
        }
        for epoch in [5, 6] {
            let late = session(0, epoch, A, epoch);
            assert_eq!(presence.handle_connected(late, 10).verdict, Verdict::Stale, "{epoch}");
            assert!(!presence.handle_sign_of_life(key(0, epoch)));
        }
        let mut device = v1::LaneDevice::default();
        presence.export(&mut device);
        let mut presence = Presence::import(&device);
        let standby = Session { is_standby: true, ..session(0, 5, A, 5) };
        assert_eq!(presence.handle_connected(standby, 10).verdict, Verdict::Stale, "and not after a hand-over");
        assert_eq!(presence.primary(), None);
        assert_eq!(presence.handle_connected(session(0, 7, A, 7), 20).verdict, Verdict::GoOn, "the next one is there");
    }

    #[test]
    fn an_end_from_elsewhere_does_not_change_what_is_told_of_the_last() {
        let mut presence = Presence::default();
        presence.handle_connected(session(0, 9, A, 9), 0);
        assert!(presence.handle_disconnected(key(0, 9), 20, "goodbye"));
        for epoch in 1..=2 * MAX_ENDED as u64 {
            assert!(!presence.handle_disconnected(key(1, epoch), 30, "timeout"));
            assert_eq!(presence.end(), Some((key(0, 9), 20, "goodbye")));
            assert_eq!(presence.judge(&session(1, epoch, A, 1), 40), Verdict::Stale);
        }
    }

    #[test]
    fn a_standby_connection_is_presence_and_replaces_nothing() {
        let mut presence = Presence::default();
        presence.handle_connected(session(0, 1, A, 5), 0);
        let standby = Session { is_standby: true, ..session(1, 1, A, 4) };
        assert_eq!(presence.handle_connected(standby, 0), Connected { verdict: Verdict::GoOn, replaced: None });
        assert!(!presence.handle_disconnected(key(0, 1), 10, ""));
        assert_eq!(presence.primary(), None);
    }

    #[test]
    fn alternating_installations_are_clones_and_a_reinstallation_is_not() {
        let mut presence = Presence::default();
        let connect = |presence: &mut Presence, epoch, nonce, now| {
            presence.handle_connected(session(0, epoch, nonce, epoch), now).verdict
        };
        assert_eq!(connect(&mut presence, 1, A, 0), Verdict::GoOn);
        assert_eq!(connect(&mut presence, 2, B, 1), Verdict::GoOn, "a reinstallation");
        assert_eq!(connect(&mut presence, 3, B, 2), Verdict::GoOn);
        assert_eq!(connect(&mut presence, 4, A, 3), Verdict::GoOn, "a restored image");
        assert_eq!(connect(&mut presence, 5, B, 4), Verdict::CloneSuspected);
        assert_eq!(connect(&mut presence, 6, A, 5), Verdict::GoOn, "the one that is there may stay");
        assert_eq!(connect(&mut presence, 7, B, 6 + CLONE_WINDOW_US), Verdict::GoOn, "long ago");
    }
}
