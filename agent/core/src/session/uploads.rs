//! Inventory on its way: one document at a time, sent again until the server says which hash it holds.
//!
//! A section that is too large for one upload goes in steps: the shell builds what fits, the server
//! confirms the hash of that, and the rest follows as a delta.

use super::{Numbering, Session};
use crate::{
    clock::{MINUTE, Now, SECOND},
    command::{Command, InventoryRequest, Transfer},
    spool::Storage,
};
use breeze_proto::{
    limits::MAX_UPLOAD_BYTES,
    v1::{Held, InventorySection, UploadAck, UploadResult},
};
use bytes::Bytes;
use rand::RngExt as _;
use std::collections::BTreeMap;

/// From the upload's start to its acknowledgement, and from there to the confirmed hash.
const STORE_US: u64 = 2 * MINUTE;
const CONFIRM_US: u64 = MINUTE;
const RETRY_US: u64 = 5 * SECOND;
const MAX_RETRY_DOUBLINGS: u32 = 7;
/// Building runs in the shell, beside other things.
const BUILD_US: u64 = 2 * MINUTE;

type Hash = [u8; 32];

#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// By section.
    sections: BTreeMap<i32, Section>,
    current: Option<Current>,
    retry_at: Option<u64>,
    failures: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Section {
    local: Option<Hash>,
    held: Option<Hash>,
    /// The server will not take this one as it is.
    refused: Option<Hash>,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    section: i32,
    revision: u64,
    stage: Stage,
    until_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Building,
    Sent { transfer: [u8; 16], hash: Hash },
    Stored { hash: Hash },
}

impl Uploads {
    /// A new connection: what was under way is begun again.
    pub(super) fn restart(&mut self) {
        self.current = None;
        self.retry_at = None;
    }

    fn wakeup(&self, ready: bool) -> Option<u64> {
        let retry = self.retry_at.filter(|_| ready && self.next_section().is_some());
        self.current.map_or(retry, |current| Some(current.until_us))
    }

    fn next_section(&self) -> Option<i32> {
        self.sections
            .iter()
            .find(|(_, section)| {
                section.local.is_some() && section.local != section.held && section.local != section.refused
            })
            .map(|(id, _)| *id)
    }

    pub(super) fn held(&mut self, held: &Held) {
        // The answer to the hello tells of all sections; one that it leaves out is not held.
        if held.answers_hello {
            for section in self.sections.values_mut() {
                section.held = None;
            }
        }
        for entry in &held.inventory {
            let hash = Hash::try_from(entry.hash.as_ref()).ok();
            if entry.section() == InventorySection::Unspecified {
                continue;
            }
            self.sections.entry(entry.section).or_default().held = hash;
            if let Some(current) = self.current
                && current.section == entry.section
                && matches!(current.stage, Stage::Sent { .. } | Stage::Stored { .. })
            {
                let confirmed = match current.stage {
                    Stage::Sent { hash: sent, .. } | Stage::Stored { hash: sent } => Some(sent) == hash,
                    Stage::Building => false,
                };
                self.current = None;
                if confirmed {
                    self.failures = 0;
                    self.retry_at = None;
                }
            }
        }
    }
}

impl<S: Storage> Session<S> {
    /// What the device has at present, by section. An empty hash list leaves all as it was.
    pub fn handle_inventory_scanned(&mut self, hashes: &[(InventorySection, Hash)], now: Now) {
        for (section, hash) in hashes {
            self.uploads.sections.entry((*section).into()).or_default().local = Some(*hash);
        }
        self.drive_uploads(now);
        self.plan(now);
    }

