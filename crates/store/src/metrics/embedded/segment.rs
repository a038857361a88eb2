//! Segments: immutable files of one day and resolution, sorted by device, name and time.
//!
//! A segment is a header (`"BZMS"`, version), blocks of the scalars' table, blocks of the named
//! table, index pages, a footer and a trailer (footer length, its crc32c, `"BZME"`). The footer names
//! each index page with its first device; a page lists up to [`PAGE_ENTRIES`] blocks. Only footers
//! stay in memory, so a read of one device costs a page and a block. It is written beside its name,
//! synced and renamed; what the manifest does not name is deleted at the next start.

use super::super::varint::{Reader, corrupt, put};
use super::super::{MetricsError, Resolution};
use super::block::{self, Block};
use super::run::{Key, Run, Shape, Table};
use super::{io_error, resolution_from, resolution_index};
use breeze_proto::id::DeviceId;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const MAGIC: [u8; 4] = *b"BZMS";
const END_MAGIC: [u8; 4] = *b"BZME";
const VERSION: u8 = 1;
const HEADER_BYTES: u64 = 5;
const TRAILER_BYTES: u64 = 12;
const PAGE_ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 16 + 16 + 8 + 4 + 4 + 4 + 4;
/// Footers larger than this are not of ours.
const MAX_FOOTER_BYTES: u32 = 64 << 20;
/// Blocks larger than this are not of ours: 2,048 rows of twelve numbers, unpacked, are 200 KiB.
const MAX_BLOCK_BYTES: u32 = 4 << 20;

/// A block's place and range.
#[derive(Debug, Clone, Copy)]
struct Entry {
    first: DeviceId,
    last: DeviceId,
    offset: u64,
    len: u32,
    crc: u32,
    from_ts: u32,
    /// Inclusive.
    to_ts: u32,
}

#[derive(Debug, Clone, Copy)]
struct Page {
    first: DeviceId,
    offset: u64,
    len: u32,
    crc: u32,
}

#[derive(Debug, Default)]
struct TableIndex {
    rows: u64,
    pages: Vec<Page>,
}

/// An open segment: its footer. The file is opened for each read, so segments hold no descriptors.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) resolution: Resolution,
    /// Size of the file.
    pub(super) bytes: u64,
    path: PathBuf,
    tables: [TableIndex; 2],
    is_obsolete: AtomicBool,
}

pub(super) fn path_of(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:016x}.seg"))
}

impl Segment {
    pub(super) fn open(folder: &Path, id: u64, day: u32) -> Result<Self, MetricsError> {
        let path = path_of(folder, id);
        let read = || -> Result<(Vec<u8>, u64), MetricsError> {
            let file = File::open(&path).map_err(|error| io_error("open a segment", &error))?;
            let bytes = file.metadata().map_err(|error| io_error("open a segment", &error))?.len();
            if bytes < HEADER_BYTES + TRAILER_BYTES {
                return Err(corrupt("it is cut short"));
            }
            let mut header = [0; HEADER_BYTES as usize];
            file.read_exact_at(&mut header, 0).map_err(|error| io_error("read a segment", &error))?;
            if header[..4] != MAGIC || header[4] != VERSION {
                return Err(corrupt("it is no segment of a known version"));
            }
            let trailer = read_at(&file, bytes - TRAILER_BYTES, TRAILER_BYTES as usize)?;
            let mut reader = Reader::new(&trailer);
            let (len, crc) = (reader.u32()?, reader.u32()?);
            if reader.array()? != END_MAGIC || len > MAX_FOOTER_BYTES || u64::from(len) > bytes - TRAILER_BYTES {
                return Err(corrupt("it has no end"));
            }
            let footer = read_at(&file, bytes - TRAILER_BYTES - u64::from(len), len as usize)?;
            if crc32c::crc32c(&footer) != crc {
                return Err(corrupt("its footer has a wrong checksum"));
            }
            Ok((footer, bytes))
        };
        let parse = |(footer, bytes): (Vec<u8>, u64)| -> Result<Self, MetricsError> {
            let mut reader = Reader::new(&footer);
            let found_day = reader.varint()?;
            let resolution = resolution_from(reader.byte()?)?;
            if found_day != u64::from(day) {
                return Err(corrupt("it is of another day"));
            }
            let tables = [parse_index(&mut reader)?, parse_index(&mut reader)?];
            Ok(Self { id, resolution, bytes, path: path.clone(), tables, is_obsolete: AtomicBool::new(false) })
        };
        read().and_then(parse).map_err(|error| match error {
            MetricsError::Corrupt(what) => MetricsError::Corrupt(format!("segment {}: {what}", path.display())),
            MetricsError::Invalid(_)
            | MetricsError::Overlap(_)
            | MetricsError::Full { .. }
            | MetricsError::Unavailable(_) => error,
        })
    }

