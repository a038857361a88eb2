//! A ClickHouse that answers slowly: appends get through, once. What the server said long ago does not count.

use crate::clickhouse_support::{Fault, Proxy, ask, config, open, url};
use crate::metrics_support::{DAY, DAY_MS, at, heartbeat, named, token};
use breeze_store::metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics};
use breeze_store::metrics::{Appended, FrozenBatch, InsertToken, Metrics, MetricsError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Appends as an owner of a lane does. The machine may be busy: an answer that is too late is tried again.
async fn append(engine: &ClickHouseMetrics, token: &InsertToken, batch: &FrozenBatch) -> Appended {
    let deadline = Instant::now() + Duration::from_secs(45);
    loop {
        match engine.append(token, batch).await {
            Ok(appended) => return appended,
            Err(MetricsError::Unavailable(_)) if Instant::now() < deadline => {}
            Err(error) => panic!("{token}: {error}"),
        }
    }
}

/// Rows of both kinds, and what the roll-ups count of them, of a day.
async fn stored(config: &ClickHouseConfig, day: u32) -> String {
    let count = |table: &str| {
        format!(
            "(SELECT count() FROM {table} WHERE toDate(at) = toDate({day})), (SELECT sum(n) FROM {table}_1h WHERE toDate(at) = toDate({day}))"
        )
    };
    ask(config, &format!("SELECT {}, {}", count("heartbeats"), count("named"))).await
}

/// Looks count for 3 s of a window of 30 s; an answer takes more than half of it, so none serves both kinds.
#[tokio::test]
async fn a_slow_server_still_gets_both_kinds_once() {
    let Some(url) = url() else { return };
    let proxy = Proxy::start(&url).await;
    let config = ClickHouseConfig { token_window_seconds: 30, ..config(&proxy.url) };
    let engine = open(&config).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_millis() as u64;
    // Young enough for the whole test, and old.
    let young = now + 40_000;
    let today = (young / DAY_MS) as u32;
    let batch = |at_ms: u64| FrozenBatch::encode(&[heartbeat(1, at_ms, 1)], &[named(1, at_ms, "cpu.0", 1.0)]);
    let (old_token, young_token) = (token(1, 1, DAY), token(1, 1, today));
    let (old_rows, young_rows) = (batch(at(DAY, 0)), batch(young));
    proxy.slow(1_700);
    let (old, young) = tokio::join!(append(&engine, &old_token, &old_rows), append(&engine, &young_token, &young_rows));
    proxy.slow(0);
    assert_eq!((old, young), (Appended::New, Appended::New));
    let direct = ClickHouseConfig { url, ..config };
    for day in [DAY, today] {
        assert_eq!(stored(&direct, day).await, "1\t1\t1\t1", "day {day}");
    }
}

/// Heartbeats were stored, named values were not, and the rows are old: all of them are looked for, which
/// takes longer than a look counts.
#[tokio::test]
async fn a_slow_server_completes_an_old_batch() {
    let Some(url) = url() else { return };
    let proxy = Proxy::start(&url).await;
    let config = ClickHouseConfig { token_window_seconds: 30, ..config(&proxy.url) };
    let engine = open(&config).await;
    let heartbeats: Vec<_> = (0..1_200_u64).map(|i| heartbeat(1, at(DAY, i * 1_000), i)).collect();
    let (token, rows) = (token(1, 1, DAY), FrozenBatch::encode(&heartbeats, &[named(1, at(DAY, 0), "cpu.0", 1.0)]));
    proxy.strike("named", Fault::CutBefore);
    assert!(engine.append(&token, &rows).await.is_err());
    let before = proxy.inserts();
    proxy.slow(1_100);
    assert_eq!(append(&engine, &token, &rows).await, Appended::New);
    proxy.slow(0);
    assert_eq!(append(&engine, &token, &rows).await, Appended::Duplicate);
    // `named` and `appended`, each repeated only if the answer was too late.
    assert!((2..=4).contains(&(proxy.inserts() - before)), "{}", proxy.inserts() - before);
    assert_eq!(stored(&ClickHouseConfig { url, ..config }, DAY).await, "1200\t1200\t1\t1");
}

/// Looks count for 100 ms.
#[tokio::test]
async fn nothing_is_sent_on_an_answer_that_is_too_old() {
    let Some(url) = url() else { return };
    let proxy = Proxy::start(&url).await;
    let config = ClickHouseConfig { token_window_seconds: 1, ..config(&proxy.url) };
    let engine = open(&config).await;
    let before = proxy.inserts();
    proxy.slow(300);
    let rows = FrozenBatch::encode(&[heartbeat(1, at(DAY, 0), 1)], &[]);
    let late = engine.append(&token(1, 1, DAY), &rows).await;
    assert!(matches!(&late, Err(MetricsError::Unavailable(what)) if what.contains("within 100ms")), "{late:?}");
    assert_eq!(proxy.inserts(), before);
}
