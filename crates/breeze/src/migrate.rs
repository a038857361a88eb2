//! `breeze migrate`: makes and upgrades what the engines of a role's configuration need.

use crate::{
    config::{BusEngine, MetricsEngine, Retention, RoleFile, StateEngine, private},
    process::{Absence, clickhouse_config, cql_config, nats_config},
};
use anyhow::{Context as _, bail, ensure};
use breeze_bus::nats::{self, NatsConfig, Streams, permissions};
use breeze_store::{metrics::clickhouse, model, state::cql};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Create or upgrade streams, tables and schema of the engines that a role's file names
///
/// Forward only, repeatable, and safe from several machines at once. The control plane's file names
/// everything: the streams of all regions (reached through the hub), state, and every region's metrics. A
/// collector's file names its region's, a relay's the streams alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// TOML file of a role
    #[arg(long, value_name = "FILE", env = "BREEZE_CONFIG")]
    config: PathBuf,
    /// NKey seed of the user that may make streams (mode 0600) [default: migrate.nk beside the role's own seed]
    #[arg(long, value_name = "FILE")]
    bus_nkey: Option<PathBuf>,
    /// Lanes of each region, with the control plane's file; other files say it themselves
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    lanes: u16,
    /// How long to wait, in seconds, for an engine or for the link to a region that does not answer yet
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    wait: u64,
    /// Only these engines; may be given several times
    #[arg(long, value_enum)]
    only: Vec<Engine>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    Bus,
    State,
    Metrics,
}

/// What a file names.
struct Plan<'a> {
    region: &'a str,
    bus: &'a BusEngine,
    /// The role's own user.
    user: String,
    lanes: u16,
    regions: Vec<String>,
    state: Option<&'a StateEngine>,
    metrics: Vec<(String, &'a MetricsEngine)>,
    retention: Retention,
}

impl<'a> Plan<'a> {
    fn of(file: &'a RoleFile, lanes: u16) -> Self {
        match file {
            RoleFile::Relay(file) => Self {
                region: &file.region,
                bus: &file.bus,
                user: permissions::relay_user(&file.relay.id),
                lanes: file.relay.lanes,
                regions: file.relay.regions.clone(),
                state: None,
                metrics: Vec::new(),
                retention: Retention::default(),
            },
            RoleFile::Collector(file) => Self {
                region: &file.region,
                bus: &file.bus,
                user: permissions::collector_user(&file.collector.id),
                lanes: file.collector.lanes,
                regions: file.collector.regions.clone(),
                state: Some(&file.state),
                metrics: vec![("metrics".to_owned(), &file.metrics)],
                retention: file.retention.clone(),
            },
            RoleFile::ControlPlane(file) => Self {
                region: &file.region,
                bus: &file.bus,
                user: permissions::CONTROL_PLANE_USER.to_owned(),
                lanes,
                regions: file.control_plane.regions(),
                state: Some(&file.state),
                metrics: file
                    .metrics
                    .regions
                    .iter()
                    .map(|(region, engine)| (format!("metrics.regions.{region}"), engine))
                    .collect(),
                retention: file.retention.clone(),
            },
        }
    }
}

impl Plan<'_> {
    fn streams(&self) -> Streams {
        Streams {
            lanes: self.lanes,
            regions: self.regions.clone(),
            replicas: u32::from(self.bus.replicas),
            max_stream_bytes: self.bus.max_stream_mib << 20,
        }
    }
}

/// Runs it; `print` gets a line for each thing done.
///
/// # Errors
/// The first engine's that cannot be reached in time, refuses, or holds what this program does not know.
pub(crate) fn run(arguments: &Arguments, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let file = RoleFile::load(&arguments.config)?;
    let plan = Plan::of(&file, arguments.lanes);
    let wanted = |engine| arguments.only.is_empty() || arguments.only.contains(&engine);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let until = Instant::now() + Duration::from_secs(arguments.wait);
    runtime.block_on(async {
        let mut tell = |engine: &str, done: Vec<String>| {
            if done.is_empty() {
                print(&format!("{engine}: as it should be"));
            }
            done.iter().for_each(|line| print(&format!("{engine}: {line}")));
        };
        if wanted(Engine::Bus) {
            let config = bus_config(&plan, arguments).context("bus")?;
            let done = patiently("bus", until, async || Ok(nats::migrate(&config, &plan.streams()).await?));
            tell("bus", done.await?);
        }
        if let Some(section) = plan.state.filter(|_| wanted(Engine::State)) {
            let config = cql_config(section).context("state")?;
            let done = patiently("state", until, async || Ok(cql::migrate(&config, &model::tables()).await?));
            tell("state", done.await?);
        }
        for (name, section) in plan.metrics.iter().filter(|_| wanted(Engine::Metrics)) {
            let config = clickhouse_config(section, &plan.retention).with_context(|| name.clone())?;
            let done = patiently(name, until, async || Ok(clickhouse::migrate(&config).await?));
            tell(name, done.await?);
        }
        Ok(())
    })
}

/// Tries until `until` while the engine, or a region behind the hub, does not answer; says for what. Every
/// attempt goes on where the one before ended: migrations may be repeated.
async fn patiently(
    engine: &str,
    until: Instant,
    mut attempt: impl AsyncFnMut() -> Result<Vec<String>, Absence>,
) -> anyhow::Result<Vec<String>> {
    let mut told = String::new();
    loop {
        let why = match attempt().await {
            Ok(done) => return Ok(done),
            Err(Absence::Refused(why) | Absence::Unfit(why)) => bail!("{engine}: {why}"),
            Err(Absence::Away(why)) => why,
        };
        let left = until.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "{engine}: {why}");
        if why != told {
            tracing::warn!(engine, "waiting for it, {} s at most: {why}", left.as_secs());
            told = why;
        }
        tokio::time::sleep(PAUSE.min(left)).await;
    }
}

fn bus_config(plan: &Plan<'_>, arguments: &Arguments) -> anyhow::Result<NatsConfig> {
    let mut config = nats_config(plan.bus, plan.region, &plan.user)?;
    let beside = plan.bus.nkey_file.as_ref().map(|own| own.sibling("migrate.nk")).filter(|path| path.exists());
    if let Some(path) = arguments.bus_nkey.clone().or(beside) {
        private(&path)?;
        let seed = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        config.nkey_seed = Some(seed.into());
        permissions::MIGRATE_USER.clone_into(&mut config.client_name);
    }
    Ok(config)
}
