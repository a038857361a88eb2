//! The same appends and the same queries, embedded and on ClickHouse: the same answers, with gaps, late
//! rows, counters that start over, rows of the same name, and roll-ups at every age.

use crate::clickhouse_support::{config as clickhouse_config, url};
use crate::metrics_support::{DAY, DAY_MS, append, at, config, device};
use breeze_store::metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics, migrate};
use breeze_store::metrics::{
    EmbeddedMetrics, EmbeddedMetricsConfig, FrozenBatch, HeartbeatRow, InsertToken, Metrics, NamedRow, Point, Query,
    QueryResult, SCALARS, Selector,
};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const DEVICES: u8 = 2;
const DAYS: u32 = 3;
const NAMES: [&str; 4] = ["cpu.0.percent", "cpu.1.percent", "custom.queue", "disk./.percent"];
const STEPS_MS: [u64; 9] = [0, 60_000, 300_000, 420_000, 900_000, 3_600_000, 7_200_000, DAY_MS, 2 * DAY_MS];

#[derive(Debug, Clone)]
struct Append {
    day: u32,
    /// Device, time, load; uptime and bytes come of these.
    rows: Vec<(u8, u32, u64)>,
    named: Vec<(u8, u32, usize, f64)>,
    is_twice: bool,
}

#[derive(Debug, Clone)]
struct Probe {
    number: u8,
    /// `None`: scalars; else the prefix of a name.
    prefix: Option<usize>,
    from_h: u64,
    len_h: u64,
    step: usize,
}

fn time() -> impl Strategy<Value = u32> {
    // A few slots, so that rows meet; the edges of the day; and gaps between.
    prop_oneof![(0_u32..40).prop_map(|slot| slot * 300_000), 0_u32..86_400_000, Just(86_399_999), Just(0)]
}

fn appends() -> impl Strategy<Value = Vec<Append>> {
    let row = (0..DEVICES, time(), prop_oneof![0_u64..2_000, Just(u64::MAX)]);
    let series = (0..DEVICES, time(), 0..NAMES.len(), prop_oneof![-50.0..50.0_f64, (0_u32..100).prop_map(f64::from)]);
    let append = (0..DAYS, prop::collection::vec(row, 0..25), prop::collection::vec(series, 0..25), any::<bool>())
        .prop_map(|(day, rows, named, is_twice)| Append { day: DAY + day, rows, named, is_twice });
    prop::collection::vec(append, 1..8)
}

fn probes() -> impl Strategy<Value = Vec<Probe>> {
    let hours = 24 * u64::from(DAYS);
    let probe = (0..DEVICES, prop::option::of(0..=NAMES.len()), 0..hours, 1..100_u64, 0..STEPS_MS.len())
        .prop_map(|(number, prefix, from_h, len_h, step)| Probe { number, prefix, from_h, len_h, step });
    prop::collection::vec(probe, 6..12)
}

fn heartbeat(number: u8, at_ms: u64, value: u64) -> HeartbeatRow {
    let mut scalars = [7; SCALARS];
    scalars[0] = value;
    scalars[6] = value.wrapping_mul(1_000_003);
    // A machine that starts over every six hours: its uptime and its counters begin again.
    scalars[10] = at_ms % 21_600_000 / 1_000;
    HeartbeatRow { device: device(number), at_ms, scalars }
}

