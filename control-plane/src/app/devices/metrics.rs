//! From stored scaled integers to the figures that people read: units, rates, steps.

use crate::error::ApiError;
use breeze_proto::v1::{Scalars, StampedSample};
use breeze_store::metrics::{Point, Series};
use serde_json::{Map, Value};

/// Points of one series that a query may give.
pub const MAX_POINTS: u64 = 1000;
/// Longest range of a query, in milliseconds: three years.
pub const MAX_RANGE_MS: u64 = 3 * 366 * 86_400_000;
/// Longest prefix of detail series, in bytes.
pub const MAX_PREFIX_BYTES: usize = breeze_proto::limits::MAX_METRIC_NAME_BYTES;
/// Widths of points that "auto" chooses from, in seconds; beyond, whole days.
const STEPS_S: [u64; 17] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200];
const DAY_S: u64 = 86_400;
/// A point that is further from the one before than this many usual distances begins after a gap.
const GAP: f64 = 3.0;
/// Distance of rows of which only one is known, in milliseconds.
const UNKNOWN_SPACING_MS: f64 = 60_000.0;

/// How a stored integer becomes a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// Divided by this.
    Divide(f64),
    /// A sum since the row before, shown per second.
    Rate,
}

/// One of the fixed series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FixedSeries {
    pub name: &'static str,
    pub unit: &'static str,
    /// Its place among [`Scalars`].
    pub index: usize,
    pub scale: Scale,
}

const fn fixed(name: &'static str, unit: &'static str, index: usize, scale: Scale) -> FixedSeries {
    FixedSeries { name, unit, index, scale }
}

/// All of them, in the order in which they are answered.
pub const FIXED: [FixedSeries; 11] = [
    fixed("cpu_percent", "percent", 0, Scale::Divide(10.0)),
    fixed("ram_percent", "percent", 1, Scale::Divide(10.0)),
    fixed("ram_used_mb", "MiB", 2, Scale::Divide(1.0)),
    fixed("swap_used_mb", "MiB", 3, Scale::Divide(1.0)),
    fixed("disk_percent", "percent", 4, Scale::Divide(10.0)),
    fixed("disk_used_mb", "MiB", 5, Scale::Divide(1.0)),
    fixed("net_in_bytes_per_s", "bytes_per_second", 6, Scale::Rate),
    fixed("net_out_bytes_per_s", "bytes_per_second", 7, Scale::Rate),
    fixed("load1", "", 8, Scale::Divide(100.0)),
    fixed("process_count", "", 9, Scale::Divide(1.0)),
    fixed("uptime_s", "seconds", 10, Scale::Divide(1.0)),
];

/// The fixed series named, in the order of [`FIXED`]; all of them by an empty list.
///
/// # Errors
/// Names what there is not.
pub fn chosen(names: &str) -> Result<Vec<FixedSeries>, ApiError> {
    let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = names.iter().find(|name| FIXED.iter().all(|series| series.name != **name)) {
        let shown: String = unknown.chars().take(64).collect();
        let known: Vec<&str> = FIXED.iter().map(|series| series.name).collect();
        return Err(ApiError::field("series", format!("there is no series {shown:?}; there are {}", known.join(", "))));
    }
    Ok(FIXED.into_iter().filter(|series| names.is_empty() || names.contains(&series.name)).collect())
}

/// The narrowest width, in seconds, that gives at most [`MAX_POINTS`] points.
#[must_use]
pub fn auto_step_s(range_ms: u64) -> u64 {
    let least = range_ms.div_ceil(MAX_POINTS * 1000).max(1);
    STEPS_S.into_iter().find(|step| *step >= least).unwrap_or_else(|| least.div_ceil(DAY_S) * DAY_S)
}

