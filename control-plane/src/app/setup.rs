//! First start and set-up. The first tenant is there from the first start; set-up names it and makes
//! the first person. The link's token is kept hashed, expires and works once.

use crate::{
    api::{
        Mutation,
        mutation::{Actor, Resource},
        time::now_ms,
    },
    app::{password, session},
    context::App,
    error::{ApiError, FieldError},
    keyring::{mac, sha256_hex},
};
use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use breeze_proto::id::UserId;
use breeze_store::model::{
    audit::ActorType,
    instance::{self, Instance, Names, Plan, SetupError},
    people::{Role, User, UserStatus},
    tenancy,
};
use std::{sync::atomic::Ordering, time::Duration};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Longest name of a person, organization or site, in characters.
pub const MAX_NAME_CHARS: usize = 128;

/// How often a node looks whether set-up was done on another.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// Names until set-up gives others.
pub const FIRST_NAMES: Names<'_> =
    Names { partner: "My company", organization: "Default organization", site: "Main site", timezone: "UTC" };

/// What set-up is told.
#[derive(Debug)]
pub struct Answers {
    pub token: String,
    pub name: String,
    pub email: String,
    pub password: Zeroizing<String>,
    pub organization_name: Option<String>,
    pub site_name: Option<String>,
}

/// The token in force, put in force if there is none; `None` when the instance is set up already. Every
/// node gives the same: it derives from the keys that they share, and its expiry in the store.
///
/// # Errors
/// The store's.
pub async fn arm(app: &App) -> anyhow::Result<Option<String>> {
    let id = instance::read(&*app.state).await?.id.to_bytes();
    let key = app.keyring.derive("set-up link");
    let token = |expires_ms: u64| URL_SAFE_NO_PAD.encode(mac(&key, &[&id, &expires_ms.to_be_bytes()]));
    let hash = |expires_ms: u64| sha256_hex(token(expires_ms).as_bytes());
    let now = now_ms();
    let armed = instance::arm_setup(&*app.state, &hash, now, now + app.config.setup_link_s * 1_000).await?;
    Ok(armed.map(token))
}

/// Whether nobody has set up yet: on this node or any other.
///
/// # Errors
/// The store's.
pub async fn is_required(app: &App) -> Result<bool, ApiError> {
    if app.setup_required.load(Ordering::Acquire) && instance::read(&*app.state).await?.initialised_ms.is_some() {
        app.setup_required.store(false, Ordering::Release);
    }
    Ok(app.setup_required.load(Ordering::Acquire))
}

/// Notices when it was set up on another node, until then or `stop`.
pub async fn follow(app: &App, stop: &CancellationToken) {
    let mut required = true;
    while required {
        match is_required(app).await {
            Ok(still) => required = still,
            Err(error) => tracing::debug!(?error, "cannot see whether set-up is done"),
        }
        if required && stop.run_until_cancelled(tokio::time::sleep(FOLLOW_INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// Checks a name that people read.
///
/// # Errors
/// What is wrong with it, for `field`.
pub fn check_name(field: &str, name: &str) -> Option<FieldError> {
    let message = if name.trim().is_empty() {
        "must not be empty"
    } else if name.chars().count() > MAX_NAME_CHARS {
        "must have at most 128 characters"
    } else if name.chars().any(char::is_control) {
        "must not contain control characters"
    } else {
        return None;
    };
    Some(FieldError { field: field.into(), message: message.into() })
}

/// Sets up and signs the new administrator in.
///
/// # Errors
/// Problems of the fields; `forbidden` for a token that is wrong or has expired; `not_found` when
/// somebody else was first.
pub async fn complete(app: &App, mutation: &Mutation, answers: Answers) -> Result<session::SignedIn, ApiError> {
    let token = sha256_hex(answers.token.as_bytes());
    mutation.about(Resource::new("instance", ""));
    if !is_required(app).await? {
        return Err(refused(SetupError::AlreadyDone));
    }
    instance::check_setup(&*app.state, &token, now_ms()).await.map_err(refused)?;
    let mut errors: Vec<FieldError> = Vec::new();
    errors.extend(check_name("name", &answers.name));
    errors.extend(password::check_email(&answers.email));
    errors.extend(password::check_new(&answers.password, &answers.email, &answers.name));
    for (field, name) in [("organization_name", &answers.organization_name), ("site_name", &answers.site_name)] {
        errors.extend(name.as_ref().and_then(|name| check_name(field, name)));
    }
    if !errors.is_empty() {
        return Err(ApiError::fields(errors));
    }

    let password_hash = app.passwords.hash(answers.password).await?;
    let now = now_ms();
    let instance = instance::read(&*app.state).await?;
    let organization = answers.organization_name.as_deref().map_or(FIRST_NAMES.organization, str::trim);
    let names = Names {
        partner: answers.organization_name.as_deref().map_or(FIRST_NAMES.partner, str::trim),
        organization,
        site: answers.site_name.as_deref().map_or(FIRST_NAMES.site, str::trim),
        timezone: FIRST_NAMES.timezone,
    };
    let user = User {
        id: UserId::generate(),
        partner_id: instance.partner_id,
        email: answers.email.trim().to_owned(),
        name: answers.name.trim().to_owned(),
        password_hash,
        role: Role::PartnerAdmin,
        status: UserStatus::Active,
        password_changed_ms: now,
        created_ms: now,
        updated_ms: now,
    };
    let plan = Plan { user: Some(user.clone()), ..Plan::of(&instance, &names, now) };
    mutation.acts(Actor {
        kind: ActorType::User,
        partner_id: Some(instance.partner_id),
        id: Some(user.id.to_string()),
        email: Some(user.email.clone()),
    });
    let intent = mutation.intent(Resource::new("instance", instance.id).named(names.partner));
    instance::complete_setup(&*app.state, &token, &plan, &intent, now).await.map_err(refused)?;
    app.setup_required.store(false, Ordering::Release);
    deliver(app, &instance).await?;
    session::open_browser_session(app, &mutation.and_then("session.create"), &user).await
}

/// Delivers what the instance's commits planned, and what follows from that.
///
/// # Errors
/// `unavailable`: it will be delivered.
pub async fn deliver(app: &App, instance: &Instance) -> Result<(), ApiError> {
    app.deliver_now(instance::INSTANCE, instance::PARTITION).await?;
    app.deliver_now(tenancy::ORGANIZATIONS, &instance.org_id.to_bytes()).await?;
    app.deliver_now(tenancy::SITES, &instance.site_id.to_bytes()).await
}

fn refused(error: SetupError) -> ApiError {
    match error {
        SetupError::AlreadyDone => ApiError::not_found("address"),
        SetupError::Token => ApiError::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "The set-up link does not work",
            "The link is wrong or has expired. Start the server again: it prints a new one.",
        ),
        SetupError::Model(error) => error.into(),
    }
}
