//! What only a database has: a schema that is migrated, an address, other writers.
//!
//! Against the server that `BREEZE_TEST_CQL` names (`host:port`, data centre "dc1"). One schema for
//! all tests: making one takes seconds.

use crate::{CLAIMS, DEVICES, EVENTS, LANES, USERS, apart::Apart};
use breeze_store::state::{
    Assert, Commit, CommitOutcome, CommitTable, Family, Merge, OutboxHint, Scan, Serial, State, StateError,
    cql::{CqlConfig, CqlState, SCHEMA_VERSION, migrate},
};
use bytes::Bytes;
use scylla::client::{session::Session, session_builder::SessionBuilder};
use std::time::Duration;

const PREFIX: &str = "breeze_state_tests";

/// The configuration for the server of the tests, if there is one.
pub(crate) fn config() -> Option<CqlConfig> {
    let Ok(address) = std::env::var("BREEZE_TEST_CQL") else {
        eprintln!("skipped: BREEZE_TEST_CQL names no server");
        return None;
    };
    Some(CqlConfig {
        contact_points: vec![address],
        datacenter: "dc1".into(),
        config_datacenter: "dc1".into(),
        keyspace_prefix: PREFIX.into(),
        replication: [("dc1".to_owned(), 1)].into(),
        request_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        tables: vec![USERS.into(), LANES.into(), CLAIMS.into(), DEVICES.into(), EVENTS.into()],
        ..CqlConfig::default()
    })
}

/// A state on the server, with the schema of the tests.
pub(crate) async fn connect() -> Option<CqlState> {
    let config = config()?;
    match CqlState::connect(config.clone()).await {
        Ok(state) => return Some(state),
        Err(StateError::Schema(_)) => {}
        Err(error) => panic!("the server of the tests: {error}"),
    }
    migrate(&config, &config.tables).await.expect("migrated");
    Some(CqlState::connect(config).await.expect("connected"))
}

/// One that sees nothing of other tests.
pub(crate) async fn apart() -> Option<Apart<CqlState>> {
    connect().await.map(Apart::new)
}

async fn raw() -> Option<Session> {
    let address = std::env::var("BREEZE_TEST_CQL").ok()?;
    Some(SessionBuilder::new().known_node(address).build().await.expect("a session"))
}

fn said(error: &StateError) -> String {
    error.to_string()
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let config = CqlConfig {
        contact_points: vec![address.clone()],
        datacenter: "dc1".into(),
        config_datacenter: "dc1".into(),
        request_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        ..CqlConfig::default()
    };
    let error = CqlState::connect(config).await.expect_err("nobody listens");
    assert!(matches!(error, StateError::Unavailable(_)) && said(&error).contains(&address), "{error}");
}

#[tokio::test]
async fn plain_text_stays_on_this_machine() {
    let config = CqlConfig {
        contact_points: vec!["192.0.2.1:9042".into()],
        datacenter: "dc1".into(),
        config_datacenter: "dc1".into(),
        ..CqlConfig::default()
    };
    let error = CqlState::connect(config.clone()).await.expect_err("it is not loopback");
    assert!(matches!(error, StateError::Settings(_)) && said(&error).contains("ca_file"), "{error}");
    let config = CqlConfig { username: Some("breeze".into()), password: Some("hunter2".into()), ..config };
    assert!(!format!("{config:?}").contains("hunter2"));
    let config = CqlConfig { ca_file: Some("/no/such/file.pem".into()), ..config };
    let error = CqlState::connect(config).await.expect_err("there is no such file");
    assert!(matches!(error, StateError::Settings(_)) && said(&error).contains("/no/such/file.pem"), "{error}");
}

#[tokio::test]
async fn a_data_centre_that_is_none_of_the_clusters_is_named() {
    let Some(mut config) = config() else { return };
    config.datacenter = "nowhere".into();
    let error = CqlState::connect(config).await.expect_err("there is none");
    assert!(matches!(error, StateError::Settings(_)) && said(&error).contains("nowhere"), "{error}");
}

