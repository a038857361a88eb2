//! Connections: the race of QUIC and WebSocket, the return after a loss, the move back to QUIC.
//!
//! At most three links live at a time: two that race, or one in use (primary) and one that will
//! take its place (successor). Only a link that won sends a hello.

mod returning;

use super::{Numbering, Session};
use crate::{
    clock::{MINUTE, Now, SECOND},
    command::{Command, LinkId, TransportKind},
    spool::Storage,
};
use breeze_proto::{
    PROTOCOL_VERSION,
    limits::{HELD_WAIT, KEEP_ALIVE},
    v1::{ConnectionRole, Hello, Ping, Pong, Relay, Welcome, agent_frame::Body},
};
use bytes::Bytes;
use rand::RngExt as _;

/// For transport and TLS, in microseconds.
const CONNECT_US: u64 = 15 * SECOND;
/// From hello to welcome.
const GREETING_US: u64 = 10 * SECOND;
/// For a pong when the connection is in doubt, and otherwise.
const DOUBTFUL_PONG_US: u64 = 3 * SECOND;
const PONG_US: u64 = 10 * SECOND;
/// Doublings of the probe's period.
const MAX_PROBE_DOUBLINGS: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Greeting,
    Ready,
}

/// One connection or attempt.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) relay_id: String,
    pub(super) transport: TransportKind,
    pub(super) observed_address: String,
    pub(super) renew_only: bool,
    stage: Stage,
    /// When the stage began.
    since_us: u64,
    heard_us: u64,
    ping: Option<PendingPing>,
}

#[derive(Debug, Clone, Copy)]
struct PendingPing {
    token: u64,
    deadline_us: u64,
}

impl Link {
    pub(super) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    fn deadline(&self) -> Option<u64> {
        let stage = match self.stage {
            Stage::Connecting => Some(self.since_us + CONNECT_US),
            Stage::Greeting => Some(self.since_us + GREETING_US),
            // QUIC finds a dead path by itself; a WebSocket is asked.
            Stage::Ready if self.ping.is_none() && self.transport == TransportKind::WebSocket => {
                Some(self.heard_us + KEEP_ALIVE.as_micros() as u64)
            }
            Stage::Ready => None,
        };
        [stage, self.ping.map(|ping| ping.deadline_us)].into_iter().flatten().min()
    }
}

/// All of them, and when the next one is made.
#[derive(Debug)]
pub(super) struct Links {
    next_id: LinkId,
    racing: Vec<Link>,
    primary: Option<Link>,
    successor: Option<Link>,
    /// Next race, while there is neither race nor primary.
    connect_at: u64,
    /// When the race's WebSocket starts.
    second_at: Option<(u64, Relay)>,
    failures: u32,
    relay_index: usize,
    /// Next attempt at a successor, while there is none.
    succeed_at: Option<u64>,
    probes: u32,
    ping_token: u64,
}

impl Links {
    pub(super) const fn new(connect_at: u64) -> Self {
        Self {
            next_id: 1,
            racing: Vec::new(),
            primary: None,
            successor: None,
            connect_at,
            second_at: None,
            failures: 0,
            relay_index: 0,
            succeed_at: None,
            probes: 0,
            ping_token: 0,
        }
    }

    pub(super) const fn primary(&self) -> Option<&Link> {
        self.primary.as_ref()
    }

    /// The link that heartbeats and uploads go out on.
    pub(super) fn working(&self) -> Option<LinkId> {
        self.primary.as_ref().filter(|link| link.is_ready() && !link.renew_only).map(|link| link.id)
    }

    pub(super) fn ready(&self) -> Option<LinkId> {
        self.primary.as_ref().filter(|link| link.is_ready()).map(|link| link.id)
    }

    pub(super) fn is_primary(&self, id: LinkId) -> bool {
        self.primary.as_ref().is_some_and(|link| link.id == id)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.primary.is_none() && self.racing.is_empty()
    }

    fn find(&mut self, id: LinkId) -> Option<&mut Link> {
        self.primary.iter_mut().chain(&mut self.successor).chain(&mut self.racing).find(|link| link.id == id)
    }

    /// An acknowledgement came: the relay works, however short its connections are. One doubling is left
    /// against a relay that takes a batch and fails each time.
    pub(super) fn served(&mut self) {
        self.failures = self.failures.min(1);
    }

    /// Whether `id` is alive; then it was heard from.
    pub(super) fn heard_from(&mut self, id: LinkId, now: Now) -> bool {
        self.find(id).is_some_and(|link| {
            link.heard_us = now.mono_us;
            link.stage != Stage::Connecting
        })
    }
}

impl<S: Storage> Session<S> {
    // ---- time ----

