//! The metrics at one moment, taken while they are in use.
//!
//! Segments are never changed, and those that the image holds are not deleted while it lives; logs are
//! only appended to, and an append that was not finished is cut off when they are read back.

use super::super::MetricsError;
use super::segment::Segment;
use super::{EmbeddedMetrics, Shared, io_error, manifest, segment, wal};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// What an image holds, in the order in which it is written.
#[derive(Debug)]
pub struct MetricsImage {
    manifest: Vec<u8>,
    segments: Vec<Arc<Segment>>,
    /// Number, file, and how much of it is the image's.
    logs: Vec<(u64, File, u64)>,
    shared: Arc<Shared>,
}

impl EmbeddedMetrics {
    /// Everything that was acknowledged until now. Flush before, so that there is less of it in logs.
    ///
    /// # Errors
    /// [`MetricsError::Unavailable`] if the disk fails.
    pub async fn image(&self) -> Result<MetricsImage, MetricsError> {
        let shared = Arc::clone(&self.shared);
        self.blocking(move |_| MetricsImage::take(shared)).await
    }
}

impl MetricsImage {
    fn take(shared: Arc<Shared>) -> Result<Self, MetricsError> {
        // Held so that neither the segments that it names nor the logs behind them change.
        let manifest = shared.manifest.lock();
        let bytes = manifest::encode(&manifest)?;
        let segments: Vec<Arc<Segment>> = {
            let inner = shared.inner.read();
            let days = inner.days.values();
            days.flat_map(|day| day.segments.iter().chain(day.rollups.iter().flatten())).cloned().collect()
        };
        let mut logs = Vec::new();
        for number in wal::list(&shared.wal_dir)? {
            if number < manifest.wal_first {
                continue;
            }
            let log = File::open(wal::path_of(&shared.wal_dir, number));
            let log = log.map_err(|error| io_error("open a log", &error))?;
            logs.push((number, log));
        }
        // All opened before the first is measured: whatever follows a log that is whole is a later one.
        let measured: io::Result<Vec<_>> = logs
            .into_iter()
            .map(|(number, log)| {
                let len = log.metadata()?.len();
                Ok((number, log, len))
            })
            .collect();
        let logs = measured.map_err(|error| io_error("measure a log", &error))?;
        drop(manifest);
        Ok(Self { manifest: bytes, segments, logs, shared })
    }

    /// Gives every file to `file`: its path below the engine's folder, its length and its content.
    /// Blocks.
    ///
    /// # Errors
    /// Those of `file` and of the disk.
    pub fn write_to(&self, file: &mut dyn FnMut(&str, u64, &mut dyn Read) -> io::Result<()>) -> io::Result<()> {
        for held in &self.segments {
            let path = segment::path_of(&self.shared.segments_dir, held.id);
            let mut content = File::open(&path)?;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let len = content.metadata()?.len();
            file(&format!("segments/{name}"), len, &mut content)?;
        }
        for (number, log, len) in &self.logs {
            let path = wal::path_of(&self.shared.wal_dir, *number);
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            file(&format!("log/{name}"), *len, &mut (&mut &*log).take(*len))?;
        }
        file("MANIFEST", self.manifest.len() as u64, &mut self.manifest.as_slice())
    }
}
