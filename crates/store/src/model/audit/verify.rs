//! Checks stored chains: every number is there, each MAC is that of its entry and the one before, what was taken
//! away fits what is left, the last entry is the head, and every checkpoint that was published elsewhere
//! names an entry that is there. Without checkpoints, entries cut off at the end *together with* a head put back
//! to an older state are not seen.

use super::{Archive, AuditLog, BLOCK_ENTRIES, Chain, HEADS, LOG, Sealed, seal::Batch, sequencer::HEAD};
use crate::{
    model::error::ModelError,
    state::{Scan, Table},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A checkpoint whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    pub chain: Chain,
    pub sequence: u64,
    pub mac: String,
}

/// What a chain turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub chain: Chain,
    /// The last entry that holds; 0: none.
    pub entries: u64,
    /// How many of them were taken away, by the records of that.
    pub archived: u64,
    /// Checkpoints that fit.
    pub checkpoints: usize,
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
    /// The record of what was taken away was altered, or one of them is missing.
    Floor,
    /// A checkpoint was published that names it, or one after it, and the chain ends before.
    CutOff,
    /// A checkpoint was published with another MAC: the chain was made anew from here, or before.
    Replaced,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the entry is missing",
            Self::Unreadable => "what is stored is not the entry of this number",
            Self::Altered => "the entry was altered, or the one before it was removed",
            Self::Head => "the head of the chain does not fit its last entry",
            Self::BeyondHead => "there are entries after the head of the chain",
            Self::Floor => "the record of archived entries was altered, or one is missing",
            Self::CutOff => "it was published in a checkpoint, and the chain was cut off before it",
            Self::Replaced => "a published checkpoint has another MAC for it: the log was written anew",
        })
    }
}

/// A walk along a chain.
struct Walk {
    last: u64,
    mac: String,
    /// Those that are still ahead, by number.
    checkpoints: BTreeMap<u64, BTreeSet<String>>,
    fitting: usize,
}

impl Walk {
    /// Checks the published MACs of the entry that was just reached.
    fn is_replaced(&mut self) -> bool {
        let Some(published) = self.checkpoints.remove(&self.last) else { return false };
        self.fitting += published.len();
        published.iter().any(|mac| *mac != self.mac)
    }
}

impl AuditLog {
    /// Checks every chain that has a head, an entry or a checkpoint.
    ///
    /// # Errors
    /// The store's.
    pub async fn verify_all(&self, published: &[Published]) -> Result<Vec<Verdict>, ModelError> {
        let mut chains = self.chains_in(&[HEADS.into(), LOG.into()]).await?;
        chains.extend(published.iter().map(|checkpoint| checkpoint.chain));
        let mut verdicts = Vec::with_capacity(chains.len());
        for chain in chains {
            verdicts.push(self.verify_chain(chain, published).await?);
        }
        Ok(verdicts)
    }

    /// Checks one chain.
    ///
    /// # Errors
    /// The store's.
    pub async fn verify_chain(&self, chain: Chain, published: &[Published]) -> Result<Verdict, ModelError> {
        let mut walk = Walk { last: 0, mac: String::new(), checkpoints: BTreeMap::new(), fitting: 0 };
        for checkpoint in published.iter().filter(|checkpoint| checkpoint.chain == chain) {
            walk.checkpoints.entry(checkpoint.sequence).or_default().insert(checkpoint.mac.clone());
        }
        let mut archived = 0;
        let mut fault = match self.archives(chain).await {
            Ok(archives) => {
                let fault = self.step_over(chain, &archives, &mut walk);
                archived = walk.last;
                fault
            }
            Err(ModelError::Corrupt(_)) => Some(Fault::Floor),
            Err(error) => return Err(error),
        };
        if fault.is_none() {
            fault = self.follow(chain, &mut walk).await?;
        }
        // What a checkpoint names is told before what the head says of it: both may be missing together.
        if let Some((_, _)) = walk.checkpoints.range(walk.last + 1..).next()
            && matches!(fault, None | Some(Fault::Missing | Fault::Head))
            && !self.has_after(chain, walk.last).await?
        {
            fault = Some(Fault::CutOff);
        }
        let sequence = if fault == Some(Fault::Replaced) { walk.last } else { walk.last + 1 };
        let entries = if fault == Some(Fault::Replaced) { walk.last - 1 } else { walk.last };
        let broken = fault.map(|why| Broken { sequence, why });
        Ok(Verdict { chain, entries, archived, checkpoints: walk.fitting, broken })
    }

