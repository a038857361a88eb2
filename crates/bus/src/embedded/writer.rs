//! The one thread that writes: it takes all appends that wait, of all streams, writes them, makes
//! each touched file durable once, and only then answers.

use super::{
    EmbeddedBusConfig,
    record::{self, Index, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES},
    recover::{TRIM_FILE, encode_number, io_error, make_identity, segment_path},
    stream::{Segment, Stream},
};
use crate::{BusError, Entry, Position};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Most appends and payload bytes that are made durable together.
const MAX_GROUP_OPS: usize = 1024;
const MAX_GROUP_BYTES: usize = 16 * 1024 * 1024;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Op {
    Append(Append),
    /// The stream's trim point has moved: record it and free what lies before.
    Trim {
        stream: Arc<Stream>,
        done: oneshot::Sender<Result<(), BusError>>,
    },
    /// Answered when everything asked for before is durable; the thread then ends.
    Close {
        done: oneshot::Sender<()>,
    },
}

#[derive(Debug)]
pub(super) struct Append {
    pub(super) stream: Arc<Stream>,
    pub(super) payload: Bytes,
    pub(super) done: oneshot::Sender<Result<Position, BusError>>,
    /// Its share of the bytes that may wait; given back with the answer.
    pub(super) room: OwnedSemaphorePermit,
}

/// Counts since the bus was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) appended: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) syncs: AtomicU64,
}

/// The thread's own state.
#[derive(Debug)]
pub(super) struct Writer {
    config: EmbeddedBusConfig,
    counters: Arc<Counters>,
    streams: HashMap<String, Open>,
    /// Streams with a batch in this turn.
    touched: Vec<String>,
    /// Bytes of this turn that the disk's free space does not show yet.
    planned_bytes: u64,
}

/// An entry, who waits for it, and its share of the room.
type Waiting = (Entry, oneshot::Sender<Result<Position, BusError>>, OwnedSemaphorePermit);

/// A stream as the writer sees it.
#[derive(Debug)]
struct Open {
    stream: Arc<Stream>,
    folder: PathBuf,
    trim_file: Option<File>,
    active: Option<Arc<Segment>>,
    /// Encoded and not yet written, and who waits for it.
    batch: Vec<u8>,
    batch_index: Index,
    waiting: Vec<Waiting>,
    next: Position,
}

impl Writer {
    pub(super) fn new(config: EmbeddedBusConfig, counters: Arc<Counters>) -> Self {
        Self { config, counters, streams: HashMap::new(), touched: vec![], planned_bytes: 0 }
    }

    /// Until it is told to close, or nobody can ask any more.
    pub(super) fn run(mut self, mut ops: mpsc::Receiver<Op>) {
        let mut closers = Vec::new();
        while let Some(first) = ops.blocking_recv() {
            let mut trims = Vec::new();
            let free = free_bytes(&self.config.dir);
            self.planned_bytes = 0;
            let mut next = Some(first);
            for _ in 0..MAX_GROUP_OPS {
                match next.take().or_else(|| ops.try_recv().ok()) {
                    Some(Op::Append(append)) => self.place(append, free),
                    Some(Op::Trim { stream, done }) => trims.push((stream, done)),
                    Some(Op::Close { done }) => {
                        closers.push(done);
                        ops.close();
                    }
                    None => break,
                }
                if self.planned_bytes > MAX_GROUP_BYTES as u64 {
                    break;
                }
            }
            self.make_durable();
            for (stream, done) in trims {
                // Who asked may have gone.
                let _ = done.send(self.trim(&stream));
            }
        }
        for done in closers {
            let _ = done.send(());
        }
    }