    pub(super) fn links_wakeup(&self) -> Option<u64> {
        let links = &self.links;
        let deadlines = links.racing.iter().chain(&links.primary).chain(&links.successor).filter_map(Link::deadline);
        let connect = links.is_waiting().then_some(links.connect_at);
        let second = links.second_at.as_ref().map(|(at, _)| *at);
        let succeed = links.succeed_at.filter(|_| links.successor.is_none() && links.ready().is_some());
        deadlines.chain(connect).chain(second).chain(succeed).min()
    }

    pub(super) fn drive_links(&mut self, now: Now) {
        self.drop_overdue(now);
        self.ping_if_silent(now);
        if self.links.is_waiting() && now.mono_us >= self.links.connect_at {
            self.start_race(now);
        }
        if self.links.second_at.as_ref().is_some_and(|(at, _)| now.mono_us >= *at)
            && let Some((_, relay)) = self.links.second_at.take()
        {
            self.race_with(relay, TransportKind::WebSocket, now);
        }
        let due = self.links.succeed_at.is_some_and(|at| now.mono_us >= at);
        if due && self.links.successor.is_none() && self.links.ready().is_some() {
            self.start_successor(now);
        }
    }

    fn drop_overdue(&mut self, now: Now) {
        let links = &self.links;
        let overdue: Vec<(LinkId, &'static str)> = links
            .racing
            .iter()
            .chain(&links.primary)
            .chain(&links.successor)
            .filter_map(|link| {
                if link.ping.is_some_and(|ping| now.mono_us >= ping.deadline_us) {
                    return Some((link.id, "the relay does not answer"));
                }
                let late = link.deadline().is_some_and(|at| now.mono_us >= at);
                match link.stage {
                    Stage::Connecting if late => Some((link.id, "the connection was not made in time")),
                    Stage::Greeting if late => Some((link.id, "the relay did not welcome this agent in time")),
                    Stage::Connecting | Stage::Greeting | Stage::Ready => None,
                }
            })
            .collect();
        for (id, reason) in overdue {
            self.commands.push_back(Command::Close { link: id, reason });
            self.link_lost(id, reason, now);
        }
    }

    fn ping_if_silent(&mut self, now: Now) {
        let silent = self.links.primary.as_ref().is_some_and(|link| {
            link.is_ready() && link.ping.is_none() && link.deadline().is_some_and(|at| now.mono_us >= at)
        });
        if silent {
            self.ping_primary(now, PONG_US);
        }
    }

    /// Asks for a sign of life; without one the link is dropped.
    pub(super) fn ping_primary(&mut self, now: Now, patience_us: u64) {
        self.links.ping_token += 1;
        let token = self.links.ping_token;
        let Some(link) = self.links.primary.as_mut().filter(|link| link.is_ready()) else { return };
        let deadline_us = now.mono_us + patience_us;
        let deadline_us = link.ping.map_or(deadline_us, |pending| pending.deadline_us.min(deadline_us));
        link.ping = Some(PendingPing { token, deadline_us });
        let id = link.id;
        self.send(id, Body::Ping(Ping { token }));
    }

    pub(super) fn ponged(&mut self, id: LinkId, pong: &Pong, now: Now) {
        if let Some(link) = self.links.find(id)
            && link.ping.is_some_and(|ping| ping.token == pong.token)
        {
            link.ping = None;
            self.server.set(pong.server_wall_us, now);
        }
    }

    // ---- making connections ----

    fn start_race(&mut self, now: Now) {
        let relays = self.documents.relays();
        let mut usable: Vec<&Relay> = relays.iter().filter(|r| !r.quic.is_empty() || !r.wss.is_empty()).collect();
        // Those at home first: others would carry everything home, and cannot while the regions are cut off.
        let home = self.documents.home_region();
        usable.sort_by_key(|relay| relay.region != home);
        let Some(relay) = usable.get(self.links.relay_index % usable.len().max(1)) else {
            self.trouble = "the relay list is empty".into();
            self.links.connect_at = now.mono_us + MINUTE;
            return;
        };
        let relay = (*relay).clone();
        if relay.quic.is_empty() {
            self.race_with(relay, TransportKind::WebSocket, now);
            return;
        }
        if !relay.wss.is_empty() {
            self.links.second_at = Some((now.mono_us + self.tuning.head_start_us, relay.clone()));
        }
        self.race_with(relay, TransportKind::Quic, now);
    }

    fn race_with(&mut self, relay: Relay, transport: TransportKind, now: Now) {
        let link = self.connect(relay, transport, now);
        self.links.racing.push(link);
    }

    fn connect(&mut self, relay: Relay, transport: TransportKind, now: Now) -> Link {
        let id = self.links.next_id;
        self.links.next_id += 1;
        let link = Link {
            id,
            relay_id: relay.id.clone(),
            transport,
            observed_address: String::new(),
            renew_only: false,
            stage: Stage::Connecting,
            since_us: now.mono_us,
            heard_us: now.mono_us,
            ping: None,
        };
        self.commands.push_back(Command::Connect { link: id, relay, transport });
        link
    }

    /// A second connection that takes over when it is welcomed: to come back to QUIC, or to present a
    /// renewed certificate.
    fn start_successor(&mut self, now: Now) {
        self.links.succeed_at = None;
        let Some(primary) = &self.links.primary else { return };
        let id = primary.relay_id.clone();
        let Some(relay) = self.documents.relays().iter().find(|relay| relay.id == id).cloned() else { return };
        let transport = if relay.quic.is_empty() { TransportKind::WebSocket } else { TransportKind::Quic };
        let link = self.connect(relay, transport, now);
        self.links.successor = Some(link);
    }

    /// Asks for a successor soon.
    pub(super) fn renew_link(&mut self, now: Now) {
        self.links.succeed_at = Some(now.mono_us + self.rng.random_range(0..=SECOND));
    }

    fn plan_probe(&mut self, now: Now) {
        let on_websocket = self.links.primary.as_ref().is_some_and(|link| link.transport == TransportKind::WebSocket);
        if !on_websocket {
            self.links.probes = 0;
            return;
        }
        let period = self.tuning.probe_us << self.links.probes.min(MAX_PROBE_DOUBLINGS);
        self.links.probes += 1;
        self.links.succeed_at = Some(now.mono_us + self.rng.random_range(period / 2..=period));
    }

    pub(super) fn link_connected(&mut self, id: LinkId, now: Now) {
        if let Some(at) = self.links.racing.iter().position(|link| link.id == id) {
            let winner = self.links.racing.swap_remove(at);
            for loser in std::mem::take(&mut self.links.racing) {
                self.commands.push_back(Command::Close { link: loser.id, reason: "another transport was faster" });
            }
            self.links.second_at = None;
            self.links.primary = Some(winner);
        }
        let Some(link) = self.links.find(id).filter(|link| link.stage == Stage::Connecting) else { return };
        link.stage = Stage::Greeting;
        link.since_us = now.mono_us;
        self.say_hello(id, now);
    }

    fn say_hello(&mut self, id: LinkId, now: Now) {
        // Also ahead of what an older copy of this state may have used.
        self.spool.update_counters(|counters| {
            counters.session_counter = (counters.session_counter + 1).max(now.wall_us / 1000);
        });
        let now_s = self.now_s(now);
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            agent_version: self.identity.agent_version.clone(),
            instance_nonce: Bytes::copy_from_slice(&self.identity.instance_nonce),
            session_counter: self.spool.counters().session_counter,
            role: ConnectionRole::Primary.into(),
            incarnation: self.spool.counters().incarnation,
            boot_id: Bytes::copy_from_slice(&self.identity.boot_id),
            sent_wall_us: now.wall_us,
            sent_mono_us: now.mono_us,
            host: Some(self.identity.host.clone()),
            config_version: self.documents.config_version(now_s),
            relay_list_version: self.documents.relay_list_version(),
            root_version: self.documents.root().document().version,
            home_region: self.documents.home_region().to_owned(),
        };
        self.send(id, Body::Hello(hello));
    }

