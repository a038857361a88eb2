//! Checks stored chains: every number is there, each MAC is that of its entry and the one before, and
//! the last entry is the head. Entries cut off at the end *together with* a head put back to an older
//! state are not seen: that needs checkpoints kept elsewhere.

use super::{AuditLog, BLOCK_ENTRIES, HEAD, HEADS, LOG, Sealed, block_partition};
use crate::{
    model::{error::ModelError, record},
    state::{BUCKETS, MAX_PAGE_ROWS, Scan, Table},
};
use std::{collections::BTreeSet, fmt};

/// What a chain turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// "instance", or "partner/" and the partner's id.
    pub chain: String,
    /// Entries that hold, counted from the first.
    pub entries: u64,
    pub broken: Option<Broken>,
}

/// The first link that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub sequence: u64,
    pub why: Fault,
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    Missing,
    /// It is no entry, or stands in another's place.
    Unreadable,
    /// Entry and MAC do not belong together, or not to the one before.
    Altered,
    /// The head says something else, or is gone.
    Head,
    /// There are entries after the head.
    BeyondHead,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the entry is missing",
            Self::Unreadable => "what is stored is not the entry of this number",
            Self::Altered => "the entry was altered, or the one before it was removed",
            Self::Head => "the head of the chain does not fit its last entry",
            Self::BeyondHead => "there are entries after the head of the chain",
        })
    }
}

