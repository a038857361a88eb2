//! Several regions' metrics read as one.
//!
//! Each region keeps the metrics of its devices; one that moved has some in each. A read asks all regions
//! at once, waits until a deadline, joins the points of the same series, and names the regions that did
//! not answer: a graph with a gap that says so is better than none.

use super::plan::Plan;
use super::{
    Appended, FrozenBatch, InsertToken, MAX_POINTS, MAX_SERIES, Metrics, MetricsError, Point, Query, QueryResult,
    Resolution, Selector, Series, Usage,
};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a region is waited for.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Reads of all regions; appends are refused, since only a region's own collectors write there.
#[derive(Debug)]
pub struct RegionalMetrics {
    regions: BTreeMap<String, Arc<dyn Metrics>>,
    deadline: Duration,
}

impl RegionalMetrics {
    #[must_use]
    pub fn new(regions: BTreeMap<String, Arc<dyn Metrics>>) -> Self {
        Self { regions, deadline: DEADLINE }
    }

    /// With another deadline than [`DEADLINE`].
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What each region answered, and the names of those that did not, both in order.
    async fn ask<T, F>(&self, call: impl Fn(Arc<dyn Metrics>) -> F) -> (Vec<T>, Vec<String>)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, MetricsError>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for (name, region) in &self.regions {
            let (name, call, deadline) = (name.clone(), call(Arc::clone(region)), self.deadline);
            tasks.spawn(async move { (name, tokio::time::timeout(deadline, call).await) });
        }
        let (mut answers, mut missing) = (BTreeMap::new(), self.regions.keys().cloned().collect::<Vec<_>>());
        while let Some(done) = tasks.join_next().await {
            // A call that panicked is a region that did not answer.
            let Ok((name, answer)) = done else { continue };
            match answer {
                Ok(Ok(answer)) => {
                    missing.retain(|other| *other != name);
                    answers.insert(name, answer);
                }
                Ok(Err(error)) => {
                    tracing::warn!(region = name, %error, "a region's metrics do not answer; its points are missing");
                }
                Err(_) => {
                    let seconds = self.deadline.as_secs_f64();
                    tracing::warn!(region = name, seconds, "a region's metrics are late; its points are missing");
                }
            }
        }
        for name in &missing {
            metrics::counter!("breeze_metrics_region_missing_total", "region" => name.clone()).increment(1);
        }
        (answers.into_values().collect(), missing)
    }
}

#[async_trait]
impl Metrics for RegionalMetrics {
    async fn append(&self, _token: &InsertToken, _batch: &FrozenBatch) -> Result<Appended, MetricsError> {
        Err(MetricsError::Invalid("metrics are appended in their region only".to_owned()))
    }

    async fn query(&self, query: &Query) -> Result<QueryResult, MetricsError> {
        // What is wrong for every region is not a region's fault.
        Plan::new(query, [0; 4])?;
        let asked = query.clone();
        let (found, missing) = self
            .ask(move |region| {
                let query = asked.clone();
                async move { region.query(&query).await }
            })
            .await;
        if found.is_empty() && !self.regions.is_empty() {
            return Err(MetricsError::Unavailable(format!("no region answers: {}", missing.join(", "))));
        }
        Ok(merge(query, found, missing))
    }

    async fn usage(&self) -> Result<Usage, MetricsError> {
        let (answers, missing) = self.ask(|region| async move { region.usage().await }).await;
        if answers.is_empty() && !self.regions.is_empty() {
            return Err(MetricsError::Unavailable(format!("no region answers: {}", missing.join(", "))));
        }
        Ok(answers.into_iter().fold(Usage::default(), |sum, usage| Usage {
            bytes: sum.bytes + usage.bytes,
            heartbeat_rows: sum.heartbeat_rows + usage.heartbeat_rows,
            named_rows: sum.named_rows + usage.named_rows,
            segments: sum.segments + usage.segments,
        }))
    }
}

/// Joins the answers of regions. They are of one query, so their points are as wide unless regions keep
/// roll-ups for different times; the widest is then said.
fn merge(query: &Query, found: Vec<QueryResult>, missing_regions: Vec<String>) -> QueryResult {
    let resolution = found.iter().map(|result| result.resolution).max_by_key(|r| r.millis()).unwrap_or(Resolution::Raw);
    let mut truncated = found.iter().any(|result| result.truncated);
    let mut series: Vec<Series> = match &query.selector {
        // One a place, in the order that was asked for.
        Selector::Scalars(_) => {
            let mut found = found.into_iter();
            let mut all = found.next().map(|result| result.series).unwrap_or_default();
            for result in found {
                all.iter_mut().zip(result.series).for_each(|(series, more)| series.points.extend(more.points));
            }
            all
        }
        Selector::Named { .. } => {
            let mut all: BTreeMap<String, Vec<Point>> = BTreeMap::new();
            for one in found.into_iter().flat_map(|result| result.series) {
                all.entry(one.name).or_default().extend(one.points);
            }
            all.into_iter().map(|(name, points)| Series { name, points }).collect()
        }
    };
    if series.len() > MAX_SERIES {
        series.truncate(MAX_SERIES);
        truncated = true;
    }
    for one in &mut series {
        one.points = join(std::mem::take(&mut one.points), query.step_ms == 0);
        if query.step_ms == 0 && one.points.len() > MAX_POINTS {
            one.points.truncate(MAX_POINTS);
            truncated = true;
        }
    }
    QueryResult { resolution, series, truncated, missing_regions }
}

/// Points in order of time, one an interval. Rows at the very same time are the same row, told in two
/// regions: it counts once.
fn join(mut points: Vec<Point>, are_rows: bool) -> Vec<Point> {
    points.sort_by_key(|point| point.at_ms);
    let mut joined: Vec<Point> = Vec::with_capacity(points.len());
    for point in points {
        match joined.last_mut() {
            Some(last) if last.at_ms == point.at_ms => {
                if !are_rows {
                    // Which region's rows are newer cannot be seen; a device moves seldom.
                    last.min = last.min.min(point.min);
                    last.max = last.max.max(point.max);
                    last.sum += point.sum;
                    last.count += point.count;
                    last.last = point.last;
                }
            }
            Some(_) | None => joined.push(point),
        }
    }
    joined
}