    /// Whether there is an entry after `last` in its block: then it was not the end that was cut off.
    async fn has_after(&self, chain: Chain, last: u64) -> Result<bool, ModelError> {
        let scan = Scan { from: (last + 1).to_be_bytes().to_vec().into(), limit: 1, ..Scan::default() };
        let page = self.state.scan(Table::Merge(LOG), &chain.block(last + 1), scan).await?;
        Ok(!page.rows.is_empty())
    }

    /// Over what was taken away.
    fn step_over(&self, chain: Chain, archives: &[Archive], walk: &mut Walk) -> Option<Fault> {
        for archive in archives {
            let fits = archive.first == walk.last + 1 && archive.before == walk.mac && archive.last >= archive.first;
            if !fits || !archive.holds(&self.key, chain) {
                return Some(Fault::Floor);
            }
            // Inside the run only the archive itself could tell.
            walk.checkpoints = walk.checkpoints.split_off(&archive.last);
            (walk.last, walk.mac) = (archive.last, archive.mac.clone());
            if walk.is_replaced() {
                return Some(Fault::Replaced);
            }
        }
        None
    }

    /// Along what is there. What is wrong with the entry after `walk.last`.
    async fn follow(&self, chain: Chain, walk: &mut Walk) -> Result<Option<Fault>, ModelError> {
        let row = self.state.get(HEADS.into(), chain.to_string().as_bytes(), HEAD).await?;
        let Some(head) = row.and_then(|row| Batch::decode(&row.value).ok()) else { return Ok(Some(Fault::Head)) };
        let newest = head.last().clone();
        loop {
            let block = chain.block(walk.last + 1);
            let through = (walk.last / BLOCK_ENTRIES + 1) * BLOCK_ENTRIES;
            // What lies below the floor is about to be deleted.
            let mut scan = Scan { from: (walk.last + 1).to_be_bytes().to_vec().into(), ..Scan::default() };
            loop {
                let page = self.state.scan(Table::Merge(LOG), &block, scan.clone()).await?;
                for row in &page.rows {
                    let number = row.key.as_ref().try_into().map_or(0, u64::from_be_bytes);
                    if let Some(fault) = self.step(chain, walk, newest.sequence, number, &row.value) {
                        return Ok(Some(fault));
                    }
                }
                match page.next {
                    Some(from) => scan.from = from,
                    None => break,
                }
            }
            if walk.last < through {
                break;
            }
        }
        // The newest may be in the head alone: its writer died before it was copied.
        if head.holds(&self.key, chain) {
            for sealed in &head.entries {
                if sealed.sequence == walk.last + 1
                    && let Some(fault) = self.step(chain, walk, newest.sequence, sealed.sequence, &sealed.encode())
                {
                    return Ok(Some(fault));
                }
            }
        }
        Ok(match walk.last {
            last if last < newest.sequence => Some(Fault::Missing),
            last if last != newest.sequence || walk.mac != newest.mac || !head.holds(&self.key, chain) => {
                Some(Fault::Head)
            }
            _ => None,
        })
    }

    /// One entry further, or what is wrong with it.
    fn step(&self, chain: Chain, walk: &mut Walk, newest: u64, number: u64, value: &[u8]) -> Option<Fault> {
        if walk.last >= newest {
            return Some(Fault::BeyondHead);
        }
        if number != walk.last + 1 {
            return Some(if number > walk.last { Fault::Missing } else { Fault::Unreadable });
        }
        let Some(sealed) = Sealed::decode(value).ok().filter(|sealed| sealed.sequence == number) else {
            return Some(Fault::Unreadable);
        };
        if !sealed.holds(&self.key, chain, &walk.mac) {
            return Some(Fault::Altered);
        }
        (walk.last, walk.mac) = (number, sealed.mac);
        walk.is_replaced().then_some(Fault::Replaced)
    }

