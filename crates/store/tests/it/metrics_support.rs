//! What the tests of the metrics engine share.

use breeze_proto::id::DeviceId;
use breeze_store::metrics::{
    Appended, EmbeddedMetrics, EmbeddedMetricsConfig, FrozenBatch, HeartbeatRow, InsertToken, Metrics, MetricsError,
    NamedRow, Query, SCALARS, Selector,
};
use std::path::Path;
use std::sync::Arc;

pub(crate) const DAY_MS: u64 = 86_400_000;
/// A day in 2025.
pub(crate) const DAY: u32 = 20_100;

pub(crate) fn at(day: u32, ms: u64) -> u64 {
    u64::from(day) * DAY_MS + ms
}

pub(crate) fn device(number: u8) -> DeviceId {
    DeviceId::from_slice(&[number; 16]).expect("16 bytes")
}

pub(crate) fn config(dir: &Path) -> EmbeddedMetricsConfig {
    EmbeddedMetricsConfig { reserve_bytes: 0, ..EmbeddedMetricsConfig::new(dir) }
}

pub(crate) fn open(dir: &Path) -> Arc<EmbeddedMetrics> {
    EmbeddedMetrics::open(config(dir)).expect("open")
}

pub(crate) fn token(first: u64, last: u64, day: u32) -> InsertToken {
    InsertToken { stream: "lane.local.0".into(), first, last, day }
}

pub(crate) fn heartbeat(number: u8, at_ms: u64, value: u64) -> HeartbeatRow {
    let mut scalars = [7; SCALARS];
    scalars[0] = value;
    scalars[6] = value.wrapping_mul(1_000_003);
    HeartbeatRow { device: device(number), at_ms, scalars }
}

pub(crate) fn named(number: u8, at_ms: u64, name: &str, value: f64) -> NamedRow {
    NamedRow { device: device(number), at_ms, name: name.into(), value }
}

/// One heartbeat, of `device(1)`.
pub(crate) fn batch(at_ms: u64, value: u64) -> FrozenBatch {
    FrozenBatch::encode(&[heartbeat(1, at_ms, value)], &[])
}

pub(crate) fn scalar_query(number: u8, from_ms: u64, to_ms: u64, step_ms: u64) -> Query {
    Query { device: device(number), selector: Selector::Scalars(vec![0, 6]), from_ms, to_ms, step_ms }
}

/// Appends as an owner of a lane does: again under the same token while the engine cannot follow.
pub(crate) async fn append(engine: &EmbeddedMetrics, token: &InsertToken, batch: &FrozenBatch) -> Appended {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        match engine.append(token, batch).await {
            Ok(appended) => return appended,
            Err(MetricsError::Unavailable(_)) if std::time::Instant::now() < deadline => tokio::task::yield_now().await,
            Err(error) => panic!("{token}: {error}"),
        }
    }
}
