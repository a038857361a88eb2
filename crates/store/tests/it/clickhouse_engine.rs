//! Promises of the ClickHouse engine one by one: tokens within the server's memory and beyond it, answers
//! that get lost, roll-ups that are made again, retention, schema.

use crate::clickhouse_support::{Fault, Proxy, ask, config, open, url};
use crate::metrics_support::{DAY, DAY_MS, at, batch, device, heartbeat, named, scalar_query, token};
use breeze_store::metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics, SCHEMA_VERSION, migrate};
use breeze_store::metrics::{
    Appended, FrozenBatch, MAX_POINTS, MAX_SERIES, Metrics, MetricsError, Query, Resolution, Selector,
};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

async fn count(engine: &ClickHouseMetrics, day: u32, step_ms: u64) -> u64 {
    let found = engine.query(&scalar_query(1, at(day, 0), at(day + 1, 0), step_ms)).await.expect("query");
    found.series[0].points.iter().map(|point| point.count).sum()
}

#[tokio::test]
async fn a_token_is_taken_once_and_one_that_meets_it_overlaps() {
    let Some(url) = url() else { return };
    let config = config(&url);
    let engine = open(&config).await;
    let (first, rows) = (token(1, 5, DAY), batch(at(DAY, 1_000), 1));
    assert_eq!(engine.append(&first, &rows).await.expect("append"), Appended::New);
    assert_eq!(engine.append(&first, &rows).await.expect("append"), Appended::Duplicate);
    assert_eq!(engine.append(&token(2, 3, DAY), &rows).await.expect("covered"), Appended::Duplicate);
    let overlap = engine.append(&token(5, 9, DAY), &rows).await;
    assert!(matches!(overlap, Err(MetricsError::Overlap(_))), "{overlap:?}");
    assert_eq!(engine.append(&token(1, 5, DAY + 1), &batch(at(DAY + 1, 0), 1)).await.expect("append"), Appended::New);
    for bad in [token(7, 6, DAY), token(1, 1, DAY + 2), token(1, 1, 1 << 20)] {
        let refused = engine.append(&bad, &rows).await;
        assert!(matches!(refused, Err(MetricsError::Invalid(_))), "{refused:?}");
    }
    for step_ms in [0, 300_000, 3_600_000, DAY_MS] {
        assert_eq!(count(&engine, DAY, step_ms).await, 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_or_given_twice_stores_once() {
    let Some(url) = url() else { return };
    let proxy = Proxy::start(&url).await;
    let config = config(&proxy.url);
    let engine = open(&config).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_millis() as u64;
    let today = (now / DAY_MS) as u32;
    // Rows as old as a year, and as young as a heartbeat that has just come.
    for (position, (day, at_ms)) in [(DAY, at(DAY, 5_000)), (today, now)].into_iter().enumerate() {
        let base = position as u64 * 100;
        for (step, table) in ["heartbeats", "named", "appended"].into_iter().enumerate() {
            let faults = [Fault::CutBefore, Fault::CutAfter, Fault::FailAfter, Fault::Twice];
            for (i, fault) in faults.into_iter().enumerate() {
                let first = base + (step * 10 + i) as u64;
                let at_ms = at_ms / DAY_MS * DAY_MS + (at_ms % DAY_MS).saturating_sub(first * 2);
                let token = token(first, first, day);
                let rows = FrozenBatch::encode(&[heartbeat(1, at_ms, first)], &[named(1, at_ms, "cpu.0", 1.0)]);
                proxy.strike(table, fault);
                let once = engine.append(&token, &rows).await;
                if fault != Fault::Twice {
                    assert!(matches!(once, Err(MetricsError::Unavailable(_))), "{table} {fault:?}: {once:?}");
                }
                engine.append(&token, &rows).await.expect("again");
                assert_eq!(engine.append(&token, &rows).await.expect("and again"), Appended::Duplicate);
            }
        }
        for step_ms in [0, 300_000, 3_600_000, DAY_MS] {
            assert_eq!(count(&engine, day, step_ms).await, 12, "day {day}, step {step_ms}");
            let all = Query {
                device: device(1),
                selector: Selector::Named { prefix: "cpu".into() },
                ..scalar_query(1, at(day, 0), at(day + 1, 0), step_ms)
            };
            let found = engine.query(&all).await.expect("query");
            assert_eq!(found.series[0].points.iter().map(|point| point.count).sum::<u64>(), 12);
        }
        assert_eq!(
            ask(&config, &format!("SELECT count() FROM heartbeats WHERE toDate(at) = toDate({day})")).await,
            "12"
        );
    }
}

/// The server forgets a token after so many inserts. What it does then, and that an append is not fooled.
#[tokio::test]
async fn after_a_pause_beyond_the_window_a_repetition_changes_nothing() {
    let Some(url) = url() else { return };
    let proxy = Proxy::start(&url).await;
    let config = ClickHouseConfig { token_window: 3, ..config(&proxy.url) };
    let engine = open(&config).await;
    let (paused, rows) = (token(1, 1, DAY), batch(at(DAY, 0), 1));
    // Stored, but nobody heard of it: its sender was stopped.
    proxy.strike("heartbeats", Fault::CutAfter);
    assert!(engine.append(&paused, &rows).await.is_err());
    let insert = |token: &str, ms: u64| {
        let at_ms = at(DAY, ms);
        format!(
            "INSERT INTO heartbeats SELECT toFixedString(unhex('01010101010101010101010101010101'), 16), \
             fromUnixTimestamp64Milli({at_ms}, 'UTC'), 1,7,7,7,7,7,1000003,7,7,7,7,7 \
             SETTINGS insert_deduplication_token = '{token}'"
        )
    };
    for position in 2..=6 {
        engine.append(&token(position, position, DAY), &batch(at(DAY, position * 1_000), 1)).await.expect("append");
    }
    // The server itself has forgotten: a plain repetition counts twice in the roll-ups.
    ask(&config, &insert("lane.local.0:2-2:20100:heartbeats", 2_000)).await;
    assert_eq!(count(&engine, DAY, 0).await, 6, "rows replace each other");
    assert_eq!(count(&engine, DAY, 3_600_000).await, 7, "the trap is real");
    // The append looks first.
    assert_eq!(engine.append(&paused, &rows).await.expect("again"), Appended::Duplicate);
    assert_eq!(engine.append(&paused, &rows).await.expect("again"), Appended::Duplicate);
    assert_eq!(count(&engine, DAY, 3_600_000).await, 7);
    // And what was counted twice is found and mended when the day is over.
    let made = engine.maintain(at(DAY + 1, 0)).await.expect("maintain");
    assert_eq!(made.len(), 3, "{made:?}");
    for step_ms in [0, 300_000, 3_600_000, DAY_MS] {
        assert_eq!(count(&engine, DAY, step_ms).await, 6);
    }
    assert!(engine.maintain(at(DAY + 1, 0)).await.expect("maintain").is_empty());
}

#[tokio::test]
async fn a_row_inserted_again_under_another_token_replaces() {
    let Some(url) = url() else { return };
    let config = config(&url);
    let engine = open(&config).await;
    for i in 0..4_u64 {
        let rows = FrozenBatch::encode(
            &[heartbeat(1, at(DAY, 5_000), i), heartbeat(1, at(DAY, 5_000), 10 + i)],
            &[named(1, at(DAY, 5_000), "custom.q", i as f64)],
        );
        engine.append(&token(i, i, DAY), &rows).await.expect("append");
        let found = engine.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 0)).await.expect("query");
        assert_eq!((found.series[0].points.len(), found.series[0].points[0].last), (1, (10 + i) as f64));
    }
    // The neighbouring day of the month stays when this one's roll-ups are made again.
    engine.append(&token(9, 9, DAY + 1), &batch(at(DAY + 1, 0), 3)).await.expect("append");
    assert_eq!(engine.maintain(at(DAY + 1, 0)).await.expect("maintain").len(), 6);
    for step_ms in [300_000, 3_600_000, DAY_MS] {
        let found = engine.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), step_ms)).await.expect("query");
        let point = found.series[0].points[0];
        assert_eq!((point.count, point.sum, point.last), (1, 13.0, 13.0), "step {step_ms}");
        assert_eq!(count(&engine, DAY + 1, step_ms).await, 1);
    }
    assert_eq!(
        ask(&config, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE '%again%'")
            .await,
        "0"
    );
}

