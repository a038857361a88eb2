//! The spool on disk: an append-only log in segments, each record with its checksum.
//!
//! `<spool>/<16 hex digits>.seg` begins with [`MAGIC`]; a record is the body's length (u32), CRC-32C
//! (u32) over all that follows, its kind (u8), its key (u64), all big endian, then the body. A later
//! record with the same key replaces an earlier one. A torn tail is cut off when it is opened.
//! Segments are only removed from the front, so a removal never goes before what it removes; what
//! still lives in the front one is copied to the tail when the log is mostly dead.
//!
//! **fsync**: [`Storage::commit`] with `durable` calls `fdatasync`. The session asks for that with every
//! heartbeat at intervals from 10 s, and every 5 s below. A removal needs none: what comes back after
//! a loss of power is sent again and recognised by its number.

use crate::{
    os::process::{private_options, sync_directory},
    state_dir::create_private,
};
use anyhow::Context as _;
use breeze_agent_core::{Storage, StorageError};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"BRZSPL01";
/// Length, checksum, kind, key.
const HEADER_BYTES: usize = 4 + 4 + 1 + 8;
/// Largest body; a heartbeat has at most `MAX_HEARTBEAT_BYTES`.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// A segment that is that long is followed by a new one.
const SEGMENT_BYTES: u64 = 256 * 1024;
/// Dead bytes that are left lying.
const SLACK_BYTES: u64 = 2 * SEGMENT_BYTES;
const KIND_PUT: u8 = 1;
const KIND_REMOVE: u8 = 2;
/// A put that removes another key; its body begins with that key.
const KIND_REPLACE: u8 = 3;
const KEY_BYTES: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Location {
    segment: u64,
    /// Of the body.
    offset: u32,
    length: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Segment {
    bytes: u64,
    live_records: u32,
}

/// The log, opened by one process.
#[derive(Debug)]
pub struct DiskStorage {
    directory: PathBuf,
    segments: BTreeMap<u64, Segment>,
    index: BTreeMap<u64, Location>,
    live_bytes: u64,
    /// The last segment.
    tail: File,
    tail_number: u64,
    dirty: bool,
    /// Damaged records that were skipped at opening.
    damaged: u64,
}

enum Record<'a> {
    Put(u64, &'a [u8]),
    Remove(u64),
    /// Key, removed key, body.
    Replace(u64, u64, &'a [u8]),
}

impl DiskStorage {
    /// Opens or makes the log.
    ///
    /// # Errors
    /// If the directory cannot be used. Damage in it is skipped and counted.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let is_new = !directory.exists();
        create_private(directory)?;
        if is_new && let Some(parent) = directory.parent() {
            sync_directory(parent).with_context(|| format!("cannot sync {}", parent.display()))?;
        }
        let mut numbers = Vec::new();
        for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            numbers.extend(number.and_then(|hex| u64::from_str_radix(hex, 16).ok()));
        }
        numbers.sort_unstable();
        let tail_number = numbers.last().copied().unwrap_or(1);
        let path = segment_path(directory, tail_number);
        let tail = open_segment(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut storage = Self {
            directory: directory.to_owned(),
            segments: BTreeMap::new(),
            index: BTreeMap::new(),
            live_bytes: 0,
            tail,
            tail_number,
            dirty: false,
            damaged: 0,
        };
        for number in numbers {
            storage.replay(number).with_context(|| format!("cannot read segment {number} of the spool"))?;
        }
        if !storage.segments.contains_key(&tail_number) {
            storage.begin_tail().context("cannot write the spool")?;
        }
        Ok(storage)
    }

    /// Damaged records that were found at opening.
    #[must_use]
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Bytes of the log on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    fn replay(&mut self, number: u64) -> io::Result<()> {
        let path = segment_path(&self.directory, number);
        let bytes = fs::read(&path)?;
        let is_tail = number == self.tail_number;
        if !bytes.starts_with(MAGIC) {
            // A crash right after it was made leaves it short.
            self.damaged += u64::from(bytes.len() >= MAGIC.len());
            if !is_tail {
                return fs::remove_file(&path);
            }
            return self.begin_tail();
        }
        self.segments.insert(number, Segment::default());
        let mut at = MAGIC.len();
        while let Some((record, length)) = parse(&bytes[at..]) {
            match record {
                Record::Put(key, body) => {
                    let offset = (at + HEADER_BYTES) as u32;
                    self.note_put(key, Location { segment: number, offset, length: body.len() as u32 });
                }
                Record::Remove(key) => self.note_remove(key),
                Record::Replace(key, removed, body) => {
                    self.note_remove(removed);
                    let offset = (at + HEADER_BYTES + KEY_BYTES) as u32;
                    self.note_put(key, Location { segment: number, offset, length: body.len() as u32 });
                }
            }
            at += length;
        }
        if at < bytes.len() {
            self.damaged += 1;
            if is_tail {
                self.tail.set_len(at as u64)?;
            }
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.bytes = at.max(if is_tail { 0 } else { bytes.len() }) as u64;
        }
        Ok(())
    }

    fn begin_tail(&mut self) -> io::Result<()> {
        self.tail.set_len(0)?;
        self.tail.seek(SeekFrom::Start(0))?;
        self.tail.write_all(MAGIC)?;
        self.segments.insert(self.tail_number, Segment { bytes: MAGIC.len() as u64, live_records: 0 });
        self.dirty = true;
        sync_directory(&self.directory)
    }

    fn note_put(&mut self, key: u64, location: Location) {
        self.note_remove(key);
        self.index.insert(key, location);
        self.live_bytes += record_bytes(location.length);
        if let Some(segment) = self.segments.get_mut(&location.segment) {
            segment.live_records += 1;
        }
    }

    fn note_remove(&mut self, key: u64) {
        let Some(old) = self.index.remove(&key) else { return };
        self.live_bytes -= record_bytes(old.length);
        if let Some(segment) = self.segments.get_mut(&old.segment) {
            segment.live_records -= 1;
        }
    }

    /// Appends one record; where its body lies is returned.
    fn append(&mut self, kind: u8, key: u64, body: &[u8]) -> io::Result<Location> {
        if body.len() > MAX_BODY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "record too large"));
        }
        let length = self.tail_bytes();
        if length >= SEGMENT_BYTES {
            self.roll()?;
        }
        let at = self.tail_bytes();
        let mut record = Vec::with_capacity(HEADER_BYTES + body.len());
        record.extend_from_slice(&(body.len() as u32).to_be_bytes());
        record.extend_from_slice(&[0; 4]);
        record.push(kind);
        record.extend_from_slice(&key.to_be_bytes());
        record.extend_from_slice(body);
        let checksum = crc32c::crc32c(&record[8..]);
        record[4..8].copy_from_slice(&checksum.to_be_bytes());
        let written = self.tail.seek(SeekFrom::Start(at)).and_then(|_| self.tail.write_all(&record));
        if let Err(error) = written {
            // Half a record would hide all that follow it.
            self.tail.set_len(at)?;
            return Err(error);
        }
        self.dirty = true;
        if let Some(segment) = self.segments.get_mut(&self.tail_number) {
            segment.bytes = at + record.len() as u64;
        }
        let offset = at as u32 + HEADER_BYTES as u32;
        Ok(Location { segment: self.tail_number, offset, length: body.len() as u32 })
    }

    fn tail_bytes(&self) -> u64 {
        self.segments.get(&self.tail_number).map_or(0, |segment| segment.bytes)
    }

    fn roll(&mut self) -> io::Result<()> {
        self.tail.sync_data()?;
        let number = self.tail_number + 1;
        let old = std::mem::replace(&mut self.tail, open_segment(&segment_path(&self.directory, number))?);
        self.tail_number = number;
        if let Err(error) = self.begin_tail() {
            self.tail = old;
            self.tail_number = number - 1;
            self.segments.remove(&number);
            return Err(error);
        }
        Ok(())
    }

    /// Frees what is dead; one segment is copied at most.
    fn tidy(&mut self) -> io::Result<()> {
        let wasteful = self.disk_bytes() > 2 * self.live_bytes + SLACK_BYTES;
        if let Some((&front, _)) = self.segments.first_key_value()
            && wasteful
            && front != self.tail_number
        {
            let keys: Vec<u64> =
                self.index.iter().filter(|(_, location)| location.segment == front).map(|(key, _)| *key).collect();
            for key in keys {
                if let Some(body) = self.read(key)? {
                    let location = self.append(KIND_PUT, key, &body)?;
                    self.note_put(key, location);
                }
            }
        }
        while let Some((&front, segment)) = self.segments.first_key_value() {
            if front == self.tail_number || segment.live_records > 0 {
                break;
            }
            // What replaces the front's records must not be lost after they are gone.
            self.tail.sync_data()?;
            self.dirty = false;
            fs::remove_file(segment_path(&self.directory, front))?;
            self.segments.remove(&front);
        }
        Ok(())
    }

    fn read(&mut self, key: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(location) = self.index.get(&key).copied() else { return Ok(None) };
        let mut body = vec![0; location.length as usize];
        let mut other;
        let file = if location.segment == self.tail_number {
            &mut self.tail
        } else {
            other = File::open(segment_path(&self.directory, location.segment))?;
            &mut other
        };
        file.seek(SeekFrom::Start(u64::from(location.offset)))?;
        file.read_exact(&mut body)?;
        Ok(Some(body))
    }
}

