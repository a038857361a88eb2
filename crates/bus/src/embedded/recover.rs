//! Opening what an earlier process left: a torn tail is cut off, anything else that is damaged is
//! reported and left as it is.

use super::{
    record::{self, SEGMENT_HEADER_BYTES},
    stream::{Segment, Stream},
};
use crate::{BusError, Position};
use parking_lot::Mutex;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

/// Where a stream's trim point is kept, in its folder.
pub(super) const TRIM_FILE: &str = "trim";
/// Which stream of its name it is, in its folder.
pub(super) const IDENTITY_FILE: &str = "identity";
const SEGMENT_SUFFIX: &str = ".seg";

pub(super) fn segment_path(folder: &Path, first: Position) -> PathBuf {
    folder.join(format!("{first:020}{SEGMENT_SUFFIX}"))
}

/// Every stream of the bus's folder.
pub(super) fn open_streams(dir: &Path, tail_limit_bytes: usize) -> Result<Vec<Arc<Stream>>, BusError> {
    let mut streams = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| io_error(dir, &error))? {
        let entry = entry.map_err(|error| io_error(dir, &error))?;
        let folder = entry.path();
        if let Some(name) = entry.file_name().to_str()
            && crate::name::check(name).is_ok()
            && folder.is_dir()
        {
            streams.push(Arc::new(open_stream(name, &folder, tail_limit_bytes)?));
        }
    }
    Ok(streams)
}

fn open_stream(name: &str, folder: &Path, tail_limit_bytes: usize) -> Result<Stream, BusError> {
    let stream = Stream::new(name, tail_limit_bytes);
    let firsts = segment_firsts(folder)?;
    let mut state = stream.state.lock();
    for (number, first) in firsts.iter().copied().enumerate() {
        let newest = number + 1 == firsts.len();
        if state.last != 0 && first != state.last + 1 {
            return Err(missing(folder, state.last + 1, first));
        }
        let Some((segment, records)) = open_segment(&segment_path(folder, first), first, newest)? else { continue };
        if state.segments.is_empty() {
            state.first = first;
        }
        state.last = first + records - 1;
        state.bytes += segment.end();
        state.segments.push_back(Arc::new(segment));
    }
    // A torn trim point only forgets a trim.
    let trimmed = read_number(&folder.join(TRIM_FILE)).unwrap_or(0);
    state.first = state.first.max(trimmed.min(state.last + 1));
    state.identity = match read_number(&folder.join(IDENTITY_FILE)) {
        Some(identity) => identity,
        // Of an earlier version, or a crash came before its first entry.
        None => make_identity(folder).map_err(|error| io_error(folder, &error))?,
    };
    drop(state);
    Ok(stream)
}

/// First positions of the segment files, ascending.
fn segment_firsts(folder: &Path) -> Result<Vec<Position>, BusError> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| io_error(folder, &error))? {
        let entry = entry.map_err(|error| io_error(folder, &error))?;
        let name = entry.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(SEGMENT_SUFFIX));
        if let Some(first) = first.and_then(|digits| digits.parse().ok()) {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// The segment and how many records it has; `None` for one that a crash left before its header was whole.
fn open_segment(path: &Path, first: Position, newest: bool) -> Result<Option<(Segment, u64)>, BusError> {
    let bytes = fs::read(path).map_err(|error| io_error(path, &error))?;
    let Some((_, salt)) = record::decode_segment_header(&bytes).filter(|(found, _)| *found == first) else {
        // Nothing is acknowledged before the header is durable.
        if newest && bytes.len() <= SEGMENT_HEADER_BYTES {
            tracing::warn!(path = %path.display(), "removing a segment that was never begun");
            fs::remove_file(path).map_err(|error| io_error(path, &error))?;
            return Ok(None);
        }
        return Err(BusError::Corrupt(format!("{}: the segment's header is damaged", path.display())));
    };
    let scanned = record::scan(&bytes, first, salt);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| io_error(path, &error))?;
    let segment = Segment {
        path: path.to_owned(),
        file,
        first,
        salt,
        end: AtomicU64::new(scanned.end),
        index: Mutex::new(scanned.index),
    };
    let torn = bytes.len() as u64 - scanned.end;
    if torn > 0 {
        let position = first + scanned.records;
        if !newest || record::is_vouched_for(&bytes, scanned.end as usize, position, salt) {
            return Err(segment.damaged(position, scanned.end));
        }
        tracing::warn!(path = %path.display(), torn.bytes = torn, "cutting off what a crash left unfinished");
        metrics::counter!("breeze_bus_torn_bytes_total").increment(torn);
        cut(&segment.file, scanned.end).map_err(|error| io_error(path, &error))?;
    }
    Ok(Some((segment, scanned.records)))
}

fn cut(file: &File, end: u64) -> io::Result<()> {
    file.set_len(end)?;
    file.sync_data()
}

/// Gives the stream of this folder an identity, durable when this returns.
pub(super) fn make_identity(folder: &Path) -> io::Result<u64> {
    let identity = rand::random_range(1..=u64::MAX);
    let mut file = File::create(folder.join(IDENTITY_FILE))?;
    file.write_all(&encode_number(identity))?;
    file.sync_data()?;
    super::writer::sync_dir(folder)?;
    Ok(identity)
}

/// What [`encode_number`] wrote; `None` if there is no file or it was torn.
fn read_number(path: &Path) -> Option<u64> {
    decode_number(&fs::read(path).ok()?)
}

/// Content of a file that holds one number.
pub(super) fn encode_number(number: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..8]);
    bytes[8..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode_number(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; 12] = bytes.try_into().ok()?;
    let (number, crc) = bytes.split_first_chunk::<8>()?;
    (crc32c::crc32c(number).to_le_bytes() == crc).then(|| u64::from_le_bytes(*number))
}

fn missing(folder: &Path, from: Position, to: Position) -> BusError {
    BusError::Corrupt(format!("{}: entries {from} to {} are missing", folder.display(), to.saturating_sub(1)))
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> BusError {
    BusError::Unavailable(format!("{}: {error}", path.display()))
}
