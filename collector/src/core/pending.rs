//! The batch that is being gathered: rows by day, inventory to be applied, events. What it holds depends
//! on the stream's entries and on what was received before them, and on nothing else: a successor
//! that reads the same entries makes the same batch, byte for byte.

use super::events::{Cause, FULL_EVENTS, PendingEvent};
use breeze_proto::v1;
use breeze_store::metrics::{FrozenBatch, HeartbeatRow, NamedRow};
use std::collections::HashMap;

/// Names what [`Pending`] and the core make of entries. A change that gives other bytes for the same
/// entries needs a new number, and the old way must stay until no boundary names it.
pub const ENCODER_VERSION: u32 = 1;

/// Rows after which a batch is full.
const MAX_ROWS: usize = 20_000;
/// Documents after which a batch is full: they are up to half a megabyte each, and wait in memory.
const MAX_DOCUMENTS: usize = 64;
/// Days after which a batch is full: each is an insert of its own. One entry of the stream may still
/// bring all that a sample may be late by.
const MAX_DAYS: usize = 8;
const DAY_MS: u64 = 86_400_000;

/// A document and where its confirmation goes.
#[derive(Debug)]
pub struct InventoryWork {
    pub cause: Cause,
    pub device: u32,
    pub session: super::presence::SessionKey,
    pub document: v1::InventoryDocument,
}

/// Rows of one day.
#[derive(Debug, Default)]
pub struct DayRows {
    pub day: u32,
    pub heartbeats: Vec<HeartbeatRow>,
    pub named: Vec<NamedRow>,
}

impl DayRows {
    #[must_use]
    pub fn freeze(&self) -> FrozenBatch {
        FrozenBatch::encode(&self.heartbeats, &self.named)
    }
}

/// The batch.
#[derive(Debug, Default)]
pub struct Pending {
    /// Positions, inclusive. 0: none yet.
    pub first: u64,
    pub last: u64,
    pub days: Vec<DayRows>,
    pub inventory: Vec<InventoryWork>,
    pub rows: usize,
    pub events: Vec<PendingEvent>,
    /// How many of each device, by its number in the core.
    pub(super) events_of: HashMap<u32, u8>,
}

impl Pending {
    /// Whether it must go before more is taken in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows >= MAX_ROWS
            || self.inventory.len() >= MAX_DOCUMENTS
            || self.days.len() >= MAX_DAYS
            || self.events.len() >= FULL_EVENTS
    }

    pub(super) fn day(&mut self, at_ms: u64) -> &mut DayRows {
        let day = (at_ms / DAY_MS) as u32;
        let at = match self.days.iter().position(|rows| rows.day == day) {
            Some(at) => at,
            None => {
                self.days.push(DayRows { day, ..DayRows::default() });
                self.days.len() - 1
            }
        };
        &mut self.days[at]
    }
}
