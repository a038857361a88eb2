//! What a process costs, as the kernel counts it: CPU by group of threads, and memory.

use anyhow::Context;
use std::{collections::BTreeMap, fs, str::FromStr};

/// Ticks a second of `/proc/<pid>/stat`, fixed on Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of a process at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cost {
    /// CPU seconds of the whole process, threads that have ended included.
    pub(crate) total_s: f64,
    /// CPU seconds by the threads' group: their name up to the first digit or hyphen. What ended with
    /// its thread is missing here.
    pub(crate) cpu_s: BTreeMap<String, f64>,
    pub(crate) rss_bytes: u64,
}

impl Cost {
    /// Of a process on this machine.
    ///
    /// # Errors
    /// If it has ended or may not be looked at.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let whole = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
        let (_, total_s) = parse_stat(&whole).context("/proc/<pid>/stat is not as proc(5) says")?;
        let mut cost = Self { total_s, rss_bytes: rss_bytes(pid)?, ..Self::default() };
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?;
        for task in tasks {
            // A thread may end between being listed and being read.
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
            if let Some((name, seconds)) = parse_stat(&stat) {
                *cost.cpu_s.entry(group(name).to_owned()).or_default() += seconds;
            }
        }
        Ok(cost)
    }

    fn add(&mut self, other: Self) {
        self.total_s += other.total_s;
        self.rss_bytes += other.rss_bytes;
        for (group, seconds) in other.cpu_s {
            *self.cpu_s.entry(group).or_default() += seconds;
        }
    }

    /// CPU seconds by group since `before`.
    #[must_use]
    pub(crate) fn cpu_since(&self, before: &Self) -> BTreeMap<String, f64> {
        self.cpu_s
            .iter()
            .map(|(group, seconds)| (group.clone(), seconds - before.cpu_s.get(group).copied().unwrap_or(0.0)))
            .collect()
    }
}

/// `pid (name) state …`: fields 14 and 15 are user and system time.
fn parse_stat(stat: &str) -> Option<(&str, f64)> {
    let (head, fields) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = fields.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((name, (user + system) / TICKS_PER_SECOND))
}

fn group(name: &str) -> &str {
    let end = name.find(|c: char| c.is_ascii_digit() || c == '-').unwrap_or(name.len());
    if end == 0 { name } else { &name[..end] }
}

fn rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().next().context("no VmRSS")?.parse()?;
    Ok(kib * 1024)
}

/// A process that is measured: `LABEL=PID`. Several may have one label and are one figure then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labelled {
    pub(crate) label: String,
    pub(crate) pid: u32,
}

impl FromStr for Labelled {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (label, pid) = text.split_once('=').context("write LABEL=PID")?;
        anyhow::ensure!(!label.is_empty(), "write LABEL=PID");
        Ok(Self { label: label.to_owned(), pid: pid.parse().context("write LABEL=PID")? })
    }
}

/// Costs of several processes, by label.
///
/// # Errors
/// As [`Cost::of`].
pub(crate) fn costs(processes: &[Labelled]) -> anyhow::Result<BTreeMap<String, Cost>> {
    let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
    for Labelled { label, pid } in processes {
        let cost = Cost::of(*pid).with_context(|| label.clone())?;
        costs.entry(label.clone()).or_default().add(cost);
    }
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_grouped_by_the_word_in_their_name() {
        let stat = "12 (relay-3) S 1 1 1 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 9 0 1 1 1";
        assert_eq!(parse_stat(stat), Some(("relay-3", 2.0)));
        assert_eq!(
            parse_stat("12 (odd) name) S 1 1 1 0 -1 4 1 0 0 0 100 0 0").map(|(name, _)| name),
            Some("odd) name")
        );
        assert_eq!(group("relay-3"), "relay");
        assert_eq!(group("tokio-runtime-w"), "tokio");
    }

    #[test]
    fn this_process_can_be_measured() {
        let cost = Cost::of(std::process::id()).expect("our own process");
        assert!(cost.rss_bytes > 0 && !cost.cpu_s.is_empty());
    }

    #[test]
    fn processes_of_one_label_are_one_figure() {
        let own = |label: &str| format!("{label}={}", std::process::id()).parse::<Labelled>().expect("as it says");
        let costs = costs(&[own("collector"), own("collector"), own("relay")]).expect("our own process");
        assert_eq!(costs.keys().collect::<Vec<_>>(), ["collector", "relay"]);
        assert!(costs["collector"].rss_bytes > costs["relay"].rss_bytes * 3 / 2);
        assert!("relay".parse::<Labelled>().is_err() && "=12".parse::<Labelled>().is_err());
    }
}
