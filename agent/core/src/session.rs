//! The agent's side of a connection over its whole life.
//!
//! Getters, then `handle_*`, then `poll_command`. Call `handle_timeout` whenever `next_wakeup` has come;
//! after every `handle_*` drain `poll_command` and carry the commands out in order.
//!
//! **Numbers.** A process that starts up, or whose clocks jumped, may be an older copy of itself. It
//! numbers nothing before the server has said what it holds (`Held`), or before `HELD_WAIT` has passed
//! after a welcome without that: then, and whenever its numbers are behind what is held, it begins a new
//! incarnation. What has a number keeps it for ever.

mod close;
mod flow;
mod heartbeats;
mod links;
mod renewal;
mod types;
mod uploads;

pub use types::{Certificate, Identity, Phase, Start, Status, Tuning};

use crate::clock::{Jump, Now};
use crate::{
    clock::{JumpDetector, MINUTE, SECOND, ServerClock},
    command::{Command, LinkId, State},
    documents::{Documents, Intervals, revocation_reason},
    spool::{Number, Spool, Storage},
};
use breeze_proto::v1::{RelayFrame, SignedDocument, agent_frame::Body, relay_frame};
use links::Links;
use rand::{RngExt as _, rngs::StdRng};
use renewal::Renewal;
use std::collections::{BTreeMap, VecDeque};
use uploads::Uploads;

/// At intervals below this, heartbeats are made durable together.
const FSYNC_EACH_FROM_US: u64 = 10 * SECOND;
/// How long a heartbeat may stay without fsync then.
const FSYNC_BATCH_US: u64 = 5 * SECOND;
/// The longest that the shell is let sleep, so that a jump of the clocks is noticed.
const MAX_SLEEP_US: u64 = 30 * SECOND;
/// How often a revoked agent asks whether it still is.
const REVOKED_ASK_US: u64 = 24 * 60 * MINUTE;

/// Whether new heartbeats may get numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbering {
    Open,
    /// Until `Held` comes, or until that time if it is known.
    AwaitsHeld {
        until_us: Option<u64>,
    },
}

/// The state machine.
#[derive(Debug)]
pub struct Session<S> {
    identity: Identity,
    tuning: Tuning,
    rng: StdRng,
    spool: Spool<S>,
    documents: Documents,
    commands: VecDeque<Command>,

    server: ServerClock,
    started_us: u64,
    jumps: JumpDetector,
    planned_us: u64,

    links: Links,
    numbering: Numbering,
    /// Sent on the primary link and not acknowledged, with the time of sending.
    in_flight: BTreeMap<Number, u64>,
    /// Taken in this process, unnumbered so far: key and monotonic time.
    fresh: VecDeque<(u64, u64)>,

    intervals: Intervals,
    next_sample_us: u64,
    last_details_us: Option<u64>,
    awaiting_reading: bool,
    next_scan_us: u64,
    next_fsync_us: Option<u64>,
    custom: BTreeMap<String, f64>,

    uploads: Uploads,
    renewal: Renewal,
    revoked: Option<SignedDocument>,
    stopped: bool,

    last_ack_us: u64,
    acknowledged: u64,
    refused: u64,
    trouble: String,
}

