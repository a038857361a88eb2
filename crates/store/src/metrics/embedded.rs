//! The embedded metrics engine: one folder, one process, no server.
//!
//! An append goes to the write-ahead log, is synced together with those that wait beside it, and is
//! then in memory and queryable. Memory is flushed to immutable segments, one a day; segments of a day
//! are merged as they grow in number, and once the day is over into one, with its roll-ups of 5
//! minutes, 1 hour and 1 day made on the way. Late rows make a day's roll-ups untrue until it is merged
//! again; until then queries compute from its raw rows.
//!
//! Threads: one owns the log and the tokens, one writes segments; queries and upkeep run on the
//! runtime's blocking pool. No asynchronous thread waits for a disk.

mod block;
mod commit;
mod image;
mod manifest;
mod memtable;
mod merge;
mod query;
mod run;
mod segment;
mod tokens;
mod upkeep;
mod wal;

use super::{Appended, FrozenBatch, InsertToken, Metrics, MetricsError, Query, QueryResult, Resolution, Usage};
use async_trait::async_trait;
use commit::{Command, Committer};
pub use image::MetricsImage;
use manifest::Manifest;
use memtable::MemTable;
use parking_lot::{Mutex, RwLock};
use run::Table;
use segment::Segment;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokens::Tokens;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Appends that wait for the log.
const MAX_QUEUED_APPENDS: usize = 1_024;
/// Bytes of the batches that wait for the log.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Bytes of one batch.
const MAX_BATCH_BYTES: usize = 32 << 20;
/// Queries that run at a time.
const MAX_RUNNING_QUERIES: usize = 8;
/// Queries that run or wait.
const MAX_QUERIES: usize = 512;
/// How often upkeep looks for work.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Where and how the engine keeps metrics.
#[derive(Debug, Clone)]
pub struct EmbeddedMetricsConfig {
    /// The engine's own folder; made if missing.
    pub dir: PathBuf,
    /// Appends are refused while the disk has less free.
    pub reserve_bytes: u64,
    pub retention_raw_days: u32,
    pub retention_5m_days: u32,
    pub retention_1h_days: u32,
    pub retention_1d_days: u32,
    /// Memory at which rows are flushed to segments. At four times as much appends are refused.
    pub flush_bytes: usize,
    /// Rows are flushed at this age even when few.
    pub flush_after_ms: u64,
    /// How long after its end, or after late rows, a day is merged and rolled up.
    pub seal_after_ms: u64,
}

impl EmbeddedMetricsConfig {
    /// The usual values: raw 30 days, 5 min 180 days, 1 h 2 years, 1 d 10 years.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            reserve_bytes: 512 << 20,
            retention_raw_days: 30,
            retention_5m_days: 180,
            retention_1h_days: 730,
            retention_1d_days: 3_650,
            flush_bytes: 64 << 20,
            flush_after_ms: 3_600_000,
            seal_after_ms: 3_600_000,
        }
    }
}

/// The engine. Dropping it waits for the write in progress; what was acknowledged is durable anyway.
pub struct EmbeddedMetrics {
    shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Command>>,
    queued_bytes: Arc<Semaphore>,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share. Lock order: `upkeep`, then `manifest`, then `inner`.
#[derive(Debug)]
struct Shared {
    config: EmbeddedMetricsConfig,
    segments_dir: PathBuf,
    wal_dir: PathBuf,
    inner: RwLock<Inner>,
    /// What is on disk; held while it is replaced.
    manifest: Mutex<Manifest>,
    upkeep: Mutex<upkeep::Clock>,
    /// Bytes of the logs that are not yet in segments.
    wal_bytes: AtomicU64,
    /// Held for as long as any thread may write.
    _lock: File,
}

/// What queries see.
#[derive(Debug, Default)]
struct Inner {
    active: MemTable,
    frozen: Option<Arc<Frozen>>,
    days: BTreeMap<u32, DayFiles>,
    /// As in [`Manifest::floors`].
    floors: [u32; 4],
}

/// Memory that is being flushed, and what becomes true once it is.
#[derive(Debug)]
struct Frozen {
    mem: MemTable,
    /// The first log whose rows are not in `mem` or in segments.
    wal_first: u64,
    tokens: Tokens,
}

#[derive(Debug, Clone, Default)]
struct DayFiles {
    segments: Vec<Arc<Segment>>,
    rollups: [Option<Arc<Segment>>; 3],
    /// The roll-ups are of exactly these segments.
    is_sealed: bool,
}

impl fmt::Debug for EmbeddedMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedMetrics").field("dir", &self.shared.config.dir).finish_non_exhaustive()
    }
}

