//! All streams at one moment, taken while they are in use.
//!
//! Segments are only appended to, so an image is the list of them and how much of each is durable:
//! taking it copies nothing. A segment that is removed meanwhile stays readable by its open file.

use super::{
    EmbeddedBus,
    record::SEGMENT_HEADER_BYTES,
    recover::{IDENTITY_FILE, TRIM_FILE, encode_number},
    stream::Segment,
};
use std::{
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

/// What an image holds, in the order in which it is written.
#[derive(Debug)]
pub struct BusImage {
    streams: Vec<StreamImage>,
}

#[derive(Debug)]
struct StreamImage {
    name: String,
    trim: [u8; 12],
    identity: [u8; 12],
    /// Segments and the ends of what is durable in them, in bytes.
    segments: Vec<(Arc<Segment>, u64)>,
}

impl EmbeddedBus {
    /// Every stream as far as it is durable now.
    #[must_use]
    pub fn image(&self) -> BusImage {
        let streams = self.streams.read();
        let mut images: Vec<StreamImage> = streams
            .values()
            .filter_map(|stream| {
                let state = stream.state.lock();
                // A stream that nothing was appended to has no folder.
                let segments: Vec<_> =
                    state.segments.iter().map(|segment| (Arc::clone(segment), segment.end())).collect();
                let trim = encode_number(state.first);
                let identity = encode_number(state.identity);
                (!segments.is_empty()).then(|| StreamImage { name: stream.name.clone(), trim, identity, segments })
            })
            .collect();
        images.sort_by(|a, b| a.name.cmp(&b.name));
        BusImage { streams: images }
    }
}

impl BusImage {
    /// Gives every file to `file`: its path below the bus's folder, its length and its content. Blocks.
    ///
    /// # Errors
    /// Those of `file` and of the disk.
    pub fn write_to(&self, file: &mut dyn FnMut(&str, u64, &mut dyn Read) -> io::Result<()>) -> io::Result<()> {
        for stream in &self.streams {
            for (segment, end) in &stream.segments {
                let name = segment.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let end = (*end).max(SEGMENT_HEADER_BYTES as u64);
                let mut content = Content { segment, at: 0, end };
                file(&format!("{}/{name}", stream.name), end, &mut content)?;
            }
            for (name, content) in [(TRIM_FILE, &stream.trim), (IDENTITY_FILE, &stream.identity)] {
                file(&format!("{}/{name}", stream.name), content.len() as u64, &mut content.as_slice())?;
            }
        }
        Ok(())
    }
}

/// Reads a segment up to where the image ends.
struct Content<'s> {
    segment: &'s Segment,
    at: u64,
    end: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.segment.file.read_at(&mut buffer[..len], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
