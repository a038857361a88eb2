//! What the stopped server has stored, read with its own libraries.

use anyhow::{Context, ensure};
use breeze_proto::{id::DeviceId, shard::LaneCount, v1::ReceivedLane};
use breeze_store::{
    metrics::{
        Metrics, Query, SCALARS, Selector,
        embedded::{EmbeddedMetrics, EmbeddedMetricsConfig},
    },
    model::lane::LaneRecord,
    state::{
        State,
        embedded::{Config, EmbeddedState},
    },
};
use std::{path::Path, sync::Arc};

/// Of `breeze up`.
const REGION: &str = "local";
const LANES: u16 = 4;
/// Index of `process_count`, in which the load generator counts heartbeats.
const PROCESS_COUNT: usize = 9;

/// The stores of a server that was stopped.
#[derive(Debug)]
pub(crate) struct Books {
    metrics: Arc<EmbeddedMetrics>,
    received: Vec<(DeviceId, Vec<ReceivedLane>)>,
}

/// A stored heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) at_ms: u64,
    pub(crate) scalars: [f64; SCALARS],
}

impl Books {
    /// Opens the data folder of a server that was stopped.
    pub(crate) async fn open(data: &Path) -> anyhow::Result<Self> {
        let metrics = EmbeddedMetrics::open(EmbeddedMetricsConfig::new(data.join("metrics")))?;
        let embedded = EmbeddedState::open(data.join("state"), Config::default()).await?;
        let state: Arc<dyn State> = Arc::new(embedded);
        let mut received = Vec::new();
        for lane in LaneCount::new(LANES).context("lanes")?.lanes() {
            let recovered = LaneRecord::new(Arc::clone(&state), REGION, lane).recover().await?;
            let boundary = recovered.boundary;
            ensure!(boundary.applied_through == boundary.last, "lane {lane:?} stopped half-way: {boundary:?}");
            for device in recovered.received {
                received.push((DeviceId::from_slice(&device.device_id).context("a device id")?, device.lanes));
            }
        }
        Ok(Self { metrics, received })
    }

    /// All heartbeats of a device in order of time.
    pub(crate) async fn rows(&self, device: DeviceId) -> anyhow::Result<Vec<Row>> {
        let selector = Selector::Scalars((0..SCALARS).collect());
        let query = Query { device, selector, from_ms: 0, to_ms: u64::MAX / 2, step_ms: 0 };
        let result = self.metrics.query(&query).await?;
        ensure!(!result.truncated, "more rows than one query gives");
        let count = result.series.first().map_or(0, |series| series.points.len());
        let row = |index: usize| {
            let mut scalars = [0.0; SCALARS];
            for (scalar, series) in scalars.iter_mut().zip(&result.series) {
                *scalar = series.points[index].last;
            }
            Row { at_ms: result.series[0].points[index].at_ms, scalars }
        };
        Ok((0..count).map(row).collect())
    }

    /// What the load generator counted, in order of time.
    pub(crate) async fn counts(&self, device: DeviceId) -> anyhow::Result<Vec<u32>> {
        Ok(self.rows(device).await?.iter().map(|row| row.scalars[PROCESS_COUNT] as u32).collect())
    }

    /// That every number which the device ever gave has arrived, and each is one row.
    pub(crate) async fn check_whole(&self, device: DeviceId) -> anyhow::Result<Vec<Row>> {
        let rows = self.rows(device).await?;
        let lanes = self.received.iter().find(|(id, _)| *id == device).map(|(_, lanes)| lanes.as_slice());
        let mut numbers = 0;
        for lane in lanes.unwrap_or_default() {
            ensure!(lane.bounds.len() == 2 && lane.bounds[0] == 1, "numbers are missing: {lane:?}");
            numbers += lane.bounds[1];
        }
        ensure!(numbers == rows.len() as u64, "{numbers} numbers were received, {} rows are stored", rows.len());
        Ok(rows)
    }
}

/// The longest time without a heartbeat, in milliseconds.
pub(crate) fn longest_gap_ms(rows: &[Row]) -> u64 {
    rows.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).max().unwrap_or_default()
}