impl AuditLog {
    /// Checks every chain that has a head or an entry.
    ///
    /// # Errors
    /// The store's.
    pub async fn verify_all(&self) -> Result<Vec<Verdict>, ModelError> {
        let mut chains = BTreeSet::new();
        for table in [Table::Commit(HEADS), Table::Merge(LOG)] {
            for bucket in 0..BUCKETS {
                let mut cursor = None;
                loop {
                    let page = self.state.scan_family(table, bucket, cursor, MAX_PAGE_ROWS).await?;
                    chains.extend(page.rows.iter().map(|(partition, _)| chain_in(partition)));
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
            }
        }
        let mut verdicts = Vec::with_capacity(chains.len());
        for chain in chains {
            let (entries, why) = self.verify_chain(&chain).await?;
            let broken = why.map(|why| Broken { sequence: entries + 1, why });
            verdicts.push(Verdict { chain, entries, broken });
        }
        Ok(verdicts)
    }

    /// How many entries hold, and what is wrong with the next.
    async fn verify_chain(&self, chain: &str) -> Result<(u64, Option<Fault>), ModelError> {
        let head = match record::read::<Sealed>(&*self.state, HEADS, chain.as_bytes(), HEAD).await {
            Ok(head) => head.map(|head| head.value),
            Err(ModelError::Corrupt(_)) => None,
            Err(error) => return Err(error),
        };
        let Some(head) = head else { return Ok((0, Some(Fault::Head))) };
        let (mut last, mut before) = (0, String::new());
        loop {
            let block = block_partition(chain, last + 1);
            let through = (last / BLOCK_ENTRIES + 1) * BLOCK_ENTRIES;
            let mut scan = Scan::default();
            loop {
                let page = self.state.scan(Table::Merge(LOG), &block, scan.clone()).await?;
                for row in &page.rows {
                    let number = row.key.as_ref().try_into().map_or(0, u64::from_be_bytes);
                    if last >= head.sequence {
                        return Ok((last, Some(Fault::BeyondHead)));
                    }
                    if number != last + 1 {
                        let fault = if number > last { Fault::Missing } else { Fault::Unreadable };
                        return Ok((last, Some(fault)));
                    }
                    let sealed = record::decode::<Sealed>(&row.value).ok().filter(|it| it.sequence == number);
                    let Some(sealed) = sealed else { return Ok((last, Some(Fault::Unreadable))) };
                    if !self.verify(&before, std::slice::from_ref(&sealed)) {
                        return Ok((last, Some(Fault::Altered)));
                    }
                    (last, before) = (number, sealed.mac);
                }
                match page.next {
                    Some(from) => scan.from = from,
                    None => break,
                }
            }
            if last < through {
                break;
            }
        }
        // The newest may be in the head alone: its writer died before it was copied.
        if last + 1 == head.sequence && self.verify(&before, std::slice::from_ref(&head)) {
            return Ok((head.sequence, None));
        }
        let fault = match last {
            last if last < head.sequence => Some(Fault::Missing),
            last => (last != head.sequence || before != head.mac).then_some(Fault::Head),
        };
        Ok((last, fault))
    }
}

/// The chain that a partition of the log or of the heads belongs to.
fn chain_in(partition: &[u8]) -> String {
    let text = String::from_utf8_lossy(partition);
    let mut parts = text.split('/');
    match (parts.next(), parts.next()) {
        (Some("partner"), Some(id)) => format!("partner/{id}"),
        (first, _) => first.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::audit::{Entry, ids_partition},
        state::{Commit, Merge, State, memory::MemoryState},
    };
    use breeze_proto::id::{AuditId, PartnerId};
    use bytes::Bytes;
    use std::sync::Arc;

    fn entry(partner_id: Option<PartnerId>, action: &str) -> Entry {
        Entry { partner_id, ..Entry::by_system(action, 1) }
    }

    async fn put(state: &MemoryState, chain: &str, sequence: u64, value: Option<Bytes>) {
        let key = Bytes::copy_from_slice(&sequence.to_be_bytes());
        let row = Merge { table: LOG, partition: block_partition(chain, sequence), key, version: 2, value };
        state.merge(vec![row]).await.expect("merges");
    }

    /// A log of two chains of five, and the name of the partner's.
    async fn filled() -> (Arc<MemoryState>, AuditLog, String) {
        let state = Arc::new(MemoryState::new());
        let log = AuditLog::new(Arc::<MemoryState>::clone(&state), [7; 32]);
        let partner = PartnerId::generate();
        for number in 0..5 {
            log.append(entry(None, &format!("a{number}"))).await.expect("appends");
            log.append(entry(Some(partner), &format!("b{number}"))).await.expect("appends");
        }
        (state, log, format!("partner/{partner}"))
    }

    #[tokio::test]
    async fn what_was_done_to_a_chain_is_named_and_its_neighbour_holds() {
        for (what, broken) in [
            ("nothing", None),
            ("edited", Some(Broken { sequence: 3, why: Fault::Altered })),
            ("removed", Some(Broken { sequence: 3, why: Fault::Missing })),
            ("tail removed", Some(Broken { sequence: 4, why: Fault::Missing })),
            ("garbage", Some(Broken { sequence: 3, why: Fault::Unreadable })),
            ("added", Some(Broken { sequence: 6, why: Fault::BeyondHead })),
            ("head removed", Some(Broken { sequence: 1, why: Fault::Head })),
            ("head edited", Some(Broken { sequence: 6, why: Fault::Head })),
        ] {
            let (state, log, chain) = filled().await;
            let key = 3_u64.to_be_bytes();
            let row = state.get(Table::Merge(LOG), &block_partition(&chain, 3), &key).await.expect("reads");
            let mut third: Sealed = record::decode(&row.expect("third").value).expect("decodes");
            let head = record::read::<Sealed>(&*state, HEADS, chain.as_bytes(), HEAD).await.expect("reads");
            let mut head = head.expect("head").value;
            match what {
                "edited" => {
                    third.entry.action = "nothing.happened".into();
                    put(&state, &chain, 3, Some(record::encode(&third))).await;
                }
                "removed" => put(&state, &chain, 3, None).await,
                "tail removed" => {
                    put(&state, &chain, 4, None).await;
                    put(&state, &chain, 5, None).await;
                }
                "garbage" => put(&state, &chain, 3, Some(Bytes::from_static(b"{}"))).await,
                "added" => put(&state, &chain, 6, Some(record::encode(&third))).await,
                "head removed" => {
                    let commit = Commit::new(HEADS, chain.clone()).delete(HEAD);
                    let _applied = state.commit(commit).await.expect("commits");
                }
                "head edited" => {
                    head.mac = third.mac.clone();
                    let commit = Commit::new(HEADS, chain.clone()).put(HEAD, record::encode(&head));
                    let _applied = state.commit(commit).await.expect("commits");
                }
                _ => {}
            }
            let verdicts = log.verify_all().await.expect("verifies");
            let found: Vec<_> = verdicts.iter().map(|it| (it.chain.as_str(), it.broken.clone())).collect();
            assert_eq!(found, [("instance", None), (chain.as_str(), broken)], "{what}");
        }
    }

    #[tokio::test]
    async fn another_key_fits_nothing_and_a_head_that_was_not_copied_holds() {
        let (state, log, chain) = filled().await;
        let other = AuditLog::new(Arc::<MemoryState>::clone(&state), [8; 32]);
        let verdicts = other.verify_all().await.expect("verifies");
        assert!(verdicts.iter().all(|it| it.broken.as_ref().is_some_and(|it| it.sequence == 1)), "{verdicts:?}");

        put(&state, &chain, 5, None).await;
        assert!(log.verify_all().await.expect("verifies").iter().all(|it| it.broken.is_none() && it.entries == 5));
    }

    #[test]
    fn partitions_name_their_chain() {
        let chain = format!("partner/{}", PartnerId::generate());
        for chain in ["instance", &chain] {
            assert_eq!(chain_in(chain.as_bytes()), chain);
            assert_eq!(chain_in(&block_partition(chain, 5_000)), chain);
            assert_eq!(chain_in(&ids_partition(chain, AuditId::generate())), chain);
        }
    }
}
