//! Reading one device: choosing the resolution, and merging memory and segments day by day.

use super::super::plan;
use super::super::{
    MAX_POINTS, MAX_SERIES, MetricsError, Point, Query, QueryResult, Resolution, SCALAR_NAMES, Selector, Series,
};
use super::memtable::DAY_MS;
use super::run::{Run, Shape, Table, absorb};
use super::segment::Segment;
use super::upkeep::day_of;
use super::{DayFiles, Inner, Shared};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a query reads, after its checks.
struct Plan<'a> {
    query: &'a Query,
    table: Table,
    /// Columns of the table, in the order of the answer.
    series: Vec<usize>,
    prefix: &'a str,
    resolution: Resolution,
    /// Width of a point; 0: raw rows.
    step_ms: u64,
    from_ms: u64,
    to_ms: u64,
}

/// One day's share, held while it is read.
struct Day {
    day: u32,
    files: DayFiles,
    /// Rows in memory, oldest first.
    runs: Vec<Run>,
}

/// Points by name; scalars under their place in the answer.
#[derive(Default)]
struct Answer {
    series: BTreeMap<(usize, Arc<str>), Vec<Point>>,
    is_truncated: bool,
}

impl Shared {
    pub(super) fn query(&self, query: &Query) -> Result<QueryResult, MetricsError> {
        let (plan, days) = {
            let inner = self.inner.read();
            let plan = Plan::new(query, &inner)?;
            let days = plan.days(&inner);
            (plan, days)
        };
        let mut answer = Answer::default();
        if plan.table == Table::Scalars {
            for (place, &scalar) in plan.series.iter().enumerate() {
                answer.series.insert((place, Arc::from(SCALAR_NAMES[scalar])), Vec::new());
            }
        }
        for day in days {
            plan.read_day(day, &mut answer)?;
            // All scalars have the same rows, so later days add nothing to any of them.
            if answer.is_truncated && plan.table == Table::Scalars {
                break;
            }
        }
        let series = answer.series.into_iter().map(|((_, name), points)| Series { name: name.to_string(), points });
        Ok(QueryResult {
            resolution: plan.resolution,
            series: series.collect(),
            truncated: answer.is_truncated,
            missing_regions: Vec::new(),
        })
    }
}

impl<'a> Plan<'a> {
    fn new(query: &'a Query, inner: &Inner) -> Result<Self, MetricsError> {
        let plan::Plan { resolution, step_ms, from_ms, to_ms } = plan::Plan::new(query, inner.floors)?;
        let (table, series, prefix) = match &query.selector {
            Selector::Scalars(scalars) => (Table::Scalars, scalars.clone(), ""),
            Selector::Named { prefix } => (Table::Named, vec![0], prefix.as_str()),
        };
        Ok(Self { query, table, series, prefix, resolution, step_ms, from_ms, to_ms })
    }

    /// The days in range that have anything, with what is in memory copied.
    fn days(&self, inner: &Inner) -> Vec<Day> {
        let range = day_of(self.from_ms)..=day_of(self.to_ms - 1);
        let mems = || inner.frozen.as_deref().map(|frozen| &frozen.mem).into_iter().chain([&inner.active]);
        let mut days: BTreeMap<u32, Day> = BTreeMap::new();
        let empty = |day| Day { day, files: DayFiles::default(), runs: Vec::new() };
        for (&day, files) in inner.days.range(range.clone()) {
            days.entry(day).or_insert_with(|| empty(day)).files = files.clone();
        }
        for mem in mems() {
            for (&day, rows) in mem.days.range(range.clone()) {
                let runs = rows.runs(self.table, self.query.device, self.prefix);
                if !runs.is_empty() {
                    days.entry(day).or_insert_with(|| empty(day)).runs.extend(runs);
                }
            }
        }
        days.into_values().collect()
    }

    fn read_day(&self, day: Day, answer: &mut Answer) -> Result<(), MetricsError> {
        let start_ms = u64::from(day.day) * DAY_MS;
        let in_day = |at_ms: u64| at_ms.saturating_sub(start_ms).min(DAY_MS) as u32;
        let range = (in_day(self.from_ms), in_day(self.to_ms));
        let rollup = match self.resolution {
            Resolution::Raw => None,
            Resolution::FiveMinutes => day.files.rollups[0].clone(),
            Resolution::Hour => day.files.rollups[1].clone(),
            Resolution::Day => day.files.rollups[2].clone(),
        };
        let usable = rollup.filter(|_| day.files.is_sealed && day.runs.is_empty());
        let (resolution, files): (_, &[Arc<Segment>]) = match &usable {
            Some(rollup) => (self.resolution, std::slice::from_ref(rollup)),
            None => (Resolution::Raw, &day.files.segments),
        };
        let mut runs: BTreeMap<Arc<str>, Run> = BTreeMap::new();
        let mut add = |run: Run| match runs.get_mut(&run.key.name) {
            Some(all) => all.append(run),
            None => {
                runs.insert(Arc::clone(&run.key.name), run);
            }
        };
        for file in files {
            file.read_device(self.table, self.query.device, range, &self.series, self.prefix)?
                .into_iter()
                .for_each(&mut add);
        }
        for mut run in day.runs {
            run.clip(range.0, range.1);
            (0..run.cols.len())
                .filter(|column| !self.series.contains(column))
                .for_each(|column| run.cols[column].clear());
            if !run.ts.is_empty() {
                add(run);
            }
        }
        let shape = Shape { table: self.table, resolution };
        for mut run in runs.into_values() {
            run.normalise();
            self.add_points(&run, shape, start_ms, answer);
        }
        Ok(())
    }

    fn add_points(&self, run: &Run, shape: Shape, start_ms: u64, answer: &mut Answer) {
        for (place, &series) in self.series.iter().enumerate() {
            let (place, name) = match self.table {
                Table::Scalars => (place, Arc::from(SCALAR_NAMES[series])),
                Table::Named => (0, Arc::clone(&run.key.name)),
            };
            let points = answer.series.entry((place, name)).or_default();
            for row in 0..run.ts.len() {
                let mut point = run.point(shape, series, row);
                point.at_ms += start_ms;
                if let Some(step) = point.at_ms.checked_div(self.step_ms) {
                    point.at_ms = step * self.step_ms;
                } else if points.len() == MAX_POINTS {
                    answer.is_truncated = true;
                    break;
                }
                match points.last_mut() {
                    Some(last) if self.step_ms > 0 && last.at_ms == point.at_ms => absorb(last, &point),
                    Some(_) | None => points.push(point),
                }
            }
        }
        // The first names in order stay. One that was put out comes after all that are in, so it is
        // put out again whatever a later day adds.
        while answer.series.len() > MAX_SERIES {
            answer.series.pop_last();
            answer.is_truncated = true;
        }
    }
}
