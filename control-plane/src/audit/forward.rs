//! Entries on their way to the node that holds a chain's lease, over the bus.

use crate::tasks::answering::answer_each;
use async_trait::async_trait;
use breeze_bus::{Bus, Service};
use breeze_proto::subject;
use breeze_store::model::audit::{AuditLog, Chain, Entry, Forward, ForwardError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// A holder that does not answer within this is passed over.
const PATIENCE: Duration = Duration::from_secs(1);
/// The answer to a batch that is durable.
const DONE: &[u8] = b"done";

#[derive(Serialize)]
struct Sent<'a> {
    chain: String,
    entries: &'a [Entry],
}

#[derive(Deserialize)]
struct Received {
    chain: String,
    entries: Vec<Entry>,
}

/// Sends to other nodes.
#[derive(Debug)]
pub struct BusForward(pub Arc<dyn Bus>);

#[async_trait]
impl Forward for BusForward {
    async fn forward(&self, holder: &str, chain: Chain, entries: &[Entry]) -> Result<(), ForwardError> {
        let failed = |error: &dyn std::fmt::Display| ForwardError(error.to_string());
        let sent = Sent { chain: chain.to_string(), entries };
        let payload = serde_json::to_vec(&sent).map_err(|error| failed(&error))?;
        let asked = self.0.request(&subject::audit_append(holder), payload.into(), PATIENCE).await;
        let answer = asked.map_err(|error| failed(&error))?;
        if answer == DONE { Ok(()) } else { Err(failed(&String::from_utf8_lossy(&answer))) }
    }
}

/// Takes what other nodes send, until `stop`.
///
/// # Errors
/// When the bus closes.
pub async fn answer(service: Box<dyn Service>, log: Arc<AuditLog>, stop: CancellationToken) -> anyhow::Result<()> {
    answer_each(service, stop, |payload| {
        let log = Arc::clone(&log);
        async move {
            let taken = take(&log, &payload).await;
            Some(taken.map_or_else(|error| error.to_string().into(), |()| Bytes::from_static(DONE)))
        }
    })
    .await
}

async fn take(log: &AuditLog, payload: &[u8]) -> anyhow::Result<()> {
    let Received { chain, entries } = serde_json::from_slice(payload)?;
    let chain: Chain = chain.parse().map_err(anyhow::Error::msg)?;
    Ok(log.append_sent(chain, entries).await?)
}
