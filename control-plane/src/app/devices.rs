//! Devices: what is known of one, and what people change about it.

pub mod inventory;
pub mod metrics;

use crate::{
    api::{IfMatch, Mutation, Timestamp, mutation::Resource, time::now_ms},
    context::App,
    directory::{Change, ConfigRecord, DeviceSummary},
    error::{ApiError, FieldError},
};
use breeze_proto::{
    id::{DeviceId, SiteId},
    v1::{DeviceFacts, DeviceLatest},
};
use breeze_store::model::{
    Scope,
    audit::{Changes, changes},
    device::{self, DEVICES, DeviceChange, MAX_NAME_CHARS, MAX_TAG_CHARS, MAX_TAGS, Seen, Standing},
    device_state,
    error::ModelError,
    tenancy,
};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;
use utoipa::ToSchema;

/// How long a read waits for the directory to learn of a device that is stored already.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(2);

/// All that is known of a device but its inventory and history.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Device {
    #[serde(flatten)]
    pub summary: DeviceSummary,
    /// Its home: whose collectors keep it, wherever it connects.
    pub region: String,
    pub os_build: String,
    /// Where its private key lies: "file", readable by the device's administrator; null until it has
    /// told.
    #[schema(required)]
    pub key_protection: Option<String>,
    /// Name of the enrolment key that it came with.
    #[schema(required)]
    pub enrolled_by: Option<String>,
    /// Usual distance of its heartbeats, in seconds.
    pub heartbeat_interval_s: f64,
    /// The device's clock minus the server's.
    #[schema(required)]
    pub clock_offset_ms: Option<f64>,
    /// Heartbeats that its agent ever dropped because it could not send them for too long.
    pub thinned_heartbeats: u64,
    /// While it is online.
    #[schema(required)]
    pub connection: Option<Connection>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// For `If-Match`.
    pub version: u64,
}

/// How a device is connected at the moment.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Connection {
    pub relay_id: String,
    pub region: String,
    /// "quic" or "websocket".
    pub transport: String,
    /// As the relay sees it.
    pub address: String,
    #[schema(required)]
    pub round_trip_ms: Option<f64>,
    pub since: Timestamp,
    #[schema(required)]
    pub certificate_expires_at: Option<Timestamp>,
}

/// What a person wants changed; `None` leaves it alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    pub display_name: Option<Option<String>>,
    pub tags: Option<Vec<String>>,
    pub site_id: Option<SiteId>,
}

/// The device, if it takes part and the caller may see it.
///
/// # Errors
/// `not_found`, and the store's.
pub async fn find(app: &App, scope: &Scope, id: DeviceId) -> Result<Seen, ApiError> {
    let seen = device::find(&*app.state, scope, id).await?;
    match seen.config().standing {
        Standing::Active => Ok(seen),
        Standing::Pending | Standing::Rejected | Standing::Decommissioned => Err(ApiError::not_found("device")),
    }
}

/// A device in detail.
///
/// # Errors
/// `not_found`, `unavailable`, and the store's.
pub async fn detail(app: &App, scope: &Scope, id: DeviceId) -> Result<Device, ApiError> {
    let seen = find(app, scope, id).await?;
    describe(app, scope, &seen).await
}

