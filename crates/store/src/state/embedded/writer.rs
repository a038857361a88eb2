//! The one thread that writes: it groups what callers send, and reopens the engine when it breaks.
//!
//! While one group is being made durable the next gathers in the queue, so that callers share a
//! `fdatasync` without anybody waiting for a timer.

use super::{
    Config,
    engine::Engine,
    folder::Folder,
    group::Group,
    image::{Freeze, frozen},
    readers::Slot,
};
use crate::state::{Commit, CommitOutcome, CommitTable, Merge, OutboxHint, OutboxPosition, StateError, check};
use bytes::Bytes;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// Calls that wait for the writer; more wait for a place in the queue.
pub(super) const MAX_QUEUED: usize = 4096;
/// Calls that one group takes.
const MAX_GROUP_CALLS: usize = 2048;
/// A group takes no more calls once it has these bytes.
const MAX_GROUP_BYTES: usize = 16 * 1024 * 1024;
/// What a row weighs on disk beside its key and value, journal and table together, generously.
const ROW_OVERHEAD_BYTES: usize = 128;
/// How often an idle writer looks whether something broke in the background.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// Waits between attempts to reopen: doubled from the first to the last.
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_LAST: Duration = Duration::from_secs(5);

type Reply<T> = oneshot::Sender<Result<T, StateError>>;

/// A call that writes.
#[derive(Debug)]
pub(super) enum Call {
    Commit(Commit, Reply<CommitOutcome>),
    Merge(Vec<Merge>, Reply<()>),
    Delivered {
        table: CommitTable,
        partition: Bytes,
        through: OutboxPosition,
        reply: Reply<()>,
    },
    ClearHint(OutboxHint, Reply<bool>),
    /// Holds the calls behind it back.
    Freeze(Freeze),
    /// Ends the writer; everything queued before has been done.
    Close(oneshot::Sender<()>),
}

impl Call {
    fn bytes(&self) -> usize {
        match self {
            Self::Commit(commit, _) => {
                let puts: usize = commit.puts.iter().map(|(key, value)| key.len() + value.len()).sum();
                let items: usize = commit.outbox.iter().map(|item| item.payload.len()).sum();
                let rows = 2 + commit.puts.len() + commit.deletes.len() + commit.outbox.len();
                puts + items + rows * (commit.partition.len() + ROW_OVERHEAD_BYTES)
            }
            Self::Merge(merges, _) => merges.iter().map(|merge| check::merge_bytes(merge) + ROW_OVERHEAD_BYTES).sum(),
            Self::Delivered { .. } | Self::ClearHint(..) => 2 * ROW_OVERHEAD_BYTES,
            Self::Freeze(_) | Self::Close(_) => 0,
        }
    }

    fn refuse(self, error: StateError) {
        // A caller that is gone has no use for the answer.
        match self {
            Self::Commit(_, reply) => drop(reply.send(Err(error))),
            Self::Merge(_, reply) | Self::Delivered { reply, .. } => drop(reply.send(Err(error))),
            Self::ClearHint(_, reply) => drop(reply.send(Err(error))),
            Self::Freeze(freeze) => drop(freeze.reply.send(Err(error))),
            Self::Close(done) => drop(done.send(())),
        }
    }
}

/// An answer that waits until its group is durable.
enum Answer {
    Commit(Reply<CommitOutcome>, CommitOutcome),
    Done(Reply<()>),
    Cleared(Reply<bool>, bool),
}

impl Answer {
    fn give(self) {
        match self {
            Self::Commit(reply, outcome) => drop(reply.send(Ok(outcome))),
            Self::Done(reply) => drop(reply.send(Ok(()))),
            Self::Cleared(reply, cleared) => drop(reply.send(Ok(cleared))),
        }
    }

    fn refuse(self, error: StateError) {
        match self {
            Self::Commit(reply, _) => drop(reply.send(Err(error))),
            Self::Done(reply) => drop(reply.send(Err(error))),
            Self::Cleared(reply, _) => drop(reply.send(Err(error))),
        }
    }
}

/// The writer's thread.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) folder: Folder,
    pub(super) config: Config,
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) slot: Arc<Slot>,
}

