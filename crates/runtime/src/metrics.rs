//! Counters and gauges of the process, in Prometheus' text format. Names are
//! `breeze_<name>_<unit>[_total]`.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;

static INSTALLED: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the process's recorder, once; later calls give the same one. Histograms are summaries.
///
/// # Errors
/// If another recorder was installed by somebody else.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    INSTALLED
        .get_or_init(|| PrometheusBuilder::new().install_recorder().ok())
        .clone()
        .ok_or_else(|| anyhow::anyhow!("another metrics recorder is installed in this process"))
}
