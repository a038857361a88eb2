//! What only the embedded engine has: a folder, files that may be damaged, and group commit.

use crate::{DEVICES, Temporary, USERS, config, open};
use breeze_store::state::{
    Commit, CommitOutcome, Merge, Scan, State, StateError,
    embedded::{Config, EmbeddedState},
};
use bytes::Bytes;
use std::{path::Path, sync::Arc};

#[tokio::test]
async fn belongs_to_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = open(folder.path()).await;
    let second = EmbeddedState::open(folder.path(), config()).await.expect_err("it is taken");
    assert!(matches!(&second, StateError::Unavailable(said) if said.contains("in use")), "{second}");
    state.close().await;
    let later = state.get(USERS.into(), b"p", b"k").await.expect_err("it is closed");
    assert!(matches!(later, StateError::Unavailable(_)));
    open(folder.path()).await.close().await;
}

#[tokio::test]
async fn refuses_another_format() {
    let folder = tempfile::tempdir().expect("a folder");
    open(folder.path()).await.close().await;
    std::fs::write(folder.path().join("FORMAT"), "breeze-state 99\n").expect("written");
    let refused = EmbeddedState::open(folder.path(), config()).await.expect_err("it is not known");
    assert!(matches!(&refused, StateError::Corrupt(said) if said.contains("breeze-state 99")), "{refused}");
}

/// Callers at the same time share what makes their writes durable, and each gets its own answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_share_a_group() {
    let temporary = Temporary::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..500u32 {
        let state = Arc::clone(&temporary.state);
        tasks.spawn(async move {
            let partition = Bytes::copy_from_slice(&(number % 50).to_be_bytes());
            let commit = Commit::new(USERS, partition).put(number.to_be_bytes().to_vec(), "v");
            match state.commit(commit).await.expect("judged") {
                CommitOutcome::Applied { version } => (number % 50, version),
                CommitOutcome::Conflict { .. } => panic!("nothing was asserted"),
            }
        });
    }
    let mut versions = tasks.join_all().await;
    versions.sort_unstable();
    let expected: Vec<(u32, u64)> =
        (0..50).flat_map(|partition| (1..=10).map(move |version| (partition, version))).collect();
    assert_eq!(versions, expected, "each version of each partition was given out once");
}

/// Damage in a table's file is an error that says so, or the old value; never another value, never a
/// panic.
#[tokio::test]
async fn damaged_files_are_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = Config { memtable_bytes: 64 * 1024, ..config() };
    let state = EmbeddedState::open(folder.path(), small.clone()).await.expect("it opens");
    let value = |number: u32| Bytes::from(number.to_string().repeat(200));
    for number in 0..400u32 {
        let partition = Bytes::copy_from_slice(&number.to_be_bytes());
        let merge = Merge { table: DEVICES, partition, key: "k".into(), version: 1, value: Some(value(number)) };
        state.merge(vec![merge]).await.expect("merged");
    }
    state.close().await;

    let mut damaged = 0;
    visit(&folder.path().join("engine/keyspaces"), &mut |path| {
        if path.parent().is_some_and(|parent| parent.ends_with("tables")) {
            let mut bytes = std::fs::read(path).expect("readable");
            // Blocks of rows come first; damage in an index would already keep the folder from opening.
            if bytes.len() < 32 * 1024 {
                return;
            }
            bytes[512] ^= 0xff;
            std::fs::write(path, bytes).expect("written");
            damaged += 1;
        }
    });
    assert!(damaged > 0, "some rows were flushed to tables");
    let state = EmbeddedState::open(folder.path(), small).await.expect("it opens");
    let mut noticed = 0;
    for number in 0..400u32 {
        match state.get(DEVICES.into(), &number.to_be_bytes(), b"k").await {
            Ok(row) => assert_eq!(row.map(|row| row.value), Some(value(number))),
            Err(StateError::Corrupt(_)) => noticed += 1,
            Err(other) => panic!("not what it is: {other}"),
        }
    }
    assert!(noticed > 0, "a flipped byte is noticed");
    state.close().await;
}

fn visit(folder: &Path, visitor: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { visit(&path, visitor) } else { visitor(&path) }
    }
}

/// A future that is dropped does not break the group that its write is in.
#[tokio::test]
async fn callers_may_go_away() {
    let temporary = Temporary::new().await;
    for number in 0..50u8 {
        let write = temporary.state.commit(Commit::new(USERS, "p").put(vec![number], "v"));
        let _ = tokio::time::timeout(std::time::Duration::ZERO, write).await;
    }
    let commit = Commit::new(USERS, "p").put("last", "v");
    assert!(matches!(temporary.state.commit(commit).await, Ok(CommitOutcome::Applied { .. })));
    let page = temporary.state.scan(USERS.into(), b"p", Scan::default()).await.expect("readable");
    assert!(page.rows.iter().all(|row| row.value == "v"));
}
