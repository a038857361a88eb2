//! `/enrollment-keys`: what admits devices.

use crate::{
    api::{
        Action, Api, Caller, Json, Mutation, Page, PageQuery, Path, Query, Timestamp,
        access::{EnrollmentRead, EnrollmentWrite},
        time::now_ms,
    },
    app::{enrollment, installer},
    context::App,
    error::ApiError,
    routes::Named,
};
use axum::{Json as Body, extract::State, http::StatusCode};
use breeze_proto::id::{EnrollmentKeyId, SiteId};
use breeze_store::model::{
    enrollment::{EnrollmentKeyRecord, KeyState},
    error::ModelError,
    tenancy,
};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::HashMap;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnrollmentKeyState {
    Active,
    Expired,
    UsedUp,
    Revoked,
}

impl From<KeyState> for EnrollmentKeyState {
    fn from(state: KeyState) -> Self {
        match state {
            KeyState::Active => Self::Active,
            KeyState::Expired => Self::Expired,
            KeyState::UsedUp => Self::UsedUp,
            KeyState::Revoked => Self::Revoked,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EnrollmentKey {
    pub id: Uuid,
    pub name: String,
    pub site: Named,
    pub created_at: Timestamp,
    /// Name of the person, or `system`.
    pub created_by: String,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    #[schema(required)]
    pub max_uses: Option<u64>,
    pub uses: u64,
    pub requires_approval: bool,
    /// Home region of its devices: whose collectors keep them.
    #[serde(default)]
    pub region: String,
    pub state: EnrollmentKeyState,
    #[schema(required)]
    pub revoked_at: Option<Timestamp>,
}

impl EnrollmentKey {
    fn of(app: &App, record: &EnrollmentKeyRecord, site_name: String) -> Self {
        Self {
            id: record.id.uuid(),
            name: record.name.clone(),
            site: Named::site(record.site_id, site_name),
            created_at: Timestamp(record.created_ms),
            created_by: record.created_by_name.clone(),
            expires_at: record.expires_ms.map(Timestamp),
            max_uses: record.max_uses,
            uses: record.uses,
            requires_approval: record.requires_approval,
            region: app.config.home_of(record.region.as_deref().unwrap_or_default()).to_owned(),
            state: record.state(now_ms()).into(),
            revoked_at: record.revoked_ms.map(Timestamp),
        }
    }
}

/// Ways to install an agent with the key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Install {
    /// One line for a shell on the machine.
    pub linux: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedEnrollmentKey {
    #[serde(flatten)]
    pub info: EnrollmentKey,
    /// The key itself. It is shown once.
    pub key: String,
    pub install: Install,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnrollmentKey {
    pub name: String,
    /// Where its devices go; the organization's first site unless given.
    pub site_id: Option<Uuid>,
    /// Seconds; null: never. Unless given, 30 days.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub expires_in_s: Option<Option<u64>>,
    /// Null: no limit.
    pub max_uses: Option<u64>,
    /// Whether a person must approve each device.
    #[serde(default)]
    pub requires_approval: bool,
    /// Home region of its devices, one of the installation's; its default unless given.
    pub region: Option<String>,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(deserializer).map(Some)
}

pub(super) fn register(api: Api) -> Api {
    api.read::<EnrollmentRead>(routes!(list_enrollment_keys))
        .mutation::<EnrollmentWrite>(Action::new("enrollment_key.create"), routes!(create_enrollment_key))
        .mutation::<EnrollmentWrite>(Action::new("enrollment_key.revoke"), routes!(revoke_enrollment_key))
}

/// Enrolment keys, newest first
#[utoipa::path(
    get,
    path = "/api/v1/enrollment-keys",
    tag = "enrollment",
    params(PageQuery),
    responses((status = 200, body = Page<EnrollmentKey>))
)]
async fn list_enrollment_keys(
    State(app): State<App>,
    caller: Caller<EnrollmentRead>,
    Query(query): Query<PageQuery>,
) -> Result<Body<Page<EnrollmentKey>>, ApiError> {
    let limit = query.limit()?;
    let org = caller.org_id.to_string();
    let context = ["enrollment-keys", org.as_str()];
    let after: Option<String> = query.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    let (mut keys, total) =
        breeze_store::model::enrollment::list(&*app.state, caller.scope(), caller.org_id, after.as_deref(), limit + 1)
            .await?;
    let has_more = keys.len() > limit;
    keys.truncate(limit);
    let next_cursor = keys.last().filter(|_| has_more).map(|(position, _)| app.cursors.seal(&context, position));
    let mut names: HashMap<SiteId, String> = HashMap::new();
    let mut data = Vec::with_capacity(keys.len());
    for (_, record) in &keys {
        let name = match names.get(&record.site_id) {
            Some(name) => name.clone(),
            None => match tenancy::site(&*app.state, caller.scope(), record.site_id).await {
                Ok(site) => site.value.name,
                Err(ModelError::NotFound(_)) => String::new(),
                Err(error) => return Err(error.into()),
            },
        };
        names.insert(record.site_id, name.clone());
        data.push(EnrollmentKey::of(&app, record, name));
    }
    Ok(Body(Page { data, next_cursor, has_more, total }))
}

/// Make an enrolment key
///
/// Repeated under the same Idempotency-Key it answers the same, the key's text included.
#[utoipa::path(
    post,
    path = "/api/v1/enrollment-keys",
    tag = "enrollment",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = CreateEnrollmentKey,
    responses((status = 201, body = CreatedEnrollmentKey))
)]
async fn create_enrollment_key(
    State(app): State<App>,
    caller: Caller<EnrollmentWrite>,
    mutation: Mutation,
    Json(body): Json<CreateEnrollmentKey>,
) -> Result<(StatusCode, Body<CreatedEnrollmentKey>), ApiError> {
    let wanted = enrollment::NewKey {
        name: body.name,
        site_id: body.site_id.map(SiteId::from_uuid),
        expires_in_s: body.expires_in_s.unwrap_or(Some(enrollment::DEFAULT_KEY_LIFETIME_S)),
        max_uses: body.max_uses,
        requires_approval: body.requires_approval,
        region: body.region,
    };
    let created = enrollment::create_key(&app, &caller, &mutation, wanted, |record, site, text| CreatedEnrollmentKey {
        info: EnrollmentKey::of(&app, record, site.name.clone()),
        key: text.to_owned(),
        install: Install { linux: installer::linux_line(&app, text) },
    })
    .await?;
    Ok((StatusCode::CREATED, Body(created)))
}

/// Revoke an enrolment key
///
/// Devices that it admitted stay. Revoking again changes nothing.
#[utoipa::path(
    delete,
    path = "/api/v1/enrollment-keys/{id}",
    tag = "enrollment",
    params(("id" = Uuid, Path)),
    responses((status = 204))
)]
async fn revoke_enrollment_key(
    State(app): State<App>,
    caller: Caller<EnrollmentWrite>,
    mutation: Mutation,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, ApiError> {
    enrollment::revoke_key(&app, &caller, &mutation, EnrollmentKeyId::from_uuid(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
