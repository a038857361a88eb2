//! The engine against a naive model: whatever is appended, repeated, late, flushed, merged, sealed or
//! reopened, a query answers what the rows say.

use crate::metrics_support::{DAY, DAY_MS, append, at, config, device, heartbeat, named};
use breeze_store::metrics::{
    Appended, EmbeddedMetrics, EmbeddedMetricsConfig, FrozenBatch, HeartbeatRow, InsertToken, Metrics, NamedRow, Point,
    Query, Resolution, SCALAR_NAMES, Selector, Series,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const DEVICES: u8 = 3;
const DAYS: u32 = 4;
const NAMES: [&str; 4] = ["cpu.0.percent", "cpu.1.percent", "custom.queue", "disk./.percent"];

#[derive(Debug, Clone)]
enum Step {
    Append {
        day: u32,
        rows: Vec<(u8, u32, u64)>,
        named: Vec<(u8, u32, usize, f64)>,
        is_twice: bool,
    },
    Repeat(prop::sample::Index),
    Flush,
    /// Hours that pass before upkeep.
    Maintain(u64),
    Reopen,
    Query {
        number: u8,
        is_named: bool,
        prefix: usize,
        from_h: u64,
        len_h: u64,
        step_ms: u64,
    },
}

fn time() -> impl Strategy<Value = u32> {
    // Few distinct times, so that rows meet; and the edges of the day.
    prop_oneof![(0_u32..288).prop_map(|slot| slot * 300_000), 0_u32..86_400_000, Just(86_399_999), Just(0)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0..DEVICES, time(), 0_u64..2_000);
    let series = (0..DEVICES, time(), 0..NAMES.len(), prop_oneof![-50.0..50.0_f64, (0_u32..100).prop_map(f64::from)]);
    let append = (0..DAYS, prop::collection::vec(row, 0..25), prop::collection::vec(series, 0..25), any::<bool>())
        .prop_map(|(day, rows, named, is_twice)| Step::Append { day: DAY + day, rows, named, is_twice });
    let widths =
        prop::sample::select(vec![0_u64, 60_000, 300_000, 420_000, 900_000, 3_600_000, 7_200_000, DAY_MS, 2 * DAY_MS]);
    let query = (0..DEVICES, any::<bool>(), 0..5_usize, 0..24 * u64::from(DAYS), 1..100_u64, widths).prop_map(
        |(number, is_named, prefix, from_h, len_h, step_ms)| Step::Query {
            number,
            is_named,
            prefix,
            from_h,
            len_h,
            step_ms,
        },
    );
    let step = prop_oneof![
        6 => append,
        2 => any::<prop::sample::Index>().prop_map(Step::Repeat),
        2 => Just(Step::Flush),
        2 => (0_u64..30).prop_map(Step::Maintain),
        1 => Just(Step::Reopen),
        4 => query,
    ];
    prop::collection::vec(step, 1..60)
}

/// Series by device and name: value by time.
type Rows = BTreeMap<(u8, String), BTreeMap<u64, f64>>;

struct World {
    engine: Option<Arc<EmbeddedMetrics>>,
    config: EmbeddedMetricsConfig,
    rows: Rows,
    appended: Vec<(InsertToken, FrozenBatch)>,
    next: u64,
    now_ms: u64,
}

impl World {
    fn new(dir: &Path) -> Self {
        let config = EmbeddedMetricsConfig { flush_bytes: 6_000, ..config(dir) };
        let engine = Some(EmbeddedMetrics::open(config.clone()).expect("open"));
        Self { engine, config, rows: Rows::new(), appended: Vec::new(), next: 1, now_ms: at(DAY, 0) }
    }

    fn engine(&self) -> Arc<EmbeddedMetrics> {
        Arc::clone(self.engine.as_ref().expect("it is open"))
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append { day, rows, named: series, is_twice } => {
                let heartbeats: Vec<_> = rows.iter().map(|&(n, ts, v)| heartbeat(n, at(day, ts.into()), v)).collect();
                let series: Vec<_> =
                    series.iter().map(|&(n, ts, name, v)| named(n, at(day, ts.into()), NAMES[name], v)).collect();
                self.append(day, &heartbeats, &series, is_twice).await;
            }
            Step::Repeat(index) if !self.appended.is_empty() => {
                let (token, batch) = &self.appended[index.index(self.appended.len())];
                assert_eq!(self.engine().append(token, batch).await.expect("repeat"), Appended::Duplicate);
            }
            Step::Repeat(_) => {}
            Step::Flush => self.engine().flush().await.expect("flush"),
            Step::Maintain(hours) => {
                self.now_ms += hours * 3_600_000;
                self.engine().maintain(self.now_ms).await.expect("maintain");
            }
            Step::Reopen => {
                self.engine = None;
                self.engine = Some(EmbeddedMetrics::open(self.config.clone()).expect("reopen"));
            }
            Step::Query { number, is_named, prefix, from_h, len_h, step_ms } => {
                let prefix = NAMES.get(prefix).map_or("", |name| &name[..name.len() / 2]);
                let selector =
                    if is_named { Selector::Named { prefix: prefix.into() } } else { Selector::Scalars(vec![6, 0]) };
                let from_ms = at(DAY, from_h * 3_600_000 + 1_234);
                let to_ms = from_ms + (len_h * 3_600_000).min(step_ms.max(60_000) * 1_000);
                self.query(&Query { device: device(number), selector, from_ms, to_ms, step_ms }).await;
            }
        }
    }

    async fn append(&mut self, day: u32, heartbeats: &[HeartbeatRow], series: &[NamedRow], is_twice: bool) {
        let token = InsertToken {
            stream: format!("lane.{}", self.next % 2),
            first: self.next * 10,
            last: self.next * 10 + self.next % 10,
            day,
        };
        self.next += 1;
        let batch = FrozenBatch::encode(heartbeats, series);
        let engine = self.engine();
        if is_twice {
            let outcomes = tokio::join!(append(&engine, &token, &batch), append(&engine, &token, &batch));
            let once = [(Appended::New, Appended::Duplicate), (Appended::Duplicate, Appended::New)];
            assert!(once.contains(&outcomes), "{outcomes:?}");
        } else {
            assert_eq!(append(&engine, &token, &batch).await, Appended::New);
        }
        for row in heartbeats {
            for (name, value) in SCALAR_NAMES.iter().zip(row.scalars) {
                self.put(row.device.to_bytes()[0], name, row.at_ms, value as f64);
            }
        }
        for row in series {
            self.put(row.device.to_bytes()[0], &row.name, row.at_ms, row.value);
        }
        self.appended.push((token, batch));
    }

    fn put(&mut self, number: u8, name: &str, at_ms: u64, value: f64) {
        self.rows.entry((number, name.to_owned())).or_default().insert(at_ms, value);
    }

    async fn query(&self, query: &Query) {
        let found = self.engine().query(query).await.expect("query");
        let expected = self.expect(query);
        assert!(!found.truncated);
        let names = |series: &[Series]| series.iter().map(|series| series.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found.series), names(&expected), "{query:?}");
        for (found, expected) in found.series.iter().zip(&expected) {
            assert_eq!(found.points.len(), expected.points.len(), "{query:?}");
            for (found, expected) in found.points.iter().zip(&expected.points) {
                let is_sum_near = (found.sum - expected.sum).abs() <= 1e-9 * (1.0 + expected.sum.abs());
                assert!(is_sum_near, "{found:?} instead of {expected:?} in {query:?}");
                assert_eq!(Point { sum: 0.0, ..*found }, Point { sum: 0.0, ..*expected }, "{query:?}");
            }
        }
    }

    fn expect(&self, query: &Query) -> Vec<Series> {
        let number = query.device.to_bytes()[0];
        let names: Vec<String> = match &query.selector {
            Selector::Scalars(scalars) => scalars.iter().map(|&scalar| SCALAR_NAMES[scalar].to_owned()).collect(),
            Selector::Named { prefix } => {
                let all = NAMES.iter().filter(|name| name.starts_with(prefix.as_str()));
                all.map(|name| (*name).to_owned()).collect()
            }
        };
        let step = query.step_ms.max(1);
        let (from, to) = (query.from_ms / step * step, query.to_ms.next_multiple_of(step));
        let mut series = Vec::new();
        for name in names {
            let mut points: Vec<Point> = Vec::new();
            let rows = self.rows.get(&(number, name.clone()));
            for (&at_ms, &value) in rows.into_iter().flat_map(|rows| rows.range(from..to)) {
                let at_ms = at_ms / step * step;
                match points.last_mut() {
                    Some(last) if last.at_ms == at_ms => {
                        last.min = last.min.min(value);
                        last.max = last.max.max(value);
                        last.sum += value;
                        last.count += 1;
                        last.last = value;
                    }
                    _ => points.push(Point { at_ms, min: value, max: value, sum: value, count: 1, last: value }),
                }
            }
            if !points.is_empty() || matches!(query.selector, Selector::Scalars(_)) {
                series.push(Series { name, points });
            }
        }
        series
    }

    /// Everything, at every resolution.
    async fn check_all(&self) {
        for number in 0..DEVICES {
            for selector in [Selector::Scalars((0..12).collect()), Selector::Named { prefix: String::new() }] {
                for step_ms in [0, 300_000, 3_600_000, DAY_MS] {
                    let to_ms = at(DAY + DAYS, 0);
                    let query = Query {
                        device: device(number),
                        selector: selector.clone(),
                        from_ms: at(DAY, 0),
                        to_ms,
                        step_ms,
                    };
                    self.query(&query).await;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_queries_say_what_the_rows_say(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let dir = tempfile::tempdir().expect("folder");
        runtime.block_on(async {
            let mut world = World::new(dir.path());
            for step in steps {
                world.step(step).await;
            }
            world.check_all().await;
            // All days over and sealed: the roll-ups themselves answer.
            world.now_ms = at(DAY + DAYS + 2, 0);
            world.engine().maintain(world.now_ms).await.expect("maintain");
            world.now_ms += DAY_MS;
            world.engine().maintain(world.now_ms).await.expect("maintain");
            world.check_all().await;
            let hourly = Query { device: device(0), selector: Selector::Scalars(vec![0]), from_ms: at(DAY, 0), to_ms: at(DAY + 1, 0), step_ms: 3_600_000 };
            assert_eq!(world.engine().query(&hourly).await.expect("query").resolution, Resolution::Hour);
            world.step(Step::Reopen).await;
            world.check_all().await;
            for (token, batch) in world.appended.clone() {
                assert_eq!(world.engine().append(&token, &batch).await.expect("repeat"), Appended::Duplicate);
            }
        });
    }
}