#[tokio::test]
async fn a_schema_that_is_missing_or_newer_is_refused() {
    let Some(mut config) = config() else { return };
    config.keyspace_prefix = "breeze_never_made".into();
    let error = CqlState::connect(config.clone()).await.expect_err("there is none");
    assert!(matches!(error, StateError::Schema(_)) && said(&error).contains("breeze migrate"), "{error}");

    config.keyspace_prefix = "breeze_newer_tests".into();
    config.tables = Vec::new();
    let set = |session: Session, version: u64| async move {
        let update = "UPDATE breeze_newer_tests_config.breeze_schema SET value = ? WHERE name = 'version' IF EXISTS";
        session.query_unpaged(update, (version.to_string(),)).await.expect("written");
    };
    if migrate(&config, &[]).await.is_err() {
        // Left by a run that was stopped below.
        set(raw().await.expect("a server"), SCHEMA_VERSION).await;
        migrate(&config, &[]).await.expect("migrated");
    }
    CqlState::connect(config.clone()).await.expect("it is known");
    set(raw().await.expect("a server"), SCHEMA_VERSION + 1).await;
    let error = CqlState::connect(config.clone()).await.expect_err("it is newer");
    assert!(matches!(error, StateError::Schema(_)) && said(&error).contains("newer"), "{error}");
    let error = migrate(&config, &[]).await.expect_err("there is no way back");
    assert!(matches!(error, StateError::Schema(_)), "{error}");
    set(raw().await.expect("a server"), SCHEMA_VERSION).await;
}

/// All at once: one does the work, all succeed; later there is nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_nodes_migrate_at_the_same_time() {
    let Some(mut config) = config() else { return };
    config.keyspace_prefix = "breeze_migrate_tests".into();
    let tables = [USERS.into(), DEVICES.into()];
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let config = config.clone();
        nodes.spawn(async move { migrate(&config, &tables).await });
    }
    let done: Vec<String> =
        nodes.join_all().await.into_iter().flat_map(|outcome| outcome.expect("it succeeds")).collect();
    let made = done.iter().filter(|line| line.contains("created table")).count();
    assert!(made == 2 || done.is_empty(), "each table is made once: {done:?}");
    assert_eq!(migrate(&config, &tables).await.expect("it succeeds"), Vec::<String>::new());

    let other = CommitTable::new(USERS.name, Family::Config, Serial::Global);
    let error = migrate(&config, &[other.into()]).await.expect_err("its level is fixed");
    assert!(matches!(error, StateError::Schema(_)) && said(&error).contains("user"), "{error}");
}

#[tokio::test]
async fn a_table_that_is_not_there_is_named() {
    let Some(state) = connect().await else { return };
    let unknown = CommitTable::new("unknown", Family::Config, Serial::Local);
    let error = state.commit(Commit::new(unknown, "p")).await.expect_err("it is not in the schema");
    assert!(matches!(error, StateError::Schema(_)) && error.is_definite(), "{error}");
    assert!(said(&error).contains("unknown") && said(&error).contains("breeze migrate"), "{error}");
    let other = CommitTable::new(USERS.name, Family::Device, Serial::Local);
    let error = state.get(other.into(), b"p", b"k").await.expect_err("its family is another");
    assert!(matches!(error, StateError::Schema(_)), "{error}");
}

/// The global level, and values of no length.
#[tokio::test]
async fn claims_and_empty_values() {
    let Some(state) = apart().await else { return };
    let claim = || Commit::new(CLAIMS, "name").assert(Assert::Absent("owner".into())).put("owner", "");
    assert_eq!(state.commit(claim()).await.expect("judged"), CommitOutcome::Applied { version: 1 });
    match state.commit(claim()).await.expect("judged") {
        CommitOutcome::Conflict { partition_version: 1, rows } => assert_eq!(rows[0].value, ""),
        other @ (CommitOutcome::Applied { .. } | CommitOutcome::Conflict { .. }) => panic!("it is taken: {other:?}"),
    }
    assert_eq!(state.partition_version(CLAIMS, &Bytes::from("name")).await.expect("readable"), 1);
    let merge = |version, value| Merge { table: DEVICES, partition: "p".into(), key: "".into(), version, value };
    state.merge(vec![merge(0, Some(Bytes::new()))]).await.expect("merged");
    let row = state.get(DEVICES.into(), b"p", b"").await.expect("readable").expect("it is there");
    assert_eq!((row.version, row.value), (0, Bytes::new()));
    state.merge(vec![merge(0, None)]).await.expect("merged");
    assert_eq!(state.get(DEVICES.into(), b"p", b"").await.expect("readable"), None);
}

