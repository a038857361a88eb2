//! The write-ahead log: files of frames, each frame the batches of one group commit.
//!
//! A frame is `"BZWG"`, length and crc32c of its body (4 bytes each, little endian) and the body: for
//! each batch the stream's name with its length, first, last, day, and the frozen bytes with their
//! length, numbers as varints. A frame is acknowledged only after it was synced and the next is
//! written only then, so at most the last frame of the last file can be torn: it is cut off. A bad
//! frame anywhere else is damage, and opening fails.

use super::super::varint::{Reader, corrupt, put};
use super::super::{FrozenBatch, InsertToken, MetricsError};
use super::{io_error, sync_folder};
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const FRAME_MAGIC: [u8; 4] = *b"BZWG";
const FRAME_HEADER_BYTES: usize = 12;

/// The file that is being written.
#[derive(Debug)]
pub(super) struct Wal {
    folder: PathBuf,
    number: u64,
    file: File,
    /// Bytes that are synced.
    len: u64,
}

pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.wal"))
}

/// Numbers of the logs in a folder, rising.
pub(super) fn list(folder: &Path) -> Result<Vec<u64>, MetricsError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| io_error("list the logs", &error))? {
        let name = entry.map_err(|error| io_error("list the logs", &error))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".wal"));
        numbers.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

impl Wal {
    pub(super) fn create(folder: &Path, number: u64) -> Result<Self, MetricsError> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path_of(folder, number))
            .map_err(|error| io_error("create a log", &error))?;
        // A file of this number can only be what an attempt to create it left.
        file.set_len(0).map_err(|error| io_error("create a log", &error))?;
        sync_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), number, file, len: 0 })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Writes and syncs one frame. After an error the caller must [`Wal::recover`]: what a failed
    /// write or sync left is not to be trusted.
    pub(super) fn append(&mut self, frame: &[u8]) -> std::io::Result<()> {
        self.file.write_all(frame)?;
        self.file.sync_data()?;
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Cuts off what a failed append may have left, and goes on in the next file.
    pub(super) fn recover(&mut self) -> Result<(), MetricsError> {
        self.file
            .set_len(self.len)
            .and_then(|()| self.file.sync_all())
            .map_err(|error| io_error("cut the log back", &error))?;
        *self = Self::create(&self.folder, self.number + 1)?;
        Ok(())
    }
}

/// Encodes a frame of batches.
pub(super) fn encode_frame<'a>(batches: impl Iterator<Item = (&'a InsertToken, &'a FrozenBatch)>) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    for (token, batch) in batches {
        put(&mut frame, token.stream.len() as u64);
        frame.extend_from_slice(token.stream.as_bytes());
        put(&mut frame, token.first);
        put(&mut frame, token.last);
        put(&mut frame, u64::from(token.day));
        put(&mut frame, batch.as_bytes().len() as u64);
        frame.extend_from_slice(batch.as_bytes());
    }
    let len = (frame.len() - FRAME_HEADER_BYTES) as u32;
    let crc = crc32c::crc32c(&frame[FRAME_HEADER_BYTES..]);
    frame[..4].copy_from_slice(&FRAME_MAGIC);
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// Reads a log back in order and gives each batch to `apply`. In the last log a torn last frame is
/// cut off the file.
pub(super) fn replay(
    folder: &Path,
    number: u64,
    is_last: bool,
    mut apply: impl FnMut(InsertToken, FrozenBatch) -> Result<(), MetricsError>,
) -> Result<(), MetricsError> {
    let path = path_of(folder, number);
    let bytes = Bytes::from(std::fs::read(&path).map_err(|error| io_error("read a log", &error))?);
    let mut start = 0;
    while start < bytes.len() {
        let Some(len) = frame_len(&bytes[start..]) else {
            let is_torn = is_last && !(start + 1..bytes.len()).any(|at| frame_len(&bytes[at..]).is_some());
            if !is_torn {
                return Err(MetricsError::Corrupt(format!("log {} is damaged at byte {start}", path.display())));
            }
            let torn = bytes.len() - start;
            tracing::warn!(path = %path.display(), torn_bytes = torn, "a torn, unacknowledged write was cut off the log of metrics");
            return cut(&path, start as u64);
        };
        parse_frame(&bytes.slice(start + FRAME_HEADER_BYTES..start + len), &mut apply)?;
        start += len;
    }
    Ok(())
}

fn cut(path: &Path, len: u64) -> Result<(), MetricsError> {
    let file = OpenOptions::new().write(true).open(path).map_err(|error| io_error("cut a log", &error))?;
    file.set_len(len).and_then(|()| file.sync_all()).map_err(|error| io_error("cut a log", &error))
}

/// Length of the frame that these bytes begin with, if it is whole and right.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(bytes);
    if reader.array().ok()? != FRAME_MAGIC {
        return None;
    }
    let (len, crc) = (reader.u32().ok()? as usize, reader.u32().ok()?);
    let body = reader.take(len).ok()?;
    (crc32c::crc32c(body) == crc).then_some(FRAME_HEADER_BYTES + len)
}

fn parse_frame(
    body: &Bytes,
    apply: &mut impl FnMut(InsertToken, FrozenBatch) -> Result<(), MetricsError>,
) -> Result<(), MetricsError> {
    let mut reader = Reader::new(body);
    while reader.remaining() > 0 {
        let len = reader.count(1)?;
        let stream =
            std::str::from_utf8(reader.take(len)?).map_err(|_| corrupt("a stream's name is not text"))?.to_owned();
        let (first, last) = (reader.varint()?, reader.varint()?);
        let day = u32::try_from(reader.varint()?).map_err(|_| corrupt("a day is too large"))?;
        let len = reader.count(1)?;
        let batch = body.slice_ref(reader.take(len)?);
        apply(InsertToken { stream, first, last, day }, FrozenBatch::from_bytes(batch))?;
    }
    Ok(())
}
