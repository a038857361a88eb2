//! Delivery of what commits left to be done elsewhere. Every commit with an outbox is followed by
//! [`Outbox::deliver`] for its partition, and a sweeper delivers what a crash left behind. Handlers
//! are idempotent: an item may be delivered again, also after a younger one.

use crate::state::{CommitTable, OutboxPosition, State, StateError};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};
use tokio::sync::Mutex;

/// Items read at a time.
const BATCH: usize = 64;
/// Hints read at a time.
const HINTS: usize = 256;
/// Deliveries that may run at a time; partitions that hash to the same stripe wait for each other.
const STRIPES: usize = 64;

/// An item on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub partition: Bytes,
    /// Its `version` is that of the commit.
    pub position: OutboxPosition,
    pub payload: Bytes,
}

/// What does the work of one topic.
#[async_trait]
pub trait Deliver: Send + Sync {
    /// Does it; again is harmless. An error leaves the item, and those behind it, for later.
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError>;
}

/// Why an item could not be delivered now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeliveryError(pub String);

impl From<super::error::ModelError> for DeliveryError {
    fn from(error: super::error::ModelError) -> Self {
        Self(error.to_string())
    }
}

impl From<StateError> for DeliveryError {
    fn from(error: StateError) -> Self {
        Self(error.to_string())
    }
}

/// The one who delivers.
pub struct Outbox {
    state: Arc<dyn State>,
    tables: HashMap<&'static str, CommitTable>,
    handlers: HashMap<&'static str, Arc<dyn Deliver>>,
    stripes: Vec<Mutex<()>>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("topics", &self.handlers.keys()).finish_non_exhaustive()
    }
}

impl Outbox {
    /// For the partitions of `tables`; hints of other tables are left to those who own them.
    #[must_use]
    pub fn new(state: Arc<dyn State>, tables: &[CommitTable]) -> Self {
        Self {
            state,
            tables: tables.iter().map(|table| (table.name, *table)).collect(),
            handlers: HashMap::new(),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
        }
    }

    /// Registers the handler of a topic.
    #[must_use]
    pub fn on(mut self, topic: &'static str, handler: Arc<dyn Deliver>) -> Self {
        self.handlers.insert(topic, handler);
        self
    }

    /// Delivers what waits in a partition, oldest first, until nothing is left or one fails.
    ///
    /// # Errors
    /// Why an item, or reading them, failed; the rest waits for the sweeper.
    pub async fn deliver(&self, table: CommitTable, partition: &[u8]) -> Result<(), DeliveryError> {
        let mut hasher = DefaultHasher::new();
        (table.name, partition).hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or(0);
        let _one_at_a_time = self.stripes[stripe].lock().await;
        loop {
            let items = self.state.outbox(table, partition, BATCH).await?;
            if items.is_empty() {
                return Ok(());
            }
            for item in items {
                let Some(handler) = self.handlers.get(item.topic.as_str()) else {
                    return Err(DeliveryError(format!("nobody handles the topic {:?}", item.topic)));
                };
                let delivery = Delivery {
                    partition: Bytes::copy_from_slice(partition),
                    position: item.position,
                    payload: item.payload,
                };
                handler.deliver(&delivery).await?;
                self.state.outbox_delivered(table, partition, item.position).await?;
            }
        }
    }

    /// Delivers everything that hints point at. Returns how many partitions failed.
    ///
    /// # Errors
    /// The store's, when hints cannot be read.
    pub async fn sweep(&self) -> Result<usize, StateError> {
        let (mut cursor, mut failed) = (None, 0);
        loop {
            let page = self.state.outbox_hints(cursor, HINTS).await?;
            for hint in page.hints {
                let Some(table) = self.tables.get(hint.table.as_str()) else { continue };
                if let Err(error) = self.deliver(*table, &hint.partition).await {
                    failed += 1;
                    tracing::warn!(table = table.name, error = %error, "outbox item waits");
                    continue;
                }
                self.state.outbox_clear_hint(&hint).await?;
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(failed);
            }
        }
    }
}
