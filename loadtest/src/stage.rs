//! One load: connect some of the fleet, hold them, measure, let them go.

use crate::{
    agent::{self, Shared},
    api::Api,
    figures::{self, Cost, Labelled},
    fleet::Member,
    ledger::{Ledger, Tally},
    queryable::Watch,
    report::Report,
    run::Agents,
    stored::Stored,
};
use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use quinn::Endpoint;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) const SAMPLES_A_HEARTBEAT: f64 = 12.0;
/// Agents that share a UDP socket.
const AGENTS_A_SOCKET: usize = 1_000;
/// New agents a second at most: below the relay's admission, so that nobody is turned away.
const ARRIVALS_A_SECOND_MAX: f64 = 250.0;
/// How long everybody may take to be connected and acknowledged once, beyond the arrivals.
const CONNECT_PATIENCE: Duration = Duration::from_secs(120);

/// What all loads of a run have in common.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) arguments: &'a Agents,
    /// Processes of Breeze.
    pub(crate) own: Vec<Labelled>,
    /// Processes beside it.
    pub(crate) beside: Vec<Labelled>,
    pub(crate) stored: Option<Stored>,
    pub(crate) ledger: Arc<Ledger>,
    /// Of Breeze's processes before the first agent came.
    pub(crate) idle: BTreeMap<String, Cost>,
    pub(crate) started: Instant,
    pub(crate) stage: u32,
    pub(crate) api: Api,
    pub(crate) report: Report,
}

/// Agents that are connected.
#[derive(Debug)]
pub(crate) struct Stage {
    shared: Arc<Shared>,
    agents: JoinSet<anyhow::Result<()>>,
    connected_after: Duration,
}

impl Stage {
    /// Connects all of `members`, and waits until each has been acknowledged once.
    ///
    /// # Errors
    /// If some do not get connected, or no socket can be opened.
    pub(crate) async fn begin(run: &Run<'_>, members: &[Arc<Member>]) -> anyhow::Result<Self> {
        let interval = run.arguments.interval;
        let shared = Arc::new(Shared {
            endpoints: endpoints(members.len(), run.arguments.bind)?,
            tally: Tally::default(),
            ledger: Arc::clone(&run.ledger),
            watch: (run.arguments.queryable > 0).then(Watch::default),
            stage: run.stage,
            started: run.started,
            heartbeat_ms: (interval * 1000.0) as u32,
            stop: CancellationToken::new(),
        });
        let started = Instant::now();
        let mut agents = JoinSet::new();
        // Spread over an interval, so that the heartbeats are as well.
        let rate = (members.len() as f64 / interval).clamp(1.0, ARRIVALS_A_SECOND_MAX);
        let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        for (number, member) in members.iter().enumerate() {
            pace.tick().await;
            agents.spawn(agent::run(Arc::clone(&shared), Arc::clone(member), number));
        }
        let until = Instant::now() + CONNECT_PATIENCE;
        let (count, tally) = (members.len() as u64, &shared.tally);
        // Everybody's first heartbeat is sent at once: that many acknowledgements mean that all are in.
        while tally.acked.load(Ordering::Relaxed) < count || connected(tally) < count {
            ensure!(Instant::now() < until, "only {} of {count} agents are connected", connected(tally));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Self { shared, agents, connected_after: started.elapsed() })
    }

    /// Measures for as long as was asked.
    ///
    /// # Errors
    /// If a measured process has ended, or a server does not answer.
    pub(crate) async fn hold(&self, run: &Run<'_>) -> anyhow::Result<Held> {
        let tally = &self.shared.tally;
        let rows_before = stored_rows(run).await;
        tally.take_latencies();
        let (own, beside) = (figures::costs(&run.own)?, figures::costs(&run.beside)?);
        let generator = Cost::of(std::process::id())?;
        let counted = || [&tally.sent, &tally.acked, &tally.lost_connections].map(|n| n.load(Ordering::Relaxed));
        let [sent, acked, lost] = counted();
        let started = Instant::now();
        tokio::time::sleep(Duration::from_secs(run.arguments.seconds)).await;
        let [sent_after, acked_after, lost_after] = counted();
        Ok(Held {
            took: started.elapsed(),
            sent: sent_after - sent,
            acked: acked_after - acked,
            lost: lost_after - lost,
            connected: connected(tally),
            connected_after: self.connected_after,
            own: changes(&run.own, &own)?,
            beside: changes(&run.beside, &beside)?,
            generator_s: Cost::of(std::process::id())?.total_s - generator.total_s,
            latencies: tally.take_latencies(),
            stored_rows: stored_rows(run).await.zip(rows_before).map(|(now, then)| now.saturating_sub(then)),
        })
    }

    /// Follows heartbeats until they are queryable, for as long as was asked: apart from what is measured
    /// before, since its queries cost as well.
    ///
    /// # Errors
    /// If the API does not answer.
    pub(crate) async fn follow(&self, run: &mut Run<'_>) -> anyhow::Result<()> {
        let Some(watch) = &self.shared.watch else { return Ok(()) };
        let stop = CancellationToken::new();
        let follow = watch.follow(&run.api, &stop);
        let wait = async {
            tokio::time::sleep(Duration::from_secs(run.arguments.queryable)).await;
            stop.cancel();
            Ok(())
        };
        let (queryable, ()) = tokio::try_join!(follow, wait)?;
        run.report.figure("heartbeats followed until queryable", queryable.len() as f64, "");
        run.report.quantiles("queryable within", &queryable, &[0.5, 0.99]);
        Ok(())
    }