impl<S: Storage> Session<S> {
    /// Starts as a process that has just begun: connects and takes a heartbeat at once.
    pub fn new(start: Start, spool: Spool<S>, mut rng: StdRng, now: Now) -> Self {
        let Start { identity, documents, revoked, certificate, tuning } = start;
        let revoked_wait = revoked.is_some().then(|| rng.random_range(0..MINUTE));
        let mut session = Self {
            identity,
            tuning,
            rng,
            spool,
            documents,
            commands: VecDeque::new(),
            server: ServerClock::default(),
            started_us: now.mono_us,
            jumps: JumpDetector::new(now),
            planned_us: now.mono_us,
            links: Links::new(now.mono_us + revoked_wait.unwrap_or(0)),
            numbering: Numbering::AwaitsHeld { until_us: None },
            in_flight: BTreeMap::new(),
            fresh: VecDeque::new(),
            intervals: Intervals::default(),
            next_sample_us: now.mono_us,
            last_details_us: None,
            awaiting_reading: false,
            next_scan_us: now.mono_us,
            next_fsync_us: None,
            custom: BTreeMap::new(),
            uploads: Uploads::default(),
            renewal: Renewal::new(certificate),
            revoked,
            stopped: false,
            last_ack_us: 0,
            acknowledged: 0,
            refused: 0,
            trouble: String::new(),
        };
        let counters = session.spool.counters();
        if counters.boot_id.as_ref() == session.identity.boot_id {
            // An earlier process of this boot was told the time.
            session.server.set(now.mono_us.wrapping_add_signed(counters.server_minus_mono_us), now);
        }
        if session.spool.counters().incarnation == 0 {
            session.begin_incarnation();
        }
        session.intervals = session.wanted_intervals(now);
        session
    }

    // ---- getters ----

    /// The monotonic time at which `handle_timeout` wants to be called, at the latest.
    #[must_use]
    pub fn next_wakeup(&self) -> u64 {
        self.planned_us
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let primary = self.links.primary();
        Status {
            phase: self.phase(),
            relay: primary.map(|link| link.relay_id.clone()),
            transport: primary.map(|link| link.transport),
            observed_address: primary.map(|link| link.observed_address.clone()).unwrap_or_default(),
            last_ack_us: self.last_ack_us,
            acknowledged: self.acknowledged,
            refused: self.refused,
            spooled: self.spool.len(),
            spooled_bytes: self.spool.bytes(),
            thinned: self.spool.counters().thinned,
            certificate: self.renewal.certificate(),
            renewal_trouble: self.renewal.trouble().to_owned(),
            heartbeat_interval_ms: self.intervals.heartbeat_ms,
            revoked_reason: self.revoked.as_ref().map(revocation_reason),
            trouble: self.spool.trouble().map_or_else(|| self.trouble.clone(), ToString::to_string),
        }
    }

    fn phase(&self) -> Phase {
        if self.stopped {
            Phase::Stopped
        } else if self.revoked.is_some() {
            Phase::Revoked
        } else if let Some(link) = self.links.primary().filter(|link| link.is_ready()) {
            if link.renew_only { Phase::RenewOnly } else { Phase::Connected }
        } else if self.links.is_waiting() {
            Phase::Waiting
        } else {
            Phase::Connecting
        }
    }

    #[must_use]
    pub const fn documents(&self) -> &Documents {
        &self.documents
    }

    /// For the shell's own upkeep, and for tests that look at the disk.
    pub const fn spool(&mut self) -> &mut Spool<S> {
        &mut self.spool
    }

