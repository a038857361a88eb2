//! The file of a backup: entries one after the other, written and read in one pass, so that it can go
//! through a socket, with a checksum of each block and of the whole.
//!
//! ```text
//! "BREEZEBK", version (u32)                                numbers are little endian
//! block: kind (u8), length (u32), crc32c of the content (u32), content
//!   kind 1  an entry begins: its path
//!   kind 2  bytes of the entry
//!   kind 3  the entry ends: its length (u64)
//!   kind 4  the end: SHA-256 of all bytes before this block
//!   kind 5  the backup failed: why
//! ```

use sha2::{Digest as _, Sha256};
use std::io::{self, ErrorKind, Read, Write};

const MAGIC: &[u8; 8] = b"BREEZEBK";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// Bytes of one block's content.
const MAX_BLOCK_BYTES: usize = 256 * 1024;
const MAX_PATH_BYTES: usize = 512;

const BEGIN: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
const FINISH: u8 = 4;
const FAILED: u8 = 5;

/// Writes a backup.
pub(super) struct Writer<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, hash: Sha256::new() };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        Ok(writer)
    }

    /// One entry, of whatever length `content` has; its length.
    pub(super) fn copy(&mut self, path: &str, content: &mut dyn Read) -> io::Result<u64> {
        self.entry(path, |entry| io::copy(content, &mut { entry }).map(drop))
    }

    /// One entry that must have a length, so that what was cut short is noticed.
    pub(super) fn copy_whole(&mut self, path: &str, len: u64, content: &mut dyn Read) -> io::Result<()> {
        let copied = self.copy(path, &mut content.take(len))?;
        if copied == len {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::UnexpectedEof, format!("{path} has {copied} of {len} bytes")))
    }

    /// One entry that `write` writes; its length.
    pub(super) fn entry(
        &mut self,
        path: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<u64> {
        self.block(BEGIN, path.as_bytes())?;
        let mut entry = io::BufWriter::with_capacity(MAX_BLOCK_BYTES, EntryWriter { archive: self, len: 0 });
        write(&mut entry)?;
        let entry = entry.into_inner().map_err(io::IntoInnerError::into_error)?;
        let len = entry.len;
        self.block(END, &len.to_le_bytes())?;
        Ok(len)
    }

    /// Says that the backup is whole; what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let hash = self.hash.clone().finalize();
        self.block(FINISH, &hash)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Says that the backup is void.
    pub(super) fn fail(mut self, why: &str) -> io::Result<()> {
        let why = &why[..why.floor_char_boundary(4096)];
        self.block(FAILED, why.as_bytes())?;
        self.out.flush()
    }

    fn block(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        let len = u32::try_from(content.len()).map_err(io::Error::other)?;
        self.put(&[kind])?;
        self.put(&len.to_le_bytes())?;
        self.put(&crc32c::crc32c(content).to_le_bytes())?;
        self.put(content)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}

struct EntryWriter<'a, W> {
    archive: &'a mut Writer<W>,
    len: u64,
}