#[tokio::test]
async fn answers_are_bounded_and_say_so() {
    let Some(url) = url() else { return };
    let engine = open(&config(&url)).await;
    let rows: Vec<_> = (0..MAX_POINTS as u64 + 10).map(|i| heartbeat(1, at(DAY, i * 1_000), i)).collect();
    let series: Vec<_> =
        (0..MAX_SERIES + 10).map(|i| named(1, at(DAY, 0), &format!("custom.{i:04}"), i as f64)).collect();
    engine.append(&token(1, 1, DAY), &FrozenBatch::encode(&rows, &series)).await.expect("append");
    let raw = engine.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 0)).await.expect("query");
    assert!(raw.truncated);
    assert_eq!((raw.series[0].points.len(), raw.series[0].points[0].at_ms), (MAX_POINTS, at(DAY, 0)));
    let selector = Selector::Named { prefix: "custom.".into() };
    for step_ms in [0, 60_000, 3_600_000] {
        let query = Query { selector: selector.clone(), ..scalar_query(1, at(DAY, 0), at(DAY, 3_600_000), step_ms) };
        let named = engine.query(&query).await.expect("query");
        assert!(named.truncated);
        assert_eq!(named.series.len(), MAX_SERIES);
        assert_eq!(named.series[MAX_SERIES - 1].name, format!("custom.{:04}", MAX_SERIES - 1));
    }
    for (from, to, step) in [(5, 5, 0), (6, 5, 0), (0, u64::MAX, 1), (0, 10, u64::MAX), (0, at(DAY, 0), 60_000)] {
        let refused = engine.query(&scalar_query(1, from, to, step)).await;
        assert!(matches!(refused, Err(MetricsError::Invalid(_))), "{from} {to} {step}: {refused:?}");
    }
    assert_eq!(engine.query(&scalar_query(1, 0, u64::MAX, 0)).await.expect("all").series[0].points.len(), MAX_POINTS);
    // A name is data, whatever it looks like.
    let odd = Query { selector: Selector::Named { prefix: "x' OR 1=1 -- ?\\".into() }, ..scalar_query(1, 0, 9, 0) };
    assert!(engine.query(&odd).await.expect("query").series.is_empty());
    let usage = engine.usage().await.expect("usage");
    assert_eq!((usage.heartbeat_rows, usage.named_rows), (MAX_POINTS as u64 + 10, MAX_SERIES as u64 + 10));
    assert!(usage.bytes > 0 && usage.segments >= 9);
}

