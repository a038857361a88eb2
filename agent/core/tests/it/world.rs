//! A device, a network and a region with two relays. The world knows the real time, what the device has
//! measured, and what the region has stored.

use crate::trust;
use breeze_agent_core::{
    Certificate, Command, Documents, Identity, InventoryRequest, Limits, LinkId, MemoryStorage, Now, Number, Reading,
    Session, Spool, Start, State, TransportKind, Tuning,
};
use breeze_proto::{
    id::DeviceId,
    limits::MAX_UNACKED_HEARTBEATS,
    time::{FrameClock, Stamp},
    v1::{
        Ack, AgentConfig, AgentFrame, Close, CloseReason, HealthStatus, Heartbeat, HeartbeatBatch, Held, HeldLane,
        Hello, HostFacts, InventoryHash, InventorySection, Lane, Pong, RelayFrame, Scalars, SeqRange, SignedDocument,
        UploadAck, UploadResult, Welcome, agent_frame::Body as Said, relay_frame::Body as Answer,
    },
};
use breeze_testkit::net::{Conditions, Net};
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const DAY_S: i64 = 86_400;
/// The world's time 0.
const EPOCH_US: u64 = 1_800_000_000 * SECOND;
const DEVICE: u32 = 0;
const RELAYS: [&str; 2] = ["a", "b"];
/// After that long without a packet QUIC gives a connection up.
const QUIC_IDLE_US: u64 = 60 * SECOND;

/// Which heartbeat it is, whatever number it has: boot and monotonic time.
pub(crate) type Payload = (u64, u64);

#[derive(Debug, Clone)]
enum Packet {
    Knock { link: LinkId, transport: TransportKind },
    Said { link: LinkId, frame: AgentFrame },
    Upload { link: LinkId, transfer: [u8; 16], content: Bytes },
    Accepted { link: LinkId },
    Answer { link: LinkId, frame: RelayFrame },
    Ended { link: LinkId },
}

/// A relay's side of a link.
struct RelayLink {
    relay: usize,
    transport: TransportKind,
    hello: Option<Hello>,
    unacked: usize,
}

/// What the device took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) at_us: u64,
    /// Somebody had told the time in that boot.
    informed: bool,
}

/// The region's store.
#[derive(Default)]
pub(crate) struct Region {
    pub(crate) stored: BTreeMap<Number, Payload>,
    pub(crate) lanes: BTreeMap<(u64, i32), u64>,
    pub(crate) inventory: BTreeMap<i32, Bytes>,
    pub(crate) net_in_bytes: u64,
}

/// What goes wrong at present.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Troubles {
    pub(crate) udp_blocked: bool,
    /// Relays that refuse connections.
    pub(crate) down: [bool; 2],
    /// Nobody answers what is held.
    pub(crate) held_lost: bool,
    /// The stream takes nothing: no acknowledgements.
    pub(crate) stream_full: bool,
    /// Uploads are answered with this.
    pub(crate) uploads_refused: bool,
}

