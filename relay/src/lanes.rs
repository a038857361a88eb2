//! One lane: gathers the entries of all connections and appends them to its durable stream.
//!
//! An append that fails is tried again for as long as it takes; meanwhile the lane fills, connections
//! are not read on, nobody is acknowledged and agents spool. Only what can never be stored is dropped,
//! and then its connections are closed, so that their agents send again.
//!
//! A lane of another region, for devices that belong there, is tried for a bounded time; what it does not
//! take goes to a stream of this region, from which its collectors replay it. Stored there is stored.

use crate::{
    config::Config,
    mailbox::{Mailbox, Verdict},
    relay::Relay,
};
use breeze_bus::BusError;
use breeze_proto::{
    id::DeviceId,
    shard::{ForeignLane, LaneCount, LaneId, Shard},
    subject,
};
use breeze_relay_core::{
    acks::Stored,
    batcher::{Batch, Batcher},
    homes::{Home, Route},
    session::Entries,
};
use bytes::{BufMut as _, BytesMut};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// How long a lane that stops goes on trying.
const STOP_RETRY: Duration = Duration::from_secs(5);

/// How long another region's lane may take for a batch before it goes to this region's own stream.
const HOME_WAIT: Duration = Duration::from_secs(2);

/// Who waits for an entry, and what it is to them.
struct Ticket {
    mailbox: Arc<Mailbox>,
    stored: Stored,
}

/// A lane of this relay's region, or of another for its devices that are guests here.
pub(crate) struct Lane {
    id: LaneId,
    stream: String,
    detour: Option<Detour>,
    held_subject: String,
    batcher: Mutex<Batcher<Ticket>>,
    /// Something became due earlier than the task thinks.
    changed: Notify,
    /// There is room again.
    room: Notify,
}

/// The way of what a lane of another region does not take.
struct Detour {
    stream: String,
    home: Arc<Mutex<Home>>,
    region: String,
    /// As many as this relay's own region has, by which the lane was chosen.
    own_lanes: LaneCount,
}

impl Detour {
    /// What the home has, if that is another number of lanes than here: none of ours is the right one then.
    fn other_lanes(&self) -> Option<LaneCount> {
        self.home.lock().lanes().filter(|lanes| *lanes != self.own_lanes)
    }
}

impl Lane {
    pub(crate) fn guest(
        id: LaneId,
        own_lanes: LaneCount,
        config: &Config,
        home: &str,
        health: &Arc<Mutex<Home>>,
    ) -> Self {
        let stream = subject::foreign_stream(&config.region, home);
        let detour = Detour { stream, home: health.clone(), region: home.to_owned(), own_lanes };
        let mut lane = Self::new(id, &config.id, home);
        // The batch says where it was taken.
        lane.batcher = Mutex::new(Batcher::new(&config.id, &config.region));
        lane.detour = Some(detour);
        lane
    }

    pub(crate) fn new(id: LaneId, relay_id: &str, region: &str) -> Self {
        Self {
            id,
            stream: subject::lane_stream(region, id),
            detour: None,
            held_subject: subject::lane_held(region, id),
            batcher: Mutex::new(Batcher::new(relay_id, region)),
            changed: Notify::new(),
            room: Notify::new(),
        }
    }

    /// For tasks and logs.
    pub(crate) fn name(&self) -> &str {
        &self.stream
    }

    /// Whether it is another region's that did not take what was sent last.
    pub(crate) fn is_away(&self) -> bool {
        self.detour.as_ref().is_some_and(|detour| detour.home.lock().is_away())
    }

    /// Where to ask what is held of a device: the owner of its lane, at home by the home's number of lanes.
    pub(crate) fn held_subject(&self, device: Option<DeviceId>) -> String {
        let other = self.detour.as_ref().and_then(|detour| {
            let lane = Shard::of(device?).lane(detour.other_lanes()?);
            Some(subject::lane_held(&detour.region, lane))
        });
        other.unwrap_or_else(|| self.held_subject.clone())
    }

    /// Takes in how many lanes the region has that answered; 0: it did not say.
    pub(crate) fn handle_lanes(&self, lanes: u32) {
        let said = u16::try_from(lanes).ok().and_then(LaneCount::new);
        let (Some(detour), Some(lanes)) = (&self.detour, said) else { return };
        let is_news = detour.home.lock().handle_lanes(lanes);
        let (home, own) = (lanes.get(), detour.own_lanes.get());
        if is_news && home != own {
            tracing::error!(
                home.region = detour.region,
                home.lanes = home,
                own.lanes = own,
                "a home region has another number of lanes than this one; its devices' entries are stored here, \
                 and its collectors sort them"
            );
        }
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.batcher.lock().waiting_bytes()
    }

    /// Takes what there is room for; what stays in `entries` was not taken.
    pub(crate) fn offer(&self, entries: &mut Entries, mailbox: &Arc<Mailbox>, relay: &Relay) {
        if entries.is_empty() {
            return;
        }
        let ticket = |(entry, stored)| (entry, Ticket { mailbox: mailbox.clone(), stored });
        let mut offered: VecDeque<_> = std::mem::take(entries).into_iter().map(ticket).collect();
        let now_us = relay.now().mono_us;
        let earlier = {
            let batcher = &mut *self.batcher.lock();
            let before = batcher.poll_timeout();
            batcher.handle_entries(&mut offered, now_us);
            // The task is woken for what it does not know, not for each entry.
            batcher.poll_timeout().is_some_and(|due| before.is_none_or(|before| due + 1_000 < before))
        };
        if earlier {
            self.changed.notify_one();
        }
        if !offered.is_empty() {
            metrics::counter!("breeze_relay_backpressure_total").increment(1);
        }
        entries.extend(offered.into_iter().map(|(entry, ticket)| (entry, ticket.stored)));
    }

