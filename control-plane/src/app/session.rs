//! Signing in and out, and who a request comes from.

use crate::{
    api::{
        Mutation, Principal,
        mutation::{Actor, Resource},
        time::now_ms,
    },
    context::App,
    error::ApiError,
    keyring::{mac, new_secret, sha256_hex},
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use breeze_proto::id::{PartnerId, SessionId};
use breeze_store::model::{
    Scope, Sites, Tenant,
    audit::{ActorType, Entry, Intent},
    people::{self, User, UserStatus},
    session::{self, Kind, NewSecrets, Refreshed, Session},
    tenancy,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;
use zeroize::Zeroizing;

/// The cookie's name.
pub const COOKIE: &str = "breeze_session";
/// A browser's session ends after so long without use.
pub const BROWSER_IDLE: Duration = Duration::from_secs(12 * 3600);
/// It ends after so long in any case.
pub const BROWSER_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// An access token is good for so long.
pub const ACCESS_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// A client that does not refresh for so long has to sign in again.
pub const TOKEN_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);
/// And after so long in any case.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(180 * 24 * 3600);
const ACCESS_PREFIX: &str = "brza_";
const REFRESH_PREFIX: &str = "brzr_";

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `<session id>.<secret>`, as cookie and tokens carry it.
fn join(id: SessionId, secret: &str) -> String {
    format!("{}.{secret}", id.uuid().simple())
}

fn split(text: &str) -> Option<(SessionId, String)> {
    let (id, secret) = text.split_once('.')?;
    if id.len() != 32 || secret.len() != 43 {
        return None;
    }
    Some((SessionId::from_uuid(Uuid::try_parse(id).ok()?), sha256_hex(secret.as_bytes())))
}

/// What a request carries: an `Authorization` header wins over a cookie.
fn presented(headers: &HeaderMap) -> Option<(Kind, SessionId, String)> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok()?.strip_prefix("Bearer ")?.strip_prefix(ACCESS_PREFIX)?;
        return split(token).map(|(id, secret)| (Kind::Token, id, secret));
    }
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
        .find_map(split)
        .map(|(id, secret)| (Kind::Browser, id, secret))
}

/// Who a request comes from; `None` when it carries nothing that is in force.
///
/// # Errors
/// The store's.
pub async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Option<Arc<Principal>>, ApiError> {
    let Some((kind, id, secret)) = presented(headers) else { return Ok(None) };
    let Some(session) = session::authenticate(&*app.state, id, &secret, now_ms()).await? else { return Ok(None) };
    if session.kind != kind {
        return Ok(None);
    }
    principal_of(app, session).await
}

/// Whom a session stands for; `None` when that person may not sign in any more.
///
/// # Errors
/// The store's.
pub(crate) async fn principal_of(app: &App, session: Session) -> Result<Option<Arc<Principal>>, ApiError> {
    let Some(user) = people::find(&*app.state, session.user_id).await? else { return Ok(None) };
    let user = user.value;
    if user.status != UserStatus::Active {
        return Ok(None);
    }
    let (scope, org_id) = scope_of(app, user.partner_id).await?;
    Ok(Some(Arc::new(Principal {
        user_id: user.id,
        email: user.email,
        name: user.name,
        role: user.role,
        partner_id: user.partner_id,
        org_id,
        scope,
        session,
    })))
}

/// A partner administrator reaches all organizations of the partner, as they are now.
async fn scope_of(app: &App, partner: PartnerId) -> Result<(Scope, breeze_proto::id::OrgId), ApiError> {
    let organizations = tenancy::organizations_of(&*app.state, partner).await?;
    let first = organizations
        .first()
        .copied()
        .ok_or_else(|| ApiError::unavailable("Your partner has no organization yet. Try again in a moment."))?;
    let organizations = organizations.into_iter().map(|id| (id, Sites::All)).collect();
    Ok((Scope::tenant(Tenant { partner, organizations }), first))
}

/// The token that a browser's mutations must carry: derived, so that there is nothing to keep.
#[must_use]
pub fn csrf_token(app: &App, session: &Session) -> String {
    hex::encode(&mac(&app.csrf_key, &[&session.id.to_bytes(), session.secret.as_bytes()])[..16])
}