    /// Whether the lines of an archived run are what its record says.
    #[must_use]
    pub fn archive_holds(&self, chain: Chain, archive: &Archive, lines: &[u8]) -> bool {
        let mut before = archive.before.clone();
        let mut next = archive.first;
        let hold = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).all(|line| {
            let Ok(sealed) = Sealed::decode(line) else { return false };
            let holds = sealed.sequence == next && sealed.holds(&self.key, chain, &before);
            next += 1;
            before = sealed.mac;
            holds
        });
        hold && next == archive.last + 1 && before == archive.mac && archive.holds(&self.key, chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::audit::Entry,
        state::{Commit, Merge, State, memory::MemoryState},
    };
    use breeze_proto::id::PartnerId;
    use bytes::Bytes;
    use std::sync::Arc;

    fn entry(partner_id: Option<PartnerId>, action: &str) -> Entry {
        Entry { partner_id, ..Entry::by_system(action, 1) }
    }

    fn log_on(state: &Arc<MemoryState>, key: u8) -> AuditLog {
        AuditLog::new(Arc::<MemoryState>::clone(state), [key; 32], "test", || 1_000)
    }

    async fn put(state: &MemoryState, chain: Chain, sequence: u64, value: Option<Bytes>) {
        let key = Bytes::copy_from_slice(&sequence.to_be_bytes());
        let row = Merge { table: LOG, partition: chain.block(sequence), key, version: 3, value };
        state.merge(vec![row]).await.expect("merges");
    }

    async fn head_row(state: &MemoryState, chain: Chain) -> Bytes {
        state.get(HEADS.into(), chain.to_string().as_bytes(), HEAD).await.expect("reads").expect("there").value
    }

    async fn put_head(state: &MemoryState, chain: Chain, value: Option<Bytes>) {
        let commit = Commit::new(HEADS, chain.to_string());
        let commit = match value {
            Some(value) => commit.put(HEAD, value),
            None => commit.delete(HEAD),
        };
        let _applied = state.commit(commit).await.expect("commits");
    }

    /// A log of two chains of five, and the partner's.
    async fn filled() -> (Arc<MemoryState>, AuditLog, Chain) {
        let state = Arc::new(MemoryState::new());
        let log = log_on(&state, 7);
        let partner = PartnerId::generate();
        for number in 0..5 {
            log.append(entry(None, &format!("a{number}"))).await.expect("appends");
            log.append(entry(Some(partner), &format!("b{number}"))).await.expect("appends");
        }
        (state, log, Chain::Partner(partner))
    }

    async fn published(log: &AuditLog, chain: Chain, sequence: u64) -> Published {
        let sealed = log.entry(chain, sequence).await.expect("reads").expect("there");
        Published { chain, sequence, mac: sealed.mac }
    }

