//! Where readers find the open engine, or why there is none.

use super::{engine::Engine, read::View, writer::again};
use crate::state::StateError;
use parking_lot::RwLock;
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Reads that run at once; more wait.
const MAX_READS: usize = 64;
/// How long closing waits for reads that still run.
const MAX_CLOSE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    engine: RwLock<Result<Arc<Engine>, StateError>>,
    last: RwLock<Weak<Engine>>,
    reads: Arc<Semaphore>,
}

impl Slot {
    pub(super) fn new(engine: Engine) -> Self {
        let engine = Arc::new(engine);
        let last = RwLock::new(Arc::downgrade(&engine));
        Self { engine: RwLock::new(Ok(engine)), last, reads: Arc::new(Semaphore::new(MAX_READS)) }
    }

    pub(super) fn engine(&self) -> Result<Arc<Engine>, StateError> {
        self.engine.read().as_ref().map(Arc::clone).map_err(again)
    }

    pub(super) fn health(&self) -> Result<(), StateError> {
        self.engine.read().as_ref().map(|_| ()).map_err(again)
    }

    /// Why there is no engine.
    pub(super) fn reason(&self) -> StateError {
        self.health().err().unwrap_or_else(|| StateError::Unavailable("reopening".into()))
    }

    pub(super) fn open(&self, engine: Engine) {
        let engine = Arc::new(engine);
        *self.last.write() = Arc::downgrade(&engine);
        *self.engine.write() = Ok(engine);
    }

    /// Takes the engine away. Readers that have it finish; it is dropped with the last of them.
    pub(super) fn close(&self, because: &StateError) {
        let closed = std::mem::replace(&mut *self.engine.write(), Err(StateError::Unavailable(because.to_string())));
        drop(closed);
    }

    /// Waits, bounded, until no reader has the engine that was taken away.
    pub(super) fn wait_until_unused(&self) {
        let began = Instant::now();
        while self.last.read().strong_count() > 0 && began.elapsed() < MAX_CLOSE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs a read on a blocking thread.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await;
        let permit = permit.map_err(|_| StateError::Unavailable("closed".into()))?;
        let engine = self.engine()?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&View::new(&engine))
        });
        done.await.unwrap_or_else(|error| Err(StateError::Unavailable(format!("a read was cut off: {error}"))))
    }
}