    pub(super) fn welcomed(&mut self, id: LinkId, welcome: &Welcome, now: Now) {
        let Some(link) = self.links.find(id).filter(|link| link.stage == Stage::Greeting) else { return };
        link.stage = Stage::Ready;
        link.since_us = now.mono_us;
        link.renew_only = welcome.renew_only;
        link.observed_address = welcome.observed_address.chars().take(64).collect();
        if self.links.successor.as_ref().is_some_and(|link| link.id == id) {
            let successor = self.links.successor.take();
            if let Some(old) = std::mem::replace(&mut self.links.primary, successor) {
                self.commands.push_back(Command::Close { link: old.id, reason: "replaced by a newer connection" });
            }
        }
        self.trouble.clear();
        self.server.set(welcome.server_wall_us, now);
        let boot_id = Bytes::copy_from_slice(&self.identity.boot_id);
        self.spool.update_counters(|counters| {
            counters.server_us = welcome.server_wall_us;
            counters.server_minus_mono_us = welcome.server_wall_us.wrapping_sub(now.mono_us).cast_signed();
            counters.boot_id = boot_id;
        });
        self.in_flight.clear();
        self.uploads.restart();
        if let Numbering::AwaitsHeld { until_us } = &mut self.numbering
            && !welcome.renew_only
        {
            *until_us = Some(now.mono_us + HELD_WAIT.as_micros() as u64);
        }
        if self.revoked.take().is_some() {
            self.save_state();
        }
        self.links.succeed_at = None;
        self.plan_probe(now);
        self.renewal_link_changed(now);
    }
}
