//! What a query asks for, checked and widened: the part that every engine must decide alike.

use super::{MAX_POINTS, MetricsError, Query, Resolution, SCALARS, Selector};

/// A day in milliseconds.
pub(super) const DAY_MS: u64 = 86_400_000;
/// The widest step: a century.
const MAX_STEP_MS: u64 = 36_525 * DAY_MS;

/// A query after its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) resolution: Resolution,
    /// Width of a point; 0: raw rows.
    pub(super) step_ms: u64,
    /// Inclusive, widened to whole points.
    pub(super) from_ms: u64,
    /// Exclusive, likewise.
    pub(super) to_ms: u64,
}

impl Plan {
    /// Chooses the resolution. `floors` are the first days that are kept of raw rows and of the roll-ups
    /// of 5 minutes, 1 hour and 1 day.
    pub(super) fn new(query: &Query, floors: [u32; 4]) -> Result<Self, MetricsError> {
        let invalid = |what: &str| MetricsError::Invalid(what.to_owned());
        let Query { from_ms, to_ms, step_ms, .. } = *query;
        if from_ms >= to_ms {
            return Err(invalid("the range is empty"));
        }
        if step_ms > MAX_STEP_MS {
            return Err(invalid("the step is too wide"));
        }
        if step_ms > 0 && (to_ms - from_ms) / step_ms > MAX_POINTS as u64 {
            return Err(invalid("more points than a query may have; widen the step"));
        }
        if let Selector::Scalars(scalars) = &query.selector
            && (scalars.len() > SCALARS || scalars.iter().any(|&scalar| scalar >= SCALARS))
        {
            return Err(invalid("there are twelve scalars, 0 to 11"));
        }
        let is_kept = |resolution: &Resolution| day_of(from_ms) >= floors[index(*resolution)];
        let resolution = resolution_for(step_ms, is_kept);
        let step_ms =
            if resolution == Resolution::Raw { step_ms } else { step_ms.next_multiple_of(resolution.millis()) };
        let (from_ms, to_ms) = match step_ms {
            0 => (from_ms, to_ms),
            step => (from_ms / step * step, to_ms.checked_next_multiple_of(step).unwrap_or(to_ms)),
        };
        Ok(Self { resolution, step_ms, from_ms, to_ms })
    }
}

/// Days since the Unix epoch.
pub(super) fn day_of(at_ms: u64) -> u32 {
    u32::try_from(at_ms / DAY_MS).unwrap_or(u32::MAX)
}

/// A resolution's place among raw, 5 minutes, 1 hour and 1 day.
pub(super) const fn index(resolution: Resolution) -> usize {
    match resolution {
        Resolution::Raw => 0,
        Resolution::FiveMinutes => 1,
        Resolution::Hour => 2,
        Resolution::Day => 3,
    }
}

/// The coarsest resolution that divides the step and is kept for the range; else the finest kept.
fn resolution_for(step_ms: u64, is_kept: impl Fn(&Resolution) -> bool) -> Resolution {
    if step_ms == 0 {
        return Resolution::Raw;
    }
    let coarse_first = [Resolution::Day, Resolution::Hour, Resolution::FiveMinutes, Resolution::Raw];
    let divides =
        |resolution: &Resolution| *resolution == Resolution::Raw || step_ms.is_multiple_of(resolution.millis());
    let exact = coarse_first.iter().find(|resolution| divides(resolution) && is_kept(resolution));
    *exact.or_else(|| coarse_first.iter().rev().find(|resolution| is_kept(resolution))).unwrap_or(&Resolution::Day)
}