    /// The answer to [`Command::BuildInventory`]: the encoded document and the section's hash after it.
    /// `None` if it cannot be built now.
    pub fn handle_inventory_built(&mut self, request: &InventoryRequest, built: Option<(Bytes, Hash)>, now: Now) {
        let expected = self
            .uploads
            .current
            .is_some_and(|current| current.revision == request.revision && current.stage == Stage::Building);
        if !expected {
            return;
        }
        match (built, self.links.working()) {
            (Some((content, hash)), Some(link)) if content.len() <= MAX_UPLOAD_BYTES => {
                let id: [u8; 16] = self.rng.random();
                self.uploads.current = Some(Current {
                    section: request.section.into(),
                    revision: request.revision,
                    stage: Stage::Sent { transfer: id, hash },
                    until_us: now.mono_us + STORE_US,
                });
                self.commands.push_back(Command::Upload { link, transfer: Transfer { id, content } });
            }
            (Some((content, _)), _) if content.len() > MAX_UPLOAD_BYTES => {
                self.uploads.current = None;
                self.refuse_section(request.section.into());
            }
            (Some(_) | None, _) => self.upload_failed(now),
        }
        self.plan(now);
    }

    pub(super) fn upload_acked(&mut self, ack: &UploadAck, now: Now) {
        let Some(current) = self.uploads.current else { return };
        let Stage::Sent { transfer, hash } = current.stage else { return };
        if ack.transfer_id.as_ref() != transfer {
            return;
        }
        match ack.result() {
            UploadResult::Stored => {
                self.uploads.current =
                    Some(Current { stage: Stage::Stored { hash }, until_us: now.mono_us + CONFIRM_US, ..current });
            }
            UploadResult::TooLarge | UploadResult::Malformed => {
                self.uploads.current = None;
                self.refuse_section(current.section);
            }
            UploadResult::TryLater | UploadResult::Unspecified => self.upload_failed(now),
        }
    }

    /// Until the section changes there is no use in trying again.
    fn refuse_section(&mut self, section: i32) {
        let entry = self.uploads.sections.entry(section).or_default();
        entry.refused = entry.local;
        self.trouble = "the server does not take this device's inventory".into();
    }

    fn upload_failed(&mut self, now: Now) {
        let limit = RETRY_US << self.uploads.failures.min(MAX_RETRY_DOUBLINGS);
        self.uploads.failures += 1;
        self.uploads.current = None;
        self.uploads.retry_at = Some(now.mono_us + self.rng.random_range(limit / 2..=limit));
    }

    fn uploads_ready(&self) -> bool {
        self.links.working().is_some() && self.numbering == Numbering::Open && self.revoked.is_none()
    }

    pub(super) fn uploads_wakeup(&self) -> Option<u64> {
        self.uploads.wakeup(self.uploads_ready())
    }

    pub(super) fn drive_uploads(&mut self, now: Now) {
        if let Some(current) = self.uploads.current
            && now.mono_us >= current.until_us
        {
            // Perhaps the base was not what we thought: the whole section is certain to apply.
            if let Some(section) = self.uploads.sections.get_mut(&current.section) {
                section.held = None;
            }
            self.upload_failed(now);
        }
        let ready = self.uploads_ready();
        let waits = self.uploads.retry_at.is_some_and(|at| now.mono_us < at);
        if !ready || waits || self.uploads.current.is_some() {
            return;
        }
        let Some(section) = self.uploads.next_section() else { return };
        self.uploads.retry_at = None;
        let base = self.uploads.sections.get(&section).and_then(|section| section.held);
        let wall_ms = self.server.best_us(now) / 1000;
        self.spool.note(|counters| counters.inventory_revision = (counters.inventory_revision + 1).max(wall_ms));
        let request = InventoryRequest {
            section: InventorySection::try_from(section).unwrap_or_default(),
            base,
            incarnation: self.spool.counters().incarnation,
            revision: self.spool.counters().inventory_revision,
        };
        self.uploads.current = Some(Current {
            section,
            revision: request.revision,
            stage: Stage::Building,
            until_us: now.mono_us + BUILD_US,
        });
        self.commands.push_back(Command::BuildInventory(request));
    }
}
