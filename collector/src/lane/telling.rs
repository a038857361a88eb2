//! Presence on its way into the history, beside batches: it waits for no store of metrics, and nothing
//! waits for it. What is told lies in the state already, so whoever owns the lane next tells it again, under
//! the same names.

use super::{
    Halt, LaneDeps,
    insert::{BACKOFF_FIRST, BACKOFF_MOST, TRY},
    owner::Owner,
};
use breeze_store::history::{Event, HistoryError};
use futures_util::future::BoxFuture;
use std::{fmt, sync::Arc};

/// Events that are told at a time.
const MAX_TELLING: usize = 2_048;

/// Events on their way.
pub(super) struct Telling {
    events: Arc<[Event]>,
    /// Whether they are there; not, if the lease may have run out.
    end: BoxFuture<'static, bool>,
}

impl fmt::Debug for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telling").field("events", &self.events.len()).finish_non_exhaustive()
    }
}

/// How the telling that is under way ended; never, if none is.
pub(super) async fn told(telling: &mut Option<Telling>) -> bool {
    match telling {
        Some(telling) => (&mut telling.end).await,
        None => std::future::pending().await,
    }
}

/// Until it is told or the lease may have run out. That the history does not answer shows at the batches,
/// which wait for it; this waits beside them, and is said in the log only.
async fn tell(deps: LaneDeps, events: Arc<[Event]>) -> bool {
    let mut wait = BACKOFF_FIRST;
    while deps.shared.is_owned() {
        let late = || HistoryError::Unavailable(format!("no answer in {} s", TRY.as_secs()));
        let told = tokio::time::timeout(TRY, deps.history.record(&events)).await;
        match told.unwrap_or_else(|_| Err(late())) {
            Ok(()) => return true,
            Err(error @ HistoryError::Unavailable(_)) => {
                metrics::counter!("breeze_collector_store_retries_total").increment(1);
                if wait == BACKOFF_FIRST {
                    let lane = &deps.shared.lane;
                    tracing::warn!(%lane, %error, "the history is not told of presence; trying again, presence goes on");
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF_MOST);
            }
            Err(error @ (HistoryError::Invalid(_) | HistoryError::Corrupt(_))) => {
                metrics::counter!("breeze_collector_events_dropped_total").increment(events.len() as u64);
                tracing::error!(lane = %deps.shared.lane, %error, "the history refuses changes of presence");
                return true;
            }
        }
    }
    false
}

impl Owner<'_> {
    /// Begins to tell what waits. Only right after a merge: what is told must be stored.
    pub(super) fn begin_telling(&mut self) {
        if self.telling.is_some() || !self.deps.shared.is_owned() {
            return;
        }
        let events: Arc<[Event]> = self.with_core(|core| core.untold(MAX_TELLING)).into();
        if !events.is_empty() {
            let end = Box::pin(tell(self.deps.clone(), events.clone()));
            self.telling = Some(Telling { events, end });
        }
    }

    pub(super) fn handle_told(&mut self, is_done: bool) -> Result<(), Halt> {
        let Some(Telling { events, .. }) = self.telling.take() else { return Ok(()) };
        if !is_done {
            return Err(Halt::Lost);
        }
        self.with_core(|core| core.handle_told(&events));
        Ok(())
    }
}
