//! Random histories of several writers, and scans while others write: what came out must be what some
//! order of the calls gives, an order that time agrees with.

use crate::{DEVICES, USERS, engines};
use breeze_store::state::{
    Assert, BUCKETS, Commit, CommitOutcome, Merge, Scan, State, StateError, memory::MemoryState,
};
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::task::JoinSet;

/// A commit as its caller saw it: when it began and ended, by a clock that all share.
struct Call {
    commit: Commit,
    began: u64,
    ended: u64,
    outcome: Result<CommitOutcome, StateError>,
}

fn random_commit(random: &mut StdRng, last: &BTreeMap<Bytes, u64>, version: u64, number: u64) -> Commit {
    let key = |random: &mut StdRng| Bytes::from(vec![random.random_range(0..4u8)]);
    let mut commit = Commit::new(USERS, "p");
    let about = key(random);
    let known = last.get(&about).copied();
    commit = match random.random_range(0..5) {
        0 => commit.assert(Assert::PartitionVersion(version)),
        1 => commit.assert(Assert::Absent(about)),
        2 => commit.assert(Assert::Exists(about)),
        3 => commit.assert(Assert::Version(about, known.unwrap_or(1))),
        _ => commit,
    };
    let written = key(random);
    if random.random_bool(0.3) { commit.delete(written) } else { commit.put(written, number.to_be_bytes().to_vec()) }
}

/// Runs writers at the same time. Each is given a state of its own.
async fn run(states: Vec<Arc<dyn State>>, seed: u64, each: u64) -> Vec<Call> {
    let clock = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for (writer, state) in (0u64..).zip(states) {
        let clock = Arc::clone(&clock);
        writers.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed ^ writer.rotate_left(32));
            let (mut last, mut version) = (BTreeMap::new(), 0);
            let mut calls = Vec::new();
            for number in 0..each {
                let commit = random_commit(&mut random, &last, version, writer << 32 | number);
                let began = clock.fetch_add(1, Ordering::SeqCst);
                let outcome = state.commit(commit.clone()).await;
                let ended = clock.fetch_add(1, Ordering::SeqCst);
                match &outcome {
                    Ok(CommitOutcome::Applied { version: new }) => {
                        version = *new;
                        last.extend(commit.puts.iter().map(|(key, _)| (key.clone(), *new)));
                    }
                    Ok(CommitOutcome::Conflict { partition_version, rows }) => {
                        version = *partition_version;
                        last.extend(rows.iter().map(|row| (row.key.clone(), row.version)));
                    }
                    Err(_) => {}
                }
                calls.push(Call { commit, began, ended, outcome });
            }
            calls
        });
    }
    writers.join_all().await.into_iter().flatten().collect()
}

/// Each applied commit has its own version, and its asserts hold in the state that the ones before it
/// make; a call that ended before another began came before it; each conflict is one in some state that was
/// there while it was judged.
async fn explain(calls: &[Call], engine: &dyn State) {
    let mut applied: BTreeMap<u64, &Call> = BTreeMap::new();
    for call in calls {
        match &call.outcome {
            Ok(CommitOutcome::Applied { version }) => {
                assert!(applied.insert(*version, call).is_none(), "version {version} was given out twice");
            }
            Ok(CommitOutcome::Conflict { .. }) => {}
            Err(error) => panic!("nothing was broken here: {error}"),
        }
    }
    let versions: Vec<u64> = applied.keys().copied().collect();
    assert_eq!(versions, (1..=applied.len() as u64).collect::<Vec<_>>(), "no version is left out");
    let mut latest_began = 0;
    for (version, call) in &applied {
        assert!(call.ended > latest_began, "version {version} ended before an earlier one began");
        latest_began = latest_began.max(call.began);
    }

    let model = MemoryState::new();
    let mut open: Vec<&Call> =
        calls.iter().filter(|call| matches!(call.outcome, Ok(CommitOutcome::Conflict { .. }))).collect();
    for version in 0..=applied.len() as u64 {
        if let Some(call) = applied.get(&version) {
            let outcome = model.commit(call.commit.clone()).await.expect("the model answers");
            assert_eq!(outcome, CommitOutcome::Applied { version }, "its asserts held: {:?}", call.commit);
        }
        let mut unexplained = Vec::new();
        for call in open {
            // The state of this version was there during the call, as far as can be told from outside.
            let since = applied.get(&version).is_none_or(|by| by.began < call.ended);
            let until = applied.get(&(version + 1)).is_none_or(|by| by.ended > call.began);
            let explains = since && until && !holds(&model, &call.commit).await;
            if !explains {
                unexplained.push(call);
            }
        }
        open = unexplained;
    }
    let left: Vec<_> = open.iter().map(|call| (&call.commit.asserts, &call.outcome)).collect();
    assert!(left.is_empty(), "conflicts that no state explains: {left:?}");
    let page = engine.scan(USERS.into(), b"p", Scan::default()).await.expect("readable");
    let expected = model.scan(USERS.into(), b"p", Scan::default()).await.expect("readable");
    assert_eq!(page.rows, expected.rows);
    assert_eq!(engine.partition_version(USERS, b"p").await.expect("readable"), applied.len() as u64);
}