    /// Puts an append into its stream's batch, or refuses it.
    fn place(&mut self, append: Append, free: Option<u64>) {
        let Append { stream, payload, done, room } = append;
        match self.admit(&stream, payload.len(), free) {
            Ok(()) => {}
            Err(error) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("breeze_bus_appends_refused_total").increment(1);
                let _ = done.send(Err(error));
                return;
            }
        }
        let Some(open) = self.streams.get_mut(&stream.name) else { return };
        if open.batch.is_empty() {
            self.touched.push(stream.name.clone());
        }
        self.planned_bytes += open.put(payload, done, room);
    }

    /// Makes sure that `len` more bytes may be written to the stream's active segment.
    fn admit(&mut self, stream: &Arc<Stream>, len: usize, free: Option<u64>) -> Result<(), BusError> {
        let size = (len + RECORD_HEADER_BYTES) as u64;
        let full = |reason: String| BusError::Full { stream: stream.name.clone(), reason };
        let free = free.ok_or_else(|| {
            BusError::Unavailable(format!("{}: the disk does not tell its free space", self.config.dir.display()))
        })?;
        let needed = self.config.reserve_bytes + self.planned_bytes + size;
        if free < needed {
            return Err(full(format!("{free} bytes left on disk, {} are kept in reserve", self.config.reserve_bytes)));
        }
        if !self.streams.contains_key(&stream.name) {
            let open = Open::new(stream.clone(), &self.config.dir)?;
            self.streams.insert(stream.name.clone(), open);
        }
        let segment_bytes = self.config.segment_bytes;
        let Some(open) = self.streams.get_mut(&stream.name) else { return Ok(()) };
        let (mut held, all_trimmed) = {
            let state = stream.state.lock();
            if let Some(reason) = &state.failed {
                return Err(BusError::Unavailable(reason.clone()));
            }
            (state.bytes + open.batch.len() as u64, state.first > state.last)
        };
        let limit = self.config.max_stream_bytes;
        let rotate = open.active.as_ref().is_none_or(|segment| {
            let used = segment.end() + open.batch.len() as u64;
            used >= segment_bytes
                || (held + size > limit && all_trimmed && open.batch.is_empty() && used > SEGMENT_HEADER_BYTES as u64)
        });
        if rotate {
            open.flush(&self.counters);
            open.rotate()?;
            open.free_trimmed()?;
            held = stream.state.lock().bytes;
        }
        if held + size > limit {
            return Err(full(format!("it holds {held} bytes of at most {limit}")));
        }
        Ok(())
    }

    /// Writes all batches, then makes each file durable and answers.
    fn make_durable(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        let touched = std::mem::take(&mut self.touched);
        // All writes before the first sync: the file system then writes one journal transaction.
        let written: Vec<_> =
            touched.iter().map(|name| self.streams.get_mut(name).map_or(Ok(()), Open::write)).collect();
        for (name, written) in touched.iter().zip(written) {
            if let Some(open) = self.streams.get_mut(name) {
                open.finish(written, &self.counters);
            }
        }
    }

    fn trim(&mut self, stream: &Arc<Stream>) -> Result<(), BusError> {
        if !self.streams.contains_key(&stream.name) {
            if stream.state.lock().segments.is_empty() {
                return Ok(());
            }
            let open = Open::new(stream.clone(), &self.config.dir)?;
            self.streams.insert(stream.name.clone(), open);
        }
        self.streams.get_mut(&stream.name).map_or(Ok(()), Open::free_trimmed)
    }
}

impl Open {
    fn new(stream: Arc<Stream>, dir: &Path) -> Result<Self, BusError> {
        let folder = dir.join(&stream.name);
        if !folder.is_dir() {
            fs::create_dir(&folder).map_err(|error| refused(&stream.name, &folder, &error))?;
        }
        let identity = stream.state.lock().identity;
        if identity == 0 {
            let made = make_identity(&folder).map_err(|error| refused(&stream.name, &folder, &error))?;
            stream.state.lock().identity = made;
            sync_dir(dir).map_err(|error| io_error(dir, &error))?;
        }
        let (active, next) = {
            let state = stream.state.lock();
            (state.segments.back().cloned(), state.last + 1)
        };
        let mut open = Self {
            stream,
            folder,
            trim_file: None,
            active,
            batch: vec![],
            batch_index: Index::new(),
            waiting: vec![],
            next,
        };
        // A process that starts begins a segment of its own, so that the tail of the last one was
        // judged once and for all.
        if open.active.as_ref().is_some_and(|segment| segment.end() > SEGMENT_HEADER_BYTES as u64) {
            open.rotate()?;
        }
        Ok(open)
    }

    /// Encodes an entry into the batch; the bytes it will take.
    fn put(
        &mut self,
        payload: Bytes,
        done: oneshot::Sender<Result<Position, BusError>>,
        room: OwnedSemaphorePermit,
    ) -> u64 {
        let Some(segment) = &self.active else { return 0 };
        let offset = segment.end() + self.batch.len() as u64;
        record::index_record(&mut self.batch_index, self.next - segment.first, offset);
        let before = self.batch.len();
        let durable = self.next - 1 - self.waiting.len() as u64;
        record::encode_record(&mut self.batch, segment.salt, self.next, durable, &payload);
        self.waiting.push((Entry { position: self.next, payload }, done, room));
        self.next += 1;
        (self.batch.len() - before) as u64
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(segment) = &self.active else { return Ok(()) };
        segment.file.write_all_at(&self.batch, segment.end())
    }

