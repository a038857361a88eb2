//! The history's promises, the same tests on both engines.

use crate::clickhouse_support::{config, url};
use crate::metrics_support::{DAY_MS, at, device};
use breeze_proto::v1::InventorySection;
use breeze_store::history::{
    ClickHouseHistory, EmbeddedHistory, Event, EventId, EventKind, EventQuery, History, HistoryError, InventoryVersion,
    MAX_DETAILS_BYTES, MAX_SUMMARY_BYTES, RETENTION_DAYS, RegionalHistory,
};
use breeze_store::metrics::clickhouse::migrate;
use breeze_store::state::memory::MemoryState;
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A day less than the retention ago: what is older would be dropped.
fn day() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_millis() as u64;
    (now / DAY_MS) as u32 - 150
}

fn embedded() -> EmbeddedHistory {
    EmbeddedHistory::new(Arc::new(MemoryState::default()))
}

async fn clickhouse() -> Option<Arc<ClickHouseHistory>> {
    let config = config(&url()?);
    migrate(&config).await.expect("migrate");
    Some(ClickHouseHistory::new(config).expect("engine"))
}

fn event(number: u8, position: u64, at_ms: u64, kind: EventKind) -> Event {
    Event {
        device: device(number),
        id: EventId::of("lane.eu.0", position, 0),
        at_ms,
        kind,
        summary: format!("event {position}"),
        details: format!("{{\"position\":{position}}}"),
    }
}

fn query(number: u8) -> EventQuery {
    EventQuery { device: device(number), from_ms: 0, to_ms: u64::MAX, kinds: vec![], after: None, limit: 0 }
}

/// All pages of a query, of `limit` entries each.
async fn pages(history: &dyn History, query: &EventQuery, limit: usize) -> Vec<Event> {
    let mut query = EventQuery { limit, ..query.clone() };
    let mut events = Vec::new();
    for _ in 0..1_000 {
        let page = history.events(&query).await.expect("events");
        assert!(page.events.len() <= limit);
        events.extend(page.events);
        let Some(next) = page.next else { return events };
        query.after = Some(next);
    }
    panic!("the pages do not end");
}