/// More asserts than one statement reads, also of rows that are not written.
#[tokio::test]
async fn many_asserts_are_judged_together() {
    let Some(state) = apart().await else { return };
    let keys = || (0..250u8).map(|key| Bytes::from(vec![key]));
    let absent = keys().fold(Commit::new(USERS, "p"), |commit, key| commit.assert(Assert::Absent(key)));
    let put = keys().step_by(2).fold(absent.clone(), |commit, key| commit.put(key, "v"));
    assert_eq!(state.commit(put).await.expect("judged"), CommitOutcome::Applied { version: 1 });
    match state.commit(absent).await.expect("judged") {
        CommitOutcome::Conflict { rows, .. } => assert_eq!(rows.len(), 125),
        CommitOutcome::Applied { .. } => panic!("half of them are there"),
    }
    // A row that was only asserted has not come into being by that.
    let page = state.scan(USERS.into(), b"p", Scan::default()).await.expect("readable");
    assert_eq!(page.rows.len(), 125);
}

/// A hint whose commit never came keeps that commit from coming, and goes: one that a process of schema
/// version 1 has left.
#[tokio::test]
async fn an_old_hint_for_nothing_raises_the_version() {
    let Some(state) = apart().await else { return };
    let insert = format!(
        "INSERT INTO {PREFIX}_config.outbox_hints (scope, bucket, tab, partition, version, made) \
         VALUES ('dc1', ?, 'user', ?, ?, ?) USING TIMESTAMP ?"
    );
    let session = raw().await.expect("a server");
    let partition = state.within(b"left");
    let bucket = i8::try_from(crc32c::crc32c(&partition).to_be_bytes()[0] % 4).expect("below four");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after it").as_millis();
    let hint = async |made: i64| {
        let values = (bucket, partition.to_vec(), 2i64, made, 2i64);
        session.query_unpaged(insert.as_str(), values).await.expect("written");
    };
    let found = async || {
        let (mut cursor, mut found) = (None, Vec::<OutboxHint>::new());
        loop {
            let page = state.outbox_hints(cursor, 100).await.expect("readable");
            found.extend(page.hints);
            cursor = page.next;
            if cursor.is_none() {
                return found;
            }
        }
    };
    hint(i64::try_from(now).expect("small")).await;
    let [young] = &found().await[..] else { panic!("there is one") };
    assert!(!state.outbox_clear_hint(young).await.expect("judged"), "its commit may be under way");
    assert_eq!(state.partition_version(USERS, b"left").await.expect("readable"), 0);

    let deleted = format!(
        "DELETE FROM {PREFIX}_config.outbox_hints USING TIMESTAMP 1 WHERE scope = 'dc1' AND bucket = ? AND tab = 'user' AND partition = ?"
    );
    session.query_unpaged(deleted, (bucket, partition.to_vec())).await.expect("written");
    assert_eq!(found().await.len(), 1, "an older deletion does not win");
    let old = OutboxHint { token: [2u64, 0, 0].map(u64::to_be_bytes).concat().into(), ..young.clone() };
    assert!(state.outbox_clear_hint(&old).await.expect("judged"));
    assert_eq!(state.partition_version(USERS, b"left").await.expect("readable"), 2, "it can no longer apply");
    assert!(found().await.is_empty());
}

/// What is delivered leaves no hint, and what is behind is not walked over.
#[tokio::test]
async fn delivered_items_and_their_hints_go() {
    let Some(state) = apart().await else { return };
    for number in 0..5u8 {
        let commit = Commit::new(LANES, "p").outbox("topic", vec![number]).outbox("topic", vec![number]);
        assert!(matches!(state.commit(commit).await.expect("judged"), CommitOutcome::Applied { .. }));
    }
    let items = state.outbox(LANES, b"p", 0).await.expect("readable");
    assert_eq!(items.len(), 10);
    state.outbox_delivered(LANES, b"p", items[6].position).await.expect("written");
    assert_eq!(state.outbox(LANES, b"p", 0).await.expect("readable"), items[7..]);
    let [hint] = &state.outbox_hints(None, 1000).await.expect("readable").hints[..] else { panic!("one partition") };
    assert!(!state.outbox_clear_hint(hint).await.expect("judged"), "there are items");
    state.outbox_delivered(LANES, b"p", items[9].position).await.expect("written");
    assert!(state.outbox(LANES, b"p", 0).await.expect("readable").is_empty());
    assert!(state.outbox_hints(None, 1000).await.expect("readable").hints.is_empty());
}
