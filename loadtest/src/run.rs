//! `breeze-loadtest agents`: enrol, connect, hold, measure, report.

use crate::{
    agent::{self, Shared},
    api::{Api, Ready},
    figures::{Cost, figure, millis},
    fleet::{self, Member},
    ledger::{Ledger, Tally},
};
use anyhow::{Context, ensure};
use breeze_proto::enroll::EnrollmentKey;
use hdrhistogram::Histogram;
use quinn::Endpoint;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Agents that share a UDP socket.
const AGENTS_A_SOCKET: usize = 1_000;
/// New agents a second: below the relay's admission, so that nobody is turned away.
const ARRIVALS_A_SECOND: u32 = 250;
/// How long everybody may take to be connected and acknowledged once, beyond the arrivals.
const CONNECT_PATIENCE: Duration = Duration::from_secs(120);
/// Requests of each kind that measure the API.
const PROBES: usize = 300;
const SAMPLES_A_HEARTBEAT: f64 = 12.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Agents {
    /// How many
    #[arg(long)]
    count: usize,
    /// Seconds between two heartbeats of an agent
    #[arg(long, default_value_t = 10.0)]
    interval: f64,
    /// Seconds to hold and measure once everybody is connected
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Written by `breeze up --ready-file`
    #[arg(long, value_name = "FILE")]
    ready_file: PathBuf,
    /// Measure what this process costs
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Write a line `device value` for each acknowledged heartbeat; its value is stored as process_count
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Home region of the devices, of an installation that has several
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Leave the API's latencies out
    #[arg(long)]
    no_api: bool,
}

pub(crate) async fn run(arguments: &Agents) -> anyhow::Result<()> {
    ensure!((0.5..=3600.0).contains(&arguments.interval), "--interval is between 0.5 and 3600 seconds");
    ensure!((1..=200_000).contains(&arguments.count), "--count is between 1 and 200000");
    let ready = Ready::load(&arguments.ready_file)?;
    require_loopback(&ready.api)?;
    let api = Api::sign_in(&ready).await?;
    let members = enroll(&api, &ready, arguments).await?;
    let idle = arguments.server_pid.map(Cost::of).transpose()?;

    let shared = Arc::new(Shared {
        endpoints: endpoints(arguments.count)?,
        tally: Tally::default(),
        ledger: arguments.ledger.as_deref().map(Ledger::create).transpose().context("ledger")?,
        started: Instant::now(),
        heartbeat_ms: (arguments.interval * 1000.0) as u32,
        stop: CancellationToken::new(),
    });
    let mut agents = connect(&shared, members).await?;
    let held = hold(arguments, &shared, &api).await?;
    report(arguments, &held, idle.as_ref());
    if !arguments.no_api {
        measure_api(&api).await?;
    }
    shared.stop.cancel();
    while let Some(ended) = agents.join_next().await {
        ended??;
    }
    for endpoint in &shared.endpoints {
        endpoint.close(0_u32.into(), b"");
    }
    Ok(())
}

/// Loads go to this machine and nowhere else.
fn require_loopback(url: &str) -> anyhow::Result<()> {
    let host = url.split("://").nth(1).unwrap_or(url);
    let is_loopback = ["127.", "[::1]", "localhost"].iter().any(|prefix| host.starts_with(prefix));
    ensure!(is_loopback, "{url} is not on this machine: a load is only for a Breeze on loopback");
    Ok(())
}

async fn enroll(api: &Api, ready: &Ready, arguments: &Agents) -> anyhow::Result<Vec<Member>> {
    let count = arguments.count;
    let key: EnrollmentKey = api.enrollment_key(count, arguments.region.as_deref()).await?.parse()?;
    let started = Instant::now();
    let members = fleet::enroll(ready.api.trim_end_matches('/'), &key, count).await?;
    for member in &members {
        for relay in member.documents.relays() {
            let address: SocketAddr = relay.quic.parse().with_context(|| format!("relay {}", relay.quic))?;
            ensure!(address.ip().is_loopback(), "relay {address} is not on this machine");
        }
    }
    let took = started.elapsed();
    figure("enrolled devices", count, "");
    figure("enrolments a second", format!("{:.0}", count as f64 / took.as_secs_f64()), "1/s");
    Ok(members)
}

fn endpoints(count: usize) -> anyhow::Result<Vec<Endpoint>> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    (0..count.div_ceil(AGENTS_A_SOCKET)).map(|_| Endpoint::client(any).context("cannot open a UDP socket")).collect()
}

async fn connect(shared: &Arc<Shared>, members: Vec<Member>) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let count = members.len();
    let started = Instant::now();
    let mut agents = JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / ARRIVALS_A_SECOND);
    for (number, member) in members.into_iter().enumerate() {
        pace.tick().await;
        agents.spawn(agent::run(Arc::clone(shared), member, number));
    }
    let until = Instant::now() + CONNECT_PATIENCE;
    let tally = &shared.tally;
    // Everybody's first heartbeat is sent at once: that many acknowledgements mean that all are in.
    while tally.acked.load(Ordering::Relaxed) < count as u64 || connected(tally) < count as u64 {
        ensure!(Instant::now() < until, "only {} of {count} agents are connected", connected(tally));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    figure("all connected and acknowledged after", format!("{:.1}", started.elapsed().as_secs_f64()), "s");
    Ok(agents)
}

