//! Connections to the engines, and a look at each every few seconds for `/readyz`.

use super::{
    peers::{self, Place},
    wait::{Absence, until_there},
};
use crate::config::{BusEngine, MetricsEngine, Retention, StateEngine};
use anyhow::Context as _;
use breeze_bus::nats::{NatsBus, NatsConfig, Seed};
use breeze_runtime::{
    ops::{Component, OpsState},
    shutdown::Shutdown,
};
use breeze_store::{
    metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics},
    state::cql::{CqlConfig, CqlState},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How often engines are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What the bus's client is told. `user` is the NATS user's name.
///
/// # Errors
/// When the seed cannot be read.
pub(crate) fn nats_config(section: &BusEngine, region: &str, user: &str) -> anyhow::Result<NatsConfig> {
    let seed = section.nkey_file.as_ref().map(|file| file.read()).transpose()?;
    Ok(NatsConfig {
        servers: section.servers.clone(),
        domain: section.domain.clone(),
        region: region.to_owned(),
        nkey_seed: seed.map(|seed| Seed::from(seed.reveal().clone())),
        ca_file: section.ca_file.clone(),
        client_name: user.to_owned(),
    })
}

/// What the state's client is told.
///
/// # Errors
/// When the password cannot be read.
pub(crate) fn cql_config(section: &StateEngine) -> anyhow::Result<CqlConfig> {
    let password = section.password_file.as_ref().map(|file| file.read()).transpose()?;
    Ok(CqlConfig {
        contact_points: section.contact_points.clone(),
        datacenter: section.datacenter.clone(),
        config_datacenter: section.config_datacenter().to_owned(),
        keyspace_prefix: section.keyspace_prefix.clone(),
        username: section.username.clone(),
        password: password.map(|password| password.reveal().clone()),
        ca_file: section.ca_file.clone(),
        replication: section.replication.iter().map(|(name, copies)| (name.clone(), u32::from(*copies))).collect(),
        ..CqlConfig::default()
    })
}

/// What the metrics' client is told.
///
/// # Errors
/// When the password cannot be read.
pub(crate) fn clickhouse_config(section: &MetricsEngine, kept: &Retention) -> anyhow::Result<ClickHouseConfig> {
    let mut config = ClickHouseConfig::new(section.url.clone(), section.database.clone());
    if let Some(user) = &section.user {
        config.user.clone_from(user);
    }
    if let Some(file) = &section.password_file {
        config.password.clone_from(file.read()?.reveal());
    }
    config.ca_file.clone_from(&section.ca_file);
    config.retention_raw_days = kept.raw_days;
    config.retention_5m_days = kept.five_minutes_days;
    config.retention_1h_days = kept.hour_days;
    config.retention_1d_days = kept.day_days;
    config.retention_history_days = kept.history_days;
    Ok(config)
}

/// Makes an engine's configuration anew for each attempt, so that a secret that was wrong can be put right
/// while the role waits.
pub(super) type Make<T> = Arc<dyn Fn() -> anyhow::Result<T> + Send + Sync>;