impl Storage for DiskStorage {
    fn load(&mut self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), StorageError> {
        let keys: Vec<u64> = self.index.keys().copied().collect();
        for key in keys {
            if let Some(body) = self.read(key).map_err(|error| failed("read", &error))? {
                visit(key, &body);
            }
        }
        Ok(())
    }

    fn put(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError> {
        let location = self.append(KIND_PUT, key, value).map_err(|error| failed("written", &error))?;
        self.note_put(key, location);
        Ok(())
    }

    fn get(&mut self, key: u64) -> Result<Option<Vec<u8>>, StorageError> {
        self.read(key).map_err(|error| failed("read", &error))
    }

    fn remove(&mut self, key: u64) -> Result<(), StorageError> {
        if !self.index.contains_key(&key) {
            return Ok(());
        }
        // On a full disk the record stays there and is only forgotten here: it may come back.
        let appended = self.append(KIND_REMOVE, key, &[]);
        self.note_remove(key);
        appended.map(|_| ()).map_err(|error| failed("written", &error))
    }

    fn replace(&mut self, key: u64, value: &[u8], removed: u64) -> Result<(), StorageError> {
        let body = [removed.to_be_bytes().as_slice(), value].concat();
        let whole = self.append(KIND_REPLACE, key, &body).map_err(|error| failed("written", &error))?;
        self.note_remove(removed);
        let (offset, length) = (whole.offset + KEY_BYTES as u32, value.len() as u32);
        self.note_put(key, Location { offset, length, ..whole });
        Ok(())
    }

    fn commit(&mut self, durable: bool) -> Result<(), StorageError> {
        // First: what cannot be tidied, as on a full disk, must not keep anything from being durable.
        if durable && self.dirty {
            self.tail.sync_data().map_err(|error| failed("synced", &error))?;
            self.dirty = false;
        }
        self.tidy().map_err(|error| failed("tidied", &error))
    }
}

fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.seg"))
}