/// Checks a password. Unknown address, wrong password and disabled account are one answer that
/// takes one time.
async fn verify(app: &App, mutation: &Mutation, email: &str, password: Zeroizing<String>) -> Result<User, ApiError> {
    let normal = people::normalise_email(email);
    let shown: String = normal.chars().take(254).collect();
    app.limits.take_attempt(&normal, mutation.address())?;
    mutation.about(Resource::new("session", "").named(shown.clone()));
    mutation.acts(Actor { email: Some(shown), ..Actor::default() });
    let too_long = password.chars().count() > super::password::MAX_CHARS || normal.len() > 254;
    let found = if too_long { None } else { people::find_by_email(&*app.state, &normal).await? };
    let user = found.map(|found| found.value).filter(|user| user.status == UserStatus::Active);
    if let Some(user) = &user {
        mutation.acts(Actor { partner_id: Some(user.partner_id), email: Some(user.email.clone()), ..Actor::default() });
    }
    let password = if too_long { Zeroizing::new(String::new()) } else { password };
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let right = app.passwords.verify(password, hash).await?;
    match user {
        Some(user) if right => {
            app.limits.give_back_attempt(&normal, mutation.address());
            mutation.acts(actor_of(&user));
            Ok(user)
        }
        Some(_) | None => {
            metrics::counter!("breeze_sign_in_failures_total").increment(1);
            Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "Not signed in",
                "The e-mail address or the password is wrong.",
            ))
        }
    }
}

/// The user as the actor of an audit entry.
#[must_use]
pub fn actor_of(user: &User) -> Actor {
    Actor {
        kind: ActorType::User,
        partner_id: Some(user.partner_id),
        id: Some(user.id.to_string()),
        email: Some(user.email.clone()),
    }
}

/// A browser's new session and its cookie.
#[derive(Debug)]
pub struct SignedIn {
    pub principal: Arc<Principal>,
    pub cookie: HeaderValue,
}

/// Signs a browser in.
///
/// # Errors
/// `unauthenticated`, `rate_limited`, and the store's.
pub async fn sign_in(
    app: &App,
    mutation: &Mutation,
    email: &str,
    password: Zeroizing<String>,
) -> Result<SignedIn, ApiError> {
    let user = verify(app, mutation, email, password).await?;
    open_browser_session(app, mutation, &user).await
}

/// A session for a browser whose user has just proven who they are.
///
/// # Errors
/// The store's.
pub async fn open_browser_session(app: &App, mutation: &Mutation, user: &User) -> Result<SignedIn, ApiError> {
    let secret = new_secret();
    let session = new_session(mutation, user, Kind::Browser, &secret);
    create(app, mutation, user, &session).await?;
    let cookie = cookie(mutation, &join(session.id, &secret), BROWSER_LIFETIME)?;
    let principal = principal_of(app, session).await?.ok_or_else(ApiError::unauthenticated)?;
    Ok(SignedIn { principal, cookie })
}

/// Stores a session with the entry of the sign-in.
async fn create(app: &App, mutation: &Mutation, user: &User, session: &Session) -> Result<(), ApiError> {
    let kind = match session.kind {
        Kind::Browser => "browser",
        Kind::Token => "token",
    };
    let resource = Resource::new("session", session.id)
        .named(user.email.clone())
        .details(json!({ "kind": kind, "expires_ms": session.expires_ms }));
    session::create(&*app.state, session, &mutation.intent(resource)).await?;
    app.deliver_now(session::SESSIONS, &session.id.to_bytes()).await
}

fn new_session(mutation: &Mutation, user: &User, kind: Kind, secret: &str) -> Session {
    let now = now_ms();
    let (secret_life, idle, lifetime) = match kind {
        Kind::Browser => (BROWSER_LIFETIME, BROWSER_IDLE, BROWSER_LIFETIME),
        Kind::Token => (ACCESS_LIFETIME, TOKEN_IDLE, TOKEN_LIFETIME),
    };
    Session {
        id: SessionId::generate(),
        user_id: user.id,
        kind,
        secret: sha256_hex(secret.as_bytes()),
        secret_expires_ms: now + ms(secret_life),
        refresh: None,
        used_refresh: Vec::new(),
        created_ms: now,
        seen_ms: now,
        idle_ms: ms(idle),
        expires_ms: now + ms(lifetime),
        revoked_ms: None,
        ip_address: mutation.address().to_string(),
        user_agent: mutation.user_agent().to_owned(),
    }
}

