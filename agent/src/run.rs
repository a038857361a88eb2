//! The running agent: carries out what the core decides, and tells it what happens.
//!
//! One task owns the session. A turn takes one event, in this order of priority: stop, link events,
//! answers from blocking threads, custom metrics, time; then the core's commands are carried out in
//! order, files included.

use crate::{
    VERSION,
    identity::{self, DeviceIdentity, DeviceKey},
    inventory,
    os::{OperatingSystem as _, System},
    proxy::ProxySettings,
    spool::DiskStorage,
    state_dir::StateDir,
    status::StatusFile,
    transport::{Dialer, Link, LinkEvent},
};
use anyhow::Context as _;
use breeze_agent_core::{
    Command, Documents, Identity, InventoryRequest, Limits, LinkId, Now, Phase, Reading, Session, Spool, Start, Status,
    Tuning,
};
use breeze_proto::{
    inventory::SectionHash,
    v1::{HostFacts, InventorySection, IssuedCertificate},
};
use bytes::Bytes;
use prost::Message as _;
use rand::{SeedableRng as _, rngs::StdRng};
use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, task::JoinSet};

/// Events of links that wait for their turn.
const QUEUE_EVENTS: usize = 256;
/// Events that are taken before anything else is looked at.
const EVENTS_A_TURN: usize = 64;
const QUEUE_METRICS: usize = 16;
/// How often addresses and routes are looked at.
const NETWORK_PERIOD: Duration = Duration::from_secs(10);
/// The status file is not written more often.
const STATUS_PERIOD_US: u64 = 1_000_000;
/// For goodbyes when stopping.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// What a blocking thread found.
enum Answer {
    Scanned(Vec<(InventorySection, SectionHash)>),
    Built(InventoryRequest, anyhow::Result<Box<inventory::Built>>),
}

/// The agent's parts around the session.
struct Agent {
    dir: StateDir,
    system: System,
    identity: DeviceIdentity,
    proxy: ProxySettings,
    dialer: Dialer,
    session: Session<DiskStorage>,
    links: BTreeMap<LinkId, Link>,
    closing: JoinSet<()>,
    events: mpsc::Sender<(LinkId, LinkEvent)>,
    blocking: JoinSet<Answer>,
    /// Of a renewal that is under way.
    next_key: Option<DeviceKey>,
    written: Option<Status>,
    written_us: u64,
}

/// Runs until `stop` is ready.
///
/// # Errors
/// If this machine is not enrolled, or its state cannot be used.
pub async fn run(dir: StateDir, proxy: ProxySettings, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (events, mut inbox) = mpsc::channel(QUEUE_EVENTS);
    let mut agent = Agent::open(dir, proxy, events)?;
    let (submissions, mut submitted) = mpsc::channel(QUEUE_METRICS);
    let socket = tokio::spawn({
        let path = agent.dir.path().to_owned();
        async move {
            if let Err(error) = crate::metric_socket::serve(&path, submissions).await {
                tracing::warn!("custom metrics are not taken: {error:#}");
            }
        }
    });
    let mut network = agent.system.network_fingerprint();
    let mut look = tokio::time::interval(NETWORK_PERIOD);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::pin!(stop);
    agent.session.handle_timeout(agent.now());
    loop {
        agent.carry_out();
        let sleep = agent.write_status().min(agent.time_to_wakeup());
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(first) = inbox.recv() => {
                agent.take_event(first);
                for _ in 1..EVENTS_A_TURN {
                    let Ok(event) = inbox.try_recv() else { break };
                    agent.take_event(event);
                }
            }
            Some(answer) = agent.blocking.join_next(), if !agent.blocking.is_empty() => agent.take_answer(answer),
            Some(_) = agent.closing.join_next(), if !agent.closing.is_empty() => {}
            Some(metric) = submitted.recv() => {
                let taken = agent.session.handle_custom(&metric.name, metric.value);
                // The submitter may have gone away.
                let _ = metric.taken.send(taken);
            }
            _ = look.tick() => {
                let seen = agent.system.network_fingerprint();
                if std::mem::replace(&mut network, seen) != seen {
                    tracing::info!("the network changed");
                    agent.session.handle_network_change(agent.now());
                }
            }
            () = tokio::time::sleep(sleep) => agent.session.handle_timeout(agent.now()),
        }
    }
    socket.abort();
    agent.stop().await;
    Ok(())
}

