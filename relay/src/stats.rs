//! What a relay counts, for `/metrics` and for its status on the bus.

use crate::{ROLE, relay::Relay};
use breeze_bus::status::{Report, Reporter, gauge};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Counters that the status shows as well.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) quic: AtomicU64,
    pub(crate) websocket: AtomicU64,
    handshakes: AtomicU64,
    /// Addresses that were asked to prove themselves.
    retries: AtomicU64,
    /// Handshakes turned away or failed.
    turned_away: AtomicU64,
    frames: AtomicU64,
    heartbeats: AtomicU64,
    drops: AtomicU64,
    /// Of the last append, in microseconds.
    pub(crate) append_us: AtomicU64,
    /// Streams whose append is being tried again, and why.
    stuck: Mutex<BTreeMap<String, String>>,
}

impl Stats {
    /// Connections of a transport.
    pub(crate) fn connections(&self, transport: &str) -> &AtomicU64 {
        if transport == "quic" { &self.quic } else { &self.websocket }
    }

    pub(crate) fn count_handshake(&self, result: &'static str) {
        let counter = match result {
            "begun" => &self.handshakes,
            "retry" => &self.retries,
            _ => &self.turned_away,
        };
        counter.fetch_add(1, Relaxed);
        metrics::counter!("breeze_relay_handshakes_total", "result" => result).increment(1);
    }

    pub(crate) fn count_frame(&self) {
        self.frames.fetch_add(1, Relaxed);
        metrics::counter!("breeze_relay_frames_total").increment(1);
    }

    pub(crate) fn count_stored(&self, entries: u64) {
        self.heartbeats.fetch_add(entries, Relaxed);
        metrics::counter!("breeze_relay_entries_stored_total").increment(entries);
    }

    /// An append to `stream` failed and is tried again; `None`: it is no longer.
    pub(crate) fn set_stuck(&self, stream: &str, why: Option<String>) {
        let mut stuck = self.stuck.lock();
        match why {
            Some(why) => drop(stuck.insert(stream.to_owned(), why)),
            None => drop(stuck.remove(stream)),
        }
    }

    /// How many streams do not take what is sent to them, and in words for people why one of them does not.
    pub(crate) fn stuck(&self) -> (usize, Option<String>) {
        let stuck = self.stuck.lock();
        let words = stuck.first_key_value().map(|(stream, why)| {
            format!("a lane's stream does not take what was sent: agents are not acknowledged ({stream}: {why})")
        });
        (stuck.len(), words)
    }

    /// What an agent sent and did not get through, by reason.
    pub(crate) fn count_refused(&self, reason: &'static str, count: u64) {
        self.drops.fetch_add(count, Relaxed);
        metrics::counter!("breeze_relay_refused_total", "reason" => reason).increment(count);
    }
}

/// Publishes the relay's status until `stop`.
pub(crate) async fn report(relay: Arc<Relay>, stop: CancellationToken) -> anyhow::Result<()> {
    let reporter = Reporter::new(relay.bus.clone(), ROLE, &relay.id, &relay.region, env!("CARGO_PKG_VERSION"));
    let mut rates = Rates::new();
    reporter.run(stop, move || one_report(&relay, &mut rates)).await;
    Ok(())
}

fn one_report(relay: &Relay, rates: &mut Rates) -> Report {
    let stats = &relay.stats;
    let [handshakes, frames, entries] =
        rates.next([&stats.handshakes, &stats.frames, &stats.heartbeats].map(|counter| counter.load(Relaxed)));
    let waiting: usize = relay.lanes().map(|lane| lane.waiting_bytes()).sum();
    let (known, revoked) = {
        let revocations = relay.revocations.lock();
        (revocations.is_known(), revocations.len())
    };
    let (stuck, why_stuck) = stats.stuck();
    let count = |name: &'static str, value: f64| {
        metrics::gauge!(format!("breeze_relay_{name}")).set(value);
        gauge(name, "", value)
    };
    let gauges = vec![
        count("connections_quic", stats.quic.load(Relaxed) as f64),
        count("connections_websocket", stats.websocket.load(Relaxed) as f64),
        count("devices", relay.registered() as f64),
        count("handshakes_half_open", f64::from(relay.half_open())),
        gauge("handshakes", "per_second", handshakes),
        gauge("handshakes_retried", "", stats.retries.load(Relaxed) as f64),
        gauge("handshakes_turned_away", "", stats.turned_away.load(Relaxed) as f64),
        gauge("frames", "per_second", frames),
        gauge("entries_stored", "per_second", entries),
        gauge("lane_waiting", "bytes", waiting as f64),
        gauge("append_latency", "seconds", stats.append_us.load(Relaxed) as f64 / 1e6),
        count("homes_away", relay.homes_away() as f64),
        count("lanes_stuck", stuck as f64),
        gauge("refused", "", stats.drops.load(Relaxed) as f64),
        count("revocations", revoked as f64),
    ];
    metrics::gauge!("breeze_relay_lane_waiting_bytes").set(waiting as f64);
    let message = match (known, why_stuck, relay.homes_away() > 0) {
        (false, _, _) => "no revocation set yet: nobody is let in".to_owned(),
        (true, Some(why), _) => why,
        (true, None, true) => "another region does not answer: what its devices send is stored here for it".to_owned(),
        (true, None, false) => String::new(),
    };
    Report { ready: known, message, gauges }
}

/// Counters as rates since the last look.
struct Rates {
    at: Instant,
    last: [u64; 3],
}

impl Rates {
    fn new() -> Self {
        Self { at: Instant::now(), last: [0; 3] }
    }

    fn next(&mut self, now: [u64; 3]) -> [f64; 3] {
        let elapsed = self.at.elapsed().as_secs_f64().max(0.001);
        let rates = std::array::from_fn(|index| now[index].saturating_sub(self.last[index]) as f64 / elapsed);
        *self = Self { at: Instant::now(), last: now };
        rates
    }
}