    pub(super) fn rows(&self, table: Table) -> u64 {
        self.tables[table.index()].rows
    }

    fn shape(&self, table: Table) -> Shape {
        Shape { table, resolution: self.resolution }
    }

    /// The file goes when the last reader does.
    pub(super) fn mark_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Release);
    }

    /// A device's runs with the given series, rows of `from_ts..to_ts` only, keys in order.
    pub(super) fn read_device(
        &self,
        table: Table,
        device: DeviceId,
        (from_ts, to_ts): (u32, u32),
        series: &[usize],
        prefix: &str,
    ) -> Result<Vec<Run>, MetricsError> {
        let pages = &self.tables[table.index()].pages;
        let after = pages.partition_point(|page| page.first <= device);
        let first = pages[..after].partition_point(|page| page.first < device).saturating_sub(1);
        if after == 0 {
            return Ok(Vec::new());
        }
        let file = self.open_file()?;
        let shape = self.shape(table);
        let columns = shape.columns_of(series);
        let mut runs: Vec<Run> = Vec::new();
        for page in &pages[first..after] {
            for entry in read_page(&file, page)? {
                let is_outside = entry.last < device || device < entry.first;
                if is_outside || entry.to_ts < from_ts || to_ts <= entry.from_ts {
                    continue;
                }
                let bytes = read_block(&file, &entry)?;
                let wanted = |key: &Key| key.device == device && key.name.starts_with(prefix);
                for mut run in Block::parse(shape, &bytes)?.unpack(&columns, wanted)? {
                    run.clip(from_ts, to_ts);
                    match runs.last_mut() {
                        Some(last) if last.key == run.key => last.append(run),
                        Some(_) | None => runs.push(run),
                    }
                }
            }
        }
        runs.retain(|run| !run.ts.is_empty());
        Ok(runs)
    }

    /// All runs of a table in the order of their keys.
    pub(super) fn cursor(&self, table: Table) -> Result<Cursor<'_>, MetricsError> {
        let file = self.open_file()?;
        let pages = self.tables[table.index()].pages.iter();
        Ok(Cursor {
            shape: self.shape(table),
            file,
            pages,
            entries: Vec::new().into_iter(),
            runs: Vec::new().into_iter(),
            next: None,
        })
    }

    fn open_file(&self) -> Result<File, MetricsError> {
        File::open(&self.path).map_err(|error| io_error("open a segment", &error))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.is_obsolete.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot delete an old segment of metrics; the next start will");
        }
    }
}

/// Reads a table run by run; see [`Segment::cursor`].
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    shape: Shape,
    file: File,
    pages: std::slice::Iter<'a, Page>,
    entries: std::vec::IntoIter<Entry>,
    runs: std::vec::IntoIter<Run>,
    next: Option<Run>,
}

impl Cursor<'_> {
    /// The next key's whole run, however many blocks it lies in.
    pub(super) fn next_run(&mut self) -> Result<Option<Run>, MetricsError> {
        let Some(mut run) = (match self.next.take() {
            Some(run) => Some(run),
            None => self.next_part()?,
        }) else {
            return Ok(None);
        };
        loop {
            match self.next_part()? {
                Some(part) if part.key == run.key => run.append(part),
                next => {
                    self.next = next;
                    return Ok(Some(run));
                }
            }
        }
    }

    fn next_part(&mut self) -> Result<Option<Run>, MetricsError> {
        loop {
            if let Some(run) = self.runs.next() {
                return Ok(Some(run));
            }
            if let Some(entry) = self.entries.next() {
                let bytes = read_block(&self.file, &entry)?;
                let all: Vec<usize> = (0..self.shape.columns()).collect();
                self.runs = Block::parse(self.shape, &bytes)?.unpack(&all, |_| true)?.into_iter();
            } else if let Some(page) = self.pages.next() {
                self.entries = read_page(&self.file, page)?.into_iter();
            } else {
                return Ok(None);
            }
        }
    }
}