impl<W: Write> Write for EntryWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(MAX_BLOCK_BYTES)];
        if !bytes.is_empty() {
            self.archive.block(DATA, bytes)?;
            self.len += bytes.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a backup. It is whole only when [`Reader::next`] has given `None`.
pub(super) struct Reader<R> {
    input: R,
    hash: Sha256,
}

/// An entry's path and content. What is left of it is read over by the next one.
pub(super) struct Entry<'a, R> {
    pub(super) path: String,
    reader: &'a mut Reader<R>,
    block: Vec<u8>,
    at: usize,
    len: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> io::Result<Self> {
        let mut reader = Self { input, hash: Sha256::new() };
        if reader.array()? != *MAGIC {
            return Err(damaged("this is not a backup of Breeze"));
        }
        let version = u32::from_le_bytes(reader.array()?);
        if version != VERSION {
            return Err(damaged(&format!(
                "the backup's format is {version}; this version of Breeze reads {VERSION}: take the one that wrote it"
            )));
        }
        Ok(reader)
    }

    /// The next entry; `None` at the end of a backup that is whole. Each entry must be read to its end
    /// before.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry<'_, R>>> {
        let expected = self.hash.clone().finalize();
        let (kind, content) = self.block()?;
        match kind {
            BEGIN if content.len() <= MAX_PATH_BYTES => {
                let path = String::from_utf8(content).map_err(|_| damaged("a path is not text"))?;
                Ok(Some(Entry { path, reader: self, block: Vec::new(), at: 0, len: 0, ended: false }))
            }
            FINISH if content == *expected => {
                // Nothing follows: what was appended is not ours.
                match self.input.read(&mut [0])? {
                    0 => Ok(None),
                    _ => Err(damaged("something follows the end of the backup")),
                }
            }
            FINISH => Err(damaged("the backup's checksum is wrong")),
            FAILED => Err(io::Error::other(format!("the backup failed: {}", String::from_utf8_lossy(&content).trim()))),
            _ => Err(damaged("the backup is damaged")),
        }
    }

    fn block(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let [kind] = self.array()?;
        let (len, crc) = (u32::from_le_bytes(self.array()?) as usize, u32::from_le_bytes(self.array()?));
        if len > MAX_BLOCK_BYTES {
            return Err(damaged("a block is too long"));
        }
        let mut content = vec![0; len];
        self.input.read_exact(&mut content).map_err(cut_short)?;
        self.hash.update(&content);
        if crc32c::crc32c(&content) != crc {
            return Err(damaged("a block's checksum is wrong"));
        }
        Ok((kind, content))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(cut_short)?;
        self.hash.update(bytes);
        Ok(bytes)
    }
}

impl<R: Read> Read for Entry<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if self.ended || buffer.is_empty() {
                return Ok(0);
            }
            let (kind, content) = self.reader.block()?;
            match kind {
                DATA => {
                    self.len += content.len() as u64;
                    self.block = content;
                    self.at = 0;
                }
                END if content == self.len.to_le_bytes() => self.ended = true,
                FAILED => {
                    let why = String::from_utf8_lossy(&content).into_owned();
                    return Err(io::Error::other(format!("the backup failed: {why}")));
                }
                _ => return Err(damaged("the backup is damaged")),
            }
        }
        let len = buffer.len().min(self.block.len() - self.at);
        buffer[..len].copy_from_slice(&self.block[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

fn cut_short(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::UnexpectedEof { damaged("the backup is cut short") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).expect("writes");
        writer.copy("a/b", &mut [7_u8; 600_000].as_slice()).expect("writes");
        writer.copy_whole("empty", 0, &mut io::empty()).expect("writes");
        let len = writer.entry("said", |out| out.write_all(b"words")).expect("writes");
        assert_eq!(len, 5);
        writer.finish().expect("finishes")
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<(String, usize)>> {
        let mut reader = Reader::new(bytes)?;
        let mut found = Vec::new();
        while let Some(mut entry) = reader.next()? {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            found.push((entry.path.clone(), content.len()));
        }
        Ok(found)
    }

    #[test]
    fn what_was_written_is_read() {
        let expected = [("a/b".to_owned(), 600_000), ("empty".to_owned(), 0), ("said".to_owned(), 5)];
        assert_eq!(read(&sample()).expect("reads"), expected);
    }

    #[test]
    fn whatever_is_cut_altered_or_appended_is_noticed() {
        let bytes = sample();
        for cut in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
            read(&bytes[..cut]).expect_err("cut");
            let mut altered = bytes.clone();
            altered[cut] ^= 1;
            read(&altered).expect_err("altered");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        read(&longer).expect_err("appended");
        let short = Writer::new(Vec::new()).expect("writes").copy_whole("x", 5, &mut &b"four"[..]);
        assert!(short.expect_err("one is missing").to_string().contains("4 of 5"));
    }

    #[test]
    fn a_failure_reaches_the_reader() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).expect("writes");
        writer.copy("a", &mut &b"x"[..]).expect("writes");
        writer.fail("no room").expect("writes");
        assert_eq!(read(&bytes).expect_err("failed").to_string(), "the backup failed: no room");
    }
}