fn connected(tally: &Tally) -> u64 {
    tally.connections.load(Ordering::Relaxed).saturating_sub(tally.lost_connections.load(Ordering::Relaxed))
}

/// What was seen while holding.
struct Held {
    took: Duration,
    sent: u64,
    acked: u64,
    stored_rows: Option<u64>,
    connected: u64,
    lost: u64,
    latencies: Histogram<u64>,
    before: Option<Cost>,
    after: Option<Cost>,
    own_cpu_s: f64,
}

async fn hold(arguments: &Agents, shared: &Shared, api: &Api) -> anyhow::Result<Held> {
    let tally = &shared.tally;
    let cost = || arguments.server_pid.map(Cost::of).transpose();
    tally.take_latencies();
    let (before, own) = (cost()?, Cost::of(std::process::id())?);
    let rows_before = stored_rows(api).await;
    let sent = tally.sent.load(Ordering::Relaxed);
    let acked = tally.acked.load(Ordering::Relaxed);
    let lost = tally.lost_connections.load(Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let took = started.elapsed();
    let stored = stored_rows(api).await.zip(rows_before).map(|(after, before)| after.saturating_sub(before));
    Ok(Held {
        took,
        sent: tally.sent.load(Ordering::Relaxed) - sent,
        acked: tally.acked.load(Ordering::Relaxed) - acked,
        stored_rows: stored,
        connected: connected(tally),
        lost: tally.lost_connections.load(Ordering::Relaxed) - lost,
        latencies: tally.take_latencies(),
        before,
        after: cost()?,
        own_cpu_s: Cost::of(std::process::id())?.total_s - own.total_s,
    })
}

/// Heartbeat rows that a query would find.
async fn stored_rows(api: &Api) -> Option<u64> {
    let status = api.get("/status").await.inspect_err(|error| tracing::warn!("status: {error:#}")).ok()?;
    status["storage"]["metrics_rows"].as_u64()
}

fn report(arguments: &Agents, held: &Held, idle: Option<&Cost>) {
    let seconds = held.took.as_secs_f64();
    figure("agents held", held.connected, "");
    figure("connections lost while holding", held.lost, "");
    figure("heartbeats sent", format!("{:.0}", held.sent as f64 / seconds), "1/s");
    figure("heartbeats acknowledged (durable)", format!("{:.0}", held.acked as f64 / seconds), "1/s");
    if let Some(rows) = held.stored_rows {
        figure("heartbeats queryable", format!("{:.0}", rows as f64 / seconds), "1/s");
    }
    for quantile in [0.5, 0.99, 0.999] {
        let latency = Duration::from_micros(held.latencies.value_at_quantile(quantile));
        figure(&format!("acknowledged within, p{}", quantile * 100.0), millis(latency), "ms");
    }
    figure("load generator, CPU", format!("{:.1}", held.own_cpu_s / seconds * 100.0), "% of a core");
    let (Some(before), Some(after)) = (&held.before, &held.after) else { return };
    let beats = held.acked.max(1) as f64;
    let by_group = after.cpu_since(before);
    let total = after.total_s - before.total_s;
    for (group, cpu_s) in by_group.iter().filter(|(_, cpu_s)| **cpu_s >= 0.01) {
        figure(&format!("CPU a heartbeat, {group}"), format!("{:.1}", cpu_s * 1e6 / beats), "us");
    }
    figure("CPU a heartbeat, whole server", format!("{:.1}", total * 1e6 / beats), "us");
    figure("CPU a million samples", format!("{:.2}", total * 1e6 / (beats * SAMPLES_A_HEARTBEAT)), "CPU-s");
    figure("server, CPU", format!("{:.1}", total / seconds * 100.0), "% of a core");
    figure("server, RSS", after.rss_bytes / 1024 / 1024, "MiB");
    if let Some(idle) = idle {
        let grown = after.rss_bytes.saturating_sub(idle.rss_bytes) as f64;
        figure("server, RSS an agent", format!("{:.1}", grown / 1024.0 / arguments.count as f64), "KiB");
    }
}

/// While the load goes on.
async fn measure_api(api: &Api) -> anyhow::Result<()> {
    let page = api.get("/devices?limit=50").await?;
    let device = page["data"][0]["id"].as_str().context("the list is empty")?.to_owned();
    let probes = [
        ("device list, 50 by last seen", "/devices?limit=50&sort=-last_seen_at".to_owned()),
        (
            "device list, filtered",
            "/devices?limit=50&filter=cpu_percent%20%3E%208%20and%20hostname%20~%20%22web*%22".into(),
        ),
        ("device list, searched", "/devices?limit=50&q=db-0".to_owned()),
        ("one device", format!("/devices/{device}")),
        ("metrics of an hour", format!("/devices/{device}/metrics?series=cpu_percent,ram_percent")),
    ];
    for (name, path) in probes {
        let mut histogram = Histogram::<u64>::new(3)?;
        for _ in 0..PROBES {
            let started = Instant::now();
            api.get(&path).await?;
            histogram.record(started.elapsed().as_micros() as u64)?;
            // Below the rate that one client may ask at.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for quantile in [0.5, 0.99] {
            let latency = Duration::from_micros(histogram.value_at_quantile(quantile));
            figure(&format!("API, {name}, p{}", quantile * 100.0), millis(latency), "ms");
        }
    }
    Ok(())
}