/// Writes a segment: all runs of [`Table::Scalars`] in order, then all of [`Table::Named`].
#[derive(Debug)]
pub(super) struct SegmentWriter {
    folder: PathBuf,
    id: u64,
    day: u32,
    resolution: Resolution,
    file: BufWriter<File>,
    offset: u64,
    table: Table,
    pending: Vec<Run>,
    pending_rows: usize,
    entries: [Vec<Entry>; 2],
    rows: [u64; 2],
    is_finished: bool,
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // Best effort: the next start deletes what is left.
            let _removed = std::fs::remove_file(temporary(&self.folder, self.id));
        }
    }
}

impl SegmentWriter {
    pub(super) fn create(folder: &Path, id: u64, day: u32, resolution: Resolution) -> Result<Self, MetricsError> {
        let path = temporary(folder, id);
        let file = File::create(&path).map_err(|error| io_error("create a segment", &error))?;
        let mut writer = Self {
            folder: folder.to_owned(),
            id,
            day,
            resolution,
            file: BufWriter::with_capacity(1 << 18, file),
            offset: 0,
            table: Table::Scalars,
            pending: Vec::new(),
            pending_rows: 0,
            entries: [Vec::new(), Vec::new()],
            rows: [0; 2],
            is_finished: false,
        };
        writer.write(&MAGIC)?;
        writer.write(&[VERSION])?;
        Ok(writer)
    }

    pub(super) fn push(&mut self, table: Table, run: Run) -> Result<(), MetricsError> {
        if table != self.table {
            self.write_block()?;
            self.table = table;
        }
        let room = self.shape().block_rows();
        if self.pending_rows + run.ts.len() > room {
            self.write_block()?;
        }
        self.rows[table.index()] += run.ts.len() as u64;
        if run.ts.len() <= room {
            self.pending_rows += run.ts.len();
            self.pending.push(run);
            return Ok(());
        }
        for start in (0..run.ts.len()).step_by(room) {
            let end = (start + room).min(run.ts.len());
            let cols = run.cols.iter().map(|column| column[start..end].to_vec()).collect();
            self.pending.push(Run { key: run.key.clone(), ts: run.ts[start..end].to_vec(), cols });
            self.write_block()?;
        }
        Ok(())
    }

