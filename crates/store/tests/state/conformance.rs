//! Sequences of calls on an engine and on the reference model, compared call by call. A new engine
//! runs [`compare`] too.

use crate::{DEVICES, EVENTS, LANES, USERS, open};
use breeze_store::state::{
    Assert, BUCKETS, Commit, CommitOutcome, CommitTable, MAX_COMMIT_BYTES, MAX_KEY_BYTES, MAX_MERGE_VERSION,
    MAX_PARTITION_BYTES, MAX_VALUE_BYTES, Merge, MergeTable, OutboxHint, OutboxPosition, PendingItem, Row, Scan, State,
    StateError, Table, embedded::EmbeddedState, memory::MemoryState,
};
use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    sync::Arc,
};

#[derive(Debug, Clone)]
enum Call {
    Commit { table: usize, partition: u8, asserts: Vec<(u8, u8, u8)>, puts: Vec<(u8, u8)>, deletes: Vec<u8>, items: u8 },
    Merge(Vec<(usize, u8, u8, u8, Option<u8>)>),
    Get { table: usize, partition: u8, key: u8 },
    Scan { table: usize, partition: u8, from: Option<u8>, to: Option<u8>, reverse: bool, limit: usize },
    Family { table: usize, limit: usize },
    Delivered { table: usize, partition: u8, version: u8, index: u8 },
    Outbox,
    ClearHints,
    Restart,
}

const COMMITS: [CommitTable; 2] = [USERS, LANES];
const MERGES: [MergeTable; 2] = [DEVICES, EVENTS];

fn tables() -> [Table; 4] {
    [USERS.into(), LANES.into(), DEVICES.into(), EVENTS.into()]
}

fn call() -> impl Strategy<Value = Call> {
    let (table, partition, key) = (0..2usize, 0..3u8, 0..5u8);
    let commit = (
        table.clone(),
        partition.clone(),
        prop::collection::vec((0..4u8, key.clone(), 0..6u8), 0..3),
        prop::collection::vec((key.clone(), any::<u8>()), 0..4),
        prop::collection::vec(key.clone(), 0..3),
        0..3u8,
    );
    let merge = (table.clone(), partition.clone(), key.clone(), 0..6u8, prop::option::of(0..4u8));
    let bound = || prop::option::of(0..6u8);
    let scan = (0..4usize, partition.clone(), bound(), bound(), any::<bool>(), 0..4usize);
    prop_oneof![
        8 => commit.prop_map(|(table, partition, asserts, puts, deletes, items)| {
            Call::Commit { table, partition, asserts, puts, deletes, items }
        }),
        6 => prop::collection::vec(merge, 1..6).prop_map(Call::Merge),
        2 => (0..4usize, partition.clone(), key).prop_map(|(table, partition, key)| Call::Get { table, partition, key }),
        4 => scan.prop_map(|(table, partition, from, to, reverse, limit)| {
            Call::Scan { table, partition, from, to, reverse, limit }
        }),
        1 => (0..4usize, 0..4usize).prop_map(|(table, limit)| Call::Family { table, limit }),
        2 => (table, partition, 0..8u8, 0..2u8).prop_map(|(table, partition, version, index)| {
            Call::Delivered { table, partition, version, index }
        }),
        1 => Just(Call::Outbox),
        1 => Just(Call::ClearHints),
        1 => Just(Call::Restart),
    ]
}

/// Partitions of one run, apart from those of others on the same engine. Two of them have keys that
/// begin alike.
fn partition(run: u64, partition: u8) -> Bytes {
    let tail: &[u8] = match partition {
        0 => b"a",
        1 => b"a\0",
        _ => b"b",
    };
    [b"run".as_slice(), &run.to_be_bytes(), tail].concat().into()
}