/// `Set-Cookie`; an empty value with no lifetime takes it away.
fn cookie(mutation: &Mutation, value: &str, lifetime: Duration) -> Result<HeaderValue, ApiError> {
    let secure = if mutation.is_secure() { "; Secure" } else { "" };
    let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}", lifetime.as_secs());
    HeaderValue::from_str(&text).map_err(ApiError::internal)
}

/// Ends the caller's session; the cookie that takes itself away.
///
/// # Errors
/// The store's.
pub async fn sign_out(app: &App, mutation: &Mutation, principal: &Principal) -> Result<HeaderValue, ApiError> {
    let id = principal.session_id();
    let intent = mutation.intent(Resource::new("session", id).named(principal.email.clone()));
    session::revoke(&*app.state, id, &intent, now_ms()).await?;
    app.deliver_now(session::SESSIONS, &id.to_bytes()).await?;
    cookie(mutation, "", Duration::ZERO)
}

/// Tokens of a client that is not a browser.
#[derive(Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub expires_in: Duration,
}

/// Signs another client in.
///
/// # Errors
/// As [`sign_in`].
pub async fn issue_tokens(
    app: &App,
    mutation: &Mutation,
    email: &str,
    password: Zeroizing<String>,
) -> Result<Tokens, ApiError> {
    let user = verify(app, mutation, email, password).await?;
    let (access, refresh) = (new_secret(), new_secret());
    let mut session = new_session(mutation, &user, Kind::Token, &access);
    session.refresh = Some(sha256_hex(refresh.as_bytes()));
    create(app, mutation, &user, &session).await?;
    Ok(tokens(session.id, &access, &refresh))
}

fn tokens(id: SessionId, access: &str, refresh: &str) -> Tokens {
    Tokens {
        access: format!("{ACCESS_PREFIX}{}", join(id, access)),
        refresh: format!("{REFRESH_PREFIX}{}", join(id, refresh)),
        expires_in: ACCESS_LIFETIME,
    }
}

/// Exchanges a refresh token. One that was used before ends the session.
///
/// # Errors
/// `unauthenticated`, and the store's.
pub async fn refresh_tokens(app: &App, mutation: &Mutation, token: &str) -> Result<Tokens, ApiError> {
    let (id, presented) = token.strip_prefix(REFRESH_PREFIX).and_then(split).ok_or_else(ApiError::unauthenticated)?;
    let (access, refresh) = (new_secret(), new_secret());
    let now = now_ms();
    let new = NewSecrets {
        secret: sha256_hex(access.as_bytes()),
        secret_expires_ms: now + ms(ACCESS_LIFETIME),
        refresh: sha256_hex(refresh.as_bytes()),
    };
    let reused = |session: &Session| {
        Intent::new(Entry {
            actor_type: ActorType::Anonymous,
            resource_type: Some("session".into()),
            resource_id: Some(session.id.to_string()),
            ip_address: Some(mutation.address().to_string()),
            user_agent: Some(mutation.user_agent().to_owned()),
            details: json!({ "user_id": session.user_id, "reason": "a used refresh token came again" }),
            ..Entry::by_system("session.end_reused", now)
        })
    };
    let outcome = session::refresh(&*app.state, id, &presented, &new, &reused, now).await?;
    let session = match &outcome {
        Refreshed::Session(session) | Refreshed::Reused(session) => session,
        Refreshed::Unknown => return Err(ApiError::unauthenticated()),
    };
    mutation.about(Resource::new("session", session.id));
    let user = people::find(&*app.state, session.user_id).await?.map(|found| found.value);
    if let Some(user) = &user {
        mutation.acts(actor_of(user));
    }
    if matches!(outcome, Refreshed::Reused(_)) {
        metrics::counter!("breeze_refresh_token_reuse_total").increment(1);
        app.deliver_now(session::SESSIONS, &id.to_bytes()).await?;
        tracing::warn!(session.id = %id, "a used refresh token came again; its session is revoked");
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "Not signed in",
            "This refresh token was used before, so somebody else may have it: the session was ended. Sign in again.",
        ));
    }
    if !user.is_some_and(|user| user.status == UserStatus::Active) {
        return Err(ApiError::unauthenticated());
    }
    Ok(tokens(id, &access, &refresh))
}
