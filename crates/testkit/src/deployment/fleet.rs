//! Agents under load in one home region, and the book of what was acknowledged to them.

use super::Deployment;
use crate::servers::Process;
use anyhow::{Context, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long a load may hold; it is killed before.
const HOLD_SECONDS: &str = "7200";
/// How long all agents may take from enrolment to their first acknowledgement.
const FIRST_PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// By device (32 hex digits), the numbers of heartbeats; each is stored as `process_count`.
pub type Book = BTreeMap<String, BTreeSet<u32>>;

/// A running load generator.
#[derive(Debug)]
pub struct Fleet {
    pub process: Process,
    /// Home of all its devices.
    pub region: String,
    pub count: usize,
    ledger: PathBuf,
}

impl Fleet {
    /// Enrols `count` devices of the region, connects them, and waits until each was acknowledged once. They
    /// heartbeat as often as the deployment says.
    ///
    /// # Errors
    /// If that does not happen; with the generator's last words.
    pub fn start(deployment: &Deployment, region: &str, count: usize) -> anyhow::Result<Self> {
        Self::start_named(deployment, &format!("fleet {region}"), region, count)
    }

    /// As [`Fleet::start`], one of several of a region.
    ///
    /// # Errors
    /// As there.
    pub fn start_named(deployment: &Deployment, name: &str, region: &str, count: usize) -> anyhow::Result<Self> {
        let file = name.replace(' ', "-");
        let ledger = deployment.folder.join(format!("{file}.ledger"));
        let _absent = fs::remove_file(&ledger);
        let interval = deployment.options.heartbeat_interval_s.to_string();
        let mut words = vec![deployment.program("breeze-loadtest").into_os_string(), "agents".into()];
        words.extend(
            ["--no-api", "--seconds", HOLD_SECONDS, "--interval", &interval, "--region", region].map(Into::into),
        );
        words.extend(["--count".into(), count.to_string().into()]);
        words.extend(["--ready-file".into(), deployment.ready_file.clone().into()]);
        words.extend(["--ledger".into(), ledger.clone().into()]);
        if deployment.sites.are_apart() {
            words.extend(["--bind".into(), "0.0.0.0".into()]);
        }
        let log = deployment.folder.join(format!("{file}.log"));
        let mut process = Process::new(name, words, &log);
        process.start()?;
        let mut fleet = Self { process, region: region.to_owned(), count, ledger };
        fleet.wait_for(&Book::new(), 1, FIRST_PATIENCE)?;
        Ok(fleet)
    }

    /// Everything that was acknowledged so far. A line that is not whole yet is left out.
    ///
    /// # Errors
    /// If the ledger is not what the generator writes.
    pub fn acknowledged(&self) -> anyhow::Result<Book> {
        let text = fs::read_to_string(&self.ledger).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut book = Book::new();
        for line in whole.lines() {
            let (device, value) = line.split_once(' ').with_context(|| format!("ledger: {line:?}"))?;
            let device = device.replace('-', "").to_ascii_lowercase();
            ensure!(device.len() == 32, "ledger: {line:?}");
            book.entry(device).or_default().insert(value.parse()?);
        }
        Ok(book)
    }

    /// Waits until every agent got `more` acknowledgements than are in `before`; how long that took.
    ///
    /// # Errors
    /// If it takes longer than `patience`, or the generator ends.
    pub fn wait_for(&mut self, before: &Book, more: usize, patience: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        loop {
            let now = self.acknowledged()?;
            let had = |device| before.get(device).map_or(0, BTreeSet::len);
            let ahead = now.iter().filter(|(device, values)| values.len() >= had(*device) + more).count();
            if ahead == self.count {
                return Ok(started.elapsed());
            }
            if !self.process.is_running() {
                bail!("the load of {} ended: {}", self.region, self.process.last_words());
            }
            if started.elapsed() > patience {
                bail!(
                    "{ahead} of {} agents of {} were acknowledged {more} more within {patience:?}: {}",
                    self.count,
                    self.region,
                    self.process.last_words()
                );
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