fn key(key: u8) -> Bytes {
    let keys: [&'static [u8]; 6] = [b"", b"\0", b"a", b"a\0b", b"\xff", b"\xff\xff"];
    Bytes::from_static(keys[usize::from(key)])
}

fn deduplicated(keys: impl Iterator<Item = u8>) -> Vec<u8> {
    keys.collect::<BTreeSet<_>>().into_iter().collect()
}

/// A call's answer in a form that can be compared.
#[derive(Debug, PartialEq)]
enum Answer {
    Commit(CommitOutcome),
    Done,
    Row(Option<Row>, u64),
    Rows(Vec<Row>),
    Family(BTreeSet<(Bytes, Bytes, u64, Bytes)>),
    Outbox(Vec<Vec<PendingItem>>),
    Hints(BTreeSet<(String, Bytes)>),
}

async fn answer(state: &dyn State, run: u64, call: &Call) -> Result<Answer, StateError> {
    Ok(match call {
        Call::Commit { table, partition: part, asserts, puts, deletes, items } => {
            let mut commit = Commit::new(COMMITS[*table], partition(run, *part));
            let mut asserted = BTreeSet::new();
            for (kind, row, version) in asserts {
                let about = (*kind != 3).then_some(*row);
                if !asserted.insert(about) {
                    continue;
                }
                commit = commit.assert(match kind {
                    0 => Assert::Absent(key(*row)),
                    1 => Assert::Exists(key(*row)),
                    2 => Assert::Version(key(*row), u64::from(*version)),
                    _ => Assert::PartitionVersion(u64::from(*version)),
                });
            }
            let put: Vec<u8> = deduplicated(puts.iter().map(|(row, _)| *row));
            for row in &put {
                let value = puts.iter().find(|(key, _)| key == row).expect("it is one of them").1;
                commit = commit.put(key(*row), vec![value; usize::from(value % 5)]);
            }
            for row in deduplicated(deletes.iter().copied().filter(|row| !put.contains(row))) {
                commit = commit.delete(key(row));
            }
            for item in 0..*items {
                commit = commit.outbox("topic", vec![item]);
            }
            Answer::Commit(state.commit(commit).await?)
        }
        Call::Merge(merges) => {
            let merge = |(table, part, row, version, value): &(usize, u8, u8, u8, Option<u8>)| Merge {
                table: MERGES[*table],
                partition: partition(run, *part),
                key: key(*row),
                version: u64::from(*version),
                value: value.map(|value| Bytes::from(vec![value])),
            };
            state.merge(merges.iter().map(merge).collect()).await?;
            Answer::Done
        }
        Call::Get { table, partition: part, key: row } => {
            let part = partition(run, *part);
            let version = state.partition_version(COMMITS[*table % 2], &part).await?;
            Answer::Row(state.get(tables()[*table], &part, &key(*row)).await?, version)
        }
        Call::Scan { table, partition: part, from, to, reverse, limit } => {
            let scan =
                Scan { from: from.map_or_else(Bytes::new, key), to: to.map(key), reverse: *reverse, limit: *limit };
            Answer::Rows(scan_all(state, tables()[*table], &partition(run, *part), scan).await?)
        }
        Call::Family { table, limit } => Answer::Family(family(state, tables()[*table], run, *limit).await?),
        Call::Delivered { table, partition: part, version, index } => {
            let through = OutboxPosition { version: u64::from(*version), index: u32::from(*index) };
            state.outbox_delivered(COMMITS[*table], &partition(run, *part), through).await?;
            Answer::Done
        }
        Call::Outbox => {
            let mut items = Vec::new();
            for table in COMMITS {
                for part in 0..3 {
                    items.push(state.outbox(table, &partition(run, part), 0).await?);
                }
            }
            Answer::Outbox(items)
        }
        Call::ClearHints => {
            for hint in hints(state, run).await? {
                state.outbox_clear_hint(&hint).await?;
            }
            // An engine may forget hints earlier than another, but not those with items.
            Answer::Hints(hints(state, run).await?.into_iter().map(|hint| (hint.table, hint.partition)).collect())
        }
        Call::Restart => Answer::Done,
    })
}

async fn scan_all(state: &dyn State, table: Table, partition: &[u8], mut scan: Scan) -> Result<Vec<Row>, StateError> {
    let mut rows = Vec::new();
    loop {
        let page = state.scan(table, partition, scan.clone()).await?;
        assert!(scan.limit == 0 || page.rows.len() <= scan.limit, "a page keeps to its limit");
        rows.extend(page.rows);
        match page.next {
            None => return Ok(rows),
            Some(next) if scan.reverse => scan.to = Some(next),
            Some(next) => scan.from = next,
        }
    }
}

async fn family(
    state: &dyn State,
    table: Table,
    run: u64,
    limit: usize,
) -> Result<BTreeSet<(Bytes, Bytes, u64, Bytes)>, StateError> {
    let mut found = BTreeSet::new();
    // Each partition lies in one bucket of 256 that the engine chooses; the run's are found by asking all.
    for bucket in 0..BUCKETS {
        let mut cursor = None;
        loop {
            let page = state.scan_family(table, bucket, cursor, limit).await?;
            for (partition, row) in page.rows {
                if partition.starts_with(&[b"run".as_slice(), &run.to_be_bytes()].concat()) {
                    let new = found.insert((partition, row.key, row.version, row.value));
                    assert!(new, "a row is returned once");
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(found)
}

async fn hints(state: &dyn State, run: u64) -> Result<Vec<OutboxHint>, StateError> {
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let page = state.outbox_hints(cursor, 2).await?;
        let own = [b"run".as_slice(), &run.to_be_bytes()].concat();
        found.extend(page.hints.into_iter().filter(|hint| hint.partition.starts_with(&own)));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(found);
        }
    }
}

/// Runs sequences of calls on an engine and on the model. `restart` gives the engine anew.
fn compare<S: State>(cases: u32, engine: S, runtime: &tokio::runtime::Runtime, restart: impl Fn(S) -> S) {
    let config =
        ProptestConfig { cases, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() };
    let engine = RefCell::new(Some(engine));
    let run = Cell::new(rand::random::<u64>());
    let outcome = TestRunner::new(config).run(&prop::collection::vec(call(), 1..40), |calls| {
        let model = MemoryState::new();
        run.set(run.get().wrapping_add(1));
        for (number, call) in calls.iter().enumerate() {
            if matches!(call, Call::Restart) {
                let old = engine.take().expect("it is always put back");
                engine.replace(Some(restart(old)));
            }
            let engine = engine.borrow();
            let engine = engine.as_ref().expect("it is always put back");
            let got = runtime.block_on(answer(engine, run.get(), call)).expect("the engine answers");
            let expected = runtime.block_on(answer(&model, run.get(), call)).expect("the model answers");
            prop_assert_eq!(got, expected, "call {}: {:?}", number, call);
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn embedded_does_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let engine = runtime.block_on(open(folder.path()));
    compare(60, engine, &runtime, |engine: EmbeddedState| {
        runtime.block_on(async {
            engine.close().await;
            open(folder.path()).await
        })
    });
}

#[test]
fn cql_does_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let Some(engine) = runtime.block_on(crate::cql::connect()) else { return };
    compare(8, engine, &runtime, |engine| {
        drop(engine);
        runtime.block_on(crate::cql::connect()).expect("there was one before")
    });
}

#[tokio::test]
async fn limits_are_the_same_everywhere() {
    let (_temporary, engines) = crate::engines().await;
    for state in engines {
        let refused = |outcome: Result<CommitOutcome, StateError>| match outcome {
            Err(error @ StateError::Invalid(_)) => assert!(error.is_definite()),
            other => panic!("it must be refused: {other:?}"),
        };
        let new = || Commit::new(USERS, "p");
        refused(state.commit(Commit::new(USERS, "")).await);
        refused(state.commit(Commit::new(USERS, vec![0; MAX_PARTITION_BYTES + 1])).await);
        refused(state.commit(new().put(vec![0; MAX_KEY_BYTES + 1], "")).await);
        refused(state.commit(new().put("k", vec![0; MAX_VALUE_BYTES + 1])).await);
        refused(state.commit(new().put("k", "1").put("k", "2")).await);
        refused(state.commit(new().put("k", "1").delete("k")).await);
        refused(state.commit(new().assert(Assert::PartitionVersion(0)).assert(Assert::PartitionVersion(1))).await);
        refused(state.commit(new().outbox("No Topic", "")).await);
        let mut large = new();
        for key in 0..=u8::try_from(MAX_COMMIT_BYTES / MAX_VALUE_BYTES).expect("a few") {
            large = large.put(vec![key], vec![0; MAX_VALUE_BYTES]);
        }
        refused(state.commit(large).await);
        let version = MAX_MERGE_VERSION + 1;
        let merge = Merge { table: DEVICES, partition: "p".into(), key: "k".into(), version, value: None };
        assert!(matches!(state.merge(vec![merge]).await, Err(StateError::Invalid(_))));
        assert!(matches!(state.scan_family(USERS.into(), BUCKETS, None, 1).await, Err(StateError::Invalid(_))));
        assert_eq!(state.partition_version(USERS, b"p").await.expect("readable"), 0, "nothing was written");

        let longest = vec![0xff; MAX_KEY_BYTES];
        let fits = new().put(longest.clone(), vec![0; MAX_VALUE_BYTES]);
        assert_eq!(state.commit(fits).await.expect("it fits"), CommitOutcome::Applied { version: 1 });
        let page = state.scan(USERS.into(), b"p", Scan::default().limit(1)).await.expect("readable");
        assert_eq!(page.rows[0].key, longest);
    }
}

/// Pages end by bytes too, and go on where they ended.
#[tokio::test]
async fn large_rows_come_in_several_pages() {
    let (_temporary, engines) = crate::engines().await;
    for state in engines {
        for key in 0..12u8 {
            let commit = Commit::new(USERS, "large").put(vec![key], vec![key; MAX_VALUE_BYTES]);
            assert!(matches!(state.commit(commit).await, Ok(CommitOutcome::Applied { .. })));
        }
        for reverse in [false, true] {
            let scan = Scan { reverse, ..Scan::default() };
            let first = state.scan(USERS.into(), b"large", scan.clone()).await.expect("readable");
            assert!(first.rows.len() < 12 && first.next.is_some());
            let all = scan_all(&*state, USERS.into(), b"large", scan).await.expect("readable");
            let keys: Vec<u8> = all.iter().map(|row| row.key[0]).collect();
            let expected: Vec<u8> = if reverse { (0..12).rev().collect() } else { (0..12).collect() };
            assert_eq!(keys, expected);
        }
    }
}

/// Whatever order they arrive in, the same writes leave the same row.
#[tokio::test]
async fn merges_converge() {
    let (_temporary, engines) = crate::engines().await;
    let writes: Vec<(u64, Option<&'static str>)> =
        vec![(1, Some("a")), (2, Some("b")), (2, Some("c")), (2, None), (3, None), (4, Some("d")), (4, Some("e"))];
    for state in engines {
        for shift in 0..writes.len() {
            for end in 1..=writes.len() {
                let partition = Bytes::from(format!("{shift}-{end}"));
                let merge = |(version, value): (u64, Option<&'static str>)| Merge {
                    table: DEVICES,
                    partition: partition.clone(),
                    key: "k".into(),
                    version,
                    value: value.map(Bytes::from),
                };
                let mut order = writes[..end].to_vec();
                order.rotate_left(shift % end);
                for write in order {
                    state.merge(vec![merge(write)]).await.expect("merged");
                }
                let row = state.get(DEVICES.into(), &partition, b"k").await.expect("readable");
                let found = row.map(|row| (row.version, row.value));
                let expected =
                    [Some((1, "a")), Some((2, "b")), Some((2, "c")), None, None, Some((4, "d")), Some((4, "e"))];
                assert_eq!(found, expected[end - 1].map(|(version, value)| (version, Bytes::from(value))));
            }
        }
    }
}

/// Prefixes, also those that end in the highest byte.
#[tokio::test]
async fn prefixes_are_whole() {
    let (_temporary, engines) = crate::engines().await;
    for state in engines {
        let keys: [&'static [u8]; 6] = [b"a", b"a\xff", b"a\xff\x01", b"a\xff\xff", b"b", b"\xff\xff\x01"];
        let commit = keys.iter().fold(Commit::new(USERS, "p"), |commit, key| commit.put(*key, ""));
        assert!(matches!(state.commit(commit).await, Ok(CommitOutcome::Applied { .. })));
        for prefix in [b"".as_slice(), b"a", b"a\xff", b"a\xff\xff", b"\xff", b"\xff\xff", b"c"] {
            let page = state.scan(USERS.into(), b"p", Scan::prefix(prefix)).await.expect("readable");
            let found: Vec<&[u8]> = page.rows.iter().map(|row| row.key.as_ref()).collect();
            let mut expected: Vec<&[u8]> = keys.iter().copied().filter(|key| key.starts_with(prefix)).collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "prefix {prefix:?}");
        }
    }
}

/// Increments under the row's version: none is lost, none is done twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_all_count() {
    const TASKS: u64 = 16;
    const EACH: u64 = 10;
    let (_temporary, engines) = crate::engines().await;
    for state in engines {
        let increment = |state: Arc<dyn State>| async move {
            let mut done = 0;
            while done < EACH {
                let row = state.get(USERS.into(), b"counter", b"n").await.expect("readable");
                let (assert, value) = match row {
                    None => (Assert::Absent("n".into()), 0),
                    Some(row) => {
                        let value = u64::from_be_bytes(row.value.as_ref().try_into().expect("eight bytes"));
                        (Assert::Version("n".into(), row.version), value)
                    }
                };
                let value = Bytes::copy_from_slice(&(value + 1).to_be_bytes());
                let commit = Commit::new(USERS, "counter").assert(assert).put("n", value);
                if let CommitOutcome::Applied { .. } = state.commit(commit).await.expect("judged") {
                    done += 1;
                }
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..TASKS {
            tasks.spawn(increment(Arc::clone(&state)));
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no task panics");
        }
        let row = state.get(USERS.into(), b"counter", b"n").await.expect("readable").expect("it is there");
        assert_eq!(row.value, (TASKS * EACH).to_be_bytes().as_slice());
        assert_eq!(row.version, TASKS * EACH, "conflicts do not raise the version");
    }
}

/// A commit is seen whole: rows read after the partition's version are of that version or later.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_are_never_older_than_the_version_read_before() {
    const COMMITS: u64 = 150;
    const ROWS: u8 = 200;
    let (_temporary, engines) = crate::engines().await;
    for state in engines {
        let writer = Arc::clone(&state);
        let writing = tokio::spawn(async move {
            for _ in 0..COMMITS {
                let commit = (0..ROWS).fold(Commit::new(USERS, "whole"), |commit, key| commit.put(vec![key], "v"));
                assert!(matches!(writer.commit(commit).await, Ok(CommitOutcome::Applied { .. })));
            }
        });
        let mut version = 0;
        while version < COMMITS {
            version = state.partition_version(USERS, b"whole").await.expect("readable");
            let last = state.get(USERS.into(), b"whole", &[ROWS - 1]).await.expect("readable");
            let found = last.map_or(0, |row| row.version);
            assert!(found >= version, "the partition has {version}, the row {found}");
            let page = state.scan(USERS.into(), b"whole", Scan::default()).await.expect("readable");
            let versions: BTreeSet<u64> = page.rows.iter().map(|row| row.version).collect();
            assert!(versions.iter().all(|found| *found >= version));
        }
        writing.await.expect("no panic");
    }
}