/// Reads `step`: seconds or "auto".
///
/// # Errors
/// When it is neither, or gives too many points.
pub fn step_s(step: Option<&str>, range_ms: u64) -> Result<u64, ApiError> {
    match step {
        None | Some("auto") => Ok(auto_step_s(range_ms)),
        Some(text) => match text.parse::<u64>() {
            Ok(step) if step == 0 || step > 366 * DAY_S => {
                Err(ApiError::field("step", "must be 1 to 31622400 seconds"))
            }
            Ok(step) if range_ms.div_ceil(step * 1000) > MAX_POINTS => Err(ApiError::field(
                "step",
                format!("gives more than {MAX_POINTS} points; use at least {}", auto_step_s(range_ms)),
            )),
            Ok(step) => Ok(step),
            Err(_) => Err(ApiError::field("step", "must be a number of seconds, or auto")),
        },
    }
}

/// A point as it is answered: milliseconds, average, minimum, maximum, last.
pub type Row = (u64, f64, f64, f64, f64);

/// Points as figures.
#[must_use]
pub fn rows(points: &[Point], scale: Scale) -> Vec<Row> {
    let filled = points.iter().filter(|point| point.count > 0);
    match scale {
        Scale::Divide(by) => filled
            .map(|point| {
                let average = point.sum / point.count as f64;
                (point.at_ms, round(average / by), round(point.min / by), round(point.max / by), round(point.last / by))
            })
            .collect(),
        Scale::Rate => rates(&filled.copied().collect::<Vec<_>>()),
    }
}

/// A delta covers the time since the row before it. So a point covers the time since the point
/// before, unless that was missing: then as much as its rows usually do.
fn rates(points: &[Point]) -> Vec<Row> {
    let distances = points.windows(2).map(|pair| (pair[1].at_ms - pair[0].at_ms) as f64 / pair[1].count as f64);
    let mut spacings: Vec<f64> = distances.filter(|distance| *distance > 0.0).collect();
    spacings.sort_by(f64::total_cmp);
    let usual = spacings.get(spacings.len() / 2).copied().unwrap_or(UNKNOWN_SPACING_MS);
    let mut before: Option<u64> = None;
    let mut rows = Vec::with_capacity(points.len());
    for point in points {
        let count = point.count as f64;
        let expected_ms = usual * count;
        let covered_ms = before
            .map(|before| (point.at_ms - before) as f64)
            .filter(|distance| *distance > 0.0 && *distance <= GAP * expected_ms)
            .unwrap_or(expected_ms);
        before = Some(point.at_ms);
        let row_s = covered_ms / count / 1000.0;
        rows.push((
            point.at_ms,
            round(point.sum / (covered_ms / 1000.0)),
            round(point.min / row_s),
            round(point.max / row_s),
            round(point.last / row_s),
        ));
    }
    rows
}

/// To thousandths: what is shown, without the noise of binary fractions.
fn round(value: f64) -> f64 {
    if value.is_finite() { (value * 1000.0).round() / 1000.0 } else { 0.0 }
}

/// The unit of a detail or custom series, as far as its name tells.
#[must_use]
pub fn named_unit(name: &str) -> &'static str {
    match name.rsplit(['.', '_']).next() {
        Some("percent") => "percent",
        Some("bytes") => "bytes",
        Some("celsius") => "celsius",
        Some(_) | None => "",
    }
}

/// A detail or custom series as figures.
#[must_use]
pub fn named_rows(series: &Series) -> Vec<Row> {
    rows(&series.points, Scale::Divide(1.0))
}

/// A live sample's figures by name. `since_us` is the time since the sample before; without it there
/// are no rates.
#[must_use]
pub fn live_values(sample: &StampedSample, since_us: u64) -> Map<String, Value> {
    let mut values = Map::new();
    if let Some(scalars) = &sample.scalars {
        let numbers = scalar_values(scalars);
        for series in FIXED {
            let number = numbers[series.index] as f64;
            let value = match series.scale {
                Scale::Divide(by) => number / by,
                Scale::Rate if since_us > 0 => number * 1e6 / since_us as f64,
                Scale::Rate => continue,
            };
            values.insert(series.name.to_owned(), Value::from(round(value)));
        }
    }
    for named in &sample.details {
        values.insert(named.name.clone(), Value::from(round(named.value)));
    }
    for named in &sample.custom {
        values.insert(format!("custom.{}", named.name), Value::from(round(named.value)));
    }
    values
}