struct World {
    embedded: Arc<EmbeddedMetrics>,
    clickhouse: Arc<ClickHouseMetrics>,
    now_ms: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(url: &str) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let (raw, five, hour, day) = (20, 40, 60, 80);
        let embedded = EmbeddedMetricsConfig {
            retention_raw_days: raw,
            retention_5m_days: five,
            retention_1h_days: hour,
            retention_1d_days: day,
            ..config(dir.path())
        };
        let of_server = clickhouse_config(url);
        migrate(&of_server).await.expect("migrate");
        // The server keeps everything, as its clock is another; what is shown goes by the engine's.
        let shown = ClickHouseConfig {
            retention_raw_days: raw,
            retention_5m_days: five,
            retention_1h_days: hour,
            retention_1d_days: day,
            ..of_server
        };
        let now_ms = Arc::new(AtomicU64::new(at(DAY + DAYS, 0)));
        let clock = Arc::clone(&now_ms);
        let clickhouse =
            ClickHouseMetrics::with_clock(shown, Arc::new(move || clock.load(Ordering::Relaxed))).expect("engine");
        Self { embedded: EmbeddedMetrics::open(embedded).expect("open"), clickhouse, now_ms, _dir: dir }
    }

    async fn append(&self, position: u64, step: &Append) {
        let token = InsertToken { stream: "lane.eu.0".into(), first: position, last: position, day: step.day };
        let day = step.day;
        let rows: Vec<_> = step.rows.iter().map(|&(n, ts, value)| heartbeat(n, at(day, ts.into()), value)).collect();
        let named = |&(number, ts, name, value): &(u8, u32, usize, f64)| NamedRow {
            device: device(number),
            at_ms: at(day, ts.into()),
            name: NAMES[name].into(),
            value,
        };
        let batch = FrozenBatch::encode(&rows, &step.named.iter().map(named).collect::<Vec<_>>());
        for _ in 0..if step.is_twice { 2 } else { 1 } {
            append(&self.embedded, &token, &batch).await;
            self.clickhouse.append(&token, &batch).await.expect("append");
        }
    }

    /// Upkeep of both at so many days after the rows.
    async fn age(&self, days: u32) {
        let now_ms = at(DAY + DAYS + days, 0);
        self.now_ms.store(now_ms, Ordering::Relaxed);
        // The second round seals what the first one flushed.
        for ms in [0, 4 * 3_600_000] {
            self.embedded.maintain(now_ms + ms).await.expect("maintain");
        }
        self.clickhouse.maintain(now_ms).await.expect("maintain");
    }

    async fn probe(&self, probe: &Probe, is_raw_only: bool) {
        let step_ms = if is_raw_only { [0, 60_000, 420_000][probe.step % 3] } else { STEPS_MS[probe.step] };
        let selector = match probe.prefix {
            None => Selector::Scalars(vec![10, 0, 6]),
            Some(place) => {
                Selector::Named { prefix: NAMES.get(place).map_or("", |name| &name[..name.len() / 2]).into() }
            }
        };
        let from_ms = at(DAY, probe.from_h * 3_600_000 + 1_234);
        let to_ms = from_ms + (probe.len_h * 3_600_000).min(step_ms.max(60_000) * 1_000);
        let query = Query { device: device(probe.number), selector, from_ms, to_ms, step_ms };
        let expected = self.embedded.query(&query).await.expect("embedded");
        let found = self.clickhouse.query(&query).await.expect("clickhouse");
        assert_same(&query, &found, &expected);
    }
}

fn assert_same(query: &Query, found: &QueryResult, expected: &QueryResult) {
    assert_eq!(found.resolution, expected.resolution, "{query:?}");
    assert_eq!(found.truncated, expected.truncated, "{query:?}");
    let names = |result: &QueryResult| result.series.iter().map(|series| series.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{query:?}");
    for (found, expected) in found.series.iter().zip(&expected.series) {
        assert_eq!(found.points.len(), expected.points.len(), "{} of {query:?}: {found:?} {expected:?}", found.name);
        for (found, expected) in found.points.iter().zip(&expected.points) {
            let is_sum_near = (found.sum - expected.sum).abs() <= 1e-9 * (1.0 + expected.sum.abs());
            assert!(is_sum_near, "{found:?} instead of {expected:?} in {query:?}");
            assert_eq!(Point { sum: 0.0, ..*found }, Point { sum: 0.0, ..*expected }, "{query:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, max_shrink_iters: 20, ..ProptestConfig::default() })]
    #[test]
    fn the_same_appends_and_queries_give_the_same_answers(appends in appends(), probes in probes()) {
        let Some(url) = url() else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let world = World::new(&url).await;
            for (position, append) in appends.iter().enumerate() {
                world.append(position as u64, append).await;
            }
            // Rows that were replaced count in ClickHouse's roll-ups until upkeep has been there.
            for probe in &probes {
                world.probe(probe, true).await;
            }
            for days in [0, 19, 30, 50, 70] {
                world.age(days).await;
                for probe in &probes {
                    world.probe(probe, false).await;
                }
            }
        });
    }
}
