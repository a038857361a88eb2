//! What the rest of the relay has for one connection. Small while idle, bounded when not: stored
//! entries merge into ranges, pushes are few or refused.

use breeze_proto::v1::{RelayFrame, SignedDocument};
use breeze_relay_core::acks::{Acks, Stored};
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// Pushed frames that wait for one connection.
const MAX_WAITING_PUSHES: usize = 16;

/// Why a connection must go.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Replaced {
        by_other_installation: bool,
    },
    Revoked(Option<Box<SignedDocument>>),
    /// Entries of it could not be stored.
    Lost,
}

#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) acks: Acks,
    pub(crate) pushes: VecDeque<RelayFrame>,
    pub(crate) verdict: Option<Verdict>,
}

/// Shared by a connection's task, the registry and the tickets of its entries.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

impl Mailbox {
    /// An entry was stored. Call [`Self::wake`] after the last one of a batch.
    pub(crate) fn add_stored(&self, stored: Stored) {
        self.mail.lock().acks.add(stored);
    }

    pub(crate) fn wake(&self) {
        self.arrived.notify_one();
    }

    /// False if too many wait: the connection does not keep up.
    pub(crate) fn push(&self, frame: RelayFrame) -> bool {
        let mail = &mut *self.mail.lock();
        let room = mail.pushes.len() < MAX_WAITING_PUSHES;
        if room {
            mail.pushes.push_back(frame);
            self.arrived.notify_one();
        }
        room
    }

    /// A revocation stands above everything else that was decided.
    pub(crate) fn judge(&self, verdict: Verdict) {
        let mail = &mut *self.mail.lock();
        if !matches!(mail.verdict, Some(Verdict::Revoked(_))) {
            mail.verdict = Some(verdict);
        }
        self.arrived.notify_one();
    }

    /// Resolves when there may be something to take. Loses nothing when dropped.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock())
    }
}