impl EmbeddedMetrics {
    /// Opens or creates the folder and starts the engine's threads. Blocks while logs are read back.
    ///
    /// # Errors
    /// [`MetricsError::Unavailable`] if another process has the folder open or the disk fails,
    /// [`MetricsError::Corrupt`] if a file is damaged or of an unknown format.
    pub fn open(config: EmbeddedMetricsConfig) -> Result<Arc<Self>, MetricsError> {
        let (segments_dir, wal_dir) = (config.dir.join("segments"), config.dir.join("log"));
        for dir in [&segments_dir, &wal_dir] {
            std::fs::create_dir_all(dir).map_err(|error| io_error("create the folder", &error))?;
        }
        // A loss of power must not take a folder away from under files that were synced in it.
        sync_folder(&config.dir)?;
        if let Some(parent) = config.dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        let lock = lock_folder(&config.dir)?;
        let manifest = manifest::load(&config.dir)?;
        delete_orphans(&segments_dir, &manifest)?;
        let inner = load_inner(&segments_dir, &manifest)?;
        let shared = Arc::new(Shared {
            config,
            segments_dir,
            wal_dir,
            inner: RwLock::new(inner),
            manifest: Mutex::new(manifest),
            upkeep: Mutex::default(),
            wal_bytes: AtomicU64::new(0),
            _lock: lock,
        });
        let (commands, queue) = mpsc::channel(MAX_QUEUED_APPENDS);
        let (flush_signal, flush_wanted) = std::sync::mpsc::sync_channel(1);
        let committer = Committer::open(Arc::clone(&shared), flush_signal)?;
        let log = spawn("metrics-log", move || committer.run(queue))?;
        let flusher = Arc::clone(&shared);
        let flush = spawn("metrics-flush", move || {
            while flush_wanted.recv().is_ok() {
                flusher.flush_frozen_or_warn();
            }
        })?;
        Ok(Arc::new(Self {
            shared,
            commands: Some(commands),
            queued_bytes: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            running: Arc::new(Semaphore::new(MAX_RUNNING_QUERIES)),
            admitted: Arc::new(Semaphore::new(MAX_QUERIES)),
            threads: vec![log, flush],
        }))
    }

    /// Moves all rows from memory to segments.
    ///
    /// # Errors
    /// [`MetricsError::Unavailable`] if the disk fails; the rows stay in memory and in the log.
    pub async fn flush(&self) -> Result<(), MetricsError> {
        // Whatever is frozen must be written before more can be.
        self.blocking(Shared::flush_frozen).await?;
        let (reply, rotated) = oneshot::channel();
        self.send(Command::Rotate { reply }).await?;
        rotated.await.map_err(|_| stopped())??;
        self.blocking(Shared::flush_frozen).await
    }

    /// One round of upkeep at the given time: flushes old rows, merges segments, seals past days, drops
    /// what has expired.
    ///
    /// # Errors
    /// [`MetricsError::Unavailable`] or [`MetricsError::Corrupt`]; what was done so far holds.
    pub async fn maintain(&self, now_ms: u64) -> Result<(), MetricsError> {
        if self.blocking(move |shared| Ok(shared.wants_flush(now_ms))).await? {
            self.flush().await?;
        }
        self.blocking(move |shared| shared.maintain(now_ms)).await
    }