    /// Stops the agents and closes their connections.
    ///
    /// # Errors
    /// If an agent failed.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.shared.stop.cancel();
        while let Some(ended) = self.agents.join_next().await {
            ended??;
        }
        for endpoint in &self.shared.endpoints {
            endpoint.close(0_u32.into(), b"");
        }
        for endpoint in &self.shared.endpoints {
            let _late_packets = tokio::time::timeout(Duration::from_secs(5), endpoint.wait_idle()).await;
        }
        Ok(())
    }
}

fn endpoints(count: usize, bind: IpAddr) -> anyhow::Result<Vec<Endpoint>> {
    let any = SocketAddr::from((bind, 0));
    (0..count.div_ceil(AGENTS_A_SOCKET)).map(|_| Endpoint::client(any).context("cannot open a UDP socket")).collect()
}

fn connected(tally: &Tally) -> u64 {
    tally.connections.load(Ordering::Relaxed).saturating_sub(tally.lost_connections.load(Ordering::Relaxed))
}

/// Heartbeat rows that a query would find.
async fn stored_rows(run: &Run<'_>) -> Option<u64> {
    let rows = match &run.stored {
        Some(stored) => stored.rows().await,
        None => run.api.get("/status").await.and_then(|status| {
            status["storage"]["metrics_rows"].as_u64().context("no storage.metrics_rows in the status")
        }),
    };
    rows.inspect_err(|error| tracing::warn!("rows: {error:#}")).ok()
}

/// What a labelled process used in a while, and holds after it.
#[derive(Debug)]
struct Change {
    cpu_s: f64,
    threads: BTreeMap<String, f64>,
    rss_bytes: u64,
}

fn changes(processes: &[Labelled], before: &BTreeMap<String, Cost>) -> anyhow::Result<BTreeMap<String, Change>> {
    let change = |(label, after): (String, Cost)| {
        let before = before.get(&label).cloned().unwrap_or_default();
        let cpu_s = after.total_s - before.total_s;
        (label, Change { cpu_s, threads: after.cpu_since(&before), rss_bytes: after.rss_bytes })
    };
    Ok(figures::costs(processes)?.into_iter().map(change).collect())
}

/// What was seen while holding.
#[derive(Debug)]
pub(crate) struct Held {
    took: Duration,
    sent: u64,
    acked: u64,
    lost: u64,
    connected: u64,
    connected_after: Duration,
    stored_rows: Option<u64>,
    latencies: Histogram<u64>,
    own: BTreeMap<String, Change>,
    beside: BTreeMap<String, Change>,
    generator_s: f64,
}

impl Held {
    /// All of it, into the report.
    pub(crate) fn report(&self, run: &mut Run<'_>) {
        let report = &mut run.report;
        let seconds = self.took.as_secs_f64();
        report.figure("all connected and acknowledged after", self.connected_after.as_secs_f64(), "s");
        report.figure("agents held", self.connected as f64, "");
        report.figure("connections lost or given up while holding", self.lost as f64, "");
        report.figure("heartbeats sent", self.sent as f64 / seconds, "1/s");
        report.figure("heartbeats acknowledged (durable)", self.acked as f64 / seconds, "1/s");
        if let Some(rows) = self.stored_rows {
            report.figure("heartbeats queryable", rows as f64 / seconds, "1/s");
        }
        report.quantiles("acknowledged within", &self.latencies, &[0.5, 0.99, 0.999]);
        report.figure("load generator, CPU", self.generator_s / seconds * 100.0, "% of a core");
        self.report_own(report, &run.idle);
        for (label, change) in &self.beside {
            report.figure(&format!("beside, {label}, CPU a heartbeat"), self.a_heartbeat_us(change.cpu_s), "us");
            report.figure(&format!("beside, {label}, CPU"), change.cpu_s / seconds * 100.0, "% of a core");
            report.figure(&format!("beside, {label}, RSS"), mib(change.rss_bytes), "MiB");
        }
    }

    fn report_own(&self, report: &mut Report, idle: &BTreeMap<String, Cost>) {
        if self.own.is_empty() {
            return;
        }
        let mut total = Change { cpu_s: 0.0, threads: BTreeMap::new(), rss_bytes: 0 };
        for (label, change) in &self.own {
            total.cpu_s += change.cpu_s;
            total.rss_bytes += change.rss_bytes;
            if self.own.len() > 1 {
                report.figure(&format!("CPU a heartbeat, {label}"), self.a_heartbeat_us(change.cpu_s), "us");
                report.figure(&format!("{label}, RSS"), mib(change.rss_bytes), "MiB");
                continue;
            }
            for (group, cpu_s) in change.threads.iter().filter(|(_, cpu_s)| **cpu_s >= 0.01) {
                report.figure(&format!("CPU a heartbeat, {group}"), self.a_heartbeat_us(*cpu_s), "us");
            }
        }
        report.figure("CPU a heartbeat, whole server", self.a_heartbeat_us(total.cpu_s), "us");
        report.figure("CPU a million samples", self.a_heartbeat_us(total.cpu_s) / SAMPLES_A_HEARTBEAT, "CPU-s");
        report.figure("server, CPU", total.cpu_s / self.took.as_secs_f64() * 100.0, "% of a core");
        report.figure("server, RSS", mib(total.rss_bytes), "MiB");
        let idle: u64 = idle.values().map(|cost| cost.rss_bytes).sum();
        let grown = total.rss_bytes.saturating_sub(idle) as f64 / 1024.0;
        report.figure("server, RSS an agent", grown / self.connected.max(1) as f64, "KiB");
    }

    fn a_heartbeat_us(&self, cpu_s: f64) -> f64 {
        cpu_s * 1e6 / self.acked.max(1) as f64
    }
}

fn mib(bytes: u64) -> f64 {
    (bytes / 1024 / 1024) as f64
}
