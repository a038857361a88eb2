//! One moment of all three engines, as entries of a backup.

use super::archive;
use anyhow::Context as _;
use breeze_bus::embedded::{BusImage, EmbeddedBus, EmbeddedBusConfig};
use breeze_store::{
    metrics::embedded::{EmbeddedMetrics, EmbeddedMetricsConfig, MetricsImage},
    state::embedded::{self, EmbeddedState, StateImage},
};
use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long the state's writes may be held back. It takes milliseconds; on a disk that hangs the
/// backup fails rather than the system.
const HOLD: Duration = Duration::from_secs(10);

/// The engines that a backup is taken of.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) data: PathBuf,
    pub(crate) state: Arc<EmbeddedState>,
    pub(crate) bus: Arc<EmbeddedBus>,
    pub(crate) metrics: Arc<EmbeddedMetrics>,
}

/// What they hold at one moment.
#[derive(Debug)]
pub(super) struct Images {
    data: PathBuf,
    state: StateImage,
    bus: BusImage,
    metrics: MetricsImage,
}

impl Live {
    /// Opens the engines of a server that does not run. No upkeep is done: it would go by settings that
    /// are not known here.
    pub(super) async fn open(data: &Path) -> anyhow::Result<Self> {
        let config = embedded::Config { reserve_bytes: 0, ..embedded::Config::default() };
        let state = EmbeddedState::open(data.join("state"), config).await.context("state")?;
        let bus = EmbeddedBusConfig { reserve_bytes: 0, ..EmbeddedBusConfig::new(data.join("bus")) };
        let metrics = EmbeddedMetricsConfig { reserve_bytes: 0, ..EmbeddedMetricsConfig::new(data.join("metrics")) };
        let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
            Ok((EmbeddedBus::open(bus).context("bus")?, EmbeddedMetrics::open(metrics).context("metrics")?))
        });
        let (bus, metrics) = opened.await??;
        Ok(Self { data: data.to_owned(), state: Arc::new(state), bus: Arc::new(bus), metrics })
    }

    /// Lets go of what [`Live::open`] opened.
    pub(super) async fn close(self) {
        self.bus.close().await;
        self.state.close().await;
    }

    /// Takes the images such that they fit together.
    ///
    /// While the state holds its writes back, no lane moves its recorded boundary and no message is
    /// marked as handed over. The bus is looked at next, then the metrics: so whatever was trimmed from
    /// the bus is in the metrics, and whatever is in the metrics was recorded in the state before. A
    /// system that starts from them is one that was killed at that moment.
    pub(super) async fn take(&self) -> anyhow::Result<Images> {
        // Only makes the log that is read back shorter.
        if let Err(error) = self.metrics.flush().await {
            tracing::warn!(%error, "metrics were not flushed before the backup");
        }
        let frozen = self.state.freeze(HOLD).await.context("state")?;
        let bus = self.bus.image();
        let metrics = self.metrics.image().await.context("metrics")?;
        let state = frozen.thaw().context("state")?;
        Ok(Images { data: self.data.clone(), state, bus, metrics })
    }
}

impl Images {
    /// Writes everything; blocks. What belongs to this machine alone (the relay's connection keys, the
    /// control socket) and the keys are left out.
    pub(super) fn write_to<W: Write>(&self, archive: &mut archive::Writer<W>) -> anyhow::Result<()> {
        match File::open(self.data.join("ports.json")) {
            Ok(mut ports) => drop(archive.copy("ports.json", &mut ports)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("ports.json"),
        }
        archive.entry("state.image", |out| self.state.write_to(out).map(drop)).context("state")?;
        let mut file =
            |path: &str, len: u64, content: &mut dyn Read| archive.copy_whole(&format!("bus/{path}"), len, content);
        self.bus.write_to(&mut file).context("bus")?;
        let mut file =
            |path: &str, len: u64, content: &mut dyn Read| archive.copy_whole(&format!("metrics/{path}"), len, content);
        self.metrics.write_to(&mut file).context("metrics")
    }
}
