//! The load generator, and the ledger of what the server acknowledged to it.

use super::{
    System,
    books::Books,
    process::{Process, eventually, program},
};
use anyhow::{Context, ensure};
use breeze_proto::id::DeviceId;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

/// Longer than any test: it is stopped by a signal.
const SECONDS: &str = "3600";

/// `breeze-loadtest agents`, running.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) process: Process,
    ledger: PathBuf,
    log: PathBuf,
    count: usize,
}

impl Load {
    /// `count` agents that heartbeat each second.
    pub(crate) fn start(system: &System, count: usize) -> anyhow::Result<Self> {
        let ledger = system.folder.path().join("ledger");
        let log = system.folder.path().join("load.log");
        let mut command = Command::new(program("breeze-loadtest"));
        command.args(["agents", "--interval", "1", "--seconds", SECONDS, "--no-api", "--count", &count.to_string()]);
        command.arg("--ready-file").arg(system.ready_file()).arg("--ledger").arg(&ledger);
        Ok(Self { process: Process::start(&mut command, &log)?, ledger, log, count })
    }

    /// What was acknowledged, by device. A line that is not whole yet is left out.
    pub(crate) fn acknowledged(&self) -> anyhow::Result<BTreeMap<DeviceId, Vec<u32>>> {
        let text = fs::read_to_string(&self.ledger)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut acknowledged: BTreeMap<DeviceId, Vec<u32>> = BTreeMap::new();
        for line in whole.lines() {
            let (device, value) = line.split_once(' ').with_context(|| format!("ledger: {line:?}"))?;
            let device = device.parse().ok().with_context(|| format!("ledger: {line:?}"))?;
            acknowledged.entry(device).or_default().push(value.parse()?);
        }
        Ok(acknowledged)
    }

    /// Until every agent got `more` acknowledgements from now on. Fails when the generator ended.
    pub(crate) async fn everybody_is_acknowledged(&mut self, more: usize) -> anyhow::Result<()> {
        let before = self.acknowledged().unwrap_or_default();
        let goes_on = eventually("every agent is acknowledged", || std::future::ready(self.look(&before, more)));
        ensure!(goes_on.await?, "the load ended: {}", fs::read_to_string(&self.log).unwrap_or_default());
        Ok(())
    }

    /// `true` once every agent has `more` than `before`, `false` if the generator ended.
    fn look(&mut self, before: &BTreeMap<DeviceId, Vec<u32>>, more: usize) -> anyhow::Result<Option<bool>> {
        if self.process.has_ended() {
            return Ok(Some(false));
        }
        let now = self.acknowledged()?;
        let had = |device| before.get(device).map_or(0, Vec::len);
        let behind = now.iter().filter(|(device, values)| values.len() < had(*device) + more).count();
        Ok((now.len() == self.count && behind == 0).then_some(true))
    }

    /// Kills the generator, and checks the ledger against the books: whatever was acknowledged is
    /// stored once, and nothing before it is missing. How many acknowledgements there were.
    pub(crate) async fn check_against(&mut self, books: &Books) -> anyhow::Result<usize> {
        self.process.kill_9();
        let mut total = 0;
        for (device, acknowledged) in self.acknowledged()? {
            let stored = books.counts(device).await?;
            let distinct: BTreeSet<u32> = stored.iter().copied().collect();
            ensure!(distinct.len() == stored.len(), "{device}: a heartbeat is stored twice: {stored:?}");
            let newest = acknowledged.iter().copied().max().unwrap_or_default();
            let missing: Vec<u32> = (1..=newest).filter(|value| !distinct.contains(value)).collect();
            ensure!(missing.is_empty(), "{device}: {missing:?} are missing, acknowledged were {acknowledged:?}");
            total += acknowledged.len();
        }
        Ok(total)
    }
}
