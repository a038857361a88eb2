//! The endpoints. Each resource registers its own with the access that it demands; nothing else
//! reaches the router.

pub mod agents;
pub mod audit_logs;
pub mod auth;
pub mod devices;
pub mod docs;
pub mod enrollment_keys;
pub mod health;
pub mod install;
pub mod instance;
pub mod orgs;
pub mod overview;
pub mod pending_devices;
pub mod setup;
pub mod status;
pub mod ws;

use crate::api::Api;
use breeze_proto::id::{OrgId, PartnerId, SiteId};
use serde::{Deserialize, Serialize};
use utoipa::{
    OpenApi as _, ToSchema,
    openapi::{
        OpenApi,
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};
use uuid::Uuid;

/// An id with the name that people know it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Named {
    pub id: Uuid,
    pub name: String,
}

impl Named {
    #[must_use]
    pub const fn partner(id: PartnerId, name: String) -> Self {
        Self { id: id.uuid(), name }
    }

    #[must_use]
    pub const fn organization(id: OrgId, name: String) -> Self {
        Self { id: id.uuid(), name }
    }

    #[must_use]
    pub const fn site(id: SiteId, name: String) -> Self {
        Self { id: id.uuid(), name }
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Breeze",
        description = "Errors are problem documents (RFC 9457). Lists are paged by opaque cursors. Unknown fields and parameters are refused. Creates honour Idempotency-Key; changes demand If-Match where an ETag was given. Browsers sign in with a cookie and send X-CSRF-Token; other clients send a bearer token."
    ),
    tags(
        (name = "auth", description = "Set-up, signing in and out"),
        (name = "devices", description = "Devices and what they report"),
        (name = "enrollment", description = "Enrolment keys and devices that wait"),
        (name = "organizations", description = "Organizations and sites"),
        (name = "audit", description = "Who did what"),
        (name = "system", description = "The installation itself")
    )
)]
struct Document;

fn base() -> OpenApi {
    let mut document = Document::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let components = document.components.get_or_insert_with(Default::default);
    let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
        crate::app::session::COOKIE,
        "Of browsers. Mutations also need the header X-CSRF-Token.",
    )));
    components.security_schemes.insert("session_cookie".into(), cookie);
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.security_schemes.insert("bearer".into(), bearer);
    document
}

/// Every endpoint of the API, that of set-up included.
#[must_use]
pub fn api() -> Api {
    setup::register(without_setup())
}

/// Every endpoint but set-up: what is left when it is done.
#[must_use]
pub fn without_setup() -> Api {
    let api = Api::new(base());
    let api = instance::register(api);
    let api = auth::register(api);
    let api = agents::register(api);
    let api = devices::register(api);
    let api = overview::register(api);
    let api = status::register(api);
    let api = ws::register(api);
    let api = enrollment_keys::register(api);
    let api = pending_devices::register(api);
    let api = orgs::register(api);
    let api = audit_logs::register(api);
    let api = install::register(api);
    let api = health::register(api);
    docs::register(api)
}