/// In the order of the message's fields.
fn scalar_values(scalars: &Scalars) -> [u64; 11] {
    [
        scalars.cpu_permille.into(),
        scalars.ram_permille.into(),
        scalars.ram_used_mib.into(),
        scalars.swap_used_mib.into(),
        scalars.disk_permille.into(),
        scalars.disk_used_mib.into(),
        scalars.net_in_bytes,
        scalars.net_out_bytes,
        scalars.load1_centi.into(),
        scalars.process_count.into(),
        scalars.uptime_s,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(at_s: u64, sum: f64, count: u64) -> Point {
        let mean = sum / count as f64;
        Point { at_ms: at_s * 1000, min: mean, max: mean, sum, count, last: mean }
    }

    #[test]
    fn the_step_keeps_the_points_below_the_limit() {
        for (range_s, step) in [(1, 1), (1000, 1), (3600, 5), (86_400, 120), (7 * 86_400, 900), (90 * 86_400, 14_400)] {
            assert_eq!(auto_step_s(range_s * 1000), step, "{range_s}");
        }
        assert_eq!(step_s(Some("60"), 3_600_000).expect("fits"), 60);
        assert!(step_s(Some("1"), 3_600_000).is_err());
        assert!(step_s(Some("soon"), 1000).is_err() && step_s(Some("0"), 1000).is_err());
    }

    proptest! {
        #[test]
        fn the_automatic_step_always_fits(range_ms in 1..MAX_RANGE_MS) {
            prop_assert!(range_ms.div_ceil(auto_step_s(range_ms) * 1000) <= MAX_POINTS);
        }
    }

    #[test]
    fn permille_become_percent() {
        let points = [Point { at_ms: 5, min: 100.0, max: 305.0, sum: 405.0, count: 2, last: 100.0 }];
        assert_eq!(rows(&points, Scale::Divide(10.0)), [(5, 20.25, 10.0, 30.5, 10.0)]);
        let empty = [Point { at_ms: 5, min: 0.0, max: 0.0, sum: 0.0, count: 0, last: 0.0 }];
        assert!(rows(&empty, Scale::Divide(10.0)).is_empty());
    }

    #[test]
    fn deltas_become_rates_by_the_time_they_cover() {
        // Every minute 6,000 bytes; the first has nothing before it, and one comes after a gap.
        let points: Vec<Point> = [0, 60, 120, 180, 3600, 3660].iter().map(|at| point(*at, 6000.0, 1)).collect();
        for (_, average, min, max, last) in rows(&points, Scale::Rate) {
            assert_eq!((average, min, max, last), (100.0, 100.0, 100.0, 100.0));
        }
        // Five-minute points of five rows each say the same.
        let points: Vec<Point> = [0, 300, 600].iter().map(|at| point(*at, 30_000.0, 5)).collect();
        assert!(rows(&points, Scale::Rate).iter().all(|row| (row.1, row.2) == (100.0, 100.0)));
        // A watched minute: sixty rows of a second between those of a minute.
        let points = [point(0, 6000.0, 1), point(60, 6000.0, 60), point(120, 6000.0, 1)];
        assert!(rows(&points, Scale::Rate).iter().skip(1).all(|row| row.1 == 100.0));
        assert_eq!(rows(&[point(0, 6000.0, 1)], Scale::Rate)[0].1, 100.0);
    }

    #[test]
    fn a_live_sample_names_its_figures() {
        let scalars = Scalars { cpu_permille: 123, net_in_bytes: 500, load1_centi: 250, ..Scalars::default() };
        let sample = StampedSample { scalars: Some(scalars), ..StampedSample::default() };
        let first = live_values(&sample, 0);
        assert_eq!((first["cpu_percent"].as_f64(), first["load1"].as_f64()), (Some(12.3), Some(2.5)));
        assert!(!first.contains_key("net_in_bytes_per_s"));
        assert_eq!(live_values(&sample, 500_000)["net_in_bytes_per_s"].as_f64(), Some(1000.0));
    }
}