impl Writer {
    /// Runs until the state is closed or dropped.
    pub(super) fn run(mut self, clock: &tokio::runtime::Runtime) {
        let mut group = Vec::new();
        let mut closing = Vec::new();
        let mut check_at = Instant::now() + IDLE_CHECK;
        while closing.is_empty() {
            let Some(engine) = self.slot.engine().ok() else {
                closing.extend(self.reopen(clock));
                continue;
            };
            match clock.block_on(async { timeout_at(check_at, self.calls.recv()).await }) {
                Err(_) => {
                    check_at = Instant::now() + IDLE_CHECK;
                    if let Err(error) = engine.check() {
                        self.broken(&error);
                    }
                    continue;
                }
                Ok(None) => break,
                Ok(Some(first)) => group.push(first),
            }
            let mut freezing = None;
            let bytes = self.gather(&mut group, &mut closing, &mut freezing);
            let calls = std::mem::take(&mut group);
            let written = catch_unwind(AssertUnwindSafe(|| self.write(&engine, calls, bytes)));
            let error = match written {
                Ok(Ok(())) => {
                    if let Some(freeze) = freezing {
                        self.hold(&engine, freeze, clock);
                    }
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_) => StateError::Unavailable("the engine panicked".into()),
            };
            self.broken(&error);
        }
        self.slot.close(&StateError::Unavailable("closed".into()));
        // The engine and the lock go before anybody is told that they have gone.
        let Self { folder, mut calls, slot, .. } = self;
        slot.wait_until_unused();
        drop(folder);
        calls.close();
        while let Ok(call) = calls.try_recv() {
            call.refuse(StateError::Unavailable("closed".into()));
        }
        for done in closing {
            let _ = done.send(());
        }
    }

    fn broken(&self, error: &StateError) {
        tracing::error!(folder = %self.folder.root().display(), %error, "storage broke and is being reopened");
        self.slot.close(error);
    }

    /// Takes what else waits; the group's bytes.
    fn gather(
        &mut self,
        group: &mut Vec<Call>,
        closing: &mut Vec<oneshot::Sender<()>>,
        freezing: &mut Option<Freeze>,
    ) -> usize {
        let mut bytes = 0;
        let mut next = group.pop();
        while let Some(call) = next {
            let call = match call {
                Call::Close(done) => {
                    closing.push(done);
                    break;
                }
                Call::Freeze(freeze) => {
                    *freezing = Some(freeze);
                    break;
                }
                call @ (Call::Commit(..) | Call::Merge(..) | Call::Delivered { .. } | Call::ClearHint(..)) => call,
            };
            bytes += call.bytes();
            group.push(call);
            let room = group.len() < MAX_GROUP_CALLS && bytes < MAX_GROUP_BYTES;
            next = if room { self.calls.try_recv().ok() } else { None };
        }
        bytes
    }

    /// Shows what is stored now and writes nothing until that was taken; bounded.
    fn hold(&self, engine: &Arc<Engine>, freeze: Freeze, clock: &tokio::runtime::Runtime) {
        let Freeze { at_most, reply } = freeze;
        let until = Instant::now() + at_most;
        let (frozen, released) = frozen(engine, &self.slot);
        if reply.send(Ok(frozen)).is_ok() && clock.block_on(async { timeout_at(until, released).await }).is_err() {
            tracing::warn!("a backup held writes back too long; they go on");
        }
    }