    /// Resolves when at least one entry was taken. Loses nothing when dropped.
    pub(crate) async fn offer_when_room(&self, entries: &mut Entries, mailbox: &Arc<Mailbox>, relay: &Relay) {
        let before = entries.len();
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            self.offer(entries, mailbox, relay);
            if entries.len() < before {
                return;
            }
            room.await;
        }
    }

    /// Appends until `stop`, and then until nothing waits.
    pub(crate) async fn run(self: Arc<Self>, relay: Arc<Relay>, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let now_us = relay.now().mono_us;
            let (batch, timeout) = {
                let batcher = &mut *self.batcher.lock();
                if stop.is_cancelled() {
                    batcher.handle_flush();
                    if batcher.is_idle() {
                        return Ok(());
                    }
                }
                (batcher.poll_append(now_us), batcher.poll_timeout())
            };
            if let Some(batch) = batch {
                self.append(&relay, batch, &stop).await;
                continue;
            }
            let due = relay.instant(timeout.unwrap_or(u64::MAX));
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(due) => {}
                () = stop.cancelled(), if !stop.is_cancelled() => {}
            }
        }
    }

    async fn append(&self, relay: &Relay, batch: Batch, stop: &CancellationToken) {
        // All lanes of a home share one stream on the way round, so the lane is part of the id.
        let id = format!("{}-{}-{}-{}", relay.id, relay.run(), self.id.number(), batch.number);
        let began = Instant::now();
        let stored = self.append_until_stored(relay, &id, &batch, stop).await;
        let tickets = self.batcher.lock().handle_appended(batch.number);
        self.room.notify_waiters();
        if stored {
            let took = began.elapsed();
            relay.stats.append_us.store(took.as_micros() as u64, Relaxed);
            relay.stats.count_stored(batch.entries as u64);
            metrics::histogram!("breeze_relay_append_seconds").record(took.as_secs_f64());
            metrics::counter!("breeze_relay_batches_total").increment(1);
            deliver(tickets);
        } else {
            relay.stats.count_refused("not_stored", batch.entries as u64);
            for ticket in tickets {
                ticket.mailbox.judge(Verdict::Lost);
            }
        }
    }

    /// To the lane, or on the way round while that is another region's and away.
    async fn append_once(&self, relay: &Relay, id: &str, batch: &Batch) -> Result<(), BusError> {
        let Some(detour) = &self.detour else {
            return relay.bus.append(&self.stream, id, batch.payload.clone()).await.map(drop);
        };
        let home_lanes = detour.other_lanes();
        if home_lanes.is_none() && detour.home.lock().poll_route(relay.now().mono_us) == Route::Home {
            let appending = relay.bus.append(&self.stream, id, batch.payload.clone());
            let error = match tokio::time::timeout(HOME_WAIT, appending).await {
                Ok(Ok(_position)) => {
                    if detour.home.lock().handle_taken() {
                        tracing::info!(home.region = detour.region, "the home region takes entries again");
                    }
                    metrics::counter!("breeze_relay_guest_batches_total", "way" => "home").increment(1);
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("not confirmed within {HOME_WAIT:?}"),
            };
            if detour.home.lock().handle_refused(relay.now().mono_us) {
                tracing::warn!(
                    home.region = detour.region,
                    error,
                    "a home region is away; its devices' entries are stored here"
                );
            }
        }
        let mut payload = BytesMut::with_capacity(2 + batch.payload.len());
        payload.put_slice(&ForeignLane { lane: self.id.number() as u8, home_lanes }.to_bytes());
        payload.extend_from_slice(&batch.payload);
        relay.bus.append(&detour.stream, id, payload.freeze()).await?;
        let way = if home_lanes.is_some() { "lanes_differ" } else { "stored_here" };
        metrics::counter!("breeze_relay_guest_batches_total", "way" => way).increment(1);
        Ok(())
    }

    /// False if it never will be.
    async fn append_until_stored(&self, relay: &Relay, id: &str, batch: &Batch, stop: &CancellationToken) -> bool {
        let mut retry = FIRST_RETRY;
        let mut stopping_since: Option<Instant> = None;
        loop {
            let error = match self.append_once(relay, id, batch).await {
                Ok(()) => {
                    if retry > FIRST_RETRY {
                        relay.stats.set_stuck(&self.stream, None);
                        tracing::info!(stream = self.stream, "the lane's stream takes entries again");
                    }
                    return true;
                }
                Err(error) => error,
            };
            metrics::counter!("breeze_relay_append_errors_total").increment(1);
            if retry == FIRST_RETRY {
                tracing::warn!(stream = self.stream, %error, "append failed; nobody is acknowledged until it succeeds");
            }
            relay.stats.set_stuck(&self.stream, Some(error.to_string()));
            let hopeless = matches!(error, BusError::TooLarge { .. } | BusError::Corrupt(_));
            let given_up =
                stop.is_cancelled() && stopping_since.get_or_insert_with(Instant::now).elapsed() >= STOP_RETRY;
            if hopeless || given_up {
                relay.stats.set_stuck(&self.stream, None);
                return false;
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }
}

/// Hands each ticket to its connection, and wakes each connection once for a run of its entries.
fn deliver(tickets: Vec<Ticket>) {
    let mut last: Option<Arc<Mailbox>> = None;
    for Ticket { mailbox, stored } in tickets {
        mailbox.add_stored(stored);
        if let Some(previous) = last.replace(mailbox.clone())
            && !Arc::ptr_eq(&previous, &mailbox)
        {
            previous.wake();
        }
    }
    if let Some(last) = last {
        last.wake();
    }
}
