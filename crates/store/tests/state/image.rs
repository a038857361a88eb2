//! An image taken while others write is one moment, and makes the same state elsewhere.

use crate::{DEVICES, Temporary, USERS, config};
use breeze_store::state::{
    Commit, CommitOutcome, Merge, OutboxItem, State, StateError,
    embedded::{self, EmbeddedState},
};
use bytes::Bytes;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Commits one row.
async fn put(state: &EmbeddedState, commit: Commit) {
    let outcome = state.commit(commit).await.expect("judged");
    assert!(matches!(outcome, CommitOutcome::Applied { .. }), "{outcome:?}");
}

const HOLD: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn is_one_moment_under_writes() {
    let temporary = Temporary::new().await;
    let state = Arc::clone(&temporary.state);
    let written = Arc::new(AtomicU64::new(0));
    let (counting, writing) = (Arc::clone(&written), Arc::clone(&state));
    let writer = tokio::spawn(async move {
        for number in 0..u64::MAX {
            // Two tables, one after the other: an image may lack the second, never the first.
            let key = Bytes::copy_from_slice(&number.to_be_bytes());
            let commit = Commit::new(USERS, "p").put(key.clone(), "v");
            if !matches!(writing.commit(commit).await, Ok(CommitOutcome::Applied { .. })) {
                return;
            }
            let merge =
                Merge { table: DEVICES, partition: "p".into(), key, version: 1, value: Some(Bytes::from_static(b"w")) };
            if writing.merge(vec![merge]).await.is_err() {
                return;
            }
            counting.store(number + 1, Ordering::Release);
        }
    });
    while written.load(Ordering::Acquire) < 200 {
        tokio::task::yield_now().await;
    }
    let frozen = state.freeze(HOLD).await.expect("frozen");
    let before = written.load(Ordering::Acquire);
    // Reads go on, writes wait.
    state.get(USERS.into(), b"p", &0_u64.to_be_bytes()).await.expect("reads").expect("there");
    let image = frozen.thaw().expect("in time");
    while written.load(Ordering::Acquire) < before + 50 {
        tokio::task::yield_now().await;
    }
    let bytes = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        image.write_to(&mut bytes).map(|rows| (rows, bytes))
    });
    let (rows, bytes) = bytes.await.expect("runs").expect("written");
    writer.abort();
    assert!(rows > 400, "{rows}");

    let elsewhere = tempfile::tempdir().expect("a folder");
    let folder = elsewhere.path().join("state");
    assert_eq!(embedded::restore(&folder, &mut bytes.as_slice()).expect("restores"), rows);
    let restored = EmbeddedState::open(&folder, config()).await.expect("opens");
    let version = restored.partition_version(USERS, b"p").await.expect("reads");
    // What was acknowledged before the freeze is there, what came 50 writes later is not.
    assert!((before..=before + 2).contains(&version), "{version} commits, {before} were acknowledged");
    for number in 0..before {
        for table in [USERS.into(), DEVICES.into()] {
            restored.get(table, b"p", &number.to_be_bytes()).await.expect("reads").expect("acknowledged");
        }
    }
    restored.close().await;
}

#[tokio::test]
async fn carries_outbox_and_deletions() {
    let temporary = Temporary::new().await;
    let state = &temporary.state;
    let mut commit = Commit::new(USERS, "p").put("k", "v");
    commit.outbox.push(OutboxItem { topic: "t", payload: Bytes::from_static(b"x") });
    put(state, commit).await;
    for (version, value) in [(1, Some(Bytes::from_static(b"w"))), (5, None)] {
        let merge = Merge { table: DEVICES, partition: "p".into(), key: "k".into(), version, value };
        state.merge(vec![merge]).await.expect("merges");
    }
    let mut bytes = Vec::new();
    state.freeze(HOLD).await.expect("frozen").thaw().expect("thaws").write_to(&mut bytes).expect("written");

    let elsewhere = tempfile::tempdir().expect("a folder");
    let folder = elsewhere.path().join("state");
    embedded::restore(&folder, &mut bytes.as_slice()).expect("restores");
    let again = embedded::restore(&folder, &mut bytes.as_slice()).expect_err("there is one");
    assert!(matches!(again, StateError::Invalid(_)), "{again}");
    let restored = EmbeddedState::open(&folder, config()).await.expect("opens");
    assert_eq!(restored.outbox(USERS, b"p", 10).await.expect("reads").len(), 1);
    assert_eq!(restored.outbox_hints(None, 10).await.expect("reads").hints.len(), 1);
    let older = Merge {
        table: DEVICES,
        partition: "p".into(),
        key: "k".into(),
        version: 4,
        value: Some(Bytes::from_static(b"late")),
    };
    restored.merge(vec![older]).await.expect("merges");
    assert!(restored.get(DEVICES.into(), b"p", b"k").await.expect("reads").is_none(), "the deletion is newer");
    restored.close().await;
}

#[tokio::test]
async fn a_cut_or_foreign_image_is_refused() {
    let temporary = Temporary::new().await;
    put(&temporary.state, Commit::new(USERS, "p").put("key", "value")).await;
    let mut bytes = Vec::new();
    temporary.state.freeze(HOLD).await.expect("frozen").thaw().expect("thaws").write_to(&mut bytes).expect("written");
    for cut in 0..bytes.len() {
        let elsewhere = tempfile::tempdir().expect("a folder");
        let refused = embedded::restore(&elsewhere.path().join("state"), &mut &bytes[..cut]);
        assert!(matches!(refused, Err(StateError::Corrupt(_))), "{cut}: {refused:?}");
        // Opening an engine is slow: not at each byte.
        if cut > 24 && cut + 10 < bytes.len() {
            break;
        }
    }
    let elsewhere = tempfile::tempdir().expect("a folder");
    let refused = embedded::restore(&elsewhere.path().join("state"), &mut &b"something else altogether"[..]);
    assert!(matches!(refused, Err(StateError::Corrupt(_))), "{refused:?}");
}

#[tokio::test]
async fn writes_go_on_by_themselves_and_the_image_is_then_void() {
    let temporary = Temporary::new().await;
    let frozen = temporary.state.freeze(Duration::from_millis(20)).await.expect("frozen");
    put(&temporary.state, Commit::new(USERS, "p").put("k", "v")).await;
    let late = frozen.thaw().expect_err("void");
    assert!(late.to_string().contains("held back too long"), "{late}");
    // One that is forgotten holds nothing back.
    drop(temporary.state.freeze(HOLD).await.expect("frozen"));
    put(&temporary.state, Commit::new(USERS, "p").put("k", "v")).await;
}
