//! What ClickHouse holds of a load, asked of the servers themselves: how many rows, and whether each
//! acknowledged heartbeat is there once.

use anyhow::{Context, ensure};
use breeze_proto::id::DeviceId;
use std::{
    collections::{HashMap, HashSet},
    str::FromStr,
    time::{Duration, Instant},
};

/// How long after the last acknowledgement everything may take to be stored.
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// One region's database: `http://[user:password@]127.0.0.1:port/database`.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    url: reqwest::Url,
    name: String,
}

impl FromStr for Database {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let url: reqwest::Url = text.parse()?;
        let name = url.path().trim_matches('/').to_owned();
        ensure!(!name.is_empty() && !name.contains('/'), "write http://127.0.0.1:port/database");
        super::run::require_loopback(text)?;
        Ok(Self { url, name })
    }
}

/// All regions' databases.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    client: reqwest::Client,
    databases: Vec<Database>,
}

/// What became of the acknowledged heartbeats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: u64,
    /// Acknowledged and not stored: lost.
    pub(crate) missing: u64,
    /// Stored under more than one time: counted twice.
    pub(crate) twice: u64,
    /// Devices whose roll-up counts other rows than there are.
    pub(crate) wrong_roll_ups: u64,
    /// Stored, and the acknowledgement did not arrive before the load ended.
    pub(crate) unacknowledged: u64,
}

impl Stored {
    pub(crate) fn new(databases: &[Database]) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(120)).build()?;
        Ok(Self { client, databases: databases.to_vec() })
    }

    /// Heartbeat rows of all regions.
    pub(crate) async fn rows(&self) -> anyhow::Result<u64> {
        let counts = self.ask("SELECT count() FROM heartbeats").await?;
        counts.iter().map(|text| Ok(text.trim().parse::<u64>()?)).sum()
    }

    /// Bytes on disk and rows of the raw heartbeats, and bytes of their roll-ups.
    pub(crate) async fn bytes(&self) -> anyhow::Result<(u64, u64, u64)> {
        let sql = "SELECT sumIf(bytes_on_disk, table = 'heartbeats'), sumIf(rows, table = 'heartbeats'), \
                   sumIf(bytes_on_disk, table LIKE 'heartbeats\\_%') \
                   FROM system.parts WHERE active AND database = currentDatabase()";
        let mut total = (0, 0, 0);
        for text in self.ask(sql).await? {
            let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [bytes, rows, roll_ups] = numbers[..] else { anyhow::bail!("{text:?} is not three numbers") };
            total = (total.0 + bytes, total.1 + rows, total.2 + roll_ups);
        }
        Ok(total)
    }

    /// Waits until as many rows as were acknowledged are there or time is up, and checks each.
    pub(crate) async fn check(&self, acknowledged: &HashMap<DeviceId, Vec<u32>>) -> anyhow::Result<Verdict> {
        let until = Instant::now() + SETTLE_PATIENCE;
        loop {
            let rows = self.values().await?;
            let verdict = self.verdict(acknowledged, &rows).await?;
            if verdict.missing == 0 || Instant::now() > until {
                return Ok(verdict);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn verdict(
        &self,
        acknowledged: &HashMap<DeviceId, Vec<u32>>,
        stored: &HashMap<DeviceId, Vec<u32>>,
    ) -> anyhow::Result<Verdict> {
        let mut verdict = Verdict::default();
        let rolled = self.rolled_up().await?;
        for (device, values) in acknowledged {
            let rows = stored.get(device).map_or(&[][..], Vec::as_slice);
            let distinct: HashSet<u32> = rows.iter().copied().collect();
            let settled: HashSet<u32> = values.iter().copied().collect();
            verdict.acknowledged += settled.len() as u64;
            verdict.missing += settled.difference(&distinct).count() as u64;
            verdict.unacknowledged += distinct.difference(&settled).count() as u64;
            verdict.twice += (rows.len() - distinct.len()) as u64;
            verdict.wrong_roll_ups += u64::from(rolled.get(device).copied().unwrap_or(0) != rows.len() as u64);
        }
        Ok(verdict)
    }

    /// The values that tell a device's heartbeats apart, of its rows as a query sees them.
    async fn values(&self) -> anyhow::Result<HashMap<DeviceId, Vec<u32>>> {
        let sql = "SELECT lower(hex(device)), arrayStringConcat(groupArray(process_count), ' ') \
                   FROM heartbeats FINAL GROUP BY device";
        let mut values: HashMap<DeviceId, Vec<u32>> = HashMap::new();
        for text in self.ask(sql).await? {
            for line in text.lines() {
                let (device, numbers) = line.split_once('\t').context("a line without a tab")?;
                let numbers = numbers.split(' ').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
                values.entry(device_of(device)?).or_default().extend(numbers);
            }
        }
        Ok(values)
    }

    async fn rolled_up(&self) -> anyhow::Result<HashMap<DeviceId, u64>> {
        let sql = "SELECT lower(hex(device)), toUInt64(sum(n)) FROM heartbeats_1d GROUP BY device";
        let mut counts: HashMap<DeviceId, u64> = HashMap::new();
        for text in self.ask(sql).await? {
            for line in text.lines() {
                let (device, count) = line.split_once('\t').context("a line without a tab")?;
                *counts.entry(device_of(device)?).or_default() += count.parse::<u64>()?;
            }
        }
        Ok(counts)
    }

    async fn ask(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        let mut answers = Vec::new();
        for Database { url, name } in &self.databases {
            let mut target = url.clone();
            target.set_path("/");
            target.query_pairs_mut().append_pair("database", name);
            let mut request = self.client.post(target).body(sql.to_owned());
            if let Some(password) = url.password() {
                request = request.header("X-ClickHouse-User", url.username()).header("X-ClickHouse-Key", password);
            }
            let response = request.send().await?;
            let status = response.status();
            let text = response.text().await?;
            ensure!(status.is_success(), "{name}: {sql}: {status} {text}");
            answers.push(text);
        }
        Ok(answers)
    }
}

fn device_of(hex: &str) -> anyhow::Result<DeviceId> {
    let bytes = u128::from_str_radix(hex, 16).with_context(|| format!("{hex:?} is no device"))?.to_be_bytes();
    DeviceId::from_slice(&bytes).with_context(|| format!("{hex:?} is no device"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_databases_of_this_machine_are_asked() {
        let database: Database = "http://load:secret@127.0.0.1:8123/breeze".parse().expect("as it says");
        assert_eq!((database.name.as_str(), database.url.password()), ("breeze", Some("secret")));
        assert!("http://127.0.0.1:8123/".parse::<Database>().is_err());
        assert!("http://clickhouse.example:8123/breeze".parse::<Database>().is_err());
    }

    #[test]
    fn a_device_is_read_from_its_bytes() {
        let device = DeviceId::generate();
        let hex = device.to_string().replace('-', "");
        assert_eq!(device_of(&hex).expect("32 digits"), device);
    }
}
