//! Merging segments of one day into one, oldest first, and making the day's roll-ups on the way.

use super::super::{MetricsError, Resolution};
use super::run::{Run, Shape, Table};
use super::segment::{Cursor, Segment, SegmentWriter};
use std::path::Path;
use std::sync::Arc;

/// The roll-ups of a day, finest first; each is made from the one before.
pub(super) const ROLLUPS: [Resolution; 3] = [Resolution::FiveMinutes, Resolution::Hour, Resolution::Day];

/// What [`merge`] wrote.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) raw: Segment,
    /// In the order of [`ROLLUPS`], where they were asked for.
    pub(super) rollups: Vec<Segment>,
}

/// Merges `sources`, of which later ones win, into a segment `ids[0]`, and where `ids` has three more
/// into roll-ups with these.
pub(super) fn merge(folder: &Path, day: u32, sources: &[Arc<Segment>], ids: &[u64]) -> Result<Merged, MetricsError> {
    let (raw_id, rollup_ids) = ids.split_first().ok_or_else(|| MetricsError::Invalid("no id to merge into".into()))?;
    let mut raw = SegmentWriter::create(folder, *raw_id, day, Resolution::Raw)?;
    let mut rollups = Vec::new();
    for (&id, resolution) in rollup_ids.iter().zip(ROLLUPS) {
        rollups.push(SegmentWriter::create(folder, id, day, resolution)?);
    }
    for table in Table::BOTH {
        let mut cursors = Vec::new();
        for source in sources {
            let mut cursor = source.cursor(table)?;
            let head = cursor.next_run()?;
            cursors.push((cursor, head));
        }
        while let Some(run) = next_merged(&mut cursors)? {
            let mut rolled = None;
            let mut from = Shape { table, resolution: Resolution::Raw };
            for (writer, to) in rollups.iter_mut().zip(ROLLUPS) {
                let coarser = rolled.as_ref().unwrap_or(&run).roll_up(from, to);
                writer.push(table, coarser.clone())?;
                rolled = Some(coarser);
                from.resolution = to;
            }
            raw.push(table, run)?;
        }
    }
    let rollups = rollups.into_iter().map(SegmentWriter::finish).collect::<Result<_, _>>()?;
    Ok(Merged { raw: raw.finish()?, rollups })
}

/// The least key's rows of all cursors.
fn next_merged(cursors: &mut [(Cursor<'_>, Option<Run>)]) -> Result<Option<Run>, MetricsError> {
    let least = cursors.iter().filter_map(|(_, head)| head.as_ref().map(|run| &run.key)).min().cloned();
    let Some(key) = least else { return Ok(None) };
    let mut merged: Option<Run> = None;
    for (cursor, head) in cursors {
        if head.as_ref().is_some_and(|run| run.key == key) {
            let next = cursor.next_run()?;
            let Some(run) = std::mem::replace(head, next) else { continue };
            match &mut merged {
                Some(all) => all.append(run),
                None => merged = Some(run),
            }
        }
    }
    if let Some(run) = &mut merged {
        run.normalise();
    }
    Ok(merged)
}
