//! Reading one device in one statement, whose rows, time and memory are bounded.

use super::super::plan::{DAY_MS, Plan, index};
use super::super::{
    MAX_POINTS, MAX_SERIES, MetricsError, Point, Query, QueryResult, Resolution, SCALAR_NAMES, Selector, Series,
};
use super::ClickHouseMetrics;
use super::literal::{device_literal, text, time};
use super::schema::Kind;
use ::clickhouse::Row;
use serde::Deserialize;

/// Rows that one query may read: two years of minutes of a device, and much more of named values.
const MAX_ROWS_READ: u64 = 50_000_000;
/// Memory that one query may take at the server.
const MAX_MEMORY_BYTES: u64 = 1 << 30;
/// The end of what the server's times can say (the year 2106).
const MAX_MS: u64 = u32::MAX as u64 * 1_000;

/// The points of one interval: minimum, maximum, sum and last of each series, or one value each.
#[derive(Debug, Row, Deserialize)]
struct Interval {
    series: String,
    slot: u64,
    count: u64,
    values: Vec<f64>,
}

impl ClickHouseMetrics {
    pub(super) async fn run_query(&self, query: &Query) -> Result<QueryResult, MetricsError> {
        let floors = self.floors();
        let plan = Plan::new(query, floors)?;
        let (kind, columns): (Kind, Vec<&str>) = match &query.selector {
            Selector::Scalars(scalars) => (Kind::Scalars, scalars.iter().map(|&scalar| SCALAR_NAMES[scalar]).collect()),
            Selector::Named { .. } => (Kind::Named, vec!["value"]),
        };
        // What has expired may be on disk yet.
        let floor_ms = u64::from(floors[index(plan.resolution)]) * DAY_MS;
        let (from_ms, to_ms) = (plan.from_ms.max(floor_ms).min(MAX_MS), plan.to_ms.min(MAX_MS));
        let rows = if columns.is_empty() || from_ms >= to_ms {
            Vec::new()
        } else {
            let sql = sql(kind, &columns, query, &plan, from_ms, to_ms);
            let seconds = self.connection.config.query_timeout.as_secs().max(1);
            let statement = self
                .connection
                .client()
                .query_raw(&sql)
                .with_setting("max_rows_to_read", MAX_ROWS_READ.to_string())
                .with_setting("max_memory_usage", MAX_MEMORY_BYTES.to_string())
                .with_setting("max_execution_time", seconds.to_string())
                .with_setting("max_threads", "2")
                .with_setting("select_sequential_consistency", "1");
            self.connection.fetch_all::<Interval>(statement).await?
        };
        let mut result = QueryResult {
            resolution: plan.resolution,
            series: Vec::new(),
            truncated: false,
            missing_regions: Vec::new(),
        };
        match kind {
            Kind::Scalars => scalars(&mut result, &columns, rows),
            Kind::Named => named(&mut result, rows),
        }
        for series in &mut result.series {
            if plan.step_ms == 0 && series.points.len() > MAX_POINTS {
                series.points.truncate(MAX_POINTS);
                result.truncated = true;
            }
        }
        Ok(result)
    }
}

fn sql(kind: Kind, columns: &[&str], query: &Query, plan: &Plan, from_ms: u64, to_ms: u64) -> String {
    let table = kind.table(plan.resolution);
    let mut range =
        format!("device = {} AND at >= {} AND at < {}", device_literal(query.device), time(from_ms), time(to_ms));
    let mut name = "''";
    if let Selector::Named { prefix } = &query.selector {
        name = "toString(name)";
        if !prefix.is_empty() {
            range.push_str(&format!(" AND startsWith(name, {})", text(prefix)));
        }
        let most = MAX_SERIES + 1;
        range.push_str(&format!(
            " AND name IN (SELECT DISTINCT name FROM {table} WHERE {range} ORDER BY name LIMIT {most})"
        ));
    }
    let list = |each: &dyn Fn(&str) -> String| columns.iter().map(|name| each(name)).collect::<Vec<_>>().join(", ");
    let step = plan.step_ms;
    if plan.resolution != Resolution::Raw {
        let values = list(&|c| {
            format!(
                "toFloat64(min(min_{c})), toFloat64(max(max_{c})), toFloat64(sum(sum_{c})), \
                 toFloat64(tupleElement(max(last), '{c}'))"
            )
        });
        let slot = format!("toUInt64(intDiv(toUInt64(toUnixTimestamp(at)) * 1000, {step}) * {step})");
        return format!(
            "SELECT {name} AS series, {slot} AS slot, toUInt64(sum(n)) AS count, [{values}] AS values FROM {table} \
             WHERE {range} GROUP BY series, slot ORDER BY series, slot"
        );
    }
    let rows = format!("(SELECT * FROM {table} FINAL WHERE {range})");
    let at_ms = "toUInt64(toUnixTimestamp64Milli(at))";
    if step == 0 {
        let values = list(&|c| format!("toFloat64({c})"));
        let most = MAX_POINTS + 1;
        return format!(
            "SELECT {name} AS series, {at_ms} AS slot, toUInt64(1) AS count, [{values}] AS values FROM {rows} \
             ORDER BY series, slot LIMIT {most} BY series"
        );
    }
    let values =
        list(&|c| format!("toFloat64(min({c})), toFloat64(max({c})), sum(toFloat64({c})), toFloat64(argMax({c}, at))"));
    format!(
        "SELECT {name} AS series, intDiv({at_ms}, {step}) * {step} AS slot, toUInt64(count()) AS count, \
         [{values}] AS values FROM {rows} GROUP BY series, slot ORDER BY series, slot"
    )
}

/// The `place`th series' point.
fn point(row: &Interval, place: usize, series: usize) -> Point {
    let Interval { slot: at_ms, count, .. } = *row;
    let value = |place: usize| row.values.get(place).copied().unwrap_or_default();
    if row.values.len() == series {
        let value = value(place);
        Point { at_ms, min: value, max: value, sum: value, count, last: value }
    } else {
        let [min, max, sum, last] = std::array::from_fn(|aggregate| value(4 * place + aggregate));
        Point { at_ms, min, max, sum, count, last }
    }
}

fn scalars(result: &mut QueryResult, columns: &[&str], rows: Vec<Interval>) {
    let series = |(place, name): (usize, &&str)| Series {
        name: (*name).to_owned(),
        points: rows.iter().map(|row| point(row, place, columns.len())).collect(),
    };
    result.series = columns.iter().enumerate().map(series).collect();
}

fn named(result: &mut QueryResult, rows: Vec<Interval>) {
    for row in rows {
        let point = point(&row, 0, 1);
        if let Some(series) = result.series.last_mut().filter(|series| series.name == row.series) {
            series.points.push(point);
        } else if result.series.len() == MAX_SERIES {
            result.truncated = true;
            break;
        } else {
            result.series.push(Series { name: row.series, points: vec![point] });
        }
    }
}