#[tokio::test]
async fn what_has_expired_is_not_shown_and_not_taken() {
    let Some(url) = url() else { return };
    let config = ClickHouseConfig {
        retention_raw_days: 3,
        retention_5m_days: 5,
        retention_1h_days: 7,
        retention_1d_days: 9,
        ..config(&url)
    };
    // The server drops by its own clock, so the days are near today; what is shown goes by ours.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_millis() as u64;
    let day = (now / DAY_MS) as u32 - 1;
    migrate(&config).await.expect("migrate");
    let clock = Arc::new(std::sync::atomic::AtomicU64::new(at(day + 1, 0)));
    let told = Arc::clone(&clock);
    let engine = ClickHouseMetrics::with_clock(
        config.clone(),
        Arc::new(move || told.load(std::sync::atomic::Ordering::Relaxed)),
    )
    .expect("engine");
    let rows: Vec<_> = (0..120).map(|minute| heartbeat(1, at(day, minute * 60_000), minute)).collect();
    engine.append(&token(1, 1, day), &FrozenBatch::encode(&rows, &[])).await.expect("append");
    let resolutions = [(3, Resolution::Raw), (4, Resolution::FiveMinutes), (6, Resolution::Hour), (8, Resolution::Day)];
    for (age, resolution) in resolutions {
        clock.store(at(day + age, 0), std::sync::atomic::Ordering::Relaxed);
        let found = engine.query(&scalar_query(1, at(day, 0), at(day + 1, 0), 420_000)).await.expect("query");
        assert_eq!(found.resolution, resolution, "at {age} days");
        let points = &found.series[0].points;
        assert_eq!(points.iter().map(|point| point.count).sum::<u64>(), 120);
        assert_eq!((points[0].min, points[points.len() - 1].max, points[points.len() - 1].last), (0.0, 119.0, 119.0));
    }
    assert_eq!(count(&engine, day, 0).await, 0, "raw rows are not shown any more");
    assert_eq!(engine.append(&token(9, 9, day), &batch(at(day, 1), 5)).await.expect("append"), Appended::New);
    assert_eq!(count(&engine, day, DAY_MS).await, 120, "what came too late was dropped");
    clock.store(at(day + 10, 0), std::sync::atomic::Ordering::Relaxed);
    assert_eq!(count(&engine, day, DAY_MS).await, 0);
}