async fn describe(app: &App, scope: &Scope, seen: &Seen) -> Result<Device, ApiError> {
    let config = seen.config();
    let summary = summary(app, scope, seen).await?;
    let facts = device_state::facts(&*app.state, config.id).await?.map(|(_, facts)| facts).unwrap_or_default();
    let latest = device_state::latest(&*app.state, config.id).await?.map(|(_, latest)| latest);
    let os_build = match &facts.host {
        Some(host) => host.os_build.clone(),
        None => config.enrolled.os_build.clone(),
    };
    let key_protection =
        facts.host.as_ref().map(|host| host.key_protection.clone()).filter(|protection| !protection.is_empty());
    let online = summary.status == crate::directory::Status::Online.name();
    Ok(Device {
        region: app.config.home_of(&config.home_region).to_owned(),
        os_build,
        key_protection,
        enrolled_by: Some(config.enrollment_key_name.clone()).filter(|name| !name.is_empty()),
        heartbeat_interval_s: f64::from(app.authority.heartbeat_ms()) / 1000.0,
        clock_offset_ms: latest.as_ref().map(|latest| latest.clock_offset_us as f64 / 1000.0),
        thinned_heartbeats: latest.as_ref().map_or(0, |latest| latest.thinned),
        connection: if online { connection(&facts, latest.as_ref()) } else { None },
        created_at: Timestamp(config.created_ms),
        updated_at: Timestamp(config.updated_ms),
        version: seen.version(),
        summary,
    })
}

/// From the directory, which may be a moment behind the store.
async fn summary(app: &App, scope: &Scope, seen: &Seen) -> Result<DeviceSummary, ApiError> {
    let id = seen.config().id;
    if !app.directory.wait_for(id, seen.version(), Duration::ZERO).await {
        app.directory.wait_for(id, seen.version(), DIRECTORY_PATIENCE).await;
    }
    app.directory
        .get(scope, id)
        .ok_or_else(|| ApiError::unavailable("The device list is being built. Try again in a moment."))
}

fn connection(facts: &DeviceFacts, latest: Option<&DeviceLatest>) -> Option<Connection> {
    let connection = facts.connection.as_ref()?;
    let expires = connection.certificate_expires_s;
    Some(Connection {
        relay_id: connection.relay_id.clone(),
        region: facts.region.clone(),
        transport: connection.transport.clone(),
        address: connection.address.clone(),
        round_trip_ms: latest
            .filter(|latest| latest.round_trip_us > 0)
            .map(|latest| f64::from(latest.round_trip_us) / 1000.0),
        since: Timestamp::from_us(connection.since_us),
        certificate_expires_at: (expires > 0).then(|| Timestamp(expires.saturating_mul(1000))),
    })
}

/// Changes a device as it was read at `version`.
///
/// # Errors
/// `validation`, `not_found`, `precondition_failed`, `conflict`, and the store's.
pub async fn update(
    app: &App,
    scope: &Scope,
    mutation: &Mutation,
    id: DeviceId,
    IfMatch(version): IfMatch,
    wish: Wish,
) -> Result<Device, ApiError> {
    let seen = find(app, scope, id).await?;
    let resource = resource(&seen);
    mutation.about(resource.clone());
    if seen.version() != version {
        return Err(ApiError::precondition_failed());
    }
    let change = checked(app, scope, wish).await?;
    let intent = mutation.intent(Resource { changes: difference(&seen, &change), ..resource });
    let seen = device::update(&*app.state, &seen, change, &intent, now_ms()).await?;
    publish(app, &seen).await?;
    describe(app, scope, &seen).await
}

/// Why a decommissioned device is revoked.
const DECOMMISSIONED: &str = "decommissioned";

/// Ends a device for good.
///
/// # Errors
/// `not_found`, `precondition_failed`, and the store's.
pub async fn decommission(
    app: &App,
    scope: &Scope,
    mutation: &Mutation,
    id: DeviceId,
    IfMatch(version): IfMatch,
) -> Result<(), ApiError> {
    let seen = find(app, scope, id).await?;
    let resource = resource(&seen);
    mutation.about(resource.clone());
    if seen.version() != version {
        return Err(ApiError::precondition_failed());
    }
    let standing = |standing| Some(json!({ "standing": standing }));
    let (before, after) = (standing(seen.config().standing), standing(Standing::Decommissioned));
    let intent = mutation.intent(resource.changed(before.as_ref(), after.as_ref()));
    let seen = device::decommission(&*app.state, &seen, DECOMMISSIONED, &intent, now_ms()).await?;
    let published = publish(app, &seen).await;
    if published.is_err() {
        // What is stuck may be an older change of the device: its revocation waits for none.
        if let Err(error) = app.authority.revocations.revoke(id, DECOMMISSIONED).await {
            tracing::warn!(device.id = %id, error = %error, "the revocation waits for the outbox");
        }
    }
    published
}