    /// Does one group. An error is the engine's, not a call's, and means that it must be reopened.
    fn write(&self, engine: &Engine, calls: Vec<Call>, bytes: usize) -> Result<(), StateError> {
        if calls.is_empty() {
            return Ok(());
        }
        let refused = self.reserve(bytes).and_then(|()| engine.wait_for_workers());
        if let Err(error) = refused {
            let broken = matches!(error, StateError::Unavailable(_));
            metrics::counter!("breeze_state_refused_total", "reason" => if broken { "unavailable" } else { "full" })
                .increment(calls.len() as u64);
            calls.into_iter().for_each(|call| call.refuse(again(&error)));
            return if broken { engine.check() } else { Ok(()) };
        }
        metrics::histogram!("breeze_state_group_calls").record(calls.len() as f64);
        let mut group = Group::new(engine);
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            judge(&mut group, call, &mut answers);
        }
        match group.write() {
            Ok(_) => answers.into_iter().for_each(Answer::give),
            Err(error) => {
                answers.into_iter().for_each(|answer| answer.refuse(again(&error)));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Refuses before the reserve is touched: the engine needs it to flush and compact what it has
    /// already accepted.
    fn reserve(&self, bytes: usize) -> Result<(), StateError> {
        let free_bytes = self.folder.free_bytes()?;
        let reserve_bytes = self.config.reserve_bytes;
        metrics::gauge!("breeze_state_free_bytes").set(free_bytes as f64);
        if free_bytes < reserve_bytes.saturating_add(bytes as u64) {
            return Err(StateError::Full { free_bytes, reserve_bytes });
        }
        Ok(())
    }

    /// Opens the engine anew, for as long as it takes; meanwhile every call is refused. What asked to
    /// close, if anything did.
    fn reopen(&mut self, clock: &tokio::runtime::Runtime) -> Option<oneshot::Sender<()>> {
        let mut wait = REOPEN_FIRST;
        loop {
            let until = Instant::now() + wait;
            while let Ok(call) = clock.block_on(async { timeout_at(until, self.calls.recv()).await }) {
                match call {
                    // All senders are gone: as good as closing, with nobody to tell.
                    None => return Some(oneshot::channel().0),
                    Some(Call::Close(done)) => return Some(done),
                    Some(call) => call.refuse(self.slot.reason()),
                }
            }
            match catch_unwind(AssertUnwindSafe(|| Engine::open(&self.folder, &self.config))) {
                Ok(Ok(engine)) => {
                    tracing::info!(folder = %self.folder.root().display(), "storage is open again");
                    metrics::counter!("breeze_state_reopens_total").increment(1);
                    self.slot.open(engine);
                    return None;
                }
                Ok(Err(error)) => tracing::warn!(%error, "storage cannot be reopened yet"),
                Err(_) => tracing::error!("the engine panicked while it was being reopened"),
            }
            wait = (wait * 2).min(REOPEN_LAST);
        }
    }
}

/// Judges one call within the group. One that cannot be judged fails alone.
fn judge(group: &mut Group<'_>, call: Call, answers: &mut Vec<Answer>) {
    match call {
        Call::Commit(commit, reply) => match group.commit(commit) {
            Ok(outcome) => {
                let applied = matches!(outcome, CommitOutcome::Applied { .. });
                metrics::counter!("breeze_state_commits_total", "outcome" => if applied { "applied" } else { "conflict" })
                    .increment(1);
                answers.push(Answer::Commit(reply, outcome));
            }
            Err(error) => drop(reply.send(Err(error))),
        },
        Call::Merge(merges, reply) => match group.merge(&merges) {
            Ok(()) => {
                metrics::counter!("breeze_state_merges_total").increment(merges.len() as u64);
                answers.push(Answer::Done(reply));
            }
            Err(error) => drop(reply.send(Err(error))),
        },
        Call::Delivered { table, partition, through, reply } => match group.delivered(table, &partition, through) {
            Ok(()) => answers.push(Answer::Done(reply)),
            Err(error) => drop(reply.send(Err(error))),
        },
        Call::ClearHint(hint, reply) => match group.clear_hint(&hint) {
            Ok(cleared) => answers.push(Answer::Cleared(reply, cleared)),
            Err(error) => drop(reply.send(Err(error))),
        },
        // Neither is ever in a group.
        Call::Freeze(freeze) => {
            drop(freeze.reply.send(Err(StateError::Unavailable("out of turn".into()))));
        }
        Call::Close(done) => drop(done.send(())),
    }
}

/// The same error for another caller.
pub(super) fn again(error: &StateError) -> StateError {
    match error {
        StateError::Invalid(said) => StateError::Invalid(said.clone()),
        StateError::Full { free_bytes, reserve_bytes } => {
            StateError::Full { free_bytes: *free_bytes, reserve_bytes: *reserve_bytes }
        }
        StateError::Unavailable(said) => StateError::Unavailable(said.clone()),
        StateError::Corrupt(said) => StateError::Corrupt(said.clone()),
        StateError::Schema(said) => StateError::Schema(said.clone()),
        StateError::Refused(said) => StateError::Refused(said.clone()),
        StateError::Settings(said) => StateError::Settings(said.clone()),
    }
}
