//! Renewal of the device certificate over the connection, from half of its life on. The relay passes
//! the frames on; the challenge and the answer are the control plane's.

use super::Session;
use crate::{
    clock::{MINUTE, Now, SECOND},
    command::Command,
    session::Certificate,
    spool::Storage,
};
use breeze_proto::v1::{RenewBegin, RenewProof, RenewReply, agent_frame::Body, renew_reply};
use bytes::Bytes;
use rand::RngExt as _;

/// For each answer.
const ANSWER_US: u64 = MINUTE;
const RETRY_US: u64 = 10 * MINUTE;
/// While nothing else can be done.
const RENEW_ONLY_RETRY_US: u64 = MINUTE;
const MAX_CHALLENGE_BYTES: usize = 256;
/// A certificate that expired so long ago is let in nowhere, not even to renew.
const RENEWABLE_S: u64 = 365 * 24 * 3600;
const TOO_OLD: &str = "the certificate expired more than a year ago and no relay lets it in: enrol this device \
                       again with an enrolment key";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle {
        not_before_us: u64,
    },
    AwaitsChallenge {
        until_us: u64,
    },
    /// The shell makes key, request and signature.
    Making {
        until_us: u64,
    },
    AwaitsReply {
        until_us: u64,
    },
    Installing {
        until_us: u64,
    },
}

#[derive(Debug)]
pub(super) struct Renewal {
    certificate: Certificate,
    stage: Stage,
    trouble: String,
}

impl Renewal {
    pub(super) const fn new(certificate: Certificate) -> Self {
        Self { certificate, stage: Stage::Idle { not_before_us: 0 }, trouble: String::new() }
    }

    pub(super) const fn certificate(&self) -> Certificate {
        self.certificate
    }

    pub(super) fn trouble(&self) -> &str {
        &self.trouble
    }

    const fn half_life_s(&self) -> u64 {
        let Certificate { not_before_s, not_after_s } = self.certificate;
        not_before_s.saturating_add(not_after_s.saturating_sub(not_before_s) / 2)
    }
}

impl<S: Storage> Session<S> {
    /// The shell uses this certificate from the next connection on.
    pub fn handle_certificate(&mut self, certificate: Certificate, now: Now) {
        self.renewal = Renewal::new(certificate);
        if self.links.working().is_some() {
            self.renew_link(now);
        } else {
            self.links_reconnect(now, "the certificate was renewed");
        }
        self.plan(now);
    }

    /// The answer to [`Command::MakeRenewal`].
    pub fn handle_renewal_proof(&mut self, proof: RenewProof, now: Now) {
        if !matches!(self.renewal.stage, Stage::Making { .. }) {
            return;
        }
        let Some(link) = self.links.ready() else { return };
        self.renewal.stage = Stage::AwaitsReply { until_us: now.mono_us + ANSWER_US };
        self.send(link, Body::RenewProof(proof));
        self.plan(now);
    }

    /// The shell could not make the request, or refused the certificate.
    pub fn handle_renewal_failed(&mut self, reason: &str, now: Now) {
        self.renewal_failed(reason.to_owned(), now);
        self.plan(now);
    }

    pub(super) fn renewal_wakeup(&self, now: Now) -> Option<u64> {
        self.links.ready()?;
        match self.renewal.stage {
            Stage::Idle { not_before_us } => {
                let wait_s =
                    if self.renew_only() { 0 } else { self.renewal.half_life_s().saturating_sub(self.now_s(now)) };
                Some(not_before_us.max(now.mono_us.saturating_add(wait_s.saturating_mul(SECOND))))
            }
            Stage::AwaitsChallenge { until_us }
            | Stage::Making { until_us }
            | Stage::AwaitsReply { until_us }
            | Stage::Installing { until_us } => Some(until_us),
        }
    }

    pub(super) fn drive_renewal(&mut self, now: Now) {
        let Some(link) = self.links.ready() else {
            let end_s = self.renewal.certificate.not_after_s.saturating_add(RENEWABLE_S);
            if self.renewal.trouble.is_empty() && self.now_s(now) > end_s {
                TOO_OLD.clone_into(&mut self.renewal.trouble);
            }
            return;
        };
        if self.renewal.trouble == TOO_OLD {
            // Our clock was wrong.
            self.renewal.trouble.clear();
        }
        match self.renewal.stage {
            Stage::Idle { not_before_us } => {
                let due = self.renew_only() || self.now_s(now) >= self.renewal.half_life_s();
                if due && now.mono_us >= not_before_us {
                    self.renewal.stage = Stage::AwaitsChallenge { until_us: now.mono_us + ANSWER_US };
                    self.send(link, Body::RenewBegin(RenewBegin {}));
                }
            }
            Stage::AwaitsChallenge { until_us }
            | Stage::Making { until_us }
            | Stage::AwaitsReply { until_us }
            | Stage::Installing { until_us } => {
                if now.mono_us >= until_us {
                    self.renewal_failed("the server did not answer in time".into(), now);
                }
            }
        }
    }

    /// What was asked on another connection is not answered on this one.
    pub(super) fn renewal_link_changed(&mut self, now: Now) {
        if matches!(self.renewal.stage, Stage::AwaitsChallenge { .. } | Stage::AwaitsReply { .. }) {
            self.renewal.stage = Stage::Idle { not_before_us: now.mono_us };
        }
    }

    pub(super) fn challenged(&mut self, challenge: Bytes, now: Now) {
        let expected = matches!(self.renewal.stage, Stage::AwaitsChallenge { .. });
        if expected && !challenge.is_empty() && challenge.len() <= MAX_CHALLENGE_BYTES {
            self.renewal.stage = Stage::Making { until_us: now.mono_us + ANSWER_US };
            self.commands.push_back(Command::MakeRenewal { challenge });
        }
    }

    pub(super) fn renewal_answered(&mut self, reply: RenewReply, now: Now) {
        if !matches!(self.renewal.stage, Stage::AwaitsReply { .. } | Stage::AwaitsChallenge { .. }) {
            return;
        }
        match reply.result {
            Some(renew_reply::Result::Issued(issued)) => {
                self.renewal.stage = Stage::Installing { until_us: now.mono_us + ANSWER_US };
                self.commands.push_back(Command::InstallCertificate(issued));
            }
            Some(renew_reply::Result::Refused(text)) => {
                let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
                self.renewal_failed(text, now);
            }
            None => self.renewal_failed("the server's answer was not understood".into(), now),
        }
    }

    fn renewal_failed(&mut self, reason: String, now: Now) {
        let wait = if self.renew_only() { RENEW_ONLY_RETRY_US } else { RETRY_US };
        let wait = self.rng.random_range(wait / 2..=wait);
        self.renewal.stage = Stage::Idle { not_before_us: now.mono_us + wait };
        self.renewal.trouble = reason;
    }

    fn renew_only(&self) -> bool {
        self.links.primary().is_some_and(|link| link.is_ready() && link.renew_only)
    }
}
