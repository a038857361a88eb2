//! The bus of one process: streams as segmented append-only files with group commit, broadcasts and
//! requests in memory.
//!
//! One thread writes for all streams. While it waits for the disk, appends gather; then all of them
//! are written and each touched file is synced once, so the number of syncs follows the disk's pace
//! and not the number of entries. Readers are served from the newest entries in memory, else from
//! the files; they never see what is not durable.

mod image;
mod record;
mod recover;
mod stream;
mod writer;

use crate::{
    Bus, BusError, Entry, Extent, Position, Service, Subscription,
    hub::{Hub, check_payload, closed},
    name,
};
use async_trait::async_trait;
use bytes::Bytes;
pub use image::BusImage;
use parking_lot::RwLock;
use serde::Deserialize;
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};
use stream::Stream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use writer::{Append, Counters, Op, Writer};

/// Streams of one bus.
const MAX_STREAMS: usize = 256;
/// Operations that wait for the writer.
const MAX_WAITING_OPS: usize = 4096;
/// Payload bytes that wait for the writer, in KiB; more appends wait for their turn.
const MAX_WAITING_KIB: usize = 64 * 1024;
/// How long closing waits for the disk.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Where the bus keeps its streams, and how much it takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedBusConfig {
    /// A folder of its own.
    pub dir: PathBuf,
    /// A stream refuses beyond this.
    #[serde(default = "default_max_stream_bytes")]
    pub max_stream_bytes: u64,
    /// Every stream refuses when the disk has less left.
    #[serde(default = "default_reserve_bytes")]
    pub reserve_bytes: u64,
    /// Size at which a new file is begun; at most half of `max_stream_bytes` and 1 GiB.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: u64,
    /// Newest entries of each stream that are kept in memory for readers.
    #[serde(default = "default_tail_bytes")]
    pub tail_bytes: usize,
}

const fn default_max_stream_bytes() -> u64 {
    1024 * 1024 * 1024
}
const fn default_reserve_bytes() -> u64 {
    256 * 1024 * 1024
}
const fn default_segment_bytes() -> u64 {
    16 * 1024 * 1024
}
const fn default_tail_bytes() -> usize {
    4 * 1024 * 1024
}

impl EmbeddedBusConfig {
    /// The defaults, in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_stream_bytes: default_max_stream_bytes(),
            reserve_bytes: default_reserve_bytes(),
            segment_bytes: default_segment_bytes(),
            tail_bytes: default_tail_bytes(),
        }
    }

    fn check(&self) -> Result<(), BusError> {
        if self.segment_bytes == 0
            || self.segment_bytes > self.max_stream_bytes / 2
            || self.segment_bytes > 1024 * 1024 * 1024
        {
            return Err(BusError::Invalid(format!(
                "segment_bytes is {}: it must be above 0 and at most half of max_stream_bytes ({}) and 1 GiB",
                self.segment_bytes, self.max_stream_bytes
            )));
        }
        Ok(())
    }
}

/// Figures since the bus was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BusStats {
    /// Entries made durable.
    pub appended: u64,
    /// Appends refused: full, or failed before.
    pub refused: u64,
    /// Turns of the writer that made something durable.
    pub groups: u64,
    /// File syncs.
    pub syncs: u64,
    /// Bytes of all streams together.
    pub bytes: u64,
    /// Fullest stream: its bytes divided by the limit.
    pub fullest_permille: u32,
}

/// The bus. Dropping it waits until what was asked for is durable; [`EmbeddedBus::close`] does so
/// without blocking a runtime's thread.
#[derive(Debug)]
pub struct EmbeddedBus {
    config: EmbeddedBusConfig,
    hub: Hub,
    streams: RwLock<HashMap<String, Arc<Stream>>>,
    ops: Option<mpsc::Sender<Op>>,
    room: Arc<Semaphore>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
    /// Held for as long as this process uses the folder.
    _lock: File,
}

