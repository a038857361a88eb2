//! A state store that fails under an owner: what may pass is tried again for as long as the lease lasts.

use super::{
    Halt,
    insert::{BACKOFF_FIRST, BACKOFF_MOST, bounded},
    owner::Owner,
};
use breeze_store::state::StateError;
use std::{future::Future, time::Duration};

impl Owner<'_> {
    /// Runs a step of the state store that may be repeated, until it is done or the lease runs out.
    pub(super) async fn persist_state<T, F>(&mut self, what: &'static str, step: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, StateError>>,
    {
        let mut backoff = BACKOFF_FIRST;
        loop {
            // Many steps in a row may take longer than a lease lasts, though none of them fails.
            self.keep_lease().await?;
            match bounded(self.call_time(), step()).await {
                Ok(done) => return Ok(done),
                Err(error) => self.after_failure(what, error, &mut backoff).await?,
            }
        }
    }

    /// Says what is wrong and waits, longer each time; what does not pass by itself ends the ownership.
    /// Asked to stop, it leaves the rest to the next owner.
    pub(super) async fn after_failure(
        &mut self,
        what: &'static str,
        error: StateError,
        backoff: &mut Duration,
    ) -> Result<(), Halt> {
        match error {
            StateError::Full { .. } | StateError::Unavailable(_) | StateError::Refused(_) | StateError::Schema(_) => {}
            StateError::Invalid(_) | StateError::Corrupt(_) | StateError::Settings(_) => {
                return Err(anyhow::Error::from(error).context(what).into());
            }
        }
        metrics::counter!("breeze_collector_store_retries_total").increment(1);
        tracing::warn!(lane = %self.deps.shared.lane, %error, "the state store does not answer; trying again");
        self.deps.shared.status.lock().trouble = error.to_string();
        tokio::select! {
            () = self.deps.stop.cancelled() => return Err(Halt::Stopped),
            () = tokio::time::sleep(*backoff) => {}
        }
        *backoff = (*backoff * 2).min(BACKOFF_MOST);
        Ok(())
    }
}