    /// Makes what was written durable, shows it to readers and answers; or takes it back.
    fn finish(&mut self, written: io::Result<()>, counters: &Counters) {
        let Some(segment) = self.active.clone() else { return };
        if let Err(error) = written {
            self.take_back(&segment, &error);
            return;
        }
        let began = Instant::now();
        if let Err(error) = segment.file.sync_data() {
            // What the disk holds now is unknown, and a second sync would not tell.
            self.fail(format!("{}: sync failed: {error}", segment.path.display()));
            return;
        }
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        counters.appended.fetch_add(self.waiting.len() as u64, Ordering::Relaxed);
        metrics::histogram!("breeze_bus_sync_seconds").record(began.elapsed());
        metrics::counter!("breeze_bus_appends_total").increment(self.waiting.len() as u64);
        segment.end.store(segment.end() + self.batch.len() as u64, Ordering::Release);
        append_index(&mut segment.index.lock(), &mut self.batch_index);
        self.stream.state.lock().bytes += self.batch.len() as u64;
        self.batch.clear();
        if self.batch.capacity() > MAX_GROUP_BYTES {
            self.batch = Vec::new();
        }
        self.stream.publish(self.waiting.iter().map(|(entry, _, _)| entry.clone()));
        for (entry, done, _room) in self.waiting.drain(..) {
            let _ = done.send(Ok(entry.position));
        }
    }

    fn flush(&mut self, counters: &Counters) {
        if !self.batch.is_empty() {
            let written = self.write();
            self.finish(written, counters);
        }
    }

    /// Nothing of the batch was acknowledged: cuts the file back, so that the next one can be written.
    fn take_back(&mut self, segment: &Segment, error: &io::Error) {
        let cut = segment.file.set_len(segment.end());
        let full = is_full(error);
        if !full || cut.is_err() {
            self.fail(format!("{}: write failed: {error}", segment.path.display()));
            return;
        }
        self.answer_all(&refused(&self.stream.name, &segment.path, error));
    }

    fn fail(&mut self, reason: String) {
        tracing::error!(stream = %self.stream.name, reason, "stream takes no more appends until it is opened again");
        self.stream.state.lock().failed = Some(reason.clone());
        self.answer_all(&BusError::Unavailable(reason));
    }

    fn answer_all(&mut self, error: &BusError) {
        self.next -= self.waiting.len() as u64;
        self.batch.clear();
        self.batch_index.clear();
        for (_, done, _room) in self.waiting.drain(..) {
            let _ = done.send(Err(error.clone()));
        }
    }

    /// Begins a new segment at `next`; the batch must be empty.
    fn rotate(&mut self) -> Result<(), BusError> {
        if let Some(reason) = &self.stream.state.lock().failed {
            return Err(BusError::Unavailable(reason.clone()));
        }
        let path = segment_path(&self.folder, self.next);
        let salt = RandomState::new().build_hasher().finish() as u32;
        let header = record::encode_segment_header(self.next, salt);
        let create = || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            file.write_all_at(&header, 0)?;
            file.sync_data()?;
            sync_dir(&self.folder)?;
            Ok(file)
        };
        let file = create().map_err(|error| {
            // A file without a whole header is removed on the next start at the latest.
            let _ = fs::remove_file(&path);
            refused(&self.stream.name, &path, &error)
        })?;
        let segment = Arc::new(Segment {
            path,
            file,
            first: self.next,
            salt,
            end: AtomicU64::new(header.len() as u64),
            index: Mutex::default(),
        });
        let mut state = self.stream.state.lock();
        state.bytes += header.len() as u64;
        state.segments.push_back(segment.clone());
        self.active = Some(segment);
        Ok(())
    }

    /// Records the trim point and removes the segments that lie before it whole.
    fn free_trimmed(&mut self) -> Result<(), BusError> {
        let first = self.stream.state.lock().first;
        let path = self.folder.join(TRIM_FILE);
        if self.trim_file.is_none() {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            self.trim_file = Some(file.map_err(|error| io_error(&path, &error))?);
        }
        if let Some(file) = &self.trim_file {
            // Not synced: what a power loss may forget is a trim, and its reader has a cursor.
            file.write_all_at(&encode_number(first), 0).map_err(|error| io_error(&path, &error))?;
        }
        loop {
            let mut state = self.stream.state.lock();
            let next_begins = state.segments.get(1).map(|next| next.first);
            if next_begins.is_none_or(|begins| begins > first) {
                return Ok(());
            }
            let Some(segment) = state.segments.pop_front() else { return Ok(()) };
            state.bytes -= segment.end();
            drop(state);
            fs::remove_file(&segment.path).map_err(|error| io_error(&segment.path, &error))?;
        }
    }
}

/// Moves a batch's entries over; the batch was thinned by itself, not against the segment.
fn append_index(index: &mut Index, batch: &mut Index) {
    for (number, offset) in batch.drain(..) {
        record::index_record(index, u64::from(number), u64::from(offset));
    }
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn refused(stream: &str, path: &Path, error: &io::Error) -> BusError {
    if is_full(error) {
        BusError::Full { stream: stream.to_owned(), reason: format!("{}: {error}", path.display()) }
    } else {
        io_error(path, error)
    }
}

/// Bytes that the disk still takes, without the superuser's share.
fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