    /// Does upkeep by the machine's clock until `shutdown`, then flushes. Failures are logged and tried
    /// again.
    ///
    /// # Errors
    /// None so far; the result is what owners of tasks expect.
    pub async fn run_maintenance(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), MetricsError> {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _instant = ticks.tick() => {}
            }
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
            if let Err(error) = self.maintain(now_ms).await {
                metrics::counter!("breeze_metrics_upkeep_failures_total").increment(1);
                tracing::warn!(%error, "upkeep of the metrics failed; it is tried again in a minute");
            }
        }
        if let Err(error) = self.flush().await {
            tracing::warn!(%error, "metrics were not flushed; the next start reads them from the log");
        }
        Ok(())
    }

    async fn send(&self, command: Command) -> Result<(), MetricsError> {
        let commands = self.commands.as_ref().ok_or_else(stopped)?;
        commands.send(command).await.map_err(|_| stopped())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, MetricsError> + Send + 'static,
    ) -> Result<T, MetricsError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|error| MetricsError::Unavailable(format!("a task of the metrics engine failed: {error}")))?
    }
}

impl Drop for EmbeddedMetrics {
    fn drop(&mut self) {
        self.commands = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the metrics engine panicked");
            }
        }
    }
}

#[async_trait]
impl Metrics for EmbeddedMetrics {
    async fn append(&self, token: &InsertToken, batch: &FrozenBatch) -> Result<Appended, MetricsError> {
        let len = batch.as_bytes().len();
        if len > MAX_BATCH_BYTES {
            return Err(MetricsError::Invalid(format!("a batch of {len} bytes; at most {MAX_BATCH_BYTES} are taken")));
        }
        let queued = Arc::clone(&self.queued_bytes);
        let permit = queued.acquire_many_owned(len as u32).await.map_err(|_| stopped())?;
        let (reply, done) = oneshot::channel();
        self.send(Command::Append { token: token.clone(), batch: batch.clone(), permit, reply }).await?;
        done.await.map_err(|_| stopped())?
    }

    async fn query(&self, query: &Query) -> Result<QueryResult, MetricsError> {
        let busy = || MetricsError::Unavailable(format!("more than {MAX_QUERIES} queries are waiting"));
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| busy())?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| stopped())?;
        let query = query.clone();
        self.blocking(move |shared| {
            let _permits = (admitted, running);
            shared.query(&query)
        })
        .await
    }

    async fn usage(&self) -> Result<Usage, MetricsError> {
        let inner = self.shared.inner.read();
        let mut usage = Usage { bytes: self.shared.wal_bytes.load(Ordering::Relaxed), ..Usage::default() };
        for mem in std::iter::once(&inner.active).chain(inner.frozen.as_deref().map(|frozen| &frozen.mem)) {
            usage.heartbeat_rows += mem.heartbeat_rows;
            usage.named_rows += mem.named_rows;
        }
        for files in inner.days.values() {
            for segment in files.segments.iter().chain(files.rollups.iter().flatten()) {
                usage.bytes += segment.bytes;
                usage.segments += 1;
            }
            for segment in &files.segments {
                usage.heartbeat_rows += segment.rows(Table::Scalars);
                usage.named_rows += segment.rows(Table::Named);
            }
        }
        Ok(usage)
    }
}

impl Shared {
    /// Fails with [`MetricsError::Full`] while the disk has less free than the reserve.
    fn check_reserve(&self) -> Result<(), MetricsError> {
        let free_bytes = self.free_bytes()?;
        let reserve_bytes = self.config.reserve_bytes;
        if free_bytes < reserve_bytes { Err(MetricsError::Full { free_bytes, reserve_bytes }) } else { Ok(()) }
    }

