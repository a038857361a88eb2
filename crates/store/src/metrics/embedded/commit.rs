//! The thread that owns the log and the tokens: takes what waits, writes it as one frame, syncs once,
//! makes it queryable, answers.

use super::super::{Appended, DecodedBatch, FrozenBatch, InsertToken, MetricsError};
use super::memtable::{DAY_MS, MemTable};
use super::tokens::{Known, MAX_STREAM_BYTES, Tokens};
use super::wal::{self, Wal};
use super::{Frozen, Shared};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Appends in one group commit.
const MAX_GROUP: usize = 256;
/// Memory is this many times [`super::EmbeddedMetricsConfig::flush_bytes`] when appends are refused.
const MAX_MEMORY_FACTOR: usize = 4;

type Reply = oneshot::Sender<Result<Appended, MetricsError>>;

#[derive(Debug)]
pub(super) enum Command {
    Append {
        token: InsertToken,
        batch: FrozenBatch,
        /// Its share of the bytes that may wait; given back when it is answered.
        permit: OwnedSemaphorePermit,
        reply: Reply,
    },
    /// Hands all rows over to be flushed.
    Rotate { reply: oneshot::Sender<Result<(), MetricsError>> },
}

#[derive(Debug)]
pub(super) struct Committer {
    shared: Arc<Shared>,
    wal: Wal,
    tokens: Tokens,
    /// Set when a write failed: the log must be cut back before the next.
    is_damaged: bool,
    flush_signal: SyncSender<()>,
}

/// An append that passed all checks.
#[derive(Debug)]
struct Accepted {
    token: InsertToken,
    batch: FrozenBatch,
    rows: DecodedBatch,
    reply: Reply,
    _permit: OwnedSemaphorePermit,
}

impl Committer {
    /// Reads the logs back into memory and starts a new one.
    pub(super) fn open(shared: Arc<Shared>, flush_signal: SyncSender<()>) -> Result<Self, MetricsError> {
        let (wal_first, mut tokens) = {
            let manifest = shared.manifest.lock();
            (manifest.wal_first, manifest.tokens.clone())
        };
        let numbers = wal::list(&shared.wal_dir)?;
        let last = numbers.last().copied().unwrap_or(0).max(wal_first.saturating_sub(1));
        let mut inner = shared.inner.write();
        for number in numbers {
            let path = wal::path_of(&shared.wal_dir, number);
            if number < wal_first {
                std::fs::remove_file(&path).map_err(|error| super::io_error("delete an old log", &error))?;
                continue;
            }
            let (floor, active) = (inner.floors[0], &mut inner.active);
            wal::replay(&shared.wal_dir, number, number == last, |token, batch| {
                if token.day >= floor && tokens.check(&token) == Known::New {
                    active.apply(token.day, &batch.decode()?);
                    tokens.insert(&token);
                }
                Ok(())
            })?;
            let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
            shared.wal_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        drop(inner);
        let wal = Wal::create(&shared.wal_dir, last + 1)?;
        Ok(Self { shared, wal, tokens, is_damaged: false, flush_signal })
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(command) = queue.blocking_recv() {
            let mut group = Vec::new();
            let mut next = Some(command);
            let mut rotate = None;
            while let Some(command) = next {
                match command {
                    Command::Append { token, batch, permit, reply } => group.push((token, batch, permit, reply)),
                    Command::Rotate { reply } => {
                        rotate = Some(reply);
                        break;
                    }
                }
                next = if group.len() < MAX_GROUP { queue.try_recv().ok() } else { None };
            }
            self.commit(group);
            if let Some(reply) = rotate {
                // Whoever asked may be gone; the rotation holds all the same.
                let _sent = reply.send(self.rotate().map(|_| ()));
            } else if self.shared.inner.read().active.bytes >= self.shared.config.flush_bytes {
                match self.rotate() {
                    // Full means that it is signalled already.
                    Ok(true) => drop(self.flush_signal.try_send(())),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "metrics are not flushed yet"),
                }
            }
        }
    }

    fn commit(&mut self, group: Vec<(InsertToken, FrozenBatch, OwnedSemaphorePermit, Reply)>) {
        let mut accepted: Vec<Accepted> = Vec::new();
        let mut repeats: Vec<Reply> = Vec::new();
        // Tokens of this group count as known, so that a repeat beside its original is one.
        let mut fresh = Tokens::default();
        for (token, batch, permit, reply) in group {
            match self.check(&token, &batch, &fresh) {
                Ok(Checked::Accept(rows)) => {
                    fresh.insert(&token);
                    accepted.push(Accepted { token, batch, rows, reply, _permit: permit });
                }
                Ok(Checked::RepeatsGroup) => repeats.push(reply),
                Ok(Checked::Done(appended)) => answer(reply, Ok(appended)),
                Err(error) => answer(reply, Err(error)),
            }
        }
        if accepted.is_empty() {
            return;
        }
        match self.write(&accepted) {
            Ok(()) => self.apply(accepted, repeats),
            Err(error) => {
                metrics::counter!("breeze_metrics_append_failures_total").increment(accepted.len() as u64);
                let replies = accepted.into_iter().map(|append| append.reply).chain(repeats);
                replies.for_each(|reply| answer(reply, Err(again(&error))));
            }
        }
    }