/// Waits for the bus and the streams of these names; `None` when the process is to stop.
///
/// # Errors
/// As [`until_there`].
pub(super) async fn bus(
    make: Make<NatsConfig>,
    streams: &[String],
    ops: &OpsState,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Arc<NatsBus>>> {
    let component = ops.component("bus");
    let bus = until_there(&component, shutdown, async || {
        let (bus, place) = connect(&make).await?;
        let checked = bus.check_streams(streams).await.map_err(Absence::from);
        peers::explained(checked, &place).await.map(|()| Arc::new(bus))
    })
    .await
    .context("bus")?;
    if let Some(bus) = &bus {
        let (bus, stop) = (Arc::clone(bus), shutdown.token());
        tokio::spawn(async move {
            stop.run_until_cancelled(watch_bus(bus, make, component)).await;
        });
    }
    Ok(bus)
}

async fn connect(make: &Make<NatsConfig>) -> Result<(NatsBus, Place), Absence> {
    let config = make().map_err(|error| Absence::unreadable(&error))?;
    let place = peers::nats(&config);
    let connected = NatsBus::connect(config).await.map_err(Absence::from);
    peers::explained(connected, &place).await.map(|bus| (bus, place))
}

/// Says while the connection is lost why it does not come back, as a new one finds it.
async fn watch_bus(bus: Arc<NatsBus>, make: Make<NatsConfig>, component: Component) {
    loop {
        bus.when_connected(false).await;
        component.failing("the connection to NATS is lost; trying again");
        // What comes back at once needs no reason.
        while timeout(LOOK_INTERVAL / 2, bus.when_connected(true)).await.is_err() {
            match connect(&make).await {
                Err(absence) => component.failing(format!("{}; trying again", absence.why())),
                Ok(_another) if bus.is_connected() => {}
                // The connection asks with what was read when the role began.
                Ok(_another) => component.failing(
                    "NATS lets in who comes with the files of [bus] as they are now, and not the connection of this \
                     process: if they were changed, start it again",
                ),
            }
        }
        component.ready();
    }
}

/// Waits for the state.
///
/// # Errors
/// As [`until_there`].
pub(super) async fn state(
    make: Make<CqlConfig>,
    ops: &OpsState,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Arc<CqlState>>> {
    let component = ops.component("state");
    let state = until_there(&component, shutdown, async || {
        let config = make().map_err(|error| Absence::unreadable(&error))?;
        let place = peers::cql(&config);
        let connected = CqlState::connect(config).await.map_err(Absence::from);
        peers::explained(connected, &place).await.map(|state| (Arc::new(state), place))
    })
    .await
    .context("state")?;
    let Some((state, place)) = state else { return Ok(None) };
    let looked_at = Arc::clone(&state);
    look(component, shutdown.token(), Trouble::Failing, move || {
        let (engine, place) = (Arc::clone(&looked_at), place.clone());
        async move { peers::explained(engine.ping().await.map_err(Absence::from), &place).await }
    });
    Ok(Some(state))
}

/// Waits for a region's metrics.
///
/// # Errors
/// As [`until_there`].
pub(super) async fn metrics(
    make: Make<ClickHouseConfig>,
    ops: &OpsState,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Arc<ClickHouseMetrics>>> {
    let component = ops.component("metrics");
    let metrics = until_there(&component, shutdown, async || {
        let config = make().map_err(|error| Absence::unreadable(&error))?;
        let place = peers::clickhouse(&config);
        let connected = ClickHouseMetrics::connect(config).await.map_err(Absence::from);
        peers::explained(connected, &place).await.map(|metrics| (metrics, place))
    })
    .await
    .context("metrics")?;
    let Some((metrics, place)) = metrics else { return Ok(None) };
    look_at_metrics(component, shutdown.token(), Trouble::Failing, Arc::clone(&metrics), place);
    Ok(Some(metrics))
}

/// A region's metrics of a control plane, which does its work without them: it only tells.
pub(super) fn watch_region(
    region: &str,
    metrics: Arc<ClickHouseMetrics>,
    config: &ClickHouseConfig,
    ops: &OpsState,
    shutdown: &Shutdown,
) {
    let component = ops.component(format!("metrics.{region}"));
    look_at_metrics(component, shutdown.token(), Trouble::Degraded, metrics, peers::clickhouse(config));
}

fn look_at_metrics(
    component: Component,
    stop: CancellationToken,
    trouble: Trouble,
    metrics: Arc<ClickHouseMetrics>,
    place: Place,
) {
    look(component, stop, trouble, move || {
        let (engine, place) = (Arc::clone(&metrics), place.clone());
        async move { peers::explained(engine.ping().await.map_err(Absence::from), &place).await }
    });
}

/// What it means to a role when one of its engines does not answer.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Degraded,
    Failing,
}

/// Looks at an engine until `stop`, at once and then every [`LOOK_INTERVAL`].
fn look<F>(component: Component, stop: CancellationToken, trouble: Trouble, look: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = Result<(), Absence>> + Send,
{
    tokio::spawn(async move {
        while let Some(seen) = stop.run_until_cancelled(look()).await {
            match (seen, trouble) {
                (Ok(()), _) => component.ready(),
                (Err(absence), Trouble::Degraded) => component.degraded(absence.why()),
                (Err(absence), Trouble::Failing) => component.failing(absence.why()),
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_none() {
                return;
            }
        }
    });
}
