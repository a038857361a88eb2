//! Runs: the rows of one series key in order of time, column by column; and their roll-ups.

use super::super::{Point, Resolution, SCALARS};
use breeze_proto::id::DeviceId;
use std::sync::Arc;

/// Which of a file's two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Table {
    /// A run a device; the twelve scalars are its columns.
    Scalars,
    /// A run a device and name; one column.
    Named,
}

impl Table {
    pub(super) const BOTH: [Self; 2] = [Self::Scalars, Self::Named];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Scalars => 0,
            Self::Named => 1,
        }
    }

    /// Series in a run.
    pub(super) const fn series(self) -> usize {
        match self {
            Self::Scalars => SCALARS,
            Self::Named => 1,
        }
    }
}

/// Columns of a rolled series, after the column of counts that a run's series share.
pub(super) const AGGREGATES: usize = 4;

/// What a table's columns are: those of raw rows, or of roll-ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) table: Table,
    pub(super) resolution: Resolution,
}

impl Shape {
    pub(super) const fn is_rolled(self) -> bool {
        !matches!(self.resolution, Resolution::Raw)
    }

    pub(super) const fn columns(self) -> usize {
        if self.is_rolled() { 1 + AGGREGATES * self.table.series() } else { self.table.series() }
    }

    /// Whether a column holds integers; the others hold the bits of `f64`.
    pub(super) const fn is_integer(self, column: usize) -> bool {
        if self.is_rolled() { column == 0 } else { matches!(self.table, Table::Scalars) }
    }

    /// Rows at which a block is full. Roll-ups have few rows a device, so theirs are smaller.
    pub(super) const fn block_rows(self) -> usize {
        if self.is_rolled() { 512 } else { 2_048 }
    }

    /// The columns that the given series' points need.
    pub(super) fn columns_of(self, series: &[usize]) -> Vec<usize> {
        if !self.is_rolled() {
            return series.to_vec();
        }
        let aggregates = series.iter().flat_map(|&s| (0..AGGREGATES).map(move |a| 1 + AGGREGATES * s + a));
        std::iter::once(0).chain(aggregates).collect()
    }
}

/// A series key. Scalars have the empty name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) device: DeviceId,
    pub(super) name: Arc<str>,
}

/// Rows of one key. Columns are as long as `ts`, or empty where they were not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) key: Key,
    /// Milliseconds of the day.
    pub(super) ts: Vec<u32>,
    pub(super) cols: Vec<Vec<u64>>,
}

impl Run {
    pub(super) fn new(key: Key, columns: usize) -> Self {
        Self { key, ts: Vec::new(), cols: vec![Vec::new(); columns] }
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.ts.append(&mut other.ts);
        for (column, more) in self.cols.iter_mut().zip(&mut other.cols) {
            column.append(more);
        }
    }

    /// Orders by time; of rows with the same time the last stays.
    pub(super) fn normalise(&mut self) {
        if self.ts.is_sorted_by(|a, b| a < b) {
            return;
        }
        let mut order: Vec<usize> = (0..self.ts.len()).collect();
        order.sort_by_key(|&row| self.ts[row]);
        let mut kept: Vec<usize> = Vec::with_capacity(order.len());
        for row in order {
            match kept.last_mut() {
                Some(last) if self.ts[*last] == self.ts[row] => *last = row,
                Some(_) | None => kept.push(row),
            }
        }
        self.ts = kept.iter().map(|&row| self.ts[row]).collect();
        for column in self.cols.iter_mut().filter(|column| !column.is_empty()) {
            *column = kept.iter().map(|&row| column[row]).collect();
        }
    }

    /// Only the rows with `from <= ts < to`; `ts` is in order.
    pub(super) fn clip(&mut self, from: u32, to: u32) {
        let end = self.ts.partition_point(|&ts| ts < to);
        let start = self.ts.partition_point(|&ts| ts < from).min(end);
        self.ts = self.ts[start..end].to_vec();
        for column in self.cols.iter_mut().filter(|column| !column.is_empty()) {
            *column = column[start..end].to_vec();
        }
    }

    /// One series' value of a row as a point; `at_ms` is left as milliseconds of the day.
    pub(super) fn point(&self, shape: Shape, series: usize, row: usize) -> Point {
        let at_ms = u64::from(self.ts[row]);
        if shape.is_rolled() {
            let value = |aggregate: usize| f64::from_bits(self.cols[1 + AGGREGATES * series + aggregate][row]);
            Point { at_ms, min: value(0), max: value(1), sum: value(2), count: self.cols[0][row], last: value(3) }
        } else {
            let bits = self.cols[series][row];
            let value = if shape.is_integer(series) { bits as f64 } else { f64::from_bits(bits) };
            Point { at_ms, min: value, max: value, sum: value, count: 1, last: value }
        }
    }

    /// The next coarser run: points of `to` made of this run's, which have the given shape.
    pub(super) fn roll_up(&self, from: Shape, to: Resolution) -> Self {
        let shape = Shape { table: from.table, resolution: to };
        let width = to.millis() as u32;
        let mut out = Self::new(self.key.clone(), shape.columns());
        let mut start = 0;
        while start < self.ts.len() {
            let bucket = self.ts[start] / width;
            let len = self.ts[start..].partition_point(|&ts| ts / width == bucket);
            out.ts.push(bucket * width);
            for series in 0..from.table.series() {
                let mut point = self.point(from, series, start);
                (start + 1..start + len).for_each(|row| absorb(&mut point, &self.point(from, series, row)));
                if series == 0 {
                    out.cols[0].push(point.count);
                }
                for (aggregate, value) in [point.min, point.max, point.sum, point.last].into_iter().enumerate() {
                    out.cols[1 + AGGREGATES * series + aggregate].push(value.to_bits());
                }
            }
            start += len;
        }
        out
    }
}

/// Widens a point by a newer one.
pub(super) fn absorb(point: &mut Point, newer: &Point) {
    point.min = point.min.min(newer.min);
    point.max = point.max.max(newer.max);
    point.sum += newer.sum;
    point.count += newer.count;
    point.last = newer.last;
}
