//! Where hints lie: in numbered slots, each a few partitions, so that a sweep does not walk over what
//! was deleted. New hints go to the last slot; after so many it is followed by the next, and what
//! a sweep found empty behind the last one nobody reads again.
//!
//! Three numbers for each scope say which is which; none ever goes back (its value is its write timestamp):
//!
//! - `last`: where new hints go,
//! - `fence`: in a slot below it no hint counts any more that is written from now on,
//! - `first`: slots below it are empty for ever.
//!
//! No clock is trusted. Who leaves a hint reads the numbers after the hint is at a quorum, and leaves it again in a
//! later slot when the fence has passed; who wants to close a slot puts the fence at a quorum, then
//! reads the slot. Of the two, one at least sees what the other wrote, however long either was paused.

use super::{
    Inner,
    connect::Route,
    errors,
    run::rows_of,
    tables::{Query, Relation, Spec},
    values::bigint,
};
use crate::state::{StateError, check};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};
use tokio::time::timeout_at;

/// Partitions that the hints of a slot are spread over.
pub(super) const BUCKETS: i8 = 4;
/// Hints that one process leaves in a slot before it goes on to the next: what bounds how many deleted ones
/// a sweep walks over, far below where servers begin to warn.
const SLOT_HINTS: u32 = 512;

pub(super) fn bucket(partition: &[u8]) -> i8 {
    (check::bucket_of(partition) % BUCKETS.unsigned_abs()).cast_signed()
}

pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// The numbers of a scope. Slots count from 1; 0 where there is none yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) first: i64,
    pub(super) last: i64,
    fence: i64,
}

/// A hint that is to be left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) table: &'a str,
    pub(super) partition: &'a Bytes,
    pub(super) version: u64,
    pub(super) made_ms: i64,
}

/// The hints of one family and route, and what this process knows of their slots.
#[derive(Debug)]
pub(super) struct HintTables {
    pub(super) spec: Spec,
    pub(super) route: Route,
    /// The table of schema version 1, without slots.
    pub(super) old: Relation,
    pub(super) slots: Relation,
    numbers: Relation,
    /// When `old` was found empty.
    pub(super) old_empty: Mutex<Option<Instant>>,
    /// The last slot that is known, and how many hints this process has left there.
    current: AtomicI64,
    used: AtomicU32,
    /// Reads of the numbers that began, and the latest that ended: which it was, what it found.
    begun: AtomicU64,
    latest: tokio::sync::Mutex<(u64, Numbers)>,
}

impl HintTables {
    pub(super) fn new(prefix: &str, spec: Spec) -> Self {
        let route = spec.route();
        let relation = |name| Relation::new(prefix, name, spec, route);
        Self {
            spec,
            route,
            old: relation("outbox_hints"),
            slots: relation("outbox_slots"),
            numbers: relation("outbox_numbers"),
            old_empty: Mutex::new(None),
            current: AtomicI64::new(0),
            used: AtomicU32::new(0),
            begun: AtomicU64::new(0),
            latest: tokio::sync::Mutex::default(),
        }
    }

    fn saw(&self, last: i64) {
        if self.current.fetch_max(last, Ordering::SeqCst) < last {
            self.used.store(0, Ordering::SeqCst);
        }
    }
}

impl Inner {
    pub(super) fn hints_of(&self, relation: &Relation) -> Result<Arc<HintTables>, StateError> {
        let found = self.catalog.hints_of(relation).map(Arc::clone);
        found.ok_or_else(|| StateError::Schema(format!("table {} cannot have an outbox", relation.name)))
    }

    /// Leaves a hint in a slot that nobody has closed; which one.
    pub(super) async fn leave_hint(
        &self,
        tables: &HintTables,
        hint: Left<'_>,
        until: Instant,
    ) -> Result<i64, StateError> {
        let scope = self.cluster.scope(tables.route);
        let version = bigint(hint.version);
        let mut late = Vec::new();
        let slot = loop {
            let slot = self.slot(tables, until).await?;
            let values =
                (scope, bucket(hint.partition), slot, hint.table, hint.partition, version, hint.made_ms, version);
            self.run("hint", &tables.slots, Query::Hint, values, until).await?;
            let numbers = self.numbers_from_now(tables, until).await?;
            tables.saw(numbers.last);
            if numbers.fence <= slot {
                break slot;
            }
            metrics::counter!("breeze_state_hints_late_total").increment(1);
            late.push(slot);
            if Instant::now() >= until {
                return Err(StateError::Unavailable("slots of hints were always closed sooner".into()));
            }
        };
        // Only now: what others left there for the partition, this one stands for as well.
        for slot in late {
            self.drop_hint_from(tables, slot, hint.table, hint.partition, hint.version, until).await?;
        }
        Ok(slot)
    }

