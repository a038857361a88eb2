//! Connections to the engines, and a look at each every few seconds for `/readyz`.

use super::wait::{Absence, until_there};
use crate::config::{BusEngine, MetricsEngine, Retention, StateEngine};
use breeze_bus::nats::{NatsBus, NatsConfig, Seed};
use breeze_runtime::{ops::OpsState, shutdown::Shutdown};
use breeze_store::{
    metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics},
    state::cql::{CqlConfig, CqlState},
};
use std::{sync::Arc, time::Duration};
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

/// Waits for the bus and the streams of these names; `None` when the process is to stop.
///
/// # Errors
/// As [`until_there`].
pub(super) async fn bus(
    config: NatsConfig,
    streams: &[String],
    ops: &OpsState,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Arc<NatsBus>>> {
    let component = ops.component("bus");
    let bus = until_there(&component, shutdown, async || {
        let bus = NatsBus::connect(config.clone()).await?;
        bus.check_streams(streams).await?;
        Ok(Arc::new(bus))
    })
    .await?;
    if let Some(bus) = &bus {
        let (watched, stop, servers) = (Arc::clone(bus), shutdown.token(), config.servers.join(", "));
        tokio::spawn(async move {
            loop {
                if stop.run_until_cancelled(watched.when_connected(false)).await.is_none() {
                    return;
                }
                component.failing(format!("the connection to NATS at {servers} is lost; trying again"));
                if stop.run_until_cancelled(watched.when_connected(true)).await.is_none() {
                    return;
                }
                component.ready();
            }
        });
    }
    Ok(bus)
}

/// Waits for the state.
///
/// # Errors
/// As [`until_there`].
pub(super) async fn state(
    config: CqlConfig,
    ops: &OpsState,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Arc<CqlState>>> {
    let component = ops.component("state");
    let state =
        until_there(&component, shutdown, async || Ok(Arc::new(CqlState::connect(config.clone()).await?))).await?;
    if let Some(state) = &state {
        let looked_at = Arc::clone(state);
        look(ops, "state", shutdown.token(), move || {
            let engine = Arc::clone(&looked_at);
            async move { engine.ping().await.map_err(Absence::from) }
        });
    }
    Ok(state)
}

/// Waits for a region's metrics.
///
/// # Errors
/// As [`until_there`].
pub(super) async fn metrics(
    config: ClickHouseConfig,
    ops: &OpsState,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Arc<ClickHouseMetrics>>> {
    let component = ops.component("metrics");
    let metrics =
        until_there(&component, shutdown, async || Ok(ClickHouseMetrics::connect(config.clone()).await?)).await?;
    if let Some(metrics) = &metrics {
        let looked_at = Arc::clone(metrics);
        look(ops, "metrics", shutdown.token(), move || {
            let engine = Arc::clone(&looked_at);
            async move { engine.ping().await.map_err(Absence::from) }
        });
    }
    Ok(metrics)
}

/// Looks at an engine until `stop`.
fn look<F>(ops: &OpsState, name: &'static str, stop: CancellationToken, look: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = Result<(), Absence>> + Send,
{
    let component = ops.component(name);
    tokio::spawn(async move {
        loop {
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_none() {
                return;
            }
            match look().await {
                Ok(()) => component.ready(),
                Err(Absence::Away(why) | Absence::Refused(why)) => component.failing(why),
            }
        }
    });
}