    #[tokio::test]
    async fn what_was_done_to_a_chain_is_named_and_its_neighbour_holds() {
        for (what, broken) in [
            ("nothing", None),
            ("edited", Some((3, Fault::Altered))),
            ("removed", Some((3, Fault::Missing))),
            ("tail removed", Some((4, Fault::CutOff))),
            ("tail removed and head put back", Some((4, Fault::CutOff))),
            ("garbage", Some((3, Fault::Unreadable))),
            ("added", Some((6, Fault::BeyondHead))),
            ("head removed", Some((1, Fault::CutOff))),
            ("head edited", Some((6, Fault::Head))),
            ("taken from another chain", Some((3, Fault::Altered))),
            ("all removed", Some((1, Fault::CutOff))),
        ] {
            let (state, log, chain) = filled().await;
            let checkpoints = [published(&log, chain, 2).await, published(&log, chain, 5).await];
            let mut third = log.entry(chain, 3).await.expect("reads").expect("third");
            match what {
                "edited" => {
                    let text = String::from_utf8(third.encode().to_vec()).expect("text");
                    put(&state, chain, 3, Some(text.replace("\"b2\"", "\"c2\"").into())).await;
                }
                "removed" => put(&state, chain, 3, None).await,
                "tail removed" | "tail removed and head put back" | "all removed" => {
                    let from = if what == "all removed" { 1 } else { 4 };
                    for sequence in from..=5 {
                        put(&state, chain, sequence, None).await;
                    }
                    if what == "tail removed and head put back" {
                        let second = log.entry(chain, 2).await.expect("reads").expect("second");
                        let older = Batch { before: second.mac, entries: vec![third.clone()] };
                        put_head(&state, chain, Some(older.encode())).await;
                    } else {
                        put_head(&state, chain, None).await;
                    }
                }
                "garbage" => put(&state, chain, 3, Some(Bytes::from_static(b"{}"))).await,
                "added" => put(&state, chain, 6, Some(third.encode())).await,
                "head removed" => put_head(&state, chain, None).await,
                "head edited" => {
                    let mut head = Batch::decode(&head_row(&state, chain).await).expect("decodes");
                    head.entries[0].mac.clone_from(&third.mac);
                    put_head(&state, chain, Some(head.encode())).await;
                }
                "taken from another chain" => {
                    third = log.entry(Chain::Instance, 3).await.expect("reads").expect("third");
                    put(&state, chain, 3, Some(third.encode())).await;
                }
                _ => {}
            }
            let verdicts = log.verify_all(&checkpoints).await.expect("verifies");
            let found: Vec<_> = verdicts
                .iter()
                .map(|it| (it.chain, it.broken.as_ref().map(|broken| (broken.sequence, broken.why))))
                .collect();
            let expected = if what == "head removed" || what == "tail removed" { None } else { broken };
            if let Some(expected) = expected {
                assert_eq!(found, [(Chain::Instance, None), (chain, Some(expected))], "{what}");
            } else {
                // Which of two true things is said first does not matter here.
                assert_eq!(found[1].1.is_some(), broken.is_some(), "{what}: {found:?}");
            }
        }
    }

    #[tokio::test]
    async fn without_a_checkpoint_a_chain_that_was_put_back_looks_whole_and_a_new_one_does_not_fit_it() {
        let (state, log, chain) = filled().await;
        let checkpoint = published(&log, chain, 5).await;
        let checkpoint_mac = checkpoint.mac.clone();
        for sequence in 4..=5 {
            put(&state, chain, sequence, None).await;
        }
        let (second, third) = (
            log.entry(chain, 2).await.expect("reads").expect("second"),
            log.entry(chain, 3).await.expect("reads").expect("third"),
        );
        put_head(&state, chain, Some(Batch { before: second.mac, entries: vec![third] }.encode())).await;
        assert!(log.verify_chain(chain, &[]).await.expect("verifies").broken.is_none(), "why checkpoints are there");

        // A sequencer that remembers refuses to go on from there; one that was started anew does not know.
        let Chain::Partner(partner) = chain else { unreachable!() };
        *log.place(chain).seat_for_test().await = None;
        let error = log.append(entry(Some(partner), "x")).await.expect_err("refused").to_string();
        assert!(error.contains("tampered"), "{error}");
        let fresh = log_on(&state, 7);
        for n in 0..2 {
            fresh
                .append(Entry { timestamp_ms: 2_000, ..entry(Some(partner), &format!("n{n}")) })
                .await
                .expect("appends");
        }
        let verdict = fresh.verify_chain(chain, &[checkpoint]).await.expect("verifies");
        assert_eq!(verdict.broken.map(|broken| broken.sequence), Some(4));
        let other = Published { chain, sequence: 3, mac: checkpoint_mac };
        let verdict = fresh.verify_chain(chain, &[other]).await.expect("verifies");
        assert_eq!(verdict.broken, Some(Broken { sequence: 3, why: Fault::Replaced }));
    }

    #[tokio::test]
    async fn another_key_fits_nothing_and_a_head_that_was_not_copied_holds() {
        let (state, log, chain) = filled().await;
        let other = log_on(&state, 8);
        let verdicts = other.verify_all(&[]).await.expect("verifies");
        assert!(verdicts.iter().all(|it| it.broken.as_ref().is_some_and(|it| it.sequence == 1)), "{verdicts:?}");

        put(&state, chain, 5, None).await;
        assert!(log.verify_all(&[]).await.expect("verifies").iter().all(|it| it.broken.is_none() && it.entries == 5));
    }
}
