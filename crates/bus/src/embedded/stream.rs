//! What readers see of one stream: its segments, its extent, and the newest entries from memory.

use super::record::{self, Index, NoRecord, RECORD_HEADER_BYTES};
use crate::{BusError, Entry, Extent, Position};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::Notify;

/// Most that one read takes from a file, in bytes, whatever was asked for.
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;

/// One file of a stream.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) first: Position,
    pub(super) salt: u32,
    /// Offset behind the last durable record.
    pub(super) end: AtomicU64,
    pub(super) index: Mutex<Index>,
}

impl Segment {
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Durable entries from `from` on, as [`crate::Bus::read`] bounds them. Blocks.
    fn read(&self, from: Position, max_bytes: usize) -> Result<Vec<Entry>, BusError> {
        let end = self.end();
        let (number, mut offset) = {
            let index = self.index.lock();
            let wanted = from.saturating_sub(self.first);
            let at = index.partition_point(|(number, _)| u64::from(*number) <= wanted);
            at.checked_sub(1)
                .and_then(|at| index.get(at))
                .copied()
                .map_or((0, record::SEGMENT_HEADER_BYTES as u64), |(number, offset)| {
                    (u64::from(number), u64::from(offset))
                })
        };
        let mut position = self.first + number;
        let mut entries = Vec::new();
        let mut taken = 0;
        // Enough for what is asked and the records skipped on the way; a longer record reads again.
        let mut window = max_bytes.clamp(64 * 1024, MAX_READ_BYTES) + record::INDEX_STEP_BYTES;
        while offset < end {
            let bytes = self.read_at(offset, window, end).map_err(|error| self.unreadable(offset, &error))?;
            let mut used = 0;
            loop {
                match record::decode_record(&bytes[used..], self.salt) {
                    Ok(record) if record.position == position => {
                        let len = record.len();
                        if position >= from {
                            taken += len - RECORD_HEADER_BYTES;
                            if !entries.is_empty() && taken > max_bytes {
                                return Ok(entries);
                            }
                            let payload = bytes.slice(used + RECORD_HEADER_BYTES..used + len);
                            entries.push(Entry { position, payload });
                        }
                        position += 1;
                        used += len;
                    }
                    Err(NoRecord::Incomplete { need }) if used as u64 + offset < end && used > 0 => {
                        window = window.max(need);
                        break;
                    }
                    Err(NoRecord::Incomplete { need }) if need > bytes.len() && offset + need as u64 <= end => {
                        window = need;
                        break;
                    }
                    Err(NoRecord::Incomplete { .. }) if offset + used as u64 == end => break,
                    Ok(_) | Err(NoRecord::Incomplete { .. } | NoRecord::Bad) => {
                        return Err(self.damaged(position, offset + used as u64));
                    }
                }
            }
            offset += used as u64;
        }
        Ok(entries)
    }

    fn read_at(&self, offset: u64, window: usize, end: u64) -> io::Result<Bytes> {
        let len = usize::try_from(end - offset).unwrap_or(usize::MAX).min(window);
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    fn unreadable(&self, offset: u64, error: &io::Error) -> BusError {
        BusError::Unavailable(format!("{} at offset {offset}: {error}", self.path.display()))
    }

    pub(super) fn damaged(&self, position: Position, offset: u64) -> BusError {
        BusError::Corrupt(format!("{} at offset {offset}: entry {position} is damaged", self.path.display()))
    }
}

/// One stream, shared by its readers and the writer thread.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) state: Mutex<StreamState>,
    pub(super) appended: Notify,
    tail_limit_bytes: usize,
}

#[derive(Debug)]
pub(super) struct StreamState {
    /// Oldest first; the last is the one written to.
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// The newest durable position; 0 when there never was one.
    pub(super) last: Position,
    /// The oldest position that reads return.
    pub(super) first: Position,
    /// Of all segments together.
    pub(super) bytes: u64,
    /// Which stream of this name it is; 0 while it has no folder.
    pub(super) identity: u64,
    /// Why nothing can be appended any more.
    pub(super) failed: Option<String>,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
}

/// What a look into memory gave.
enum Look {
    Entries(Vec<Entry>),
    InFile(Arc<Segment>, Position),
}

impl Stream {
    pub(super) fn new(name: &str, tail_limit_bytes: usize) -> Self {
        let state = StreamState {
            segments: VecDeque::new(),
            last: 0,
            first: 1,
            bytes: 0,
            identity: 0,
            failed: None,
            tail: VecDeque::new(),
            tail_bytes: 0,
        };
        Self { name: name.to_owned(), state: Mutex::new(state), appended: Notify::new(), tail_limit_bytes }
    }

    pub(super) fn extent(&self) -> Extent {
        let state = self.state.lock();
        Extent { first: state.first, last: state.last, bytes: state.bytes, identity: state.identity }
    }

    /// Makes durable entries visible.
    pub(super) fn publish(&self, entries: impl Iterator<Item = Entry>) {
        let mut state = self.state.lock();
        for entry in entries {
            state.last = entry.position;
            state.tail_bytes += entry.payload.len() + RECORD_HEADER_BYTES;
            state.tail.push_back(entry);
        }
        while state.tail_bytes > self.tail_limit_bytes {
            state.drop_oldest_of_tail();
        }
        drop(state);
        self.appended.notify_waiters();
    }

    /// Hides everything before `before` from readers; the room is freed by the writer.
    pub(super) fn hide_before(&self, before: Position) -> Position {
        let mut state = self.state.lock();
        state.first = state.first.max(before.min(state.last + 1));
        while state.tail.front().is_some_and(|entry| entry.position < state.first) {
            state.drop_oldest_of_tail();
        }
        state.first
    }

    /// What is there now; empty when nothing is.
    pub(super) async fn read_now(&self, from: Position, max_bytes: usize) -> Result<Vec<Entry>, BusError> {
        match self.look(from, max_bytes) {
            Look::Entries(entries) => Ok(entries),
            Look::InFile(segment, from) => tokio::task::spawn_blocking(move || segment.read(from, max_bytes))
                .await
                .map_err(|error| BusError::Unavailable(error.to_string()))?,
        }
    }

    fn look(&self, from: Position, max_bytes: usize) -> Look {
        let state = self.state.lock();
        let from = from.max(state.first);
        if from > state.last {
            return Look::Entries(vec![]);
        }
        if let Some(oldest) = state.tail.front()
            && oldest.position <= from
        {
            let skipped = usize::try_from(from - oldest.position).unwrap_or(usize::MAX);
            let mut bytes = 0;
            let within = |entry: &&Entry| {
                let first = bytes == 0;
                bytes += entry.payload.len().max(1);
                first || bytes <= max_bytes
            };
            return Look::Entries(state.tail.iter().skip(skipped).take_while(within).cloned().collect());
        }
        let at = state.segments.partition_point(|segment| segment.first <= from);
        match at.checked_sub(1).and_then(|at| state.segments.get(at)) {
            Some(segment) => Look::InFile(segment.clone(), from),
            None => Look::Entries(vec![]),
        }
    }
}

impl StreamState {
    fn drop_oldest_of_tail(&mut self) {
        match self.tail.pop_front() {
            Some(entry) => self.tail_bytes -= entry.payload.len() + RECORD_HEADER_BYTES,
            None => self.tail_bytes = 0,
        }
    }
}