    /// Syncs the file and gives it its name.
    pub(super) fn finish(mut self) -> Result<Segment, MetricsError> {
        self.write_block()?;
        let mut footer = Vec::new();
        put(&mut footer, u64::from(self.day));
        footer.push(resolution_index(self.resolution));
        for table in Table::BOTH {
            self.write_pages(&mut footer, table)?;
        }
        self.write(&footer)?;
        let mut trailer = Vec::with_capacity(TRAILER_BYTES as usize);
        trailer.extend_from_slice(&(footer.len() as u32).to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&footer).to_le_bytes());
        trailer.extend_from_slice(&END_MAGIC);
        self.write(&trailer)?;
        self.file.flush().map_err(|error| io_error("write a segment", &error))?;
        self.file.get_ref().sync_all().map_err(|error| io_error("sync a segment", &error))?;
        std::fs::rename(temporary(&self.folder, self.id), path_of(&self.folder, self.id))
            .map_err(|error| io_error("rename a segment", &error))?;
        self.is_finished = true;
        super::sync_folder(&self.folder)?;
        Segment::open(&self.folder, self.id, self.day)
    }

    fn shape(&self) -> Shape {
        Shape { table: self.table, resolution: self.resolution }
    }

    fn write_block(&mut self) -> Result<(), MetricsError> {
        let runs = std::mem::take(&mut self.pending);
        self.pending_rows = 0;
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Ok(()) };
        let bytes = block::encode(self.shape(), &runs)?;
        let entry = Entry {
            first: first.key.device,
            last: last.key.device,
            offset: self.offset,
            len: bytes.len() as u32,
            crc: crc32c::crc32c(&bytes),
            from_ts: runs.iter().filter_map(|run| run.ts.first().copied()).min().unwrap_or(0),
            to_ts: runs.iter().filter_map(|run| run.ts.last().copied()).max().unwrap_or(0),
        };
        self.entries[self.table.index()].push(entry);
        self.write(&bytes)
    }

    fn write_pages(&mut self, footer: &mut Vec<u8>, table: Table) -> Result<(), MetricsError> {
        let entries = std::mem::take(&mut self.entries[table.index()]);
        put(footer, self.rows[table.index()]);
        put(footer, entries.chunks(PAGE_ENTRIES).len() as u64);
        for chunk in entries.chunks(PAGE_ENTRIES) {
            let mut page = Vec::with_capacity(chunk.len() * ENTRY_BYTES);
            chunk.iter().for_each(|entry| encode_entry(&mut page, entry));
            footer.extend_from_slice(&chunk[0].first.to_bytes());
            footer.extend_from_slice(&self.offset.to_le_bytes());
            footer.extend_from_slice(&(page.len() as u32).to_le_bytes());
            footer.extend_from_slice(&crc32c::crc32c(&page).to_le_bytes());
            self.write(&page)?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), MetricsError> {
        self.file.write_all(bytes).map_err(|error| io_error("write a segment", &error))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

fn temporary(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:016x}.tmp"))
}

fn encode_entry(page: &mut Vec<u8>, entry: &Entry) {
    page.extend_from_slice(&entry.first.to_bytes());
    page.extend_from_slice(&entry.last.to_bytes());
    page.extend_from_slice(&entry.offset.to_le_bytes());
    for number in [entry.len, entry.crc, entry.from_ts, entry.to_ts] {
        page.extend_from_slice(&number.to_le_bytes());
    }
}

fn parse_device(reader: &mut Reader<'_>) -> Result<DeviceId, MetricsError> {
    DeviceId::from_slice(reader.take(16)?).ok_or_else(|| corrupt("a device's id is cut short"))
}

fn parse_index(reader: &mut Reader<'_>) -> Result<TableIndex, MetricsError> {
    let rows = reader.varint()?;
    let count = reader.count(16 + 8 + 4 + 4)?;
    let mut pages = Vec::with_capacity(count);
    for _ in 0..count {
        let first = parse_device(reader)?;
        let page = Page { first, offset: reader.u64()?, len: reader.u32()?, crc: reader.u32()? };
        if page.len as usize > PAGE_ENTRIES * ENTRY_BYTES {
            return Err(corrupt("an index page is too long"));
        }
        pages.push(page);
    }
    Ok(TableIndex { rows, pages })
}

fn read_at(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, MetricsError> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(|error| io_error("read a segment", &error))?;
    Ok(bytes)
}

fn read_page(file: &File, page: &Page) -> Result<Vec<Entry>, MetricsError> {
    let bytes = read_at(file, page.offset, page.len as usize)?;
    if crc32c::crc32c(&bytes) != page.crc {
        return Err(corrupt("an index page has a wrong checksum"));
    }
    let mut reader = Reader::new(&bytes);
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    while reader.remaining() > 0 {
        let (first, last) = (parse_device(&mut reader)?, parse_device(&mut reader)?);
        let offset = reader.u64()?;
        let (len, crc) = (reader.u32()?, reader.u32()?);
        entries.push(Entry { first, last, offset, len, crc, from_ts: reader.u32()?, to_ts: reader.u32()? });
    }
    Ok(entries)
}

fn read_block(file: &File, entry: &Entry) -> Result<Vec<u8>, MetricsError> {
    if entry.len > MAX_BLOCK_BYTES {
        return Err(corrupt("a block is too long"));
    }
    let bytes = read_at(file, entry.offset, entry.len as usize)?;
    if crc32c::crc32c(&bytes) != entry.crc {
        return Err(corrupt("a block has a wrong checksum"));
    }
    Ok(bytes)
}