fn open_segment(path: &Path) -> io::Result<File> {
    private_options().read(true).write(true).create(true).truncate(false).open(path)
}

const fn record_bytes(body: u32) -> u64 {
    HEADER_BYTES as u64 + body as u64
}

/// The record at the front of `bytes` and its length, if it is whole and sound.
fn parse(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let field = |range: std::ops::Range<usize>| header.get(range);
    let length = u32::from_be_bytes(field(0..4)?.try_into().ok()?) as usize;
    let checksum = u32::from_be_bytes(field(4..8)?.try_into().ok()?);
    let key = u64::from_be_bytes(field(9..17)?.try_into().ok()?);
    if length > MAX_BODY_BYTES {
        return None;
    }
    let body = rest.get(..length)?;
    if crc32c::crc32c(bytes.get(8..HEADER_BYTES + length)?) != checksum {
        return None;
    }
    let record = match header[8] {
        KIND_PUT => Record::Put(key, body),
        KIND_REMOVE => Record::Remove(key),
        KIND_REPLACE => {
            let (removed, body) = body.split_first_chunk()?;
            Record::Replace(key, u64::from_be_bytes(*removed), body)
        }
        _ => return None,
    };
    Some((record, HEADER_BYTES + length))
}

fn failed(action: &'static str, error: &io::Error) -> StorageError {
    StorageError { action, cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(storage: &mut DiskStorage) -> BTreeMap<u64, Vec<u8>> {
        let mut content = BTreeMap::new();
        storage.load(&mut |key, value| assert!(content.insert(key, value.to_vec()).is_none())).expect("loads");
        content
    }

    #[test]
    fn what_cannot_be_tidied_does_not_keep_records_from_being_durable() {
        let directory = tempfile::tempdir().expect("a folder");
        let mut storage = DiskStorage::open(directory.path()).expect("opens");
        storage.put(1, b"alive").expect("puts");
        for _ in 0..60 {
            storage.put(2, &[0; 32 * 1024]).expect("puts");
        }
        // The front one, which is to be copied, is broken.
        fs::remove_file(segment_path(directory.path(), 1)).expect("removes");
        storage.put(3, b"new").expect("puts");
        assert!(storage.dirty);
        storage.commit(true).expect_err("it cannot be tidied");
        assert!(!storage.dirty, "what was put is durable all the same");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_is_the_map_that_was_written_also_after_reopening(
            steps in prop::collection::vec((0u64..40, 0usize..6_000, 0u8..3, 0u8..20), 1..300),
        ) {
            let directory = tempfile::tempdir().expect("a folder");
            let mut storage = DiskStorage::open(directory.path()).expect("opens");
            let mut model = BTreeMap::new();
            for (key, length, action, chance) in steps {
                let value = vec![length as u8; length];
                match action {
                    0 => {
                        storage.put(key, &value).expect("puts");
                        model.insert(key, value);
                    }
                    1 => {
                        storage.remove(key).expect("removes");
                        model.remove(&key);
                    }
                    _ => {
                        storage.replace(key, &value, key + 1).expect("replaces");
                        model.remove(&(key + 1));
                        model.insert(key, value);
                    }
                }
                storage.commit(false).expect("commits");
                if chance == 0 {
                    drop(storage);
                    storage = DiskStorage::open(directory.path()).expect("opens");
                }
            }
            prop_assert_eq!(content(&mut storage), model);
            prop_assert!(storage.disk_bytes() <= 2 * storage.live_bytes + SLACK_BYTES + 2 * SEGMENT_BYTES);
        }

        /// Wherever the log ends, either both have happened or neither.
        #[test]
        fn a_torn_replacement_leaves_both_as_they_were(cut in 0usize..80) {
            let directory = tempfile::tempdir().expect("a folder");
            let mut storage = DiskStorage::open(directory.path()).expect("opens");
            storage.put(1, b"victim").expect("puts");
            storage.put(2, b"heir").expect("puts");
            let before = content(&mut storage);
            storage.replace(2, &[7; 40], 1).expect("replaces");
            let after = content(&mut storage);
            drop(storage);
            let path = segment_path(directory.path(), 1);
            let bytes = fs::read(&path).expect("reads");
            let record = HEADER_BYTES + KEY_BYTES + 40;
            let cut = cut.min(record);
            fs::write(&path, &bytes[..bytes.len() - cut]).expect("writes");
            let mut storage = DiskStorage::open(directory.path()).expect("opens");
            prop_assert_eq!(content(&mut storage), if cut == 0 { after } else { before });
        }

        #[test]
        fn a_torn_or_damaged_tail_costs_only_what_is_behind_it(cut in 0usize..400, flip in any::<bool>()) {
            let directory = tempfile::tempdir().expect("a folder");
            let mut storage = DiskStorage::open(directory.path()).expect("opens");
            for key in 1..=20u64 {
                storage.put(key, &[key as u8; 30]).expect("puts");
            }
            drop(storage);
            let path = segment_path(directory.path(), 1);
            let mut bytes = fs::read(&path).expect("reads");
            let at = bytes.len() - 1 - cut;
            if flip { bytes[at] ^= 0x10 } else { bytes.truncate(at) }
            fs::write(&path, &bytes).expect("writes");

            let mut storage = DiskStorage::open(directory.path()).expect("opens");
            let whole = (at - MAGIC.len()) / (HEADER_BYTES + 30);
            prop_assert_eq!(content(&mut storage).len(), whole);
            storage.put(99, b"new").expect("puts");
            drop(storage);
            let mut storage = DiskStorage::open(directory.path()).expect("opens");
            prop_assert_eq!(storage.damaged(), 0, "the tail was cut off");
            prop_assert_eq!(content(&mut storage).len(), whole + 1);
        }
    }
}