impl Agent {
    fn open(dir: StateDir, proxy: ProxySettings, events: mpsc::Sender<(LinkId, LinkEvent)>) -> anyhow::Result<Self> {
        let system = System::new();
        let mut identity = DeviceIdentity::load(&dir)?
            .with_context(|| format!("{} is not enrolled: run `breeze-agent enroll` first", dir.path().display()))?;
        let state = identity::load_state(&dir)?.context("the documents of this enrolment are missing")?;
        let documents = Documents::from_state(identity.device, &state).context("the kept root document")?;
        let storage = DiskStorage::open(&dir.file("spool"))?;
        if storage.damaged() > 0 {
            tracing::warn!(spool.damaged = storage.damaged(), "parts of the spool were damaged and are left out");
        }
        let mut spool = Spool::open(storage, Limits::default())?;
        let machine = system.machine_fingerprint();
        if machine != identity.machine {
            // A copy of the disk in another machine: another installation, and numbers of its own.
            tracing::warn!("this state directory comes from another machine");
            // The numbers first: after a crash in between, the next start does both again.
            spool.update_counters(|counters| counters.incarnation = 0);
            if let Some(trouble) = spool.trouble() {
                anyhow::bail!("the spool cannot be told that it was copied: {trouble}");
            }
            identity.machine = machine;
            identity.instance_nonce = rand::random();
            identity.save(&dir)?;
        }
        let dialer = Dialer::new(&identity, documents.root(), proxy.clone());
        let start = Start {
            identity: Identity {
                device: identity.device,
                instance_nonce: identity.instance_nonce,
                boot_id: system.boot_id(),
                agent_version: VERSION.to_owned(),
                host: HostFacts { key_protection: identity::KEY_PROTECTION.to_owned(), ..system.host_facts() },
            },
            documents,
            revoked: state.revoked,
            certificate: identity.validity()?,
            tuning: Tuning::default(),
        };
        let now = now_of(&system);
        let session = Session::new(start, spool, StdRng::from_seed(rand::random()), now);
        tracing::info!(device.id = %identity.device, server = identity.server, "breeze-agent {VERSION} starts");
        Ok(Self {
            dir,
            system,
            identity,
            proxy,
            dialer,
            session,
            links: BTreeMap::new(),
            closing: JoinSet::new(),
            events,
            blocking: JoinSet::new(),
            next_key: None,
            written: None,
            written_us: 0,
        })
    }

    fn now(&self) -> Now {
        now_of(&self.system)
    }

    fn time_to_wakeup(&self) -> Duration {
        Duration::from_micros(self.session.next_wakeup().saturating_sub(self.system.boottime_us()))
    }

    // ---- what happens ----

    fn take_event(&mut self, (id, event): (LinkId, LinkEvent)) {
        // One that was closed may still report.
        if !self.links.contains_key(&id) {
            return;
        }
        let now = self.now();
        match event {
            LinkEvent::Connected => self.session.handle_connected(id, now),
            LinkEvent::Frame(frame) => self.session.handle_frame(id, frame, now),
            LinkEvent::Closed(reason) => {
                tracing::info!(link = id, "connection ended: {reason}");
                self.links.remove(&id);
                self.session.handle_disconnected(id, &reason, now);
            }
        }
    }

    fn take_answer(&mut self, answer: Result<Answer, tokio::task::JoinError>) {
        let now = self.now();
        match answer {
            Ok(Answer::Scanned(hashes)) => self.session.handle_inventory_scanned(&hashes, now),
            Ok(Answer::Built(request, built)) => {
                let built = built.and_then(|built| self.seal(&request, *built));
                let built = built.inspect_err(|error| tracing::warn!("inventory cannot be sent: {error:#}")).ok();
                self.session.handle_inventory_built(&request, built, now);
            }
            Err(error) => tracing::warn!("looking at the inventory failed: {error}"),
        }
    }

    fn seal(&mut self, request: &InventoryRequest, built: inventory::Built) -> anyhow::Result<(Bytes, SectionHash)> {
        let now = self.now();
        self.session.handle_inventory_scanned(&[(request.section, built.local)], now);
        let mut document = built.document;
        let signature = self.identity.sign_inventory(document.section, document.revision, &built.hash)?;
        document.device_signature = signature.into();
        Ok((document.encode_to_vec().into(), built.hash))
    }

    // ---- what is to be done ----

