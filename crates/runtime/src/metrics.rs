//! Counters and gauges of the process, in Prometheus' text format. Names are
//! `breeze_<name>_<unit>[_total]`; docs/metrics.md lists them all.

mod process;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;

/// The type of what [`render`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

static INSTALLED: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the process's recorder, once; later calls give the same one. Histograms are summaries.
///
/// # Errors
/// If another recorder was installed by somebody else.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    INSTALLED
        .get_or_init(|| {
            process::started();
            PrometheusBuilder::new().install_recorder().ok()
        })
        .clone()
        .ok_or_else(|| anyhow::anyhow!("another metrics recorder is installed in this process"))
}

/// Everything that is counted, and the process itself, as text.
///
/// # Errors
/// As [`install`].
pub fn render() -> anyhow::Result<String> {
    let mut text = install()?.render();
    process::render(&mut text);
    Ok(text)
}

/// Folds histograms: to be called every few seconds, whoever reads or not.
pub fn upkeep() {
    if let Some(Some(recorder)) = INSTALLED.get() {
        recorder.run_upkeep();
    }
}
