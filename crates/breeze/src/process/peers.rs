//! The engines' servers as TLS peers: when one fails, its certificate is looked at, since the clients'
//! own words name neither its owner nor its end.

use super::wait::Absence;
use crate::config::host_of;
use breeze_bus::nats::NatsConfig;
use breeze_runtime::tls::peer::Peer;
use breeze_store::{metrics::clickhouse::ClickHouseConfig, state::cql::CqlConfig};
use std::path::Path;

/// An engine, where it is, and those of its servers that are spoken to under TLS.
#[derive(Debug, Clone)]
pub(super) struct Place {
    engine: &'static str,
    address: String,
    peers: Vec<Peer>,
}

pub(super) fn nats(config: &NatsConfig) -> Place {
    let servers = config.servers.iter().filter_map(|server| server.strip_prefix("tls://"));
    let peers = servers.filter_map(|server| peer(server, true, config.ca_file.as_deref())).collect();
    Place { engine: "NATS", address: config.servers.join(", "), peers }
}

pub(super) fn cql(config: &CqlConfig) -> Place {
    let file = config.ca_file.as_deref();
    let points = config.contact_points.iter().filter(|_| file.is_some());
    let peers = points.filter_map(|point| peer(point, false, file)).collect();
    Place { engine: "CQL", address: config.contact_points.join(", "), peers }
}

pub(super) fn clickhouse(config: &ClickHouseConfig) -> Place {
    let address = config.url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
    let peers = address.and_then(|address| peer(address, false, config.ca_file.as_deref())).into_iter().collect();
    Place { engine: "ClickHouse", address: config.url.clone(), peers }
}

fn peer(address: &str, speaks_first: bool, ca_file: Option<&Path>) -> Option<Peer> {
    let (_, port) = address.rsplit_once(':')?;
    Some(Peer { host: host_of(address)?, port: port.parse().ok()?, speaks_first, ca_file: ca_file.map(Path::to_owned) })
}

/// As it was, with the engine and where it is, and with a certificate that is not accepted as the reason
/// where there is one.
pub(super) async fn explained<T>(result: Result<T, Absence>, place: &Place) -> Result<T, Absence> {
    let absence = match result {
        Ok(there) => return Ok(there),
        Err(absence) => absence,
    };
    if let Absence::Away(_) = absence {
        for peer in &place.peers {
            if let Some(trouble) = peer.certificate_trouble().await {
                let (engine, host, port) = (place.engine, &peer.host, peer.port);
                return Err(Absence::Away(format!("{engine} at {host}:{port} cannot be trusted: {trouble}")));
            }
        }
    }
    Err(absence.at(place.engine, &place.address))
}
