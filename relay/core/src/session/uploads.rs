//! Reassembly of transfers: bounded, in order, checked against the hash that the first chunk named.

use super::{Command, Commands, Entries, Session};
use crate::{Now, acks::Stored, limits};
use breeze_proto::{
    limits::{MAX_CHUNK_BYTES, MAX_HARDWARE_ENTRIES, MAX_OPEN_UPLOADS, MAX_SOFTWARE_ENTRIES, MAX_UPLOAD_BYTES},
    v1::{
        InventoryDocument, UploadAck, UploadChunk, UploadKind, UploadResult, inventory_document::Content, lane_entry,
        relay_frame,
    },
};
use bytes::{Bytes, BytesMut};
use prost::Message;
use sha2::{Digest, Sha256};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that incomplete transfers of all connections may hold.
#[derive(Debug)]
pub struct UploadBudget {
    free: AtomicUsize,
}

impl Default for UploadBudget {
    fn default() -> Self {
        Self::new(limits::MAX_UPLOAD_BYTES_TOTAL)
    }
}

impl UploadBudget {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { free: AtomicUsize::new(bytes) }
    }

    fn reserve(&self, bytes: usize) -> bool {
        let less = |free: usize| free.checked_sub(bytes);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that are still free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Upload {
    transfer_id: Bytes,
    total_len: usize,
    sha256: [u8; 32],
    data: BytesMut,
    expires_at_us: u64,
}

/// Incomplete transfers of one connection.
#[derive(Debug)]
pub(super) struct Uploads {
    open: Vec<Upload>,
    budget: Arc<UploadBudget>,
}

/// What came of a chunk.
enum Chunk {
    /// More is to come.
    Wait,
    Complete {
        transfer_id: Bytes,
        content: Bytes,
    },
    /// Answered, and the transfer forgotten.
    Refused(UploadResult),
    /// Of a transfer that is not open: the rest of one that was refused.
    Ignored,
}

impl Uploads {
    pub(super) fn new(budget: Arc<UploadBudget>) -> Self {
        Self { open: Vec::new(), budget }
    }

    pub(super) fn expires_at_us(&self) -> u64 {
        self.open.iter().map(|upload| upload.expires_at_us).min().unwrap_or(u64::MAX)
    }

    pub(super) fn clear(&mut self) {
        while let Some(upload) = self.open.pop() {
            self.budget.release(upload.data.len());
        }
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.budget.free()
    }

    #[cfg(test)]
    pub(super) fn refusal(&mut self, chunk: &UploadChunk, now: Now) -> Option<UploadResult> {
        if let Chunk::Refused(result) = self.handle_chunk(chunk, now) { Some(result) } else { None }
    }

    fn remove(&mut self, index: usize) -> Upload {
        let upload = self.open.swap_remove(index);
        self.budget.release(upload.data.len());
        upload
    }

    fn handle_chunk(&mut self, chunk: &UploadChunk, now: Now) -> Chunk {
        if let Some(index) = self.open.iter().position(|upload| upload.transfer_id == chunk.transfer_id) {
            return self.handle_next(index, chunk);
        }
        if chunk.offset != 0 {
            return Chunk::Ignored;
        }
        match self.begin(chunk, now) {
            Ok(()) => self.handle_next(self.open.len() - 1, chunk),
            Err(result) => Chunk::Refused(result),
        }
    }

    fn begin(&mut self, chunk: &UploadChunk, now: Now) -> Result<(), UploadResult> {
        let sha256 = chunk.sha256.as_ref().try_into().map_err(|_| UploadResult::Malformed)?;
        if chunk.transfer_id.len() != 16 || chunk.kind() != UploadKind::Inventory || chunk.total_len == 0 {
            return Err(UploadResult::Malformed);
        }
        let total_len = usize::try_from(chunk.total_len)
            .ok()
            .filter(|len| *len <= MAX_UPLOAD_BYTES)
            .ok_or(UploadResult::TooLarge)?;
        if self.open.len() >= MAX_OPEN_UPLOADS {
            return Err(UploadResult::TryLater);
        }
        self.open.push(Upload {
            transfer_id: Bytes::copy_from_slice(&chunk.transfer_id),
            total_len,
            sha256,
            data: BytesMut::new(),
            expires_at_us: now.mono_us.saturating_add(limits::UPLOAD_TIMEOUT.as_micros() as u64),
        });
        Ok(())
    }

    fn handle_next(&mut self, index: usize, chunk: &UploadChunk) -> Chunk {
        let upload = &mut self.open[index];
        let in_order = chunk.offset == upload.data.len() as u64 && !chunk.data.is_empty();
        if !in_order || upload.data.len() + chunk.data.len() > upload.total_len || chunk.data.len() > MAX_CHUNK_BYTES {
            self.remove(index);
            return Chunk::Refused(UploadResult::Malformed);
        }
        // As bytes come, not as they are announced: an announcement costs its sender nothing.
        if !self.budget.reserve(chunk.data.len()) {
            self.remove(index);
            return Chunk::Refused(UploadResult::TryLater);
        }
        upload.data.extend_from_slice(&chunk.data);
        if upload.data.len() < upload.total_len {
            return Chunk::Wait;
        }
        let upload = self.remove(index);
        if Sha256::digest(&upload.data)[..] != upload.sha256 {
            return Chunk::Refused(UploadResult::Malformed);
        }
        Chunk::Complete { transfer_id: upload.transfer_id, content: upload.data.freeze() }
    }
}

/// Whether it has no more entries than may be stored: empty ones cost two bytes here and a hundred in
/// the memory of whoever decodes them.
fn is_bounded(document: &InventoryDocument) -> bool {
    match &document.content {
        Some(Content::Hardware(hardware)) => hardware.disks.len() <= MAX_HARDWARE_ENTRIES,
        Some(Content::Network(network)) => {
            network.addresses.len() <= MAX_HARDWARE_ENTRIES && network.dns_servers.len() <= MAX_HARDWARE_ENTRIES
        }
        Some(Content::Software(delta)) => {
            delta.upserts.len() <= MAX_SOFTWARE_ENTRIES && delta.removals.len() <= MAX_SOFTWARE_ENTRIES
        }
        None => true,
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Session {
    pub(super) fn handle_upload(&mut self, chunk: UploadChunk, epoch: u64, now: Now) -> Commands {
        match self.uploads.handle_chunk(&chunk, now) {
            Chunk::Wait => Vec::new(),
            Chunk::Ignored => vec![Command::Count("upload_ignored", 1)],
            Chunk::Refused(result) => self.refuse_upload(chunk.transfer_id, result),
            Chunk::Complete { transfer_id, content } => match InventoryDocument::decode(content) {
                Ok(document) if !is_bounded(&document) => self.refuse_upload(transfer_id, UploadResult::TooLarge),
                Ok(document) => {
                    let entry = self.entry(epoch, now, lane_entry::Body::Inventory(document));
                    vec![self.append(Entries::from([(entry, Stored::Upload { transfer_id })]))]
                }
                Err(_) => self.refuse_upload(transfer_id, UploadResult::Malformed),
            },
        }
    }

    fn refuse_upload(&self, transfer_id: Bytes, result: UploadResult) -> Commands {
        let ack = UploadAck { transfer_id, result: result.into() };
        let mut commands = self.send(relay_frame::Body::UploadAck(ack));
        commands.push(Command::Count("upload_refused", 1));
        commands
    }

    pub(super) fn handle_upload_timeout(&mut self, now: Now) -> Commands {
        let mut commands = Vec::new();
        while let Some(index) = self.uploads.open.iter().position(|upload| upload.expires_at_us <= now.mono_us) {
            let upload = self.uploads.remove(index);
            commands.extend(self.refuse_upload(upload.transfer_id, UploadResult::TryLater));
        }
        commands
    }
}
