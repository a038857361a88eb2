//! A bus that forgets everything with the process: for tests of the roles.

use crate::{
    Bus, BusError, Entry, Extent, Position, Service, Subscription,
    hub::{Hub, check_payload, closed},
    name,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};
use tokio::sync::Notify;

/// What an entry counts against the limit beside its payload, in bytes.
const OVERHEAD_BYTES: u64 = 24;

/// The bus. Its streams can be limited and made unavailable, to see what a role does then.
#[derive(Debug)]
pub struct MemoryBus {
    hub: Hub,
    streams: Mutex<HashMap<String, Stream>>,
    appended: Notify,
    max_stream_bytes: AtomicU64,
    unavailable: AtomicBool,
}

#[derive(Debug)]
struct Stream {
    first: Position,
    entries: VecDeque<Bytes>,
    bytes: u64,
    identity: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self { first: 1, entries: VecDeque::new(), bytes: 0, identity: rand::random_range(1..=u64::MAX) }
    }
}

impl Stream {
    fn last(&self) -> Position {
        self.first + self.entries.len() as u64 - 1
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self {
            hub: Hub::default(),
            streams: Mutex::default(),
            appended: Notify::new(),
            max_stream_bytes: AtomicU64::new(u64::MAX),
            unavailable: AtomicBool::new(false),
        }
    }
}

impl MemoryBus {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Streams refuse beyond this many bytes from now on.
    pub fn limit_streams(&self, max_bytes: u64) {
        self.max_stream_bytes.store(max_bytes, Ordering::SeqCst);
    }

    /// While set, streams answer [`BusError::Unavailable`] and an append does not happen.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.unavailable.store(unavailable, Ordering::SeqCst);
    }

    /// Deletes a stream with all its entries; the next append makes it anew.
    pub fn lose_stream(&self, stream: &str) {
        self.streams.lock().remove(stream);
    }

    /// Ends every subscription and service.
    pub fn close(&self) {
        self.hub.close();
    }

    fn check(&self, stream: &str) -> Result<(), BusError> {
        name::check(stream)?;
        if self.unavailable.load(Ordering::SeqCst) { Err(closed()) } else { Ok(()) }
    }

    fn read_now(&self, stream: &str, from: Position, max_bytes: usize) -> Vec<Entry> {
        let streams = self.streams.lock();
        let Some(stream) = streams.get(stream) else { return vec![] };
        let from = from.max(stream.first);
        let skipped = usize::try_from(from - stream.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (position, payload) in (from..).zip(stream.entries.iter().skip(skipped)) {
            bytes += payload.len();
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(Entry { position, payload: payload.clone() });
        }
        entries
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn append(&self, stream: &str, _id: &str, payload: Bytes) -> Result<Position, BusError> {
        check_payload(&payload)?;
        self.check(stream)?;
        let limit = self.max_stream_bytes.load(Ordering::SeqCst);
        let position = {
            let mut streams = self.streams.lock();
            let held = streams.entry(stream.to_owned()).or_default();
            let bytes = held.bytes + payload.len() as u64 + OVERHEAD_BYTES;
            if bytes > limit {
                return Err(BusError::Full {
                    stream: stream.to_owned(),
                    reason: format!("{bytes} bytes would exceed the limit of {limit}"),
                });
            }
            held.bytes = bytes;
            held.entries.push_back(payload);
            held.last()
        };
        self.appended.notify_waiters();
        Ok(position)
    }

    async fn read(
        &self,
        stream: &str,
        from: Position,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            self.check(stream)?;
            let mut appended = std::pin::pin!(self.appended.notified());
            appended.as_mut().enable();
            let entries = self.read_now(stream, from, max_bytes);
            if !entries.is_empty() || tokio::time::timeout_at(deadline, appended).await.is_err() {
                return Ok(entries);
            }
        }
    }

    async fn trim(&self, stream: &str, before: Position) -> Result<(), BusError> {
        self.check(stream)?;
        let mut streams = self.streams.lock();
        let Some(stream) = streams.get_mut(stream) else { return Ok(()) };
        while stream.first < before {
            let Some(payload) = stream.entries.pop_front() else { break };
            stream.first += 1;
            stream.bytes -= payload.len() as u64 + OVERHEAD_BYTES;
        }
        Ok(())
    }

    async fn extent(&self, stream: &str) -> Result<Extent, BusError> {
        self.check(stream)?;
        let streams = self.streams.lock();
        let empty = Extent { first: 1, last: 0, bytes: 0, identity: 0 };
        let extent =
            |held: &Stream| Extent { first: held.first, last: held.last(), bytes: held.bytes, identity: held.identity };
        Ok(streams.get(stream).map_or(empty, extent))
    }

    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        self.hub.publish(subject, &payload)
    }

    async fn subscribe(&self, pattern: &str) -> Result<Box<dyn Subscription>, BusError> {
        self.hub.subscribe(pattern)
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        self.hub.request(subject, payload, timeout).await
    }

    async fn serve(&self, subject: &str) -> Result<Box<dyn Service>, BusError> {
        self.hub.serve(subject)
    }
}
