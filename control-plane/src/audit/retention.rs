//! What is kept no longer goes to the archive, and then away. See decision record 0018 for the order of steps.

use super::store::Store;
use crate::{api::time::now_ms, keyring::sha256_hex};
use anyhow::{Context as _, ensure};
use breeze_store::{
    model::audit::{AuditLog, AuditResult, Chain, Entry, HEADS},
    state::{
        State,
        leases::{Acquired, Leases},
    },
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often chains are looked through.
pub const PERIOD: Duration = Duration::from_secs(3600);
/// Partition of the lease of whoever does it.
const LEASE: &[u8] = b"~retention";
/// Runs of one chain before others have their turn.
const MAX_RUNS: usize = 64;

/// Looks through all chains hourly until `stop`; of all nodes one does.
pub async fn keep(
    state: Arc<dyn State>,
    log: Arc<AuditLog>,
    store: Option<Arc<Store>>,
    node: String,
    stop: CancellationToken,
) {
    let leases = Leases::new(state, HEADS);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let until = now_ms() + PERIOD.as_millis() as u64;
        match leases.acquire(LEASE, node.as_bytes(), until, now_ms()).await {
            Ok(Acquired::Yes(_)) => {}
            Ok(Acquired::Held { .. }) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot see who looks after the retention of the audit log");
                continue;
            }
        }
        let chains = match log.chains().await {
            Ok(chains) => chains,
            Err(error) => {
                tracing::warn!(%error, "cannot see the chains of the audit log");
                continue;
            }
        };
        for chain in chains {
            let done = stop.run_until_cancelled(clean(&log, store.as_deref(), chain)).await;
            match done {
                None => return,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    metrics::counter!("breeze_audit_retention_failures_total").increment(1);
                    tracing::warn!(%chain, error = format!("{error:#}"), "an audit chain is kept longer than it should be");
                }
            }
        }
    }
}

/// Takes away what a chain keeps no longer. How many entries.
///
/// # Errors
/// The store's and the archive's; the chain stays whole.
pub async fn clean(log: &AuditLog, store: Option<&Store>, chain: Chain) -> anyhow::Result<u64> {
    // What was to be deleted when somebody died.
    log.sweep(chain).await?;
    let policy = log.policy(chain).await?.value;
    if policy.retention_days.is_none() || policy.legal_hold.is_some() {
        return Ok(0);
    }
    let mut gone = 0;
    for _ in 0..MAX_RUNS {
        let Some(run) = log.due(chain).await? else { break };
        let (first, last) = run.numbers();
        let lines = run.lines();
        let sha256 = sha256_hex(&lines);
        let mut object = None;
        if policy.archive {
            let store = store.context("the policy wants an archive, and audit.store is not configured")?;
            let name = format!("archive/{chain}/{first:020}-{last:020}.jsonl");
            store.create(&name, lines.into()).await?;
            // What another process wrote under that name is the same, or nothing is deleted.
            ensure!(sha256_hex(&store.read(&name).await?) == sha256, "the object {name} is not what was written");
            object = Some(name);
        }
        if !log.take_away(&run, object.clone(), sha256.clone()).await? {
            break;
        }
        let count = last - first + 1;
        gone += count;
        metrics::counter!("breeze_audit_archived_entries_total").increment(count);
        let sample = run.entries.last().map(|sealed| &sealed.entry);
        log.append(Entry {
            partner_id: sample.and_then(|entry| entry.partner_id),
            org_id: sample.and_then(|entry| entry.org_id),
            resource_type: Some("audit_log".into()),
            result: AuditResult::Success,
            details: json!({ "first": first, "last": last, "sha256": sha256, "object": object }),
            ..Entry::by_system("audit.archive", now_ms())
        })
        .await?;
    }
    log.note_cleanup(chain).await?;
    Ok(gone)
}
