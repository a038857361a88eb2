//! Follows the registry of relays: agents are told of changes, and each registered relay is answered
//! when it asks for its certificate.

use crate::pki::authority::Authority;
use breeze_bus::{Bus, Request, Service};
use breeze_proto::{subject, v1::RelayCertificateRequest};
use breeze_store::model::relay;
use prost::Message as _;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::MissedTickBehavior;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// How often the registry's version is looked at: one small read.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// Until `stop`. A store or bus that does not answer is asked again at the next look.
pub async fn follow(authority: Arc<Authority>, bus: Arc<dyn Bus>, stop: CancellationToken) {
    let answering = TaskTracker::new();
    let mut served: HashMap<String, DropGuard> = HashMap::new();
    let mut seen = None;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        match relay::version(&*authority.state).await {
            Ok(version) if Some(version) == seen => {}
            Ok(_) => match take(&authority, &bus, &answering, &mut served).await {
                Ok(version) => seen = Some(version),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot follow the registry of relays"),
            },
            Err(error) => tracing::warn!(%error, "cannot read the registry of relays"),
        }
    }
    served.clear();
    answering.close();
    answering.wait().await;
}

/// Takes the registry as it is now; its version.
async fn take(
    authority: &Arc<Authority>,
    bus: &Arc<dyn Bus>,
    answering: &TaskTracker,
    served: &mut HashMap<String, DropGuard>,
) -> anyhow::Result<u64> {
    let registry = relay::list(&*authority.state).await?;
    served.retain(|id, _| registry.relays.iter().any(|relay| relay.id == *id));
    for relay in &registry.relays {
        if served.contains_key(&relay.id) {
            continue;
        }
        let service = bus.serve(&subject::ca_relay(&relay.id)).await?;
        let stop = CancellationToken::new();
        answering.spawn(answer(relay.id.clone(), service, Arc::clone(authority), stop.clone()));
        served.insert(relay.id.clone(), stop.drop_guard());
    }
    authority.refresh().await?;
    Ok(registry.version)
}

/// One at a time: a relay asks once a day.
async fn answer(id: String, mut service: Box<dyn Service>, authority: Arc<Authority>, stop: CancellationToken) {
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = service.next() => next,
        };
        let Some(Request { payload, reply, .. }) = next else { return };
        let Ok(request) = RelayCertificateRequest::decode(payload) else { continue };
        match authority.certify_relay(&id, &request).await {
            Ok(answer) => {
                if answer.refusal.is_empty() {
                    tracing::info!(relay.id = id, "certificate issued");
                } else {
                    tracing::warn!(relay.id = id, "no certificate: {}", answer.refusal);
                }
                reply(answer.encode_to_vec().into());
            }
            Err(error) => {
                metrics::counter!("breeze_authority_failures_total").increment(1);
                tracing::warn!(relay.id = id, error = format!("{error:#}"), "cannot certify a relay");
            }
        }
    }
}
