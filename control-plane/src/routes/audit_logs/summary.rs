//! How much was done, by day, action and actor.

use crate::{
    api::{Caller, Query, Timestamp, access::AuditRead, time::now_ms},
    app::audit,
    context::App,
    error::ApiError,
};
use axum::{Json as Body, extract::State};
use breeze_proto::id::OrgId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Days that one summary takes in.
const MAX_DAYS: u64 = 400;
/// Days unless `from` says otherwise.
const DEFAULT_DAYS: u64 = 30;
/// Actions and actors that are named.
const MAX_NAMED: usize = 50;

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SummaryParams {
    /// Of one organization alone.
    organization_id: Option<Uuid>,
    /// From the UTC day of this time; 30 days ago unless given.
    from: Option<Timestamp>,
    /// To the UTC day of this time, with it; today unless given.
    to: Option<Timestamp>,
}

#[derive(Debug, Default, Clone, Serialize, ToSchema)]
pub(crate) struct AuditCounts {
    pub success: u64,
    pub failure: u64,
    pub denied: u64,
}

impl AuditCounts {
    fn add(&mut self, [success, failure, denied]: [u64; 3]) {
        self.success += success;
        self.failure += failure;
        self.denied += denied;
    }

    const fn sum(&self) -> u64 {
        self.success + self.failure + self.denied
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditDay {
    /// Its first moment, UTC.
    pub day: Timestamp,
    #[serde(flatten)]
    pub counts: AuditCounts,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditActionCount {
    pub action: String,
    #[serde(flatten)]
    pub counts: AuditCounts,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditActorCount {
    /// E-mail address, else id.
    pub actor: String,
    pub entries: u64,
}

/// By when entries came to their place, which is a moment after what they tell.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditSummary {
    pub from: Timestamp,
    pub to: Timestamp,
    pub total: u64,
    pub results: AuditCounts,
    /// Each day of the range, also those without entries.
    pub days: Vec<AuditDay>,
    /// The most frequent first; 50 at most.
    pub actions: Vec<AuditActionCount>,
    /// The busiest first; 50 at most.
    pub actors: Vec<AuditActorCount>,
    /// Entries of everybody else, and of nobody.
    pub other_actors: u64,
}

/// How much was done
#[utoipa::path(
    get,
    path = "/api/v1/audit/summary",
    tag = "audit",
    params(SummaryParams),
    responses((status = 200, body = AuditSummary))
)]
pub(super) async fn get_audit_summary(
    State(app): State<App>,
    caller: Caller<AuditRead>,
    Query(query): Query<SummaryParams>,
) -> Result<Body<AuditSummary>, ApiError> {
    let last = query.to.map_or_else(now_ms, |time| time.0) / DAY_MS;
    let first = query.from.map_or(last.saturating_sub(DEFAULT_DAYS - 1), |time| time.0 / DAY_MS);
    if first > last || last - first >= MAX_DAYS {
        return Err(ApiError::field("from", format!("must be before to, by at most {MAX_DAYS} days")));
    }
    let reach = audit::reach(&caller, query.organization_id.map(OrgId::from_uuid))?;
    let counted = audit::counts(&app, caller.scope(), reach, first, last + 1).await?;

    let mut days: BTreeMap<u64, AuditCounts> = (first..=last).map(|day| (day, AuditCounts::default())).collect();
    let mut results = AuditCounts::default();
    let mut actions: BTreeMap<String, AuditCounts> = BTreeMap::new();
    let mut actors: BTreeMap<String, u64> = BTreeMap::new();
    let mut other_actors = 0;
    for counts in counted {
        days.entry(counts.day).or_default().add(counts.results());
        results.add(counts.results());
        for (action, by_result) in counts.actions {
            actions.entry(action).or_default().add(by_result);
        }
        for (actor, entries) in counts.actors {
            *actors.entry(actor).or_default() += entries;
        }
        other_actors += counts.other_actors;
    }
    let mut actions: Vec<AuditActionCount> =
        actions.into_iter().map(|(action, counts)| AuditActionCount { action, counts }).collect();
    actions.sort_by_key(|one| std::cmp::Reverse(one.counts.sum()));
    actions.truncate(MAX_NAMED);
    let mut actors: Vec<AuditActorCount> =
        actors.into_iter().map(|(actor, entries)| AuditActorCount { actor, entries }).collect();
    actors.sort_by_key(|one| std::cmp::Reverse(one.entries));
    other_actors += actors.iter().skip(MAX_NAMED).map(|one| one.entries).sum::<u64>();
    actors.truncate(MAX_NAMED);
    Ok(Body(AuditSummary {
        from: Timestamp(first * DAY_MS),
        to: Timestamp((last + 1) * DAY_MS),
        total: results.sum(),
        results,
        days: days.into_iter().map(|(day, counts)| AuditDay { day: Timestamp(day * DAY_MS), counts }).collect(),
        actions,
        actors,
        other_actors,
    }))
}