pub(crate) struct World {
    net: Net<Packet>,
    rng: StdRng,
    pub(crate) agent: Option<Session<MemoryStorage>>,
    disk: MemoryStorage,
    state: State,
    pub(crate) device: DeviceId,
    boot: u64,
    boot_at_us: u64,
    /// Device's wall clock minus real time, in seconds.
    pub(crate) clock_error_s: i64,
    informed: bool,
    links: BTreeMap<LinkId, RelayLink>,
    link_base: u64,
    pub(crate) region: Region,
    pub(crate) troubles: Troubles,
    pub(crate) taken: BTreeMap<Payload, Taken>,
    /// May be missing, or stored under two numbers: a restored copy or a broken disk explains it.
    pub(crate) excused: BTreeSet<Payload>,
    disk_was_full: bool,
    pub(crate) hellos: Vec<(u64, Hello, usize, TransportKind)>,
    /// Documents that a relay hands on after its welcome.
    pub(crate) documents: Vec<SignedDocument>,
    pub(crate) close_with: Option<Close>,
    pub(crate) commands_seen: Vec<(u64, Command)>,
    record_commands: bool,
    breaks: BTreeMap<u64, LinkId>,
    pub(crate) section_hash: [u8; 32],
    /// Largest error of a stored time beyond the frame's own travel, in microseconds.
    pub(crate) worst_stamp_us: u64,
    pub(crate) tuning: Tuning,
    down_until_us: Option<u64>,
    /// How often the agent woke up in this second.
    wakeups: (u64, u32),
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let device = DeviceId::from_uuid(DeviceId::from_slice(&[9; 16]).expect("16 bytes").uuid());
        let mut documents = Documents::new(device, trust::root());
        documents.accept(&trust::relays(1, &RELAYS), 0).expect("believed");
        let mut world = Self {
            net: Net::new(seed, Conditions { loss: 0.02, duplication: 0.0, delay_us: 10_000..=60_000 }),
            rng: StdRng::seed_from_u64(seed),
            agent: None,
            disk: MemoryStorage::tracking_durability(),
            state: documents.to_state(None),
            device,
            boot: 1,
            boot_at_us: 0,
            clock_error_s: 0,
            informed: false,
            links: BTreeMap::new(),
            link_base: 0,
            region: Region::default(),
            troubles: Troubles::default(),
            taken: BTreeMap::new(),
            excused: BTreeSet::new(),
            disk_was_full: false,
            hellos: Vec::new(),
            documents: Vec::new(),
            close_with: None,
            commands_seen: Vec::new(),
            record_commands: true,
            breaks: BTreeMap::new(),
            section_hash: [1; 32],
            worst_stamp_us: 0,
            tuning: Tuning::default(),
            down_until_us: None,
            wakeups: (0, 0),
        };
        world.start();
        world
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.net.now_us()
    }

    fn server_us(&self) -> u64 {
        EPOCH_US + self.now_us()
    }

    fn device_now(&self) -> Now {
        let wall = i128::from(self.server_us()) + i128::from(self.clock_error_s) * i128::from(SECOND);
        Now { mono_us: self.now_us() - self.boot_at_us + SECOND, wall_us: u64::try_from(wall).expect("after 1970") }
    }

    fn real_time(&self, mono_us: u64) -> u64 {
        mono_us + self.boot_at_us - SECOND
    }

    // ---- the device's life ----

    fn start(&mut self) {
        let documents = Documents::from_state(self.device, &self.state).expect("kept documents");
        let start = Start {
            identity: Identity {
                device: self.device,
                instance_nonce: [3; 16],
                boot_id: self.boot_id(),
                agent_version: "test".into(),
                host: HostFacts::default(),
            },
            documents,
            revoked: self.state.revoked.clone(),
            certificate: Certificate { not_before_s: EPOCH_US / SECOND, not_after_s: EPOCH_US / SECOND + 90 * 86_400 },
            tuning: self.tuning,
        };
        let spool = Spool::open(self.disk.clone(), Limits::default()).expect("opens");
        // Ids of links are never used twice in the world.
        self.link_base = self.now_us() * 1_000 + self.boot;
        let session = Session::new(start, spool, StdRng::seed_from_u64(self.rng.random()), self.device_now());
        self.agent = Some(session);
        self.act(|agent, now| agent.handle_timeout(now));
    }

    fn boot_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.boot.to_be_bytes());
        id
    }

    /// Ends the process without a word; it starts again `after_us` later.
    pub(crate) fn kill(&mut self, after_us: u64) {
        let Some(mut agent) = self.agent.take() else { return };
        let in_memory = agent.spool().trouble().is_some();
        self.disk = agent.spool().storage().clone();
        self.process_is_gone(in_memory, after_us);
    }

    /// What was not durable is lost, and the boot ends.
    pub(crate) fn lose_power(&mut self, after_us: u64) {
        let Some(mut agent) = self.agent.take() else { return };
        let in_memory = agent.spool().trouble().is_some();
        self.disk = agent.spool().storage().after_power_loss();
        // At fast intervals the last seconds are not durable yet.
        let since = self.server_us() - 6 * SECOND;
        let fast = agent.status().heartbeat_interval_ms < 10_000;
        let lost = self.unstored().into_iter().filter(|payload| fast && self.taken[payload].at_us > since);
        self.excused.extend(lost.collect::<Vec<_>>());
        self.boot += 1;
        self.informed = false;
        self.process_is_gone(in_memory, after_us);
    }

    fn process_is_gone(&mut self, in_memory: bool, after_us: u64) {
        if in_memory {
            self.excuse_unstored();
            // The disk did not take what the device was told of the time either.
            self.informed = false;
        }
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.forget_link(link);
        }
        // A heartbeat is told by its time: the next process must not take one at the same.
        self.down_until_us = Some(self.now_us() + after_us.max(1));
    }

    fn start_again(&mut self) {
        self.down_until_us = None;
        if self.boot_at_us == 0 || self.agent.is_none() {
            let rebooted = self.taken.keys().next_back().is_some_and(|(boot, _)| *boot < self.boot);
            if rebooted {
                self.boot_at_us = self.now_us();
            }
        }
        self.start();
    }

    /// A copy of everything that is kept.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        let storage = match &mut self.agent {
            Some(agent) => agent.spool().storage().clone(),
            None => self.disk.clone(),
        };
        let unstored = self.unstored();
        Snapshot { storage, state: self.state.clone(), at_us: self.now_us(), unstored }
    }

    /// Replaces what is kept by an older copy, and starts from it.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) {
        self.kill(0);
        // What was taken since is gone with the state that was thrown away; what waited then may come twice.
        self.excuse_unstored();
        self.excused.extend(snapshot.unstored.iter().copied());
        // What the device was told of the time is forgotten too.
        self.informed = false;
        self.disk = snapshot.storage.clone();
        self.state = snapshot.state.clone();
        let since = snapshot.at_us;
        assert!(since <= self.now_us());
        self.start_again();
    }

    fn unstored(&self) -> BTreeSet<Payload> {
        let stored: BTreeSet<Payload> = self.region.stored.values().copied().collect();
        self.taken.keys().filter(|payload| !stored.contains(payload)).copied().collect()
    }

    pub(crate) fn excuse_unstored(&mut self) {
        let unstored = self.unstored();
        self.excused.extend(unstored);
    }

    pub(crate) fn set_disk_full(&mut self, full: bool) {
        self.disk_was_full |= full;
        self.disk.set_full(full);
        if let Some(agent) = &mut self.agent {
            agent.spool().storage().set_full(full);
        }
    }

    /// The device sleeps: its clocks go on, nothing runs, packets wait.
    pub(crate) fn sleep(&mut self, span_us: u64) {
        let until = self.now_us() + span_us;
        self.partition(span_us);
        let Some(agent) = self.agent.take() else { return self.run(span_us) };
        while self.net.receive(until).is_some() {}
        self.agent = Some(agent);
        self.act(|agent, now| agent.handle_timeout(now));
    }

    // ---- the network ----

    pub(crate) fn partition(&mut self, span_us: u64) {
        let now = self.now_us();
        for relay in 0..RELAYS.len() {
            self.net.partition(DEVICE, node(relay), now + span_us);
        }
        if span_us > QUIC_IDLE_US {
            for (link, state) in &self.links {
                if state.transport == TransportKind::Quic {
                    self.breaks.insert(now + QUIC_IDLE_US + link % 1000, *link);
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.net.heal();
        self.net.set_conditions(Conditions::default());
        self.troubles = Troubles::default();
        self.close_with = None;
        self.set_disk_full(false);
    }

    /// Both sides lose all connections.
    pub(crate) fn break_links(&mut self) {
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.break_link(link);
        }
    }

    fn break_link(&mut self, link: LinkId) {
        if self.forget_link(link) {
            let id = link - self.link_base;
            self.act(|agent, now| agent.handle_disconnected(id, "broken", now));
        }
    }

    fn forget_link(&mut self, link: LinkId) -> bool {
        self.net.close(2 * link);
        self.net.close(2 * link + 1);
        self.links.remove(&link).is_some()
    }

    // ---- time ----

    /// Lets time pass.
    pub(crate) fn run(&mut self, span_us: u64) {
        let end = self.now_us() + span_us;
        while self.now_us() < end {
            let wakeup = self.agent.as_ref().map(|agent| self.real_time(agent.next_wakeup()));
            let broken = self.breaks.keys().next().copied();
            let until = [wakeup, broken, self.down_until_us, Some(end)].into_iter().flatten().min().unwrap_or(end);
            let until = until.max(self.now_us());
            if let Some(delivery) = self.net.receive(until) {
                self.deliver(delivery.message);
                continue;
            }
            if self.down_until_us.is_some_and(|at| at <= self.now_us()) {
                self.start_again();
            }
            while let Some(entry) = self.breaks.first_entry().filter(|entry| *entry.key() <= self.net.now_us()) {
                let link = entry.remove();
                self.break_link(link);
            }
            let due = self.agent.as_ref().is_some_and(|agent| self.real_time(agent.next_wakeup()) <= self.now_us());
            if due {
                // A wake-up that does not end what it was for would spin on a real device.
                let second = self.now_us() / SECOND;
                self.wakeups = if self.wakeups.0 == second { (second, self.wakeups.1 + 1) } else { (second, 1) };
                assert!(self.wakeups.1 < 100, "it spins");
                self.act(|agent, now| agent.handle_timeout(now));
            }
        }
    }

    pub(crate) fn act(&mut self, act: impl FnOnce(&mut Session<MemoryStorage>, Now)) {
        let now = self.device_now();
        let Some(agent) = &mut self.agent else { return };
        act(agent, now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut turns = 0;
        while let Some(command) = self.agent.as_mut().and_then(Session::poll_command) {
            turns += 1;
            assert!(turns < 10_000, "commands without end");
            if self.record_commands && !matches!(command, Command::Send { .. }) {
                self.commands_seen.push((self.net.now_us(), command.clone()));
            }
            self.perform(command);
        }
    }

    fn perform(&mut self, command: Command) {
        let base = self.link_base;
        match command {
            Command::Connect { link, relay, transport } => {
                let relay = RELAYS.iter().position(|id| *id == relay.id).expect("a known relay");
                self.send_to_relay(base + link, relay, Packet::Knock { link: base + link, transport });
            }
            Command::Send { link, frame } => {
                let link = base + link;
                if let Some(relay) = self.links.get(&link).map(|state| state.relay) {
                    self.send_to_relay(link, relay, Packet::Said { link, frame });
                }
            }
            Command::Upload { link, transfer } => {
                let link = base + link;
                if let Some(relay) = self.links.get(&link).map(|state| state.relay) {
                    let packet = Packet::Upload { link, transfer: transfer.id, content: transfer.content };
                    self.send_to_relay(link, relay, packet);
                }
            }
            Command::Close { link, .. } => {
                let link = base + link;
                // What was sent before still arrives.
                if let Some(relay) = self.links.get(&link).map(|state| state.relay) {
                    self.send_to_relay(link, relay, Packet::Ended { link });
                }
            }
            Command::Rebind { .. } => {}
            Command::Sample { details } => self.sample(details),
            Command::ScanInventory => {
                let hash = self.section_hash;
                self.act(|agent, now| {
                    agent.handle_inventory_scanned(&[(InventorySection::Hardware, hash)], now);
                });
            }
            Command::BuildInventory(request) => self.build(&request),
            Command::SaveState(state) => self.state = state,
            Command::MakeRenewal { .. } | Command::InstallCertificate(_) => {}
        }
    }

    fn sample(&mut self, details: bool) {
        let now = self.device_now();
        let payload = (self.boot, now.mono_us);
        self.taken.insert(payload, Taken { at_us: self.server_us(), informed: self.informed });
        let reading = Reading {
            scalars: Scalars { net_in_bytes: 10, process_count: u32::from(details), ..Scalars::default() },
            status: HealthStatus::Ok,
            last_user: String::new(),
            pending_reboot: false,
            details: Vec::new(),
            custom: Vec::new(),
        };
        self.act(|agent, now| agent.handle_reading(reading, now));
    }

    fn build(&mut self, request: &InventoryRequest) {
        let hash = self.section_hash;
        let content = Bytes::copy_from_slice(&hash);
        self.act(|agent, now| agent.handle_inventory_built(request, Some((content, hash)), now));
    }

    fn send_to_relay(&mut self, link: LinkId, relay: usize, packet: Packet) {
        self.net.send_ordered(2 * link, DEVICE, node(relay), packet);
        // Known from the first packet on, so that it can be broken.
        self.links.entry(link).or_insert(RelayLink { relay, transport: TransportKind::Quic, hello: None, unacked: 0 });
    }

    fn send_to_device(&mut self, link: LinkId, answer: Answer) {
        let Some(relay) = self.links.get(&link).map(|state| state.relay) else { return };
        let frame = RelayFrame { body: Some(answer) };
        self.net.send_ordered(2 * link + 1, node(relay), DEVICE, Packet::Answer { link, frame });
    }

    // ---- arrivals ----

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Knock { link, transport } => self.knocked(link, transport),
            Packet::Said { link, frame } => self.said(link, frame),
            Packet::Upload { link, transfer, content } => self.uploaded(link, transfer, content),
            Packet::Ended { link } => {
                self.forget_link(link);
            }
            Packet::Accepted { link } => self.on_device(link, |agent, id, now| agent.handle_connected(id, now)),
            Packet::Answer { link, frame } => {
                self.informed |= matches!(frame.body, Some(Answer::Welcome(_)));
                self.on_device(link, |agent, id, now| agent.handle_frame(id, frame, now));
            }
        }
    }

    fn on_device(&mut self, link: LinkId, act: impl FnOnce(&mut Session<MemoryStorage>, LinkId, Now)) {
        let Some(id) = link.checked_sub(self.link_base) else { return };
        self.act(|agent, now| act(agent, id, now));
    }

    fn knocked(&mut self, link: LinkId, transport: TransportKind) {
        let Some(state) = self.links.get_mut(&link) else { return };
        state.transport = transport;
        let relay = state.relay;
        if self.troubles.udp_blocked && transport == TransportKind::Quic {
            return;
        }
        if self.troubles.down[relay] {
            return self.break_link(link);
        }
        self.net.send_ordered(2 * link + 1, node(relay), DEVICE, Packet::Accepted { link });
    }

    fn said(&mut self, link: LinkId, frame: AgentFrame) {
        if !self.links.contains_key(&link) {
            return;
        }
        match frame.body.expect("a body") {
            Said::Hello(hello) => self.greeted(link, hello),
            Said::Heartbeats(batch) => self.took(link, batch),
            Said::Ping(ping) => {
                let server_wall_us = self.server_us();
                self.send_to_device(link, Answer::Pong(Pong { token: ping.token, server_wall_us }));
            }
            Said::Upload(_) | Said::Pong(_) | Said::RenewBegin(_) | Said::RenewProof(_) | Said::Goodbye(_) => {}
        }
    }

    fn greeted(&mut self, link: LinkId, hello: Hello) {
        let relay = self.links[&link].relay;
        let transport = self.links[&link].transport;
        self.hellos.push((self.now_us(), hello.clone(), relay, transport));
        if let Some(close) = self.close_with.clone() {
            return self.send_to_device(link, Answer::Close(close));
        }
        let older: Vec<(LinkId, u64)> = self
            .links
            .iter()
            .filter(|(id, _)| **id != link)
            .filter_map(|(id, state)| Some((*id, state.hello.as_ref()?.session_counter)))
            .collect();
        let refuse = |reason: CloseReason| Answer::Close(Close { reason: reason.into(), ..Close::default() });
        if older.iter().any(|(_, counter)| *counter >= hello.session_counter) {
            return self.send_to_device(link, refuse(CloseReason::StaleSession));
        }
        for (id, _) in older {
            self.send_to_device(id, refuse(CloseReason::Replaced));
        }
        if let Some(state) = self.links.get_mut(&link) {
            state.hello = Some(hello);
        }
        let server_wall_us = self.server_us();
        let welcome =
            Welcome { session_epoch: 1, server_wall_us, relay_id: RELAYS[relay].into(), ..Welcome::default() };
        self.send_to_device(link, Answer::Welcome(welcome));
        for document in self.documents.clone() {
            self.send_to_device(link, Answer::Document(document));
        }
        if !self.troubles.held_lost {
            let held = self.held();
            self.send_to_device(link, Answer::Held(held));
        }
    }

    fn held(&self) -> Held {
        let lane = |((incarnation, lane), next_seq): (&(u64, i32), &u64)| HeldLane {
            incarnation: *incarnation,
            lane: *lane,
            next_seq: *next_seq,
        };
        Held {
            lanes: self.region.lanes.iter().map(lane).collect(),
            inventory: self
                .region
                .inventory
                .iter()
                .map(|(section, hash)| InventoryHash { section: *section, hash: hash.clone() })
                .collect(),
            answers_hello: true,
        }
    }

    fn took(&mut self, link: LinkId, batch: HeartbeatBatch) {
        let Some(state) = self.links.get_mut(&link) else { return };
        let Some(hello) = state.hello.clone() else { panic!("heartbeats before hello") };
        state.unacked += batch.heartbeats.len();
        assert!(state.unacked <= MAX_UNACKED_HEARTBEATS, "too many unacknowledged");
        if self.troubles.stream_full {
            return;
        }
        let mut stored = Vec::new();
        let clock = FrameClock {
            sent_wall_us: batch.sent_wall_us,
            sent_mono_us: batch.sent_mono_us,
            received_us: self.server_us(),
        };
        for heartbeat in batch.heartbeats {
            let number = self.store(&hello, &clock, &heartbeat);
            let Number { incarnation, lane, seq } = number;
            stored.push(SeqRange { incarnation, lane, first: seq, last: seq });
        }
        if let Some(state) = self.links.get_mut(&link) {
            state.unacked -= stored.len();
        }
        self.send_to_device(link, Answer::Ack(Ack { stored, refused: Vec::new() }));
    }

    fn store(&mut self, hello: &Hello, clock: &FrameClock, heartbeat: &Heartbeat) -> Number {
        let mut number = Number::of(heartbeat);
        if number.incarnation == 0 {
            number.incarnation = hello.incarnation;
        }
        assert!(number.seq > 0 && (number.lane == Lane::Live as i32 || number.lane == Lane::Backlog as i32));
        let same_boot = heartbeat.boot_id.is_empty();
        let boot_id = if same_boot { &hello.boot_id } else { &heartbeat.boot_id };
        let boot = u64::from_be_bytes(boot_id[..8].try_into().expect("8 bytes"));
        let payload = (boot, heartbeat.mono_us);
        let taken = *self.taken.get(&payload).expect("a heartbeat that was taken");
        if let Some(before) = self.region.stored.insert(number, payload) {
            assert_eq!(before, payload, "two heartbeats under one number: one of them is lost");
        } else {
            self.region.net_in_bytes += heartbeat.scalars.expect("scalars").net_in_bytes;
        }
        let next = self.region.lanes.entry((number.incarnation, number.lane)).or_insert(1);
        *next = (*next).max(number.seq + 1);

        let Stamp::At(at) = clock.stamp(heartbeat.wall_us, heartbeat.mono_us, same_boot) else {
            assert!(!same_boot && !taken.informed, "a sample's time is out of bounds");
            return number;
        };
        if same_boot || taken.informed {
            let sent = EPOCH_US + self.real_time(clock.sent_mono_us);
            let travel = clock.received_us.saturating_sub(sent);
            self.worst_stamp_us = self.worst_stamp_us.max(at.abs_diff(taken.at_us).saturating_sub(travel));
        }
        number
    }

    fn uploaded(&mut self, link: LinkId, transfer: [u8; 16], content: Bytes) {
        let refused = self.troubles.uploads_refused;
        let result = if refused { UploadResult::TryLater } else { UploadResult::Stored };
        let transfer_id = Bytes::copy_from_slice(&transfer);
        self.send_to_device(link, Answer::UploadAck(UploadAck { transfer_id, result: result.into() }));
        if refused {
            return;
        }
        let section = InventorySection::Hardware.into();
        self.region.inventory.insert(section, content.clone());
        let inventory = vec![InventoryHash { section, hash: content }];
        self.send_to_device(link, Answer::Held(Held { inventory, ..Held::default() }));
    }

    /// Somebody looks at the device: it is asked to report every second for a while.
    pub(crate) fn watch(&mut self, seconds: u64) {
        let now_s = self.server_us() / SECOND;
        let config = AgentConfig {
            version: self.now_us() + 1,
            expires_unix_s: now_s + seconds,
            heartbeat_interval_ms: 1_000,
            ..AgentConfig::default()
        };
        self.push(&Answer::Document(trust::config(&config)));
    }

    /// Sends a frame on every greeted link.
    pub(crate) fn push(&mut self, answer: &Answer) {
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, state)| state.hello.is_some()).map(|(id, _)| *id).collect();
        for link in links {
            self.send_to_device(link, answer.clone());
        }
    }

    // ---- what must hold in the end ----

    pub(crate) fn check(&mut self) {
        let agent = self.agent.as_mut().expect("it runs");
        let status = agent.status();
        assert!(agent.spool().len() <= 2, "no progress: {status:?}");
        let missing: Vec<Payload> =
            self.unstored().into_iter().filter(|payload| !self.excused.contains(payload)).collect();
        // What was taken just now may still be on its way.
        let recent = self.server_us() - 5 * SECOND;
        let missing: Vec<Payload> = missing.into_iter().filter(|payload| self.taken[payload].at_us < recent).collect();
        // With a full disk only the newest stay, in memory; the others are counted.
        let thinned = if self.disk_was_full { status.thinned } else { 0 };
        assert!(missing.len() as u64 <= thinned, "lost: {missing:?}; {status:?}");
        let mut numbers: BTreeMap<Payload, Number> = BTreeMap::new();
        for (number, payload) in &self.region.stored {
            if let Some(other) = numbers.insert(*payload, *number) {
                assert!(self.excused.contains(payload), "counted twice: {payload:?} as {number:?} and {other:?}");
            }
        }
        assert!(self.worst_stamp_us <= 2 * SECOND, "a stored time is wrong by {} us", self.worst_stamp_us);
    }
}

/// An older copy of what is kept.
pub(crate) struct Snapshot {
    storage: MemoryStorage,
    state: State,
    at_us: u64,
    unstored: BTreeSet<Payload>,
}

const fn node(relay: usize) -> u32 {
    relay as u32 + 1
}
