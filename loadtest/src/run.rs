//! `breeze-loadtest agents`: enrol, then each load in turn, and report.

use crate::{
    api::{Api, Ready},
    figures::{self, Labelled},
    fleet::{self, Member},
    ledger::Ledger,
    report::Report,
    stage::{self, Run},
    stored::{Database, Stored},
};
use anyhow::{Context, ensure};
use breeze_proto::enroll::EnrollmentKey;
use hdrhistogram::Histogram;
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Requests of each kind that measure the API.
const PROBES: usize = 300;
/// Label of the one process of `--server-pid`.
const SERVER: &str = "server";

#[derive(Debug, clap::Args)]
pub(crate) struct Agents {
    /// How many; several numbers are held one after the other, of one fleet
    #[arg(long, value_delimiter = ',', required = true)]
    count: Vec<usize>,
    /// How often all the numbers are gone through
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Seconds between two heartbeats of an agent
    #[arg(long, default_value_t = 10.0)]
    pub(crate) interval: f64,
    /// Seconds to hold and measure once everybody is connected
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Written by `breeze up --ready-file`
    #[arg(long, value_name = "FILE")]
    ready_file: PathBuf,
    /// Measure what this process costs
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Measure what this process of Breeze costs, under this label; may be repeated
    #[arg(long, value_name = "LABEL=PID")]
    process: Vec<Labelled>,
    /// Measure what this process costs, apart from Breeze's; may be repeated
    #[arg(long, value_name = "LABEL=PID")]
    beside: Vec<Labelled>,
    /// A region's ClickHouse, with its database: rows are counted there, and each acknowledged heartbeat
    /// is looked for in the end; may be repeated
    #[arg(long, value_name = "URL/DATABASE")]
    clickhouse: Vec<Database>,
    /// Seconds after that in which heartbeats are followed until the API finds them, one at a time
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) queryable: u64,
    /// Write a line `device value` for each acknowledged heartbeat; its value is stored as process_count
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Home regions of the devices, in turn, of an installation that has several
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    region: Vec<String>,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Address that agents connect from; relays on other hosts of a test need 0.0.0.0
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub(crate) bind: std::net::IpAddr,
    /// Leave the API's latencies out
    #[arg(long)]
    no_api: bool,
}

pub(crate) async fn run(arguments: &Agents) -> anyhow::Result<()> {
    ensure!((0.5..=3600.0).contains(&arguments.interval), "--interval is between 0.5 and 3600 seconds");
    let valid = arguments.count.iter().all(|count| (1..=200_000).contains(count));
    ensure!(valid, "--count is between 1 and 200000");
    ensure!((1..=1000).contains(&arguments.rounds), "--rounds is between 1 and 1000");
    let largest = arguments.count.iter().copied().max().unwrap_or(1);
    let ready = Ready::load(&arguments.ready_file)?;
    require_loopback(&ready.api)?;
    let api = Api::sign_in(&ready).await?;
    let mut report = Report::default();
    let members = enroll(&api, &ready, arguments, largest, &mut report).await?;
    let has_databases = !arguments.clickhouse.is_empty();
    let mut run = Run {
        arguments,
        own: arguments.own(),
        beside: arguments.beside.clone(),
        stored: has_databases.then(|| Stored::new(&arguments.clickhouse)).transpose()?,
        ledger: Arc::new(Ledger::create(arguments.ledger.as_deref(), has_databases).context("ledger")?),
        idle: figures::costs(&arguments.own())?,
        started: Instant::now(),
        stage: 0,
        api,
        report,
    };
    for round in 1..=arguments.rounds {
        for count in &arguments.count {
            run.report.begin(*count, round);
            let stage = stage::Stage::begin(&run, &members[..*count]).await?;
            let held = stage.hold(&run).await?;
            held.report(&mut run);
            stage.follow(&mut run).await?;
            if !arguments.no_api {
                measure_api(&run.api, &mut run.report).await?;
            }
            stage.end().await?;
            run.stage += 1;
        }
    }
    finish(&mut run).await
}

impl Agents {
    fn own(&self) -> Vec<Labelled> {
        let server = self.server_pid.map(|pid| Labelled { label: SERVER.to_owned(), pid });
        server.into_iter().chain(self.process.iter().cloned()).collect()
    }
}

/// Looks for every heartbeat, and sums up.
async fn finish(run: &mut Run<'_>) -> anyhow::Result<()> {
    if run.arguments.rounds > 1 {
        run.report.print_medians();
    }
    run.report.begin(0, 0);
    let mut is_exact = true;
    if let Some(stored) = &run.stored {
        let verdict = stored.check(&run.ledger.acknowledged()).await?;
        let report = &mut run.report;
        report.figure("heartbeats acknowledged in all", verdict.acknowledged as f64, "");
        report.figure("of them not stored", verdict.missing as f64, "");
        report.figure("stored twice", verdict.twice as f64, "");
        report.figure("devices whose roll-up counts otherwise", verdict.wrong_roll_ups as f64, "");
        report.figure("stored, acknowledgement not seen", verdict.unacknowledged as f64, "");
        is_exact = verdict.missing + verdict.twice + verdict.wrong_roll_ups == 0;
        let (bytes, rows, roll_ups) = stored.bytes().await?;
        let samples = (rows.max(1) as f64) * stage::SAMPLES_A_HEARTBEAT;
        report.figure("made-up heartbeats, bytes a sample", bytes as f64 / samples, "B");
        report.figure("made-up heartbeats, with roll-ups", (bytes + roll_ups) as f64 / samples, "B");
    }
    if let Some(path) = &run.arguments.json {
        run.report.save(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(is_exact, "what is stored is not what was acknowledged");
    Ok(())
}

/// Loads go to this machine and nowhere else.
pub(crate) fn require_loopback(url: &str) -> anyhow::Result<()> {
    let host = url.split("://").nth(1).unwrap_or(url);
    let host = host.split_once('@').map_or(host, |(_, host)| host);
    let is_loopback = ["127.", "[::1]", "localhost"].iter().any(|prefix| host.starts_with(prefix));
    ensure!(is_loopback, "{url} is not on this machine: a load is only for a Breeze on loopback");
    Ok(())
}

async fn enroll(
    api: &Api,
    ready: &Ready,
    arguments: &Agents,
    count: usize,
    report: &mut Report,
) -> anyhow::Result<Vec<Arc<Member>>> {
    let mut keys: Vec<EnrollmentKey> = Vec::new();
    for region in &arguments.region {
        keys.push(api.enrollment_key(count, Some(region)).await?.parse()?);
    }
    if keys.is_empty() {
        keys.push(api.enrollment_key(count, None).await?.parse()?);
    }
    let started = Instant::now();
    let members = fleet::enroll(ready.api.trim_end_matches('/'), &keys, count).await?;
    for member in &members {
        for relay in member.documents.relays() {
            let address: SocketAddr = relay.quic.parse().with_context(|| format!("relay {}", relay.quic))?;
            ensure!(address.ip().is_loopback(), "relay {address} is not on this machine");
        }
    }
    let took = started.elapsed();
    report.figure("enrolled devices", count as f64, "");
    report.figure("enrolments a second", count as f64 / took.as_secs_f64(), "1/s");
    Ok(members)
}

/// While the load goes on.
async fn measure_api(api: &Api, report: &mut Report) -> anyhow::Result<()> {
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
        report.quantiles(&format!("API, {name}"), &histogram, &[0.5, 0.99]);
    }
    Ok(())
}
