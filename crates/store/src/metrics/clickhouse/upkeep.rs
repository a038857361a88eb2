//! Making roll-ups of past days say what the rows say.
//!
//! Views add what is inserted and never take away: a row that was inserted again under another token counts
//! twice in them, and a server that was killed in the middle of an insert may have left them out. So for
//! each past day whose parts changed the rows of the roll-ups are counted against the raw ones, and where
//! they differ the partition is made again beside the old one and takes its place in one step. Rows that
//! arrive meanwhile are missing from it; the next round sees that and does it again.

use super::super::plan::{DAY_MS, day_of};
use super::super::{MetricsError, Resolution};
use super::ClickHouseMetrics;
use super::literal::time;
use super::schema::{Kind, ROLL_UPS, roll_up_select, tables};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long after the start the first round is.
const FIRST_ROUND: Duration = Duration::from_secs(300);
const UPKEEP_INTERVAL: Duration = Duration::from_secs(3_600);
/// Days that one round looks at.
const MAX_DAYS: usize = 64;

/// What was found in order, so that it is not counted again: newest block of the raw rows by table and day.
#[derive(Debug, Default)]
pub(super) struct Memory {
    checked: HashMap<(Kind, u32), u64>,
}

impl ClickHouseMetrics {
    /// One round of upkeep at the given time: past days whose rows changed since the last round are
    /// compared with their roll-ups, which are made again where they differ. Gives the roll-ups made, as
    /// "heartbeats_5m of day 20100". It may run on several nodes, and be killed at any line; one node is
    /// enough.
    ///
    /// # Errors
    /// [`MetricsError::Unavailable`] if the server does not answer; what was done so far holds.
    pub async fn maintain(&self, now_ms: u64) -> Result<Vec<String>, MetricsError> {
        self.ready().await?;
        let mut memory = self.upkeep.lock().await;
        let mut made = Vec::new();
        let today = day_of(now_ms);
        for kind in Kind::BOTH {
            let days = self.changed_days(kind, &memory, today).await?;
            for (day, newest) in days {
                for (resolution, _) in ROLL_UPS {
                    if self.differs(kind, resolution, day).await? {
                        self.make_again(kind, resolution, day).await?;
                        metrics::counter!("breeze_metrics_rollups_made_again_total").increment(1);
                        made.push(format!("{} of day {day}", kind.table(resolution)));
                    }
                }
                memory.checked.insert((kind, day), newest);
            }
        }
        let floor = self.floors()[0];
        memory.checked.retain(|&(_, day), _| day >= floor);
        Ok(made)
    }

    /// Does upkeep every hour until `shutdown`, the first round a few minutes after the start. Failures are
    /// logged and tried again.
    ///
    /// # Errors
    /// None so far; the result is what owners of tasks expect.
    pub async fn run_maintenance(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), MetricsError> {
        let mut wait = FIRST_ROUND;
        while shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            wait = UPKEEP_INTERVAL;
            match self.maintain((self.clock)()).await {
                Ok(made) if made.is_empty() => {}
                Ok(made) => tracing::info!(?made, "roll-ups were made again, as they did not say what the rows say"),
                Err(error) => {
                    metrics::counter!("breeze_metrics_upkeep_failures_total").increment(1);
                    tracing::warn!(%error, "upkeep of the metrics failed; it is tried again in an hour");
                }
            }
        }
        Ok(())
    }

    /// Past days of raw rows that were not yet found in order as they are, with their newest blocks.
    async fn changed_days(&self, kind: Kind, memory: &Memory, today: u32) -> Result<Vec<(u32, u64)>, MetricsError> {
        let sql = "SELECT toUInt32(toRelativeDayNum(toDate(partition), 'UTC')) AS day, toUInt64(max(max_block_number)) \
                   FROM system.parts WHERE database = ? AND table = ? AND active GROUP BY day ORDER BY day DESC";
        let database = &self.connection.config.database;
        let query = self.connection.client().query(sql).bind(database).bind(kind.raw());
        let parts: Vec<(u32, u64)> = self.connection.fetch_all(query).await?;
        let floor = self.floors()[0];
        let is_due = |&(day, newest): &(u32, u64)| {
            (floor..today).contains(&day) && memory.checked.get(&(kind, day)) != Some(&newest)
        };
        Ok(parts.into_iter().filter(is_due).take(MAX_DAYS).collect())
    }

    /// Whether a roll-up counts other rows than there are.
    async fn differs(&self, kind: Kind, resolution: Resolution, day: u32) -> Result<bool, MetricsError> {
        let (table, raw) = (kind.table(resolution), kind.raw());
        let of_day = of_day(day);
        let sql = format!(
            "SELECT assumeNotNull((SELECT toUInt64(count()) FROM {raw} FINAL WHERE {of_day})), \
             assumeNotNull((SELECT toUInt64(sum(n)) FROM {table} WHERE {of_day}))"
        );
        let (rows, counted): (u64, u64) = self.connection.fetch_one(self.connection.client().query_raw(&sql)).await?;
        Ok(rows != counted)
    }

    async fn make_again(&self, kind: Kind, resolution: Resolution, day: u32) -> Result<(), MetricsError> {
        let table = kind.table(resolution);
        let spec = tables(&self.connection.config).into_iter().find(|spec| spec.name == table);
        let Some(spec) = spec else { return Ok(()) };
        // A name of its own for each attempt, so that two nodes do not write into one.
        let staging = format!("{table}_again_{:016x}", self.attempt());
        let of_day = of_day(day);
        let expression = spec.partition;
        let start = time(u64::from(day) * DAY_MS);
        let sql = format!("SELECT toString(toYYYYMMDD({start})), toString(toYYYYMM({start}))");
        let (of_days, of_months): (String, String) =
            self.connection.fetch_one(self.connection.client().query_raw(&sql)).await?;
        let is_monthly = expression.starts_with("toYYYYMM");
        let partition = if is_monthly { of_months } else { of_days };
        self.connection.execute(&format!("CREATE TABLE {staging} AS {table}")).await?;
        let filled = async {
            if is_monthly {
                // Of a partition that is wider than the day the rest is kept.
                let rest = format!(
                    "INSERT INTO {staging} SELECT * FROM {table} WHERE {expression} = {partition} AND NOT ({of_day})"
                );
                self.connection.execute(&rest).await?;
            }
            let source = format!("(SELECT * FROM {} FINAL WHERE {of_day})", kind.raw());
            let again = roll_up_select(kind, resolution, &source);
            self.connection.execute(&format!("INSERT INTO {staging} {again}")).await?;
            let replace = format!("ALTER TABLE {table} REPLACE PARTITION ID '{partition}' FROM {staging}");
            self.connection.execute(&replace).await
        };
        let result = filled.await;
        let dropped = self.connection.execute(&format!("DROP TABLE IF EXISTS {staging}")).await;
        result.and(dropped)
    }

    /// A number that no other attempt has.
    fn attempt(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one((self.clock)())
    }
}

fn of_day(day: u32) -> String {
    let start = u64::from(day) * DAY_MS;
    format!("at >= {} AND at < {}", time(start), time(start + DAY_MS))
}