#[tokio::test]
async fn migration_runs_on_many_nodes_and_versions_are_checked() {
    let Some(url) = url() else { return };
    let config = config(&url);
    let missing = ClickHouseMetrics::connect(config.clone()).await.expect_err("no schema");
    assert!(matches!(&missing, MetricsError::Invalid(what) if what.contains("breeze migrate")), "{missing}");
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let config = config.clone();
        nodes.spawn(async move { migrate(&config).await.expect("migrate") });
    }
    assert!(nodes.join_all().await.iter().any(|done| !done.is_empty()));
    assert_eq!(migrate(&config).await.expect("again"), Vec::<String>::new());
    ClickHouseMetrics::connect(config.clone()).await.expect("connect");
    let longer = ClickHouseConfig { retention_raw_days: 20_001, ..config.clone() };
    let done = migrate(&longer).await.expect("another retention");
    assert_eq!(done.len(), 3, "{done:?}");
    let ttl = ask(
        &config,
        "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats'",
    )
    .await;
    assert!(ttl.contains("toIntervalDay(20002)"), "{ttl}");
    ask(&config, &format!("INSERT INTO breeze_schema (version) VALUES ({})", SCHEMA_VERSION + 1)).await;
    for refused in [migrate(&config).await.err(), ClickHouseMetrics::connect(config.clone()).await.err()] {
        let text = refused.expect("newer").to_string();
        assert!(text.contains(&config.database) && text.contains(&format!("version {}", SCHEMA_VERSION + 1)), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_late_is_said_with_its_address() {
    let gone = ClickHouseConfig::new("http://127.0.0.1:1", "breeze");
    let error = ClickHouseMetrics::connect(gone).await.expect_err("nobody listens");
    assert!(matches!(&error, MetricsError::Unavailable(what) if what.contains("127.0.0.1:1")), "{error}");
    // Takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = silent.local_addr().expect("address");
    let late =
        ClickHouseConfig { query_timeout: Duration::ZERO, ..ClickHouseConfig::new(format!("http://{address}"), "b") };
    let started = std::time::Instant::now();
    let error = ClickHouseMetrics::connect(late).await.expect_err("silence");
    assert!(matches!(&error, MetricsError::Unavailable(what) if what.contains("did not answer")), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// Old rows of which most are stored already, of another token: the batch is not taken for a repetition.
#[tokio::test]
async fn a_batch_that_shares_rows_with_another_is_stored_whole() {
    let Some(url) = url() else { return };
    let config = config(&url);
    let engine = open(&config).await;
    let rows: Vec<_> = (0..1_200_u64).map(|i| heartbeat(1, at(DAY, i * 10_000), i)).collect();
    // All but one, which is none of those that are looked for first.
    let most: Vec<_> = rows.iter().filter(|row| row.at_ms != at(DAY, 7_770_000)).copied().collect();
    engine.append(&token(1, 1, DAY), &FrozenBatch::encode(&most, &[])).await.expect("append");
    let again = FrozenBatch::encode(&rows, &[]);
    let other = breeze_store::metrics::InsertToken { stream: "lane.local.0~1".into(), ..token(1, 1, DAY) };
    assert_eq!(engine.append(&other, &again).await.expect("append"), Appended::New);
    assert_eq!(count(&engine, DAY, 60_000).await, 1_200);
    engine.maintain(at(DAY + 1, 0)).await.expect("maintain");
    assert_eq!(count(&engine, DAY, 3_600_000).await, 1_200);
    // The same rows under a third name change nothing.
    let third = breeze_store::metrics::InsertToken { stream: "lane.local.0~2".into(), ..token(1, 1, DAY) };
    assert_eq!(engine.append(&third, &again).await.expect("append"), Appended::Duplicate);
    assert_eq!(count(&engine, DAY, 3_600_000).await, 1_200);
}
