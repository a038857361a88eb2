//! Several regions read as one: points of a device that moved, regions that fail or are silent.

use crate::metrics_support::{DAY, DAY_MS, at, device, heartbeat, named, open, scalar_query, token};
use async_trait::async_trait;
use breeze_store::metrics::regional::RegionalMetrics;
use breeze_store::metrics::{
    Appended, FrozenBatch, InsertToken, Metrics, MetricsError, Query, QueryResult, Selector, Usage,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A region that does not answer: at once with an error, or never.
#[derive(Debug)]
struct Away {
    is_silent: bool,
}

impl Away {
    async fn answer<T>(&self) -> Result<T, MetricsError> {
        if self.is_silent {
            std::future::pending::<()>().await;
        }
        Err(MetricsError::Unavailable("cut off".into()))
    }
}

#[async_trait]
impl Metrics for Away {
    async fn append(&self, _token: &InsertToken, _batch: &FrozenBatch) -> Result<Appended, MetricsError> {
        self.answer().await
    }
    async fn query(&self, _query: &Query) -> Result<QueryResult, MetricsError> {
        self.answer().await
    }
    async fn usage(&self) -> Result<Usage, MetricsError> {
        self.answer().await
    }
}

fn regions(list: Vec<(&str, Arc<dyn Metrics>)>) -> RegionalMetrics {
    let regions: BTreeMap<String, Arc<dyn Metrics>> =
        list.into_iter().map(|(name, region)| (name.to_owned(), region)).collect();
    RegionalMetrics::new(regions).with_deadline(Duration::from_millis(300))
}

#[tokio::test]
async fn points_of_a_device_that_moved_are_joined() {
    let (eu_dir, us_dir) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let (eu, us) = (open(eu_dir.path()), open(us_dir.path()));
    let rows = |times: &[u64]| {
        let rows: Vec<_> = times.iter().map(|&ms| heartbeat(1, at(DAY, ms), ms / 1_000)).collect();
        FrozenBatch::encode(&rows, &[named(1, at(DAY, times[0]), "custom.q", 1.0)])
    };
    // It moves at minute 3, and one row was told in both.
    eu.append(&token(1, 1, DAY), &rows(&[0, 60_000, 120_000])).await.expect("append");
    us.append(&token(1, 1, DAY), &rows(&[120_000, 180_000, 400_000])).await.expect("append");
    let both = regions(vec![("eu", eu), ("us", us)]);
    let raw = both.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 0)).await.expect("query");
    let times: Vec<u64> = raw.series[0].points.iter().map(|point| point.at_ms - at(DAY, 0)).collect();
    assert_eq!(times, [0, 60_000, 120_000, 180_000, 400_000]);
    assert_eq!((raw.series.len(), raw.missing_regions.len()), (2, 0));
    let wide = both.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 300_000)).await.expect("query");
    let points: Vec<_> =
        wide.series[0].points.iter().map(|point| (point.at_ms - at(DAY, 0), point.min, point.max)).collect();
    assert_eq!(points, [(0, 0.0, 180.0), (300_000, 400.0, 400.0)]);
    let selector = Selector::Named { prefix: "custom.".into() };
    let query = Query { selector, device: device(1), ..scalar_query(1, at(DAY, 0), at(DAY, DAY_MS), 0) };
    let named = both.query(&query).await.expect("query");
    assert_eq!((named.series.len(), named.series[0].points.len()), (1, 2));
    assert_eq!(both.usage().await.expect("usage").heartbeat_rows, 6);
    let refused = both.append(&token(2, 2, DAY), &rows(&[0])).await;
    assert!(matches!(refused, Err(MetricsError::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn regions_that_do_not_answer_are_named_and_not_waited_for() {
    let dir = tempfile::tempdir().expect("folder");
    let here = open(dir.path());
    here.append(&token(1, 1, DAY), &FrozenBatch::encode(&[heartbeat(1, at(DAY, 0), 1)], &[])).await.expect("append");
    let silent: Arc<dyn Metrics> = Arc::new(Away { is_silent: true });
    let failing: Arc<dyn Metrics> = Arc::new(Away { is_silent: false });
    let all = regions(vec![("ap", silent), ("eu", here), ("us", failing)]);
    let started = Instant::now();
    let found = all.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 0)).await.expect("query");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(found.missing_regions, ["ap", "us"]);
    assert_eq!(found.series[0].points.len(), 1);
    assert_eq!(all.usage().await.expect("usage").heartbeat_rows, 1);
    let invalid = all.query(&scalar_query(1, 5, 5, 0)).await;
    assert!(matches!(invalid, Err(MetricsError::Invalid(_))), "{invalid:?}");
    let nobody = regions(vec![("us", Arc::new(Away { is_silent: false }))]);
    let error = nobody.query(&scalar_query(1, 0, 5, 0)).await.expect_err("nobody answers");
    assert!(error.to_string().contains("us"), "{error}");
}