    fn check(&self, token: &InsertToken, batch: &FrozenBatch, fresh: &Tokens) -> Result<Checked, MetricsError> {
        let invalid = |what: String| Err(MetricsError::Invalid(what));
        if token.stream.len() > MAX_STREAM_BYTES || token.first > token.last || !self.tokens.admits(&token.stream) {
            return invalid(format!("token {token}: its name is too long, its range is empty or streams are too many"));
        }
        match (self.tokens.check(token), fresh.check(token)) {
            (Known::Stored, _) => {
                metrics::counter!("breeze_metrics_duplicate_batches_total").increment(1);
                return Ok(Checked::Done(Appended::Duplicate));
            }
            (Known::New, Known::Stored) => return Ok(Checked::RepeatsGroup),
            (Known::New, Known::New) => {}
            (Known::Overlaps, _) | (_, Known::Overlaps) => {
                return Err(MetricsError::Overlap(token.to_string()));
            }
        }
        let rows = batch.decode()?;
        let mut times = rows.heartbeats.iter().map(|row| row.at_ms).chain(rows.named.iter().map(|row| row.at_ms));
        if times.any(|at_ms| at_ms / DAY_MS != u64::from(token.day)) {
            return invalid(format!("token {token}: a row is of another day"));
        }
        let (floor, mem_bytes) = {
            let inner = self.shared.inner.read();
            (inner.floors[0], inner.active.bytes)
        };
        if token.day < floor {
            let dropped = rows.heartbeats.len() + rows.named.len();
            metrics::counter!("breeze_metrics_expired_rows_total").increment(dropped as u64);
            return Ok(Checked::Done(Appended::New));
        }
        if mem_bytes >= self.shared.config.flush_bytes.saturating_mul(MAX_MEMORY_FACTOR) {
            return Err(MetricsError::Unavailable("flushing to disk is behind; try again".to_owned()));
        }
        Ok(Checked::Accept(rows))
    }

    fn write(&mut self, accepted: &[Accepted]) -> Result<(), MetricsError> {
        self.shared.check_reserve()?;
        if self.is_damaged {
            self.wal.recover()?;
            self.is_damaged = false;
        }
        let frame = wal::encode_frame(accepted.iter().map(|append| (&append.token, &append.batch)));
        if let Err(error) = self.wal.append(&frame) {
            self.is_damaged = self.wal.recover().is_err();
            return Err(if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
                let free_bytes = self.shared.free_bytes().unwrap_or(0);
                MetricsError::Full { free_bytes, reserve_bytes: self.shared.config.reserve_bytes }
            } else {
                super::io_error("write the log", &error)
            });
        }
        self.shared.wal_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn apply(&mut self, accepted: Vec<Accepted>, repeats: Vec<Reply>) {
        let mut inner = self.shared.inner.write();
        for append in &accepted {
            inner.active.apply(append.token.day, &append.rows);
            self.tokens.insert(&append.token);
        }
        metrics::gauge!("breeze_metrics_memory_bytes").set(inner.active.bytes as f64);
        drop(inner);
        metrics::counter!("breeze_metrics_batches_total").increment(accepted.len() as u64);
        accepted.into_iter().for_each(|append| answer(append.reply, Ok(Appended::New)));
        repeats.into_iter().for_each(|reply| answer(reply, Ok(Appended::Duplicate)));
    }

    /// Freezes what is in memory and goes on in a new log. Does nothing, and says so, while there is
    /// nothing to freeze or the last is unflushed.
    fn rotate(&mut self) -> Result<bool, MetricsError> {
        {
            let inner = self.shared.inner.read();
            if inner.active.is_empty() || inner.frozen.is_some() {
                return Ok(false);
            }
        }
        if self.is_damaged {
            self.wal.recover()?;
            self.is_damaged = false;
        }
        self.wal = Wal::create(&self.shared.wal_dir, self.wal.number() + 1)?;
        let mut inner = self.shared.inner.write();
        self.tokens.forget_before(inner.floors[0]);
        let mem: MemTable = std::mem::take(&mut inner.active);
        inner.frozen = Some(Arc::new(Frozen { mem, wal_first: self.wal.number(), tokens: self.tokens.clone() }));
        Ok(true)
    }
}

enum Checked {
    Accept(DecodedBatch),
    /// The same token is earlier in the group: answered when that is durable.
    RepeatsGroup,
    Done(Appended),
}

fn answer(reply: Reply, result: Result<Appended, MetricsError>) {
    // A caller that went away appends again under the same token.
    let _sent = reply.send(result);
}

/// The same error for each of a group.
fn again(error: &MetricsError) -> MetricsError {
    match error {
        MetricsError::Invalid(what) => MetricsError::Invalid(what.clone()),
        MetricsError::Overlap(token) => MetricsError::Overlap(token.clone()),
        MetricsError::Full { free_bytes, reserve_bytes } => {
            MetricsError::Full { free_bytes: *free_bytes, reserve_bytes: *reserve_bytes }
        }
        MetricsError::Unavailable(what) => MetricsError::Unavailable(what.clone()),
        MetricsError::Corrupt(what) => MetricsError::Corrupt(what.clone()),
    }
}
