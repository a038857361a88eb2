//! `GET /devices/{id}/events`.

use crate::{
    api::{Caller, Path, Query, Timestamp, access::DevicesRead, cursor::checked_limit},
    app::devices,
    context::App,
    error::ApiError,
};
use axum::{Json, extract::State};
use breeze_proto::id::DeviceId;
use breeze_store::history::{Cursor, Event, EventId, EventKind, EventQuery, HistoryError, MAX_KIND_BYTES};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Kinds that one request may ask for.
const MAX_KINDS: usize = 16;

/// Which events to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// Rows at most.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Kinds separated by commas: online, offline, connected, disconnected, inventory_changed, left_out. All
    /// without it.
    kind: Option<String>,
}

/// Something that happened to a device.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeviceEvent {
    /// By the clock of the relay that saw it. A device went offline when it was heard of last.
    at: Timestamp,
    /// "online", "offline", "connected", "disconnected", "inventory_changed", "left_out" (an hour in which
    /// there was more than is listed); there will be more.
    kind: String,
    /// One line for people.
    summary: String,
    /// Depends on the kind.
    #[schema(value_type = Object)]
    details: Value,
}

/// Events, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeviceEvents {
    data: Vec<DeviceEvent>,
    /// Where the next page begins; null on the last.
    #[schema(required)]
    next_cursor: Option<String>,
    has_more: bool,
    /// Regions whose history does not answer at the moment: their events are missing.
    missing_regions: Vec<String>,
}

/// Where a page ended.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    at_ms: u64,
    id: [u8; 16],
}

impl From<Event> for DeviceEvent {
    fn from(event: Event) -> Self {
        let details = serde_json::from_str(&event.details).ok().filter(Value::is_object);
        Self {
            at: Timestamp(event.at_ms),
            kind: event.kind.as_str().to_owned(),
            summary: event.summary,
            details: details.unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        }
    }
}

/// List what happened to a device, newest first.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/events", tag = "devices",
    params(("id" = Uuid, Path, description = "The device"), EventParams),
    responses((status = 200, body = DeviceEvents)),
)]
pub(crate) async fn list_device_events(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path(id): Path<DeviceId>,
    Query(params): Query<EventParams>,
) -> Result<Json<DeviceEvents>, ApiError> {
    let limit = checked_limit(params.limit)?;
    let asked = params.kind.unwrap_or_default();
    let kinds = kinds(&asked)?;
    let (partner, device) = (caller.partner_id.to_string(), id.to_string());
    let context = ["events", &partner, &device, &asked];
    let after: Option<Position> =
        params.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    devices::find(&app, caller.scope(), id).await?;

    let after = after.map(|position| Cursor { at_ms: position.at_ms, id: EventId(position.id) });
    let query = EventQuery { device: id, from_ms: 0, to_ms: u64::MAX, kinds, after, limit };
    let page = app.history.events(&query).await.map_err(|error| match error {
        HistoryError::Unavailable(_) => {
            tracing::warn!(%error, "events cannot be read");
            ApiError::unavailable("The events cannot be read at the moment. Try again.")
        }
        HistoryError::Invalid(_) | HistoryError::Corrupt(_) => ApiError::internal(error),
    })?;
    let next = page.next.map(|next| Position { at_ms: next.at_ms, id: next.id.0 });
    Ok(Json(DeviceEvents {
        data: page.events.into_iter().map(DeviceEvent::from).collect(),
        has_more: next.is_some(),
        next_cursor: next.map(|next| app.cursors.seal(&context, &next)),
        missing_regions: page.missing_regions,
    }))
}

fn kinds(asked: &str) -> Result<Vec<EventKind>, ApiError> {
    let names: Vec<&str> = asked.split(',').filter(|name| !name.is_empty()).collect();
    let is_name = |name: &&str| {
        name.len() <= MAX_KIND_BYTES && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    if names.len() > MAX_KINDS || !names.iter().all(is_name) {
        return Err(ApiError::field("kind", format!("must be at most {MAX_KINDS} names of kinds, such as connected")));
    }
    Ok(names.into_iter().map(EventKind::from_name).collect())
}
