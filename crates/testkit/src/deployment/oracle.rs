//! Whether what was acknowledged is stored, once: by direct questions to ClickHouse, past Breeze's own reading.
//!
//! Raw rows alone do not tell, since the same key again replaces a row sooner or later; the roll-ups add up
//! every row that was ever inserted, and so remember a second insert for ever.

use super::{DATABASE, Deployment, fleet::Book};
use anyhow::{Context, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Differences that a failure shows.
const SHOWN: usize = 8;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Heartbeats that were acknowledged, all devices together.
    pub acknowledged: usize,
    /// Rows of the same devices; more, since an acknowledgement may be lost.
    pub stored: usize,
}

/// Waits until every acknowledged heartbeat of devices at home in `region` is stored there; how long that took.
///
/// # Errors
/// If it takes longer than `patience`, with what is missing.
pub fn wait_stored(
    deployment: &Deployment,
    region: &str,
    acknowledged: &Book,
    patience: Duration,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    loop {
        // A server that is about to be started again does not answer yet.
        let missing = rows(deployment, region).map(|rows| missing(acknowledged, &rows));
        match missing {
            Ok(missing) if missing.is_empty() => return Ok(started.elapsed()),
            Ok(missing) if started.elapsed() > patience => bail!(
                "{region}: {} acknowledged heartbeats are not stored after {patience:?}, such as {:?}",
                missing.len(),
                &missing[..missing.len().min(SHOWN)]
            ),
            Err(error) if started.elapsed() > patience => return Err(error),
            Ok(_) | Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Waits until nothing changes any more, then checks everything: stored, once, in its home alone, and once in
/// the roll-ups. To be called when no agent sends any more.
///
/// # Errors
/// What is wrong.
pub fn check(
    deployment: &Deployment,
    region: &str,
    acknowledged: &Book,
    patience: Duration,
) -> anyhow::Result<Verdict> {
    wait_stored(deployment, region, acknowledged, patience)?;
    let devices: BTreeSet<&String> = acknowledged.keys().collect();
    let until = Instant::now() + patience;
    // What was sent and never acknowledged may still be on its way.
    let wrong = loop {
        let rows = rows(deployment, region)?;
        let wrong = once(deployment, region, &devices, &rows)?;
        if wrong.is_empty() {
            ensure_at_home(deployment, region, &devices)?;
            let stored = devices.iter().filter_map(|device| rows.get(*device)).map(BTreeMap::len).sum();
            return Ok(Verdict { acknowledged: acknowledged.values().map(BTreeSet::len).sum(), stored });
        }
        if Instant::now() > until {
            break wrong;
        }
        std::thread::sleep(LOOK_AGAIN);
    };
    bail!("{region}: {} devices are wrong, such as {:?}", wrong.len(), &wrong[..wrong.len().min(SHOWN)])
}

/// By device and number, how many raw rows there are.
type Rows = BTreeMap<String, BTreeMap<u32, u64>>;

fn rows(deployment: &Deployment, region: &str) -> anyhow::Result<Rows> {
    let sql = "SELECT lower(hex(device)), process_count, count() FROM heartbeats GROUP BY device, process_count";
    let mut rows = Rows::new();
    for line in ask(deployment, region, sql)?.lines() {
        let mut words = line.split('\t');
        let (Some(device), Some(number), Some(count)) = (words.next(), words.next(), words.next()) else {
            bail!("{line:?}");
        };
        rows.entry(device.to_owned()).or_default().insert(number.parse()?, count.parse()?);
    }
    Ok(rows)
}

fn missing(acknowledged: &Book, rows: &Rows) -> Vec<(String, u32)> {
    let is_stored = |device: &String, number: &u32| rows.get(device).is_some_and(|rows| rows.contains_key(number));
    let all = acknowledged.iter().flat_map(|(device, numbers)| numbers.iter().map(move |number| (device, number)));
    all.filter(|(device, number)| !is_stored(device, number))
        .map(|(device, number)| (device.clone(), *number))
        .collect()
}

/// What is there more than once, or differs between rows and roll-ups.
fn once(
    deployment: &Deployment,
    region: &str,
    devices: &BTreeSet<&String>,
    rows: &Rows,
) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for table in ["heartbeats_5m", "heartbeats_1h", "heartbeats_1d"] {
        let sql = format!("SELECT lower(hex(device)), sum(n) FROM {table} GROUP BY device");
        let text = ask(deployment, region, &sql)?;
        let sums: BTreeMap<&str, u64> = text
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter_map(|(d, n)| Some((d, n.parse().ok()?)))
            .collect();
        for device in devices {
            let distinct = rows.get(*device).map_or(0, BTreeMap::len) as u64;
            let rolled = sums.get(device.as_str()).copied().unwrap_or_default();
            if distinct != rolled {
                wrong.push(format!("{device}: {distinct} heartbeats, {rolled} in {table}"));
            }
        }
    }
    for (device, numbers) in rows.iter().filter(|(device, _)| devices.contains(device)) {
        let doubled: Vec<&u32> = numbers.iter().filter(|(_, count)| **count != 1).map(|(number, _)| number).collect();
        if !doubled.is_empty() {
            wrong.push(format!("{device}: stored more than once: {doubled:?}"));
        }
    }
    Ok(wrong)
}

fn ensure_at_home(deployment: &Deployment, home: &str, devices: &BTreeSet<&String>) -> anyhow::Result<()> {
    for region in deployment.regions.iter().filter(|region| region.name != home) {
        let strangers: Vec<String> =
            rows(deployment, &region.name)?.into_keys().filter(|device| devices.contains(device)).collect();
        ensure!(strangers.is_empty(), "devices of {home} are stored in {}: {strangers:?}", region.name);
    }
    Ok(())
}

fn ask(deployment: &Deployment, region: &str, sql: &str) -> anyhow::Result<String> {
    let found = deployment.regions.iter().find(|candidate| candidate.name == region);
    found.with_context(|| format!("no region {region}"))?.clickhouse.query(DATABASE, sql)
}
