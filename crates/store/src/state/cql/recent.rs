//! The ids of a partition's last commits, kept with its version: by them a commit whose answer was
//! lost is told from one that never applied.

use crate::state::StateError;

/// How many are kept. One that was followed by more before it was read back cannot be decided.
pub(super) const KEPT: usize = 16;
const ID_BYTES: usize = 8;

/// Of one commit: random.
pub(super) type Id = [u8; ID_BYTES];

/// Oldest first; the last is of the partition's version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recent(Vec<Id>);

impl Recent {
    pub(super) fn read(stored: &[u8]) -> Result<Self, StateError> {
        let (ids, rest) = stored.as_chunks();
        if !rest.is_empty() || ids.len() > KEPT {
            return Err(StateError::Corrupt("the ids of a partition's commits have an unknown form".into()));
        }
        Ok(Self(ids.to_vec()))
    }

    /// With one more.
    pub(super) fn and(&self, id: Id) -> Vec<u8> {
        let dropped = (self.0.len() + 1).saturating_sub(KEPT);
        let mut stored = self.0[dropped..].concat();
        stored.extend_from_slice(&id);
        stored
    }

    /// The version that a commit made, where `version` is the partition's.
    pub(super) fn version_of(&self, id: &Id, version: u64) -> Option<u64> {
        let since = self.0.iter().rev().position(|kept| kept == id)?;
        version.checked_sub(since as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_version_of_each_that_is_kept() {
        let mut recent = Recent::default();
        for version in 1..=100u64 {
            recent = Recent::read(&recent.and(version.to_be_bytes())).expect("readable");
            for other in 0..=version {
                let kept = other > 0 && version - other < KEPT as u64;
                assert_eq!(recent.version_of(&other.to_be_bytes(), version), kept.then_some(other));
            }
        }
    }

    #[test]
    fn refuses_what_it_did_not_write() {
        assert!(Recent::read(&[0; 7]).is_err());
        assert!(Recent::read(&[0; ID_BYTES * (KEPT + 1)]).is_err());
    }
}