/// Records in pieces, some twice, and compares what is read with a plain list.
async fn check_events(history: &dyn History, events: &[Event], piece: usize, limit: usize, from: u64, to: u64) {
    for (i, chunk) in events.chunks(piece).enumerate() {
        for _ in 0..1 + i % 2 {
            history.record(chunk).await.expect("record");
        }
    }
    for number in 0..2 {
        for kinds in [vec![], vec![EventKind::Offline, EventKind::Other("later".into())]] {
            let query = EventQuery { from_ms: from, to_ms: to, kinds, ..query(number) };
            let mut expected: Vec<Event> = events
                .iter()
                .filter(|e| e.device == query.device && (from..to).contains(&e.at_ms))
                .filter(|e| query.kinds.is_empty() || query.kinds.contains(&e.kind))
                .cloned()
                .collect();
            expected.sort_by_key(|e| std::cmp::Reverse((e.at_ms, e.id)));
            assert_eq!(pages(history, &query, limit).await, expected);
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let kind = prop::sample::select(vec![
        EventKind::Online,
        EventKind::Offline,
        EventKind::Moved,
        EventKind::Other("later".into()),
    ]);
    // Few times, so that events meet; several months.
    let time = prop_oneof![0_u64..3, (0_u64..120).prop_map(|day| day * 86_400_000)];
    prop::collection::vec((0_u8..2, time, kind), 1..60).prop_map(|rows| {
        let of = |(position, (number, ms, kind)): (usize, (u8, u64, EventKind))| {
            event(number, position as u64, at(day(), ms), kind)
        };
        rows.into_iter().enumerate().map(of).collect()
    })
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn events_come_back_once_newest_first(events in events(), piece in 1_usize..20, limit in 1_usize..9, from in 0_u64..60, to in 60_u64..130) {
        block_on(check_events(&embedded(), &events, piece, limit, at(day(), from * 86_400_000), at(day(), to * 86_400_000)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, max_shrink_iters: 10, ..ProptestConfig::default() })]
    #[test]
    fn events_come_back_once_newest_first_from_clickhouse(events in events(), piece in 9_usize..20, limit in 5_usize..20) {
        block_on(async {
            let Some(history) = clickhouse().await else { return };
            check_events(&*history, &events, piece, limit, at(day(), 1), at(day() + 100, 0)).await;
        });
    }
}

async fn check_versions(history: &dyn History) {
    let section = InventorySection::Software;
    let version = |revision: u8, at_ms: u64| InventoryVersion {
        device: device(1),
        section,
        at_ms,
        hash: [revision; 32],
        content: Bytes::from((0..=revision).map(|byte| byte ^ 0xff).collect::<Vec<u8>>()),
    };
    // The third has the second's time.
    let all = [version(1, at(day(), 5)), version(2, at(day() + 40, 0)), version(3, at(day() + 40, 0))];
    history.record_versions(&all[..2]).await.expect("record");
    history.record_versions(&all[1..]).await.expect("record");
    history.record_versions(&all).await.expect("again");
    let list = history.versions(device(1), section, u64::MAX, 0).await.expect("versions").versions;
    let told: Vec<_> = list.iter().map(|info| (info.at_ms, info.hash[0], info.bytes)).collect();
    assert_eq!(told, [(at(day() + 40, 0), 3, 4), (at(day() + 40, 0), 2, 3), (at(day(), 5), 1, 2)]);
    assert_eq!(history.versions(device(1), section, at(day() + 40, 0), 0).await.expect("older").versions.len(), 1);
    assert_eq!(history.versions(device(1), section, u64::MAX, 2).await.expect("few").versions.len(), 2);
    assert!(history.versions(device(2), section, u64::MAX, 0).await.expect("others").versions.is_empty());
    let network = history.versions(device(1), InventorySection::Network, u64::MAX, 0).await.expect("others");
    assert!(network.versions.is_empty());
    for one in &all {
        let found = history.version(device(1), section, one.at_ms, one.hash).await.expect("version");
        assert_eq!(found.as_ref(), Some(one));
    }
    assert_eq!(history.version(device(1), section, 5, [1; 32]).await.expect("version"), None);
    let unknown = history.versions(device(1), InventorySection::Unspecified, 1, 0).await;
    assert!(matches!(unknown, Err(HistoryError::Invalid(_))), "{unknown:?}");
}

async fn check_limits(history: &dyn History) {
    let long = Event { summary: "ä".repeat(MAX_SUMMARY_BYTES), ..event(1, 1, at(day(), 0), EventKind::Moved) };
    history.record(std::slice::from_ref(&long)).await.expect("record");
    let found = history.events(&query(1)).await.expect("events").events;
    assert_eq!(found[0].summary, "ä".repeat(MAX_SUMMARY_BYTES / 2));
    let huge = Event { details: "x".repeat(MAX_DETAILS_BYTES + 1), ..long };
    assert!(matches!(history.record(&[huge]).await, Err(HistoryError::Invalid(_))));
}

#[tokio::test]
async fn versions_and_limits_embedded() {
    let history = embedded();
    check_versions(&history).await;
    check_limits(&history).await;
}

#[tokio::test]
async fn versions_and_limits_on_clickhouse() {
    let Some(history) = clickhouse().await else { return };
    check_versions(&*history).await;
    check_limits(&*history).await;
}

/// Kept for 100 days, entries of 150 and 50 days ago.
async fn check_retention(history: &dyn History) {
    let events = [0, 100].map(|days| event(1, u64::from(days), at(day() + days, 0), EventKind::Online));
    history.record(&events).await.expect("record");
    assert_eq!(history.events(&query(1)).await.expect("events").events, events[1..]);
    let section = InventorySection::Hardware;
    let version = |days| InventoryVersion {
        device: device(1),
        section,
        at_ms: at(day() + days, 0),
        hash: [days as u8; 32],
        content: Bytes::from_static(b"x"),
    };
    history.record_versions(&[version(0), version(100)]).await.expect("record");
    let kept = history.versions(device(1), section, u64::MAX, 0).await.expect("versions").versions;
    assert_eq!(kept.iter().map(|info| info.hash[0]).collect::<Vec<_>>(), [100]);
}

#[tokio::test]
async fn what_has_expired_is_not_shown() {
    check_retention(&embedded().keeping(100)).await;
    let Some(url) = url() else { return };
    let mut kept = config(&url);
    kept.retention_history_days = 100;
    let done = migrate(&kept).await.expect("migrate");
    check_retention(&*ClickHouseHistory::new(kept.clone()).expect("engine")).await;
    // Changed later: the tables are told.
    kept.retention_history_days = 200;
    let changed = migrate(&kept).await.expect("migrate");
    let told = |table: &str| changed.iter().any(|line| line.contains(table) && line.contains("201"));
    assert!(told("device_events") && told("inventory_versions"), "{done:?} then {changed:?}");
}

#[tokio::test]
async fn what_has_expired_is_pruned() {
    let history = embedded();
    let events: Vec<_> = (0..40).map(|i| event((i % 2) as u8, i, at(day() + i as u32, 0), EventKind::Online)).collect();
    history.record(&events).await.expect("record");
    let now_ms = at(day() + 10 + RETENTION_DAYS, 0);
    let mut pruned = 0;
    for _ in 0..256 {
        pruned += history.prune(now_ms).await.expect("prune");
    }
    assert_eq!(pruned, 10);
    let left = pages(&history, &query(0), 100).await.len() + pages(&history, &query(1), 100).await.len();
    assert_eq!(left, 30);
}

/// A region that does not answer.
async fn away() -> Arc<dyn History> {
    let config = breeze_store::metrics::clickhouse::ClickHouseConfig::new("http://127.0.0.1:1", "none");
    ClickHouseHistory::new(config).expect("engine")
}

#[tokio::test]
async fn regions_are_read_as_one_and_those_that_are_away_are_named() {
    let (eu, us) = (Arc::new(embedded()), Arc::new(embedded()));
    let time = |number: u64| at(day(), number);
    let events: Vec<Event> = (1..=6).map(|number| event(1, number, time(number), EventKind::Connected)).collect();
    eu.record(&[events[0].clone(), events[2].clone(), events[4].clone()]).await.expect("records");
    // The third was recorded in both.
    us.record(&[events[1].clone(), events[2].clone(), events[3].clone(), events[5].clone()]).await.expect("records");
    let regions = |other: Arc<dyn History>| {
        let eu: Arc<dyn History> = eu.clone();
        RegionalHistory::new([("eu".to_owned(), eu), ("us".to_owned(), other)].into())
    };
    let both = regions(us);
    let newest_first: Vec<Event> = events.iter().rev().cloned().collect();
    for limit in [1, 2, 3, 100] {
        assert_eq!(pages(&both, &query(1), limit).await, newest_first, "{limit} a page");
    }
    assert!(matches!(both.record(&events).await, Err(HistoryError::Invalid(_))));
    let section = InventorySection::Network;
    let version = |number: u8| InventoryVersion {
        device: device(1),
        section,
        at_ms: time(number.into()),
        hash: [number; 32],
        content: Bytes::from_static(b"x"),
    };
    eu.record_versions(&[version(1), version(3)]).await.expect("records");
    let half = regions(away().await).versions(device(1), section, u64::MAX, 0).await.expect("one region answers");
    assert_eq!((half.versions.len(), half.missing_regions), (2, vec!["us".to_owned()]));
    let gone = regions(away().await).version(device(1), section, time(2), [2; 32]).await;
    assert!(matches!(gone, Err(HistoryError::Unavailable(_))), "{gone:?}");
    let half = regions(away().await).events(&query(1)).await.expect("one region answers");
    assert_eq!((half.events.len(), half.missing_regions), (3, vec!["us".to_owned()]));
    let none = RegionalHistory::new([("us".to_owned(), away().await)].into());
    assert!(matches!(none.events(&query(1)).await, Err(HistoryError::Unavailable(_))));
}
