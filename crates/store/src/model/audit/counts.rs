//! How much was done a day: kept by the sequencer in the commit of each batch, so that a summary reads
//! days instead of entries. A convenience; what happened is in the chain.

use super::{AuditResult, Sealed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Actors that one day tells apart.
const MAX_ACTORS: usize = 64;
/// Actions that one day tells apart.
const MAX_ACTIONS: usize = 256;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Of one chain and one UTC day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayCounts {
    /// Days since the Unix epoch.
    pub day: u64,
    /// Successes, failures, denials by action.
    pub actions: BTreeMap<String, [u64; 3]>,
    /// Entries by actor: their address, else their id.
    pub actors: BTreeMap<String, u64>,
    /// Entries of actors beyond those, and of nobody.
    pub other_actors: u64,
}

impl DayCounts {
    pub(super) const fn day_of(sealed_ms: u64) -> u64 {
        sealed_ms / DAY_MS
    }

    pub(super) fn key(day: u64) -> Vec<u8> {
        [b"day/".as_slice(), &day.to_be_bytes()].concat()
    }

    pub(super) fn new(day: u64) -> Self {
        Self { day, ..Self::default() }
    }

    pub(super) fn add(&mut self, sealed: &Sealed) {
        let entry = &sealed.entry;
        let action = if self.actions.len() < MAX_ACTIONS || self.actions.contains_key(&entry.action) {
            entry.action.as_str()
        } else {
            "other"
        };
        let place = match entry.result {
            AuditResult::Success => 0,
            AuditResult::Failure => 1,
            AuditResult::Denied => 2,
        };
        self.actions.entry(action.to_owned()).or_default()[place] += 1;
        let actor = entry.actor_email.as_ref().or(entry.actor_id.as_ref());
        match actor {
            Some(actor) if self.actors.len() < MAX_ACTORS || self.actors.contains_key(actor) => {
                *self.actors.entry(actor.clone()).or_default() += 1;
            }
            Some(_) | None => self.other_actors += 1,
        }
    }

    /// Entries by result: successes, failures, denials.
    #[must_use]
    pub fn results(&self) -> [u64; 3] {
        self.actions.values().fold([0; 3], |sum, counts| [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]])
    }
}
