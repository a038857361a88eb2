//! `GET /devices/{id}/metrics`.

use crate::{
    api::{Caller, Path, Query, Timestamp, access::DevicesRead, time::now_ms},
    app::devices::{
        self,
        metrics::{self, FixedSeries, MAX_PREFIX_BYTES, MAX_RANGE_MS, Row},
    },
    context::App,
    error::ApiError,
};
use axum::{Json, extract::State};
use breeze_proto::id::DeviceId;
use breeze_store::metrics::{MetricsError, Query as MetricsQuery, QueryResult, Resolution, Selector};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The range without `from`: an hour.
const DEFAULT_RANGE_MS: u64 = 3_600_000;

/// Which part of the history, and how finely.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MetricsParams {
    /// RFC 3339; an hour before `to` without it.
    from: Option<String>,
    /// RFC 3339; now without it.
    to: Option<String>,
    /// Seconds a point, or `auto`: what gives at most 1,000 points.
    step: Option<String>,
    /// Names separated by commas: cpu_percent, ram_percent, ram_used_mb, swap_used_mb, disk_percent,
    /// disk_used_mb, net_in_bytes_per_s, net_out_bytes_per_s, load1, process_count, uptime_s. All of
    /// them without `series` and `details`.
    series: Option<String>,
    /// Detail or custom series whose names begin so: `cpu.`, `disk.`, `net.`, `custom.`.
    details: Option<String>,
}

/// A device's history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeviceMetrics {
    from: Timestamp,
    to: Timestamp,
    step_s: u64,
    /// What the points were made of: "raw", "5m", "1h" or "1d".
    resolution: &'static str,
    series: Vec<MetricSeries>,
    /// More series matched `details` than are answered.
    truncated: bool,
    /// Regions whose history does not answer at the moment: their points are missing.
    missing_regions: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MetricSeries {
    name: String,
    unit: &'static str,
    /// Each point: milliseconds, average, minimum, maximum, last. Where there was no data there is no point.
    #[schema(value_type = Vec<Vec<f64>>)]
    points: Vec<Row>,
}

/// Read a device's history.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/metrics", tag = "devices",
    params(("id" = Uuid, Path, description = "The device"), MetricsParams),
    responses((status = 200, body = DeviceMetrics)),
)]
pub(crate) async fn get_device_metrics(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path(id): Path<DeviceId>,
    Query(params): Query<MetricsParams>,
) -> Result<Json<DeviceMetrics>, ApiError> {
    let (from_ms, to_ms) = range(params.from.as_deref(), params.to.as_deref())?;
    let step_s = metrics::step_s(params.step.as_deref(), to_ms - from_ms)?;
    let fixed = match (&params.series, &params.details) {
        (None, Some(_)) => Vec::new(),
        (series, _) => metrics::chosen(series.as_deref().unwrap_or_default())?,
    };
    if params.details.as_ref().is_some_and(|prefix| prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES) {
        return Err(ApiError::field("details", format!("must have 1 to {MAX_PREFIX_BYTES} bytes")));
    }
    devices::find(&app, caller.scope(), id).await?;

    let query = |selector| MetricsQuery { device: id, selector, from_ms, to_ms, step_ms: step_s * 1000 };
    let mut answer = DeviceMetrics {
        from: Timestamp(from_ms),
        to: Timestamp(to_ms),
        step_s,
        resolution: resolution(Resolution::Raw),
        series: Vec::new(),
        truncated: false,
        missing_regions: Vec::new(),
    };
    if let Some(prefix) = params.details {
        let result = ask(&app, &query(Selector::Named { prefix })).await?;
        answer.resolution = resolution(result.resolution);
        answer.truncated = result.truncated;
        answer.missing_regions = result.missing_regions;
        answer.series.extend(result.series.iter().map(|series| MetricSeries {
            unit: metrics::named_unit(&series.name),
            points: metrics::named_rows(series),
            name: series.name.clone(),
        }));
    }
    if !fixed.is_empty() {
        let result = ask(&app, &query(Selector::Scalars(fixed.iter().map(|series| series.index).collect()))).await?;
        answer.resolution = resolution(result.resolution);
        // Either question may have met a region that was away.
        answer.missing_regions.extend(result.missing_regions);
        answer.missing_regions.sort_unstable();
        answer.missing_regions.dedup();
        // The engine answers in the order of the selector.
        let named = fixed.iter().zip(&result.series);
        let shown: Vec<MetricSeries> = named.map(|(fixed, series)| shown(fixed, series)).collect();
        answer.series.splice(0..0, shown);
    }
    Ok(Json(answer))
}

fn shown(fixed: &FixedSeries, series: &breeze_store::metrics::Series) -> MetricSeries {
    MetricSeries { name: fixed.name.to_owned(), unit: fixed.unit, points: metrics::rows(&series.points, fixed.scale) }
}

async fn ask(app: &App, query: &MetricsQuery) -> Result<QueryResult, ApiError> {
    app.metrics.query(query).await.map_err(|error| match error {
        MetricsError::Unavailable(_) | MetricsError::Full { .. } => {
            tracing::warn!(%error, "metrics query failed");
            ApiError::unavailable("The history cannot be read at the moment. Try again.")
        }
        MetricsError::Invalid(_) | MetricsError::Overlap(_) | MetricsError::Corrupt(_) => ApiError::internal(error),
    })
}

const fn resolution(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::Raw => "raw",
        Resolution::FiveMinutes => "5m",
        Resolution::Hour => "1h",
        Resolution::Day => "1d",
    }
}

fn range(from: Option<&str>, to: Option<&str>) -> Result<(u64, u64), ApiError> {
    let to_ms = to.map_or_else(|| Ok(now_ms()), |text| time("to", text))?;
    let from_ms = from.map_or_else(|| Ok(to_ms.saturating_sub(DEFAULT_RANGE_MS)), |text| time("from", text))?;
    if from_ms >= to_ms {
        return Err(ApiError::field("from", "must be before `to`"));
    }
    if to_ms - from_ms > MAX_RANGE_MS {
        return Err(ApiError::field("from", "must be at most three years before `to`"));
    }
    Ok((from_ms, to_ms))
}

fn time(field: &'static str, text: &str) -> Result<u64, ApiError> {
    let parsed = text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    parsed.ok_or_else(|| ApiError::field(field, "must be a time such as 2026-11-24T13:00:00Z"))
}