async fn holds(model: &MemoryState, commit: &Commit) -> bool {
    for assert in &commit.asserts {
        let row = match assert.key() {
            Some(key) => model.get(USERS.into(), b"p", key).await.expect("the model answers"),
            None => None,
        };
        let holds = match assert {
            Assert::Absent(_) => row.is_none(),
            Assert::Exists(_) => row.is_some(),
            Assert::Version(_, version) => row.is_some_and(|row| row.version == *version),
            Assert::PartitionVersion(version) => {
                model.partition_version(USERS, b"p").await.expect("the model answers") == *version
            }
        };
        if !holds {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_commits_are_explained_by_their_versions() {
    let (_temporary, engines) = engines().await;
    for state in engines {
        let seed = rand::random();
        eprintln!("seed {seed} on {state:?}");
        let calls = run(vec![Arc::clone(&state); 4], seed, 15).await;
        explain(&calls, &*state).await;
    }
}

/// Two processes: they share nothing but the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_of_several_processes_are_explained_by_their_versions() {
    let Some(first) = crate::cql::apart().await else { return };
    let first = Arc::new(first);
    let second = crate::cql::connect().await.expect("the first did");
    let second: Arc<dyn State> = Arc::new(first.sharing(second));
    let first: Arc<dyn State> = first;
    let seed = rand::random();
    eprintln!("seed {seed}");
    let states = vec![Arc::clone(&first), Arc::clone(&second), Arc::clone(&first), second];
    let calls = run(states, seed, 15).await;
    explain(&calls, &*first).await;
}

/// Rows that are there throughout are found exactly once, in order, whatever comes and goes beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn scans_keep_their_place_while_rows_come_and_go() {
    const STAYING: u8 = 60;
    let (_temporary, engines) = engines().await;
    for state in engines {
        let staying = (0..STAYING).map(|number| merge(&[number, 0], 1, Some(number))).collect();
        state.merge(staying).await.expect("merged");
        let stop = Arc::new(AtomicBool::new(false));
        let (writer, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let writing = tokio::spawn(async move {
            let mut version = 1;
            while !stopped.load(Ordering::SeqCst) {
                version += 1;
                let value = (version % 2 == 0).then_some(0);
                let rows = (0..STAYING).map(|number| merge(&[number, 1], version, value)).collect();
                writer.merge(rows).await.expect("merged");
                tokio::task::yield_now().await;
            }
        });
        for (round, limit) in [1, 3, 7, 50].into_iter().enumerate() {
            let mut scan = Scan { reverse: round % 2 == 1, limit, ..Scan::default() };
            let mut found = Vec::new();
            loop {
                let page = state.scan(DEVICES.into(), b"p", scan.clone()).await.expect("readable");
                found.extend(page.rows.into_iter().filter(|row| row.key[1] == 0).map(|row| row.key[0]));
                match page.next {
                    None => break,
                    Some(next) if scan.reverse => scan.to = Some(next),
                    Some(next) => scan.from = next,
                }
            }
            if scan.reverse {
                found.reverse();
            }
            assert_eq!(found, (0..STAYING).collect::<Vec<_>>());
        }
        stop.store(true, Ordering::SeqCst);
        writing.await.expect("no panic");
    }
}

fn merge(key: &[u8], version: u64, value: Option<u8>) -> Merge {
    let value = value.map(|value| Bytes::from(vec![value]));
    Merge { table: DEVICES, partition: "p".into(), key: Bytes::copy_from_slice(key), version, value }
}

/// The same over a whole table.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_whole_table_is_walked_while_partitions_come_and_go() {
    const STAYING: u16 = 80;
    let (_temporary, engines) = engines().await;
    for state in engines {
        let name = |kind: char, number: u16| Bytes::from(format!("{kind}{number}"));
        for number in 0..STAYING {
            let commit = Commit::new(USERS, name('s', number)).put("a", "").put("b", "");
            assert!(matches!(state.commit(commit).await, Ok(CommitOutcome::Applied { .. })));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (writer, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let writing = tokio::spawn(async move {
            let mut number = 0u16;
            while !stopped.load(Ordering::SeqCst) {
                let partition = name('x', number % 40);
                let commit = Commit::new(USERS, partition);
                let commit = if number % 80 < 40 { commit.put("a", "") } else { commit.delete("a") };
                assert!(matches!(writer.commit(commit).await, Ok(CommitOutcome::Applied { .. })));
                number += 1;
            }
        });
        let mut found = Vec::new();
        for bucket in 0..BUCKETS {
            let mut cursor = None;
            loop {
                let page = state.scan_family(USERS.into(), bucket, cursor, 2).await.expect("readable");
                found.extend(page.rows.into_iter().map(|(partition, row)| (partition, row.key)));
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
        }
        stop.store(true, Ordering::SeqCst);
        writing.await.expect("no panic");
        found.retain(|(partition, _)| partition.starts_with(b"s"));
        found.sort_unstable();
        let mut expected: Vec<_> = (0..STAYING)
            .flat_map(|number| [Bytes::from("a"), Bytes::from("b")].map(|key| (name('s', number), key)))
            .collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}
