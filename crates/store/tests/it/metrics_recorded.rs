//! Bytes a sample on series that a real machine gave.

#[path = "../../testdata/metrics_recorded.rs"]
mod recorded;

use crate::clickhouse_support;
use crate::metrics_support::{DAY, DAY_MS, at, device, open, scalar_query, token};
use breeze_store::metrics::{FrozenBatch, Metrics, Query, SCALARS, Selector};
use std::path::PathBuf;

const DEVICES: usize = 5;

#[tokio::test]
async fn recorded_series_take_at_most_two_bytes_a_sample_after_merging() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    let readings = recorded::readings(include_str!("../../testdata/metrics_recorded.csv"));
    // Each device has its own share of the time.
    let slices: Vec<_> = readings.chunks(readings.len() / DEVICES).take(DEVICES).collect();
    let mut samples = 0;
    for (index, _) in slices[0].iter().enumerate() {
        let share = |(number, slice): (usize, &&[recorded::Reading])| {
            recorded::heartbeat(device(number as u8), at(DAY, 0), index as u64, &slice[index], &slice[0])
        };
        let rows: Vec<_> = slices.iter().enumerate().map(share).collect();
        let cores: Vec<_> =
            rows.iter().zip(&slices).flat_map(|(row, slice)| recorded::cores(row, &slice[index])).collect();
        samples += (rows.len() * SCALARS + cores.len()) as u64;
        let position = index as u64;
        engine.append(&token(position, position, DAY), &FrozenBatch::encode(&rows, &cores)).await.expect("append");
        if index % 60 == 0 {
            engine.flush().await.expect("flush");
        }
    }
    engine.maintain(at(DAY + 2, 0)).await.expect("merge and seal");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir.path().join("segments"))
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 4, "raw rows, then three roll-ups");
    let raw_bytes = std::fs::metadata(&files[0]).expect("size").len();
    assert!(samples > 12_000);
    assert!(raw_bytes <= 2 * samples, "{raw_bytes} bytes for {samples} samples");
    assert!(engine.usage().await.expect("usage").bytes <= 2 * samples + 32_768, "with its roll-ups");

    let all = Selector::Scalars((0..SCALARS).collect());
    let query = Query { selector: all, ..scalar_query(3, at(DAY, 0), at(DAY, DAY_MS), 0) };
    let found = engine.query(&query).await.expect("query");
    for (scalar, series) in found.series.iter().enumerate().filter(|(scalar, _)| *scalar != 10) {
        let values: Vec<u64> = series.points.iter().map(|point| point.last as u64).collect();
        let recorded: Vec<u64> = slices[3].iter().map(|reading| reading.scalars[scalar]).collect();
        assert_eq!(values, recorded, "{}", series.name);
    }
}

#[tokio::test]
async fn recorded_series_take_at_most_0_8_bytes_a_sample_on_clickhouse() {
    let Some(url) = clickhouse_support::url() else { return };
    let config = clickhouse_support::config(&url);
    let engine = clickhouse_support::open(&config).await;
    let readings = recorded::readings(include_str!("../../testdata/metrics_recorded.csv"));
    let slices: Vec<_> = readings.chunks_exact(readings.len() / DEVICES).take(DEVICES).collect();
    let heartbeat = |number: usize, index: usize| {
        let slice = &slices[number];
        recorded::heartbeat(device(number as u8), at(DAY, 0), index as u64, &slice[index], &slice[0])
    };
    let rows: Vec<_> = (0..slices[0].len()).flat_map(|i| (0..DEVICES).map(move |n| (n, i))).collect();
    let rows: Vec<_> = rows.into_iter().map(|(number, index)| heartbeat(number, index)).collect();
    engine.append(&token(1, 1, DAY), &FrozenBatch::encode(&rows, &[])).await.expect("append");
    clickhouse_support::ask(&config, "OPTIMIZE TABLE heartbeats FINAL").await;
    let sum = "SELECT sum(data_compressed_bytes) FROM system.parts WHERE database = currentDatabase() \
               AND table = 'heartbeats' AND active";
    let bytes: usize = clickhouse_support::ask(&config, sum).await.parse().expect("a number");
    assert!(bytes > 0 && bytes * 10 <= rows.len() * SCALARS * 8, "{bytes} bytes for {} rows", rows.len());
}