    fn carry_out(&mut self) {
        while let Some(command) = self.session.poll_command() {
            self.perform(command);
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Connect { link, relay, transport } => {
                tracing::debug!(link, relay.id, transport = transport.name(), "connecting");
                let started = self.dialer.start(link, relay, transport, self.events.clone());
                self.links.insert(link, started);
            }
            Command::Send { link, frame } => self.on_link(link, |it| it.send(frame)),
            Command::Upload { link, transfer } => self.on_link(link, |it| it.upload(transfer)),
            Command::Rebind { link } => {
                if let Some(link) = self.links.get(&link) {
                    link.rebind();
                }
            }
            Command::Close { link, reason } => {
                tracing::debug!(link, "closing: {reason}");
                if let Some(link) = self.links.remove(&link) {
                    self.closing.spawn(link.close());
                }
            }
            Command::Sample { details } => self.sample(details),
            Command::ScanInventory => {
                self.blocking.spawn_blocking(|| Answer::Scanned(inventory::scan()));
            }
            Command::BuildInventory(request) => {
                let path = self.dir.path().to_owned();
                let wall_us = self.now().wall_us;
                self.blocking.spawn_blocking(move || {
                    Answer::Built(request, inventory::build(&request, &path, wall_us).map(Box::new))
                });
            }
            Command::MakeRenewal { challenge } => self.make_renewal(challenge),
            Command::InstallCertificate(issued) => self.install(&issued),
            Command::SaveState(state) => {
                self.redial();
                if let Err(error) = identity::save_state(&self.dir, &state) {
                    tracing::error!("{error:#}");
                }
            }
        }
    }

    /// A link that is so far behind that its queue is full is as good as dead.
    fn on_link(&mut self, id: LinkId, act: impl FnOnce(&Link) -> bool) {
        if self.links.get(&id).is_some_and(|link| !act(link)) {
            self.links.remove(&id);
            let now = self.now();
            self.session.handle_disconnected(id, "the connection does not take what is sent", now);
        }
    }

    fn sample(&mut self, details: bool) {
        let reading = self.system.sample();
        let reading = Reading {
            scalars: reading.scalars,
            status: reading.status,
            last_user: reading.last_user,
            pending_reboot: reading.pending_reboot,
            details: if details { self.system.details() } else { Vec::new() },
            custom: Vec::new(),
        };
        self.session.handle_reading(reading, self.now());
    }

    fn make_renewal(&mut self, challenge: Bytes) {
        let now = self.now();
        match self.identity.renewal(challenge) {
            Ok((key, proof)) => {
                self.next_key = Some(key);
                self.session.handle_renewal_proof(proof, now);
            }
            Err(error) => self.session.handle_renewal_failed(&format!("{error:#}"), now),
        }
    }

    fn install(&mut self, issued: &IssuedCertificate) {
        let now = self.now();
        let mut attempt = || {
            let key = self.next_key.take().context("no renewal is under way")?;
            self.identity.install(issued, key, self.session.documents().root())?;
            self.identity.save(&self.dir)?;
            self.identity.validity()
        };
        match attempt() {
            Ok(validity) => {
                tracing::info!("the certificate was renewed");
                self.redial();
                self.session.handle_certificate(validity, now);
            }
            Err(error) => {
                tracing::warn!("a renewed certificate was not taken: {error:#}");
                self.session.handle_renewal_failed(&format!("{error:#}"), now);
            }
        }
    }

    fn redial(&mut self) {
        self.dialer = Dialer::new(&self.identity, self.session.documents().root(), self.proxy.clone());
    }

    /// Writes the status file if there is news; how long it may wait before it is tried again.
    fn write_status(&mut self) -> Duration {
        let status = self.session.status();
        if self.written.as_ref() == Some(&status) {
            return Duration::MAX;
        }
        let now_us = self.system.boottime_us();
        let due_us = self.written_us + STATUS_PERIOD_US;
        if self.written.as_ref().map(|written| written.phase) != Some(status.phase) {
            log_phase(&status);
        } else if now_us < due_us {
            return Duration::from_micros(due_us - now_us);
        }
        if let Err(error) = StatusFile::of(&self.identity, &status).save(&self.dir) {
            tracing::debug!("{error:#}");
        }
        self.written = Some(status);
        self.written_us = now_us;
        Duration::MAX
    }

    async fn stop(mut self) {
        self.session.handle_stop(self.now());
        self.carry_out();
        self.write_status();
        // A goodbye that a dead relay never takes must not hold up the system's shutdown.
        let _all =
            tokio::time::timeout(STOP_PATIENCE, async { while self.closing.join_next().await.is_some() {} }).await;
        tracing::info!("breeze-agent stopped");
    }
}

fn log_phase(status: &Status) {
    match status.phase {
        Phase::Connected => tracing::info!(
            relay.id = status.relay.as_deref().unwrap_or_default(),
            transport = status.transport.map(|transport| transport.name()).unwrap_or_default(),
            "connected"
        ),
        Phase::Waiting => tracing::info!("waiting to connect again: {}", status.trouble),
        Phase::Revoked => tracing::warn!(
            "this device was revoked and sends nothing any more: {}",
            status.revoked_reason.as_deref().unwrap_or_default()
        ),
        Phase::RenewOnly => tracing::warn!("the certificate has expired: only renewal is possible"),
        Phase::Connecting | Phase::Stopped => {}
    }
}

fn now_of(system: &System) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { mono_us: system.boottime_us(), wall_us: wall.as_micros() as u64 }
}