/// What was committed is in this node's directory at once, and on its way to everybody else's.
async fn publish(app: &App, seen: &Seen) -> Result<(), ApiError> {
    let id = seen.config().id;
    let record = ConfigRecord::of(seen.config().clone());
    app.directory.apply_config(&[Change { device: id, version: seen.version(), record }]);
    app.deliver_now(DEVICES, &id.to_bytes()).await
}

fn resource(seen: &Seen) -> Resource {
    let config = seen.config();
    let name = config.display_name.clone().unwrap_or_else(|| config.enrolled.hostname.clone());
    Resource::new("device", config.id).named(name).in_org(config.org_id)
}

fn difference(seen: &Seen, change: &DeviceChange) -> Changes {
    let old = seen.config();
    let before = json!({ "display_name": old.display_name, "tags": old.tags, "site_id": old.site_id });
    let mut after = before.clone();
    if let Some(new) = &change.display_name {
        after["display_name"] = json!(new);
    }
    if let Some(new) = &change.tags {
        after["tags"] = json!(new);
    }
    if let Some((_, new)) = &change.site {
        after["site_id"] = json!(new);
    }
    changes(Some(&before), Some(&after))
}

async fn checked(app: &App, scope: &Scope, wish: Wish) -> Result<DeviceChange, ApiError> {
    let mut errors = Vec::new();
    let mut wrong = |field: &str, message: String| errors.push(FieldError { field: field.to_owned(), message });
    // An empty name is no name.
    let display_name = wish.display_name.map(|name| name.map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()));
    if let Some(Some(name)) = &display_name
        && (name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control))
    {
        wrong(
            "display_name",
            format!("must have at most {MAX_NAME_CHARS} characters, none of them control characters"),
        );
    }
    let tags = wish.tags.map(tidy_tags);
    if let Some(tags) = &tags {
        if tags.len() > MAX_TAGS {
            wrong("tags", format!("must be at most {MAX_TAGS}"));
        }
        if tags.iter().any(|tag| tag.chars().count() > MAX_TAG_CHARS || tag.chars().any(char::is_control)) {
            wrong(
                "tags",
                format!("must each have at most {MAX_TAG_CHARS} characters, none of them control characters"),
            );
        }
    }
    let site = match wish.site_id {
        None => None,
        Some(id) => match tenancy::site(&*app.state, scope, id).await {
            Ok(site) => {
                app.directory.name_site(id, &site.value.name);
                let organization = tenancy::organization(&*app.state, scope, site.value.org_id).await?.value;
                app.directory.name_organization(organization.id, &organization.name);
                Some((site.value.org_id, id))
            }
            Err(ModelError::NotFound(_)) => {
                wrong("site_id", "there is no such site, or you may not see it".into());
                None
            }
            Err(error) => return Err(error.into()),
        },
    };
    if errors.is_empty() { Ok(DeviceChange { display_name, tags, site }) } else { Err(ApiError::fields(errors)) }
}

/// Trimmed, without empty ones and repetitions, in the order given.
fn tidy_tags(tags: Vec<String>) -> Vec<String> {
    let mut tidy: Vec<String> = Vec::with_capacity(tags.len().min(MAX_TAGS + 1));
    for tag in tags {
        let tag = tag.trim();
        if !tag.is_empty() && !tidy.iter().any(|held| held == tag) {
            tidy.push(tag.to_owned());
        }
        if tidy.len() > MAX_TAGS {
            break;
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_tidied() {
        let tags = ["b ", "", "a", "b", " "].map(str::to_owned).to_vec();
        assert_eq!(tidy_tags(tags), ["b", "a"]);
    }
}
