//! The manifest: which segments there are, which write-ahead logs still count, and the tokens of all
//! rows that are in segments. It is replaced as a whole: written beside, synced, renamed.
//!
//! The first line is the crc32c of the rest in hexadecimal, the rest is JSON.

use super::super::MetricsError;
use super::tokens::Tokens;
use super::{io_error, sync_folder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The format that this version writes, and the only one that it reads.
pub(super) const FORMAT: u32 = 1;
const NAME: &str = "MANIFEST";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// The next segment's id; ids are never used twice.
    pub(super) next_id: u64,
    /// Write-ahead logs below this are in segments.
    pub(super) wal_first: u64,
    /// The first day that is kept: raw, 5 min, 1 h, 1 d.
    pub(super) floors: [u32; 4],
    pub(super) days: BTreeMap<u32, DayEntry>,
    pub(super) tokens: Tokens,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DayEntry {
    /// Oldest first: of rows with the same key and time the later segment's wins.
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) rollups: Option<Rollups>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentEntry {
    pub(super) id: u64,
    /// How often its rows were merged; levels fall from old to new.
    pub(super) level: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rollups {
    /// The raw segment that they were made of; they are true while it is all that the day has.
    pub(super) of: u64,
    /// 5 min, 1 h, 1 d; `None` once expired.
    pub(super) ids: [Option<u64>; 3],
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            format: FORMAT,
            next_id: 1,
            wal_first: 1,
            floors: [0; 4],
            days: BTreeMap::new(),
            tokens: Tokens::default(),
        }
    }
}

impl DayEntry {
    /// Ids of all its files.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        let rolled = self.rollups.iter().flat_map(|rollups| rollups.ids).flatten();
        self.segments.iter().map(|segment| segment.id).chain(rolled)
    }

    /// Whether the roll-ups are of exactly the day's raw segments.
    pub(super) fn is_sealed(&self) -> bool {
        match (&self.segments[..], &self.rollups) {
            ([only], Some(rollups)) => only.id == rollups.of,
            ([], _) => true,
            (_, _) => false,
        }
    }
}

/// The manifest of a folder; a new one where there is none yet.
pub(super) fn load(dir: &Path) -> Result<Manifest, MetricsError> {
    let path = dir.join(NAME);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Manifest::default()),
        Err(error) => return Err(io_error("read the manifest", &error)),
    };
    let corrupt = |what: &str| MetricsError::Corrupt(format!("{}: {what}", path.display()));
    let text = std::str::from_utf8(&bytes).map_err(|_| corrupt("not text"))?;
    let (crc, body) = text.split_once('\n').ok_or_else(|| corrupt("cut short"))?;
    if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(body.as_bytes())) {
        return Err(corrupt("wrong checksum"));
    }
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_str(body).map_err(|error| corrupt(&error.to_string()))?;
    if head.format != FORMAT {
        return Err(corrupt(&format!(
            "format {} is not known to this version, which knows {FORMAT}; run the version that wrote it or a newer one",
            head.format
        )));
    }
    serde_json::from_str(body).map_err(|error| corrupt(&error.to_string()))
}

/// The manifest as it lies on disk.
pub(super) fn encode(manifest: &Manifest) -> Result<Vec<u8>, MetricsError> {
    let body = serde_json::to_string(manifest)
        .map_err(|error| MetricsError::Unavailable(format!("cannot encode the manifest: {error}")))?;
    Ok(format!("{:08x}\n{body}", crc32c::crc32c(body.as_bytes())).into_bytes())
}

/// Replaces the manifest, durably.
pub(super) fn store(dir: &Path, manifest: &Manifest) -> Result<(), MetricsError> {
    let bytes = encode(manifest)?;
    let temporary = dir.join("MANIFEST.tmp");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, dir.join(NAME))
    };
    write().map_err(|error| io_error("write the manifest", &error))?;
    sync_folder(dir)
}
