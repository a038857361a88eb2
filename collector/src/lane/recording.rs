//! A batch's share of the history on its way there, when its rows are inserted and before it counts as
//! applied. Entries are named by what caused them, so a batch that is driven again records the same.

use super::{
    LaneDeps,
    insert::{End, Retry, TRY},
};
use crate::core::events::{PendingEvent, is_time};
use breeze_store::history::{Event, EventId, HistoryError, InventoryVersion, MAX_CONTENT_BYTES, MAX_EVENTS};

/// What a batch has to tell.
#[derive(Debug, Default)]
pub(super) struct Recording {
    events: Vec<Event>,
    versions: Vec<InventoryVersion>,
}

impl Recording {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.versions.is_empty()
    }

    /// `stream`: as tokens name it, so that a stream which started over names other events.
    pub(super) fn add_event(&mut self, stream: &str, event: PendingEvent) {
        let PendingEvent { cause, device, kind, summary, details } = event;
        if !is_time(cause.received_us) {
            metrics::counter!("breeze_collector_events_dropped_total").increment(1);
            return;
        }
        let id = EventId::of(stream, cause.position, cause.ordinal);
        self.events.push(Event { device, id, at_ms: cause.received_us / 1_000, kind, summary, details });
    }

    pub(super) fn add_version(&mut self, version: InventoryVersion) {
        if version.content.len() > MAX_CONTENT_BYTES || !is_time(version.at_ms.saturating_mul(1_000)) {
            metrics::counter!("breeze_collector_versions_dropped_total").increment(1);
            return;
        }
        self.versions.push(version);
    }

    /// Records everything. What does not answer is tried again for as long as the lease is certainly
    /// held; what the history refuses for good is counted and does not keep the lane from going on.
    pub(super) async fn record(self, deps: LaneDeps) -> End {
        let Self { events, versions } = self;
        for events in events.chunks(MAX_EVENTS) {
            let record = || deps.history.record(events);
            if !persist(&deps, events.len(), "breeze_collector_events_dropped_total", record).await {
                return End::Fenced;
            }
        }
        if !versions.is_empty() {
            let record = || deps.history.record_versions(&versions);
            if !persist(&deps, versions.len(), "breeze_collector_versions_dropped_total", record).await {
                return End::Fenced;
            }
        }
        deps.shared.status.lock().store_trouble.clear();
        End::Recorded
    }
}

/// Whether it is done with; not, if the lease may have run out.
async fn persist<F>(deps: &LaneDeps, entries: usize, dropped: &'static str, record: impl Fn() -> F) -> bool
where
    F: Future<Output = Result<(), HistoryError>>,
{
    let mut retry = Retry::new();
    loop {
        if !deps.shared.is_owned() {
            return false;
        }
        let late = || HistoryError::Unavailable(format!("no answer in {} s", TRY.as_secs()));
        match tokio::time::timeout(TRY, record()).await.unwrap_or_else(|_| Err(late())) {
            Ok(()) => return true,
            Err(error @ HistoryError::Unavailable(_)) => {
                retry.after(deps, &error, "the history does not take a batch's events").await;
            }
            Err(error @ (HistoryError::Invalid(_) | HistoryError::Corrupt(_))) => {
                metrics::counter!(dropped).increment(entries as u64);
                tracing::error!(lane = %deps.shared.lane, %error, entries, "the history refuses a batch's events");
                return true;
            }
        }
    }
}