    // ---- handle_* ----

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.stopped {
            return;
        }
        self.observe_clocks(now);
        self.drive_links(now);
        self.drive_numbering(now);
        self.drive_heartbeats(now);
        self.drive_uploads(now);
        self.drive_renewal(now);
        self.pump(now);
        self.plan(now);
    }

    /// Transport and TLS of `link` stand.
    pub fn handle_connected(&mut self, link: LinkId, now: Now) {
        self.link_connected(link, now);
        self.plan(now);
    }

    /// `link` could not be made, or has ended; `reason` is for people.
    pub fn handle_disconnected(&mut self, link: LinkId, reason: &str, now: Now) {
        self.link_lost(link, reason, now);
        self.plan(now);
    }

    /// A frame came on `link`.
    pub fn handle_frame(&mut self, link: LinkId, frame: RelayFrame, now: Now) {
        if !self.links.heard_from(link, now) {
            return;
        }
        // An unknown body is skipped: a newer relay may say more.
        let Some(body) = frame.body else { return };
        self.dispatch(link, body, now);
        self.handle_timeout(now);
    }

    fn dispatch(&mut self, link: LinkId, body: relay_frame::Body, now: Now) {
        use relay_frame::Body as Relay;
        match body {
            Relay::Welcome(welcome) => self.welcomed(link, &welcome, now),
            Relay::Ack(ack) => self.acked(&ack, now),
            Relay::UploadAck(ack) => self.upload_acked(&ack, now),
            Relay::Ping(ping) => {
                self.send(link, Body::Pong(breeze_proto::v1::Pong { token: ping.token, server_wall_us: 0 }))
            }
            Relay::Pong(pong) => self.ponged(link, &pong, now),
            Relay::RenewChallenge(challenge) => self.challenged(challenge.challenge, now),
            Relay::RenewReply(reply) => self.renewal_answered(reply, now),
            Relay::Document(document) => self.take_document(&document, now),
            Relay::Root(root) => self.take_root(root, now),
            Relay::Held(held) => self.held(link, &held, now),
            Relay::Close(close) => self.told_to_close(link, &close, now),
        }
    }

    /// Addresses or routes of the device changed.
    pub fn handle_network_change(&mut self, now: Now) {
        self.links_network_changed(now);
        self.plan(now);
    }

    /// Stops: says goodbye and makes the spool durable. The shell carries out what is left and ends.
    pub fn handle_stop(&mut self, now: Now) {
        if self.stopped {
            return;
        }
        self.pump(now);
        self.spool.flush();
        self.links_stop();
        self.stopped = true;
        self.planned_us = u64::MAX;
    }

    // ---- poll_* ----

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    // ---- clocks, and what all parts use ----

    fn observe_clocks(&mut self, now: Now) {
        match self.jumps.observe(now, self.planned_us) {
            Jump::None => {}
            Jump::Slept => self.links_woke_up(now),
            Jump::Moved => {
                self.numbering = Numbering::AwaitsHeld { until_us: None };
                self.links_reconnect(now, "the clock jumped");
            }
        }
    }

    fn begin_incarnation(&mut self) {
        let incarnation = self.rng.random_range(1..=u64::MAX);
        self.spool.begin_incarnation(incarnation);
    }

    /// Seconds since the epoch by the server's clock if it is known, for judging expiries; never before
    /// our certificate was made, whatever a clock without a battery or a relay says.
    fn now_s(&self, now: Now) -> u64 {
        let told = self.server.estimate(now);
        // What passed since the start has passed since the server's time was heard, too: a clock that stands
        // before it must not keep a document for ever.
        let floor_us = self.spool.counters().server_us + now.mono_us.saturating_sub(self.started_us);
        let best_us = told.unwrap_or_else(|| now.wall_us.max(floor_us));
        (best_us / SECOND).max(self.renewal.certificate().not_before_s)
    }

    fn plan(&mut self, now: Now) {
        if self.stopped {
            return;
        }
        let mut at = now.mono_us + MAX_SLEEP_US;
        let mut consider = |time: Option<u64>| at = time.map_or(at, |time| at.min(time));
        consider((self.revoked.is_none() && !self.awaiting_reading).then_some(self.next_sample_us));
        consider(self.revoked.is_none().then_some(self.next_scan_us));
        consider(self.next_fsync_us);
        consider(self.links_wakeup());
        consider(self.flow_wakeup());
        consider(self.uploads_wakeup());
        consider(self.renewal_wakeup(now));
        let now_s = self.now_s(now);
        consider(
            self.documents
                .next_expiry(now_s)
                .map(|expires| now.mono_us + expires.saturating_sub(now_s).saturating_mul(SECOND).min(MAX_SLEEP_US)),
        );
        self.planned_us = at.max(now.mono_us + 1);
    }

    fn save_state(&mut self) {
        let state: State = self.documents.to_state(self.revoked.clone());
        self.commands.push_back(Command::SaveState(state));
    }

    fn send(&mut self, link: LinkId, body: Body) {
        let frame = breeze_proto::v1::AgentFrame { body: Some(body) };
        self.commands.push_back(Command::Send { link, frame });
    }
}