    /// Forgets a hint of a slot for that version or an earlier one.
    pub(super) async fn drop_hint_from(
        &self,
        tables: &HintTables,
        slot: i64,
        table: &str,
        partition: &[u8],
        version: u64,
        until: Instant,
    ) -> Result<(), StateError> {
        let values = (bigint(version), self.cluster.scope(tables.route), bucket(partition), slot, table, partition);
        self.run("hint", &tables.slots, Query::DropHint, values, until).await.map(drop)
    }

    /// The slot for a new hint.
    async fn slot(&self, tables: &HintTables, until: Instant) -> Result<i64, StateError> {
        let mut slot = tables.current.load(Ordering::SeqCst);
        if slot == 0 {
            slot = self.numbers_from_now(tables, until).await?.last;
            if slot == 0 {
                slot = 1;
                self.set(tables, Query::SetLast, slot, until).await?;
            }
            tables.saw(slot);
        }
        let full = tables.used.fetch_add(1, Ordering::SeqCst) >= SLOT_HINTS;
        // One of those who find it full opens the next, the others go on meanwhile.
        if full && tables.used.swap(0, Ordering::SeqCst) >= SLOT_HINTS {
            match self.set(tables, Query::SetLast, slot + 1, until).await {
                Ok(()) => {
                    slot += 1;
                    tables.saw(slot);
                }
                Err(error) => tracing::debug!(%error, "the next slot of hints is opened later"),
            }
        }
        Ok(slot)
    }

    async fn set(&self, tables: &HintTables, which: Query, to: i64, until: Instant) -> Result<(), StateError> {
        let values = (to, to, self.cluster.scope(tables.route));
        self.run("hint", &tables.numbers, which, values, until).await.map(drop)
    }

    /// Puts the fence before the last slot: what is read of earlier ones after this stays as complete as it is.
    pub(super) async fn fence(&self, tables: &HintTables, numbers: Numbers, until: Instant) -> Result<(), StateError> {
        self.set(tables, Query::SetFence, numbers.last, until).await
    }

    /// Closes the slots before `first`, which were found empty after the fence was put behind them.
    pub(super) async fn close(&self, tables: &HintTables, first: i64, until: Instant) -> Result<(), StateError> {
        self.set(tables, Query::SetFirst, first, until).await
    }

    pub(super) async fn numbers(&self, tables: &HintTables, until: Instant) -> Result<Numbers, StateError> {
        let values = (self.cluster.scope(tables.route),);
        let answer = rows_of(self.run("read", &tables.numbers, Query::Numbers, values, until).await?)?;
        let row = answer.maybe_first_row::<(Option<i64>, Option<i64>, Option<i64>)>();
        let (first, fence, last) =
            row.map_err(|error| errors::corrupt(&tables.numbers.target, error))?.unwrap_or_default();
        let (first, fence, last) = (first.unwrap_or(1), fence.unwrap_or_default(), last.unwrap_or_default());
        Ok(Numbers { first, last, fence })
    }

    /// The same by a read that begins after this was called; those who ask at the same time share it.
    async fn numbers_from_now(&self, tables: &HintTables, until: Instant) -> Result<Numbers, StateError> {
        let before = tables.begun.load(Ordering::SeqCst);
        let late = |_| StateError::Unavailable("the slots of hints could not be read in time".into());
        let mut latest = timeout_at(until.into(), tables.latest.lock()).await.map_err(late)?;
        if latest.0 > before {
            return Ok(latest.1);
        }
        let this = tables.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let numbers = self.numbers(tables, until).await?;
        *latest = (this, numbers);
        Ok(numbers)
    }
}
