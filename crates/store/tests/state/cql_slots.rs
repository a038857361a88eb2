//! Slots of hints on a database: what is deleted is not read again, and no item is ever without a hint
//! that a sweep finds.
//!
//! In a schema of their own, whose numbers some of these move; each in the scope of another table.

use crate::{CLAIMS, LANES, USERS, apart::Apart, cql};
use breeze_store::state::{
    Commit, CommitOutcome, CommitTable, State, StateError,
    cql::{CqlConfig, CqlState, migrate},
};
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    value::{CqlValue, Row},
};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

const PREFIX: &str = "breeze_slot_tests";

async fn connect() -> Option<(CqlConfig, Apart<CqlState>)> {
    let mut config = cql::config()?;
    config.keyspace_prefix = PREFIX.into();
    config.tables = vec![USERS.into(), LANES.into(), CLAIMS.into()];
    migrate(&config, &config.tables).await.expect("migrated");
    let state = CqlState::connect(config.clone()).await.expect("connected");
    Some((config, Apart::new(state)))
}

/// Another process on the same partitions.
async fn another(config: &CqlConfig, than: &Apart<CqlState>) -> Apart<CqlState> {
    than.sharing(CqlState::connect(config.clone()).await.expect("connected"))
}

async fn raw(config: &CqlConfig) -> Session {
    SessionBuilder::new().known_node(&config.contact_points[0]).build().await.expect("a session")
}

async fn item(state: &Apart<CqlState>, table: CommitTable, partition: &str) {
    let commit = Commit::new(table, partition.to_owned()).outbox("topic", "payload");
    assert!(matches!(state.commit(commit).await.expect("judged"), CommitOutcome::Applied { .. }));
}

async fn deliver(state: &Apart<CqlState>, table: CommitTable, partition: &str) {
    let items = state.outbox(table, partition.as_bytes(), 0).await.expect("readable");
    let last = items.last().expect("there is one").position;
    state.outbox_delivered(table, partition.as_bytes(), last).await.expect("written");
}

/// Partitions of ours that a sweep finds.
async fn sweep(state: &Apart<CqlState>) -> Result<Vec<String>, StateError> {
    let (mut cursor, mut found) = (None, Vec::new());
    loop {
        let page = state.outbox_hints(cursor, 100).await?;
        found.extend(page.hints.into_iter().map(|hint| String::from_utf8_lossy(&hint.partition).into_owned()));
        cursor = page.next;
        if cursor.is_none() {
            found.sort();
            // One that it has carried along it meets again.
            found.dedup();
            return Ok(found);
        }
    }
}

/// (first, last)
async fn numbers(session: &Session, keyspace: &str) -> (i64, i64) {
    let select = format!("SELECT first, last FROM {PREFIX}_{keyspace}.outbox_numbers WHERE scope = 'dc1'");
    let answer = session.query_unpaged(select, ()).await.expect("readable").into_rows_result().expect("rows");
    let (first, last) = answer.first_row::<(Option<i64>, Option<i64>)>().expect("there is one");
    (first.unwrap_or(1), last.expect("there are slots"))
}

async fn set(session: &Session, keyspace: &str, number: &str, to: i64) {
    let update = format!(
        "UPDATE {PREFIX}_{keyspace}.outbox_numbers USING TIMESTAMP {to} SET {number} = {to} WHERE scope = 'dc1'"
    );
    session.query_unpaged(update, ()).await.expect("written");
}

/// Thousands of commits are delivered while sweeps go on: each reads the few that were deleted last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeps_do_not_read_what_was_deleted() {
    const COMMITS: u32 = 4_000;
    let Some((config, state)) = connect().await else { return };
    let (state, next) = (Arc::new(state), Arc::new(AtomicU32::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (state, next) = (Arc::clone(&state), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= COMMITS {
                    break;
                }
                let partition = number.to_string();
                item(&state, CLAIMS, &partition).await;
                deliver(&state, CLAIMS, &partition).await;
                if number % 256 == 0 {
                    sweep(&state).await.expect("readable");
                }
            }
        });
    }
    callers.join_all().await;
    assert!(sweep(&state).await.expect("readable").is_empty(), "all is delivered");

    let session = raw(&config).await;
    let select = format!(
        "SELECT max FROM system_views.tombstones_per_read WHERE keyspace_name = '{PREFIX}_config' \
         AND table_name = 'outbox_slots'"
    );
    let answer = match session.query_unpaged(select, ()).await {
        Ok(answer) => answer.into_rows_result().expect("rows"),
        Err(error) => return eprintln!("skipped: this server does not count tombstones ({error})"),
    };
    let row = answer.first_row::<Row>().expect("it counts this table");
    let most = match row.columns.first().and_then(Option::as_ref) {
        Some(CqlValue::Double(most)) => *most,
        Some(CqlValue::BigInt(most)) => *most as f64,
        other => panic!("not a number: {other:?}"),
    };
    eprintln!("{COMMITS} commits delivered: at most {most} tombstones in a read");
    assert!(most < 500.0, "{most} tombstones in one read, of {COMMITS} deleted in four partitions");
}

/// A writer that was paused for so long that its slot has been closed leaves its hint where sweeps look.
#[tokio::test]
async fn a_hint_that_comes_late_is_left_again() {
    let Some((config, state)) = connect().await else { return };
    item(&state, USERS, "before").await;
    deliver(&state, USERS, "before").await;
    let session = raw(&config).await;
    let (_, last) = numbers(&session, "config").await;
    for number in ["last", "fence", "first"] {
        set(&session, "config", number, last + 3).await;
    }
    item(&state, USERS, "late").await;
    let other = another(&config, &state).await;
    assert_eq!(sweep(&other).await.expect("readable"), ["late"]);
    deliver(&other, USERS, "late").await;
    assert!(sweep(&other).await.expect("readable").is_empty());
    assert!(numbers(&session, "config").await >= (last + 3, last + 3));
}

/// What nobody can deliver is carried along and keeps no slot open.
#[tokio::test]
async fn hints_that_stay_are_carried_to_the_last_slot() {
    let Some((config, state)) = connect().await else { return };
    let stay: Vec<String> = (10..90).map(|number| number.to_string()).collect();
    for partition in &stay {
        item(&state, LANES, partition).await;
    }
    let session = raw(&config).await;
    let (_, last) = numbers(&session, "device").await;
    set(&session, "device", "last", last + 500).await;
    for _ in 0..3 {
        assert_eq!(sweep(&another(&config, &state).await).await.expect("readable"), stay);
    }
    let (first, _) = numbers(&session, "device").await;
    assert!(first > last, "{first}: the slot where they were is closed");
    // The items name the slot where their hints were, so a sweep is what forgets them.
    for partition in &stay {
        deliver(&state, LANES, partition).await;
    }
    assert_eq!(sweep(&state).await.expect("readable"), stay);
    let page = state.outbox_hints(None, 1000).await.expect("readable");
    for hint in &page.hints {
        assert!(state.outbox_clear_hint(hint).await.expect("judged"));
    }
    assert!(sweep(&state).await.expect("readable").is_empty());
}