impl EmbeddedBus {
    /// Opens the folder, or makes it. Blocks while it reads what is there.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for a bad configuration, [`BusError::Unavailable`] if another process
    /// has the folder or it cannot be read, [`BusError::Corrupt`] if acknowledged entries are damaged.
    pub fn open(config: EmbeddedBusConfig) -> Result<Self, BusError> {
        config.check()?;
        let dir = &config.dir;
        let is_new = !dir.is_dir();
        fs::create_dir_all(dir).map_err(|error| recover::io_error(dir, &error))?;
        if is_new && let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            writer::sync_dir(parent).map_err(|error| recover::io_error(parent, &error))?;
        }
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| recover::io_error(&path, &error))?;
        lock.try_lock()
            .map_err(|_| BusError::Unavailable(format!("{} is in use by another process", dir.display())))?;
        let streams = recover::open_streams(dir, config.tail_bytes)?;
        let streams = streams.into_iter().map(|stream| (stream.name.clone(), stream)).collect();
        let (ops, receiver) = mpsc::channel(MAX_WAITING_OPS);
        let counters = Arc::new(Counters::default());
        let writer = Writer::new(config.clone(), counters.clone());
        let thread = std::thread::Builder::new()
            .name("bus-writer".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|error| BusError::Unavailable(format!("no thread for the bus: {error}")))?;
        Ok(Self {
            config,
            hub: Hub::default(),
            streams: RwLock::new(streams),
            ops: Some(ops),
            room: Arc::new(Semaphore::new(MAX_WAITING_KIB)),
            counters,
            thread: Some(thread),
            _lock: lock,
        })
    }

    /// Ends subscriptions and services, refuses further appends, and returns when all before are durable.
    pub async fn close(&self) {
        self.hub.close();
        let (done, finished) = oneshot::channel();
        if let Some(ops) = &self.ops
            && ops.send(Op::Close { done }).await.is_ok()
            && tokio::time::timeout(CLOSE_WAIT, finished).await.is_err()
        {
            tracing::warn!("the bus did not finish writing in time");
        }
        // Readers that wait see only now that nothing more will come.
        for stream in self.streams.read().values() {
            stream.appended.notify_waiters();
        }
    }

    /// Figures for the status page.
    #[must_use]
    pub fn stats(&self) -> BusStats {
        let streams = self.streams.read();
        let bytes = || streams.values().map(|stream| stream.state.lock().bytes);
        let fullest = bytes().max().unwrap_or(0);
        BusStats {
            appended: self.counters.appended.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
            groups: self.counters.groups.load(Ordering::Relaxed),
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            bytes: bytes().sum(),
            fullest_permille: u32::try_from(fullest.saturating_mul(1000) / self.config.max_stream_bytes)
                .unwrap_or(u32::MAX),
        }
    }

    fn stream(&self, name: &str) -> Result<Arc<Stream>, BusError> {
        if let Some(stream) = self.streams.read().get(name) {
            return Ok(stream.clone());
        }
        name::check(name)?;
        let mut streams = self.streams.write();
        if streams.len() >= MAX_STREAMS && !streams.contains_key(name) {
            return Err(BusError::Invalid(format!("this bus already has {MAX_STREAMS} streams")));
        }
        let stream =
            streams.entry(name.to_owned()).or_insert_with(|| Arc::new(Stream::new(name, self.config.tail_bytes)));
        Ok(stream.clone())
    }

    async fn ask<T>(&self, op: Op, answer: oneshot::Receiver<Result<T, BusError>>) -> Result<T, BusError> {
        let ops = self.ops.as_ref().ok_or_else(closed)?;
        ops.send(op).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl Drop for EmbeddedBus {
    fn drop(&mut self) {
        self.hub.close();
        self.ops = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the bus's writer has panicked");
        }
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn append(&self, stream: &str, _id: &str, payload: Bytes) -> Result<Position, BusError> {
        check_payload(&payload)?;
        let stream = self.stream(stream)?;
        let kib = u32::try_from(payload.len() / 1024 + 1).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(kib).await.map_err(|_| closed())?;
        let (done, answer) = oneshot::channel();
        self.ask(Op::Append(Append { stream, payload, done, room }), answer).await
    }

    async fn read(
        &self,
        stream: &str,
        from: Position,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        let stream = self.stream(stream)?;
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let mut appended = std::pin::pin!(stream.appended.notified());
            appended.as_mut().enable();
            let entries = stream.read_now(from, max_bytes).await?;
            if !entries.is_empty() || tokio::time::timeout_at(deadline, appended).await.is_err() {
                return Ok(entries);
            }
            if self.ops.as_ref().is_none_or(mpsc::Sender::is_closed) {
                return Err(closed());
            }
        }
    }

    async fn trim(&self, stream: &str, before: Position) -> Result<(), BusError> {
        let stream = self.stream(stream)?;
        stream.hide_before(before);
        let (done, answer) = oneshot::channel();
        self.ask(Op::Trim { stream, done }, answer).await
    }

    async fn extent(&self, stream: &str) -> Result<Extent, BusError> {
        Ok(self.stream(stream)?.extent())
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

/// Whole records of a segment file, and the offset behind them; `None` without a sound header. For
/// fuzzing alone.
#[doc(hidden)]
#[must_use]
pub fn scan_segment(bytes: &[u8]) -> Option<(u64, u64)> {
    let (first, salt) = record::decode_segment_header(bytes)?;
    let scanned = record::scan(bytes, first, salt);
    Some((scanned.records, scanned.end))
}

/// A segment file with these records. For fuzzing alone.
#[doc(hidden)]
#[must_use]
pub fn segment_of(first: Position, payloads: &[&[u8]]) -> Vec<u8> {
    const SALT: u32 = 7;
    let mut bytes = record::encode_segment_header(first, SALT).to_vec();
    for (position, payload) in (first..).zip(payloads) {
        record::encode_record(&mut bytes, SALT, position, first, payload);
    }
    bytes
}
