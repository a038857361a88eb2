//! What a relay says beside acknowledging: documents, successors of the root, and why it closes.

use super::Session;
use crate::{
    clock::{MINUTE, Now, SECOND},
    command::{Command, LinkId},
    spool::Storage,
};
use breeze_proto::v1::{Close, CloseReason, SignedDocument, SignedRoot};

/// For what a person has to mend first.
const LONG_US: u64 = 5 * MINUTE;
/// The most that a relay may hold an agent off.
const MAX_RETRY_AFTER_US: u64 = 60 * MINUTE;

impl<S: Storage> Session<S> {
    pub(super) fn take_document(&mut self, document: &SignedDocument, now: Now) {
        match self.documents.accept(document, self.now_s(now)) {
            Ok(true) => self.save_state(),
            Ok(false) => {}
            Err(error) => self.trouble = format!("a {} document was not taken: {error}", document.role),
        }
    }

    pub(super) fn take_root(&mut self, root: SignedRoot, now: Now) {
        match self.documents.accept_root(root, self.now_s(now)) {
            Ok(()) => self.save_state(),
            Err(error) => self.trouble = format!("a new root document was not taken: {error}"),
        }
    }

    pub(super) fn told_to_close(&mut self, id: LinkId, close: &Close, now: Now) {
        let text: String = close.text.chars().filter(|c| !c.is_control()).take(200).collect();
        let retry_after = (u64::from(close.retry_after_ms) * 1000).min(MAX_RETRY_AFTER_US);
        if !self.links.is_primary(id) {
            // A successor: the connection in use goes on.
            self.commands.push_back(Command::Close { link: id, reason: "the relay closed it" });
            self.link_lost(id, &text, now);
            return;
        }
        let (words, wait) = match close.reason() {
            CloseReason::Revoked => return self.told_revoked(close, now),
            CloseReason::Draining => {
                self.next_relay();
                self.links_close_all("the relay drains", retry_after.max(SECOND), now);
                return;
            }
            CloseReason::CertificateExpired => {
                self.links_reconnect(now, "the certificate expired");
                return;
            }
            CloseReason::Replaced => {
                if self.links_promote(id, now) {
                    return;
                }
                ("another copy of this installation connected", LONG_US / 5)
            }
            CloseReason::StaleSession => ("an older connection of this device is still alive", 2 * SECOND),
            CloseReason::CloneSuspected => ("two installations use this device's certificate", LONG_US),
            CloseReason::Protocol => ("the relay refused a message", MINUTE),
            CloseReason::UnsupportedVersion => ("the relay does not speak this agent's protocol version", LONG_US),
            CloseReason::Overloaded => ("the relay is overloaded", 5 * SECOND),
            CloseReason::UnknownDevice => ("the server does not know this device", LONG_US),
            CloseReason::Unspecified => ("the relay closed the connection", 0),
        };
        self.links_close_all("the relay closed it", retry_after.max(wait), now);
        self.trouble = if text.is_empty() { words.to_owned() } else { format!("{words}: {text}") };
    }

    /// Only a proof under the root stops an agent: a relay alone cannot.
    fn told_revoked(&mut self, close: &Close, now: Now) {
        let proven =
            close.proof.as_ref().is_some_and(|proof| self.documents.check_revocation(proof, self.now_s(now)).is_ok());
        if !proven {
            self.links_close_all("claimed a revocation without proof", LONG_US, now);
            self.trouble = "the relay claims that this device was revoked and does not prove it".into();
            return;
        }
        self.revoked.clone_from(&close.proof);
        self.fresh.clear();
        self.save_state();
        self.links_close_all("revoked", 0, now);
        self.trouble = "this device was revoked".into();
    }
}