    fn free_bytes(&self) -> Result<u64, MetricsError> {
        let stat =
            rustix::fs::statvfs(&self.config.dir).map_err(|error| io_error("ask for free space", &error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Makes queries see what the manifest says. `new` are files that were not there before; those that
    /// the manifest no longer names are deleted when nobody reads them.
    fn adopt(&self, manifest: &Manifest, new: Vec<Segment>, and: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.write();
        let mut files: HashMap<u64, Arc<Segment>> = new.into_iter().map(|file| (file.id, Arc::new(file))).collect();
        for day in std::mem::take(&mut inner.days).into_values() {
            let held = day.segments.into_iter().chain(day.rollups.into_iter().flatten());
            files.extend(held.map(|file| (file.id, file)));
        }
        inner.days = days_of(manifest, |id| files.remove(&id));
        files.values().for_each(|file| file.mark_obsolete());
        inner.floors = manifest.floors;
        and(&mut inner);
    }
}

/// The days of a manifest with their files, taken from `take`.
fn days_of(manifest: &Manifest, mut take: impl FnMut(u64) -> Option<Arc<Segment>>) -> BTreeMap<u32, DayFiles> {
    let mut days = BTreeMap::new();
    for (&day, entry) in &manifest.days {
        let segments = entry.segments.iter().filter_map(|segment| take(segment.id)).collect();
        let rollups = entry.rollups.map_or([None; 3], |rollups| rollups.ids).map(|id| id.and_then(&mut take));
        days.insert(day, DayFiles { segments, rollups, is_sealed: entry.is_sealed() });
    }
    days
}

fn load_inner(folder: &Path, manifest: &Manifest) -> Result<Inner, MetricsError> {
    let mut files = HashMap::new();
    for (&day, entry) in &manifest.days {
        for id in entry.ids() {
            files.insert(id, Arc::new(Segment::open(folder, id, day)?));
        }
    }
    let days = days_of(manifest, |id| files.remove(&id));
    Ok(Inner { days, floors: manifest.floors, ..Inner::default() })
}

/// Deletes files that a crash left before the manifest named them, or after it did no longer.
fn delete_orphans(folder: &Path, manifest: &Manifest) -> Result<(), MetricsError> {
    let known: std::collections::HashSet<PathBuf> =
        manifest.days.values().flat_map(|entry| entry.ids()).map(|id| segment::path_of(folder, id)).collect();
    for entry in std::fs::read_dir(folder).map_err(|error| io_error("list the segments", &error))? {
        let path = entry.map_err(|error| io_error("list the segments", &error))?.path();
        let is_ours = path.extension().is_some_and(|extension| extension == "seg" || extension == "tmp");
        if is_ours && !known.contains(&path) {
            std::fs::remove_file(&path).map_err(|error| io_error("delete an orphaned segment", &error))?;
        }
    }
    Ok(())
}

fn lock_folder(dir: &Path) -> Result<File, MetricsError> {
    let path = dir.join("LOCK");
    let file = File::create(&path).map_err(|error| io_error("create the lock", &error))?;
    file.try_lock().map_err(|_| {
        MetricsError::Unavailable(format!("{} is in use by another process; stop it first", dir.display()))
    })?;
    Ok(file)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, MetricsError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|error| io_error("start a thread", &error))
}

fn sync_folder(folder: &Path) -> Result<(), MetricsError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io_error("sync the folder", &error))
}

fn io_error(action: &str, error: &std::io::Error) -> MetricsError {
    MetricsError::Unavailable(format!("cannot {action}: {error}"))
}

fn stopped() -> MetricsError {
    MetricsError::Unavailable("the metrics engine has stopped".to_owned())
}

const fn resolution_index(resolution: Resolution) -> u8 {
    match resolution {
        Resolution::Raw => 0,
        Resolution::FiveMinutes => 1,
        Resolution::Hour => 2,
        Resolution::Day => 3,
    }
}

fn resolution_from(index: u8) -> Result<Resolution, MetricsError> {
    match index {
        0 => Ok(Resolution::Raw),
        1 => Ok(Resolution::FiveMinutes),
        2 => Ok(Resolution::Hour),
        3 => Ok(Resolution::Day),
        _ => Err(MetricsError::Corrupt(format!("unknown resolution {index}"))),
    }
}
