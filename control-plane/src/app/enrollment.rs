//! Enrolment keys, enrolment itself, and the queue of devices that wait for a person.

use crate::{
    api::{
        Caller, Mutation,
        access::{EnrollmentRead, EnrollmentWrite},
        mutation::{Actor, Resource},
        rate::Taken,
        time::now_ms,
    },
    app::setup::check_name,
    context::App,
    error::{ApiError, FieldError},
    keyring::{new_secret, sha256_hex},
    pki::csr::{self, ProvenKey},
};
use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use breeze_proto::{
    enroll::{EnrollRequest, EnrollResponse, EnrollmentKey},
    id::{DeviceId, EnrollmentKeyId, SiteId},
    limits::MAX_TEXT_BYTES,
};
use breeze_store::model::{
    Scope,
    audit::{ActorType, Entry, Intent},
    device::{self, DeviceConfig, EnrolledFacts, Standing},
    enrollment::{self, Created, EnrollmentKeyRecord, KeptAnswer, KeyState, UseError},
    error::ModelError,
    instance, tenancy, trust,
};
use prost::Message as _;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// What a key gets that says nothing about its end, in seconds.
pub const DEFAULT_KEY_LIFETIME_S: u64 = 30 * 24 * 3600;
/// The longest that a key which ends may last, in seconds.
pub const MAX_KEY_LIFETIME_S: u64 = 10 * 365 * 24 * 3600;
/// Most uses that a limit may say.
pub const MAX_USES: u64 = 1_000_000;
/// A pending device asks again after so long, in seconds.
pub const PENDING_RETRY_S: u32 = 15;
/// The key of this machine gets a successor when less than this is left, in seconds.
const LOCAL_KEY_RENEW_S: u64 = 7 * 24 * 3600;
/// Uses of the key that this machine's own agent enrols with.
const LOCAL_KEY_USES: u64 = 25;

/// What a new key shall be.
#[derive(Debug, Clone, Serialize)]
pub struct NewKey {
    pub name: String,
    pub site_id: Option<SiteId>,
    /// `None`: never.
    pub expires_in_s: Option<u64>,
    pub max_uses: Option<u64>,
    pub requires_approval: bool,
    /// Home region of its devices; `None`: the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// Makes a key. `answer` writes what the caller is told, which is kept (encrypted) for a repetition
/// of the request under the same `Idempotency-Key`.
///
/// # Errors
/// Problems of the fields, `idempotency_conflict`, and the store's.
pub async fn create_key<T: Serialize + DeserializeOwned>(
    app: &App,
    caller: &Caller<EnrollmentWrite>,
    mutation: &Mutation,
    wanted: NewKey,
    answer: impl FnOnce(&EnrollmentKeyRecord, &tenancy::Site, &str) -> T,
) -> Result<T, ApiError> {
    check_new_key(app, &wanted)?;
    let site = site_of(app, caller, wanted.site_id).await?;

    let id = match mutation.idempotency() {
        Some((principal, route, key)) => EnrollmentKeyId::derive(&principal, route, key),
        None => EnrollmentKeyId::generate(),
    };
    let secret = new_secret();
    let now = now_ms();
    let record = EnrollmentKeyRecord {
        id,
        partner_id: site.partner_id,
        org_id: site.org_id,
        site_id: site.id,
        name: wanted.name.trim().to_owned(),
        secret_sha256: sha256_hex(secret.as_bytes()),
        created_ms: now,
        created_by: Some(caller.user_id),
        created_by_name: caller.name.clone(),
        expires_ms: wanted.expires_in_s.map(|s| now + s * 1_000),
        max_uses: wanted.max_uses,
        uses: 0,
        requires_approval: wanted.requires_approval,
        revoked_ms: None,
        region: wanted.region.clone(),
    };
    let text = key_text(app, id, secret);
    let body = answer(&record, &site, &text);
    let context = format!("enrollment-key/{id}");
    let kept = KeptAnswer {
        request_sha256: sha256_hex(&serde_json::to_vec(&wanted).map_err(ApiError::internal)?),
        answer: app
            .keyring
            .seal(&context, &serde_json::to_vec(&body).map_err(ApiError::internal)?)
            .map_err(ApiError::internal)?,
    };
    let resource = Resource::new("enrollment_key", id).named(record.name.clone()).in_org(site.org_id);
    let intent = mutation.intent(resource.changed(None, Some(&record)));
    match enrollment::create(&*app.state, &record, &kept, &intent).await? {
        Created::New => {
            app.deliver_now(enrollment::KEYS, &id.to_bytes()).await?;
            Ok(body)
        }
        Created::Before(sealed) => {
            let plain = app.keyring.unseal(&context, &sealed).map_err(ApiError::internal)?;
            serde_json::from_slice(&plain).map_err(ApiError::internal)
        }
    }
}

/// What the fields of a new key must be.
fn check_new_key(app: &App, wanted: &NewKey) -> Result<(), ApiError> {
    let mut errors: Vec<FieldError> = check_name("name", &wanted.name).into_iter().collect();
    let mut must = |holds: bool, field: &str, message: &str| {
        if !holds {
            errors.push(FieldError { field: field.into(), message: message.into() });
        }
    };
    let lifetime_ok = wanted.expires_in_s.is_none_or(|s| (60..=MAX_KEY_LIFETIME_S).contains(&s));
    must(lifetime_ok, "expires_in_s", "must be between 60 seconds and ten years, or null for never");
    must(
        wanted.max_uses.is_none_or(|max| (1..=MAX_USES).contains(&max)),
        "max_uses",
        "must be between 1 and 1,000,000, or null for no limit",
    );
    let region_ok = wanted.region.as_deref().is_none_or(|region| app.config.has_region(region));
    let regions = app.config.regions().join(", ");
    must(region_ok, "region", &format!("is no region of this installation; there are: {regions}"));
    if errors.is_empty() { Ok(()) } else { Err(ApiError::fields(errors)) }
}

/// The site that is wanted, or the organization's first.
async fn site_of(
    app: &App,
    caller: &Caller<EnrollmentWrite>,
    wanted: Option<SiteId>,
) -> Result<tenancy::Site, ApiError> {
    let site = match wanted {
        Some(id) => tenancy::site(&*app.state, caller.scope(), id).await.map_err(|error| {
            if matches!(error, ModelError::NotFound(_)) {
                ApiError::field("site_id", "is no site that you may see")
            } else {
                error.into()
            }
        })?,
        None => {
            let (sites, _) = tenancy::sites(&*app.state, caller.scope(), caller.org_id, None, 1).await?;
            let first = sites.first().ok_or_else(|| ApiError::field("site_id", "is needed: there is no site yet"))?;
            tenancy::site(&*app.state, caller.scope(), first.id).await?
        }
    };
    Ok(site.value)
}

fn key_text(app: &App, id: EnrollmentKeyId, secret: String) -> String {
    EnrollmentKey { id, secret, ca_spki_sha256: app.authority.ca().spki_sha256() }.reveal()
}

/// Revokes a key.
///
/// # Errors
/// `not_found`, and the store's.
pub async fn revoke_key(
    app: &App,
    caller: &Caller<EnrollmentWrite>,
    mutation: &Mutation,
    id: EnrollmentKeyId,
) -> Result<(), ApiError> {
    let seen = enrollment::find(&*app.state, caller.scope(), id).await?.value;
    let intent = mutation.intent(Resource::new("enrollment_key", id).named(seen.name).in_org(seen.org_id));
    enrollment::revoke(&*app.state, caller.scope(), id, &intent, now_ms()).await?;
    app.deliver_now(enrollment::KEYS, &id.to_bytes()).await
}

/// A key for this machine's own agent, made by the system. It stays the same from start to start while
/// it can be used; then a new one takes its place.
///
/// # Errors
/// The store's.
pub async fn local_key(app: &App) -> anyhow::Result<EnrollmentKey> {
    let instance = instance::read(&*app.state).await?;
    let scope = Scope::system("enrolment of this machine");
    let (keys, _) = enrollment::list(&*app.state, &scope, instance.org_id, None, usize::MAX).await?;
    let now = now_ms();
    for (_, key) in keys {
        let ours = key.created_by.is_none() && key.name == LOCAL_KEY_NAME;
        if !ours || key.state(now + LOCAL_KEY_RENEW_S * 1_000) != KeyState::Active {
            continue;
        }
        let kept = enrollment::kept_answer(&*app.state, &scope, key.id).await?;
        // Sealed under keys that may have been replaced: then it is of no use any more.
        let secret = app.keyring.unseal(&local_context(key.id), &kept.answer).ok();
        if let Some(secret) = secret.and_then(|secret| String::from_utf8(secret).ok()) {
            return Ok(EnrollmentKey { id: key.id, secret, ca_spki_sha256: app.authority.ca().spki_sha256() });
        }
    }
    let (id, secret) = (EnrollmentKeyId::generate(), new_secret());
    let record = EnrollmentKeyRecord {
        id,
        partner_id: instance.partner_id,
        org_id: instance.org_id,
        site_id: instance.site_id,
        name: LOCAL_KEY_NAME.to_owned(),
        secret_sha256: sha256_hex(secret.as_bytes()),
        created_ms: now,
        created_by: None,
        created_by_name: "system".to_owned(),
        expires_ms: Some(now + DEFAULT_KEY_LIFETIME_S * 1_000),
        max_uses: Some(LOCAL_KEY_USES),
        uses: 0,
        requires_approval: false,
        revoked_ms: None,
        region: None,
    };
    let answer = app.keyring.seal(&local_context(id), secret.as_bytes())?;
    let kept = KeptAnswer { request_sha256: String::new(), answer };
    enrollment::create(&*app.state, &record, &kept, &system_intent(&record, "enrollment_key.create")).await?;
    app.outbox.deliver(enrollment::KEYS, &id.to_bytes()).await?;
    Ok(EnrollmentKey { id, secret, ca_spki_sha256: app.authority.ca().spki_sha256() })
}

fn local_context(id: EnrollmentKeyId) -> String {
    format!("local-enrollment-key/{id}")
}

/// Name of the key that [`local_key`] makes.
pub const LOCAL_KEY_NAME: &str = "This machine";

fn system_intent(key: &EnrollmentKeyRecord, action: &str) -> Intent {
    Intent::new(Entry {
        partner_id: Some(key.partner_id),
        org_id: Some(key.org_id),
        resource_type: Some("enrollment_key".into()),
        resource_id: Some(key.id.to_string()),
        resource_name: Some(key.name.clone()),
        ..Entry::by_system(action, now_ms())
    })
}

/// Keys that are used at the same time; keys of one stripe wait for each other.
const ADMISSION_STRIPES: usize = 64;

/// Turns at enrolment keys.
#[derive(Debug)]
pub struct Admissions(Vec<Mutex<()>>);

impl Default for Admissions {
    fn default() -> Self {
        Self((0..ADMISSION_STRIPES).map(|_| Mutex::new(())).collect())
    }
}

impl Admissions {
    async fn turn(&self, key: EnrollmentKeyId) -> MutexGuard<'_, ()> {
        let last = usize::from(key.to_bytes()[15]);
        self.0[last % ADMISSION_STRIPES].lock().await
    }
}

/// Admits a device, or puts it into the queue. The same request (the same key pair) gives the same
/// device however often it is sent.
///
/// # Errors
/// Problems of the fields; `enrollment_key_…` and `device_rejected` (403).
pub async fn enroll(app: &App, mutation: &Mutation, request: EnrollRequest) -> Result<EnrollResponse, ApiError> {
    let secret = sha256_hex(request.secret.as_bytes());
    prove_key(app, mutation, &request, &secret).await?;
    let csr = STANDARD.decode(&request.csr).map_err(|_| ApiError::field("csr", "is not base64"))?;
    let key = csr::check(&csr).map_err(|error| ApiError::field("csr", error.to_string()))?;
    let enrolled = facts(&request)?;
    let device_id = DeviceId::derive(&request.key_id.to_bytes(), "enroll", &key.sha256_hex());
    let now = now_ms();
    let admitted = {
        // Those who use one key at once on this node wait for each other instead of conflicting.
        let _turn = app.admissions.turn(request.key_id).await;
        enrollment::admit(&*app.state, request.key_id, &secret, device_id, now).await.map_err(key_refused)?
    };
    mutation.acts(Actor {
        kind: ActorType::Agent,
        partner_id: Some(admitted.partner_id),
        id: Some(device_id.to_string()),
        email: None,
    });
    let resource = Resource::new("device", device_id).named(enrolled.hostname.clone()).in_org(admitted.org_id);
    mutation.about(resource.clone());
    let scope = Scope::system("enrolment");
    let device = match device::find(&*app.state, &scope, device_id).await {
        Ok(seen) => seen.config().clone(),
        Err(ModelError::NotFound(_)) => {
            let wanted = DeviceConfig {
                id: device_id,
                partner_id: admitted.partner_id,
                org_id: admitted.org_id,
                site_id: admitted.site_id,
                standing: if admitted.requires_approval { Standing::Pending } else { Standing::Active },
                display_name: None,
                tags: Vec::new(),
                enrolled_by: admitted.id,
                enrollment_key_name: admitted.name.clone(),
                enrolled_ms: now,
                created_ms: now,
                updated_ms: now,
                enrolled,
                enrolled_address: mutation.address().to_string(),
                first_key_sha256: key.sha256_hex(),
                keys: vec![hex::encode(&key.spki)],
                certificate_expires_ms: 0,
                // Kept as it is now: a later default moves nobody.
                home_region: app.config.home_of(admitted.region.as_deref().unwrap_or_default()).to_owned(),
            };
            let details = serde_json::json!({ "enrollment_key": admitted.name, "pending": admitted.requires_approval });
            let intent = mutation.intent(resource.details(details));
            device::create(&*app.state, &wanted, &intent).await?
        }
        Err(error) => return Err(error.into()),
    };
    app.deliver_now(device::DEVICES, &device_id.to_bytes()).await?;
    match device.standing {
        Standing::Pending => Ok(EnrollResponse::Pending { device_id, retry_after_s: PENDING_RETRY_S }),
        Standing::Active => hand_out(app, &device, &key).await,
        Standing::Rejected | Standing::Decommissioned => Err(rejected()),
    }
}

/// Whoever does not know an enrolment key costs a look at it and no more, and soon not that.
async fn prove_key(app: &App, mutation: &Mutation, request: &EnrollRequest, secret: &str) -> Result<(), ApiError> {
    let limits = &app.limits.enrolments;
    let taken = limits.begin(mutation.address(), request.key_id, secret)?;
    if matches!(taken, Taken::OfNetwork(_)) {
        enrollment::prove(&*app.state, request.key_id, secret).await.map_err(key_refused)?;
    }
    limits.proven(taken, request.key_id, secret).map(drop)
}

fn rejected() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "device_rejected",
        "The device may not enrol",
        "It was rejected or decommissioned. Remove the agent's state, which makes a new key, and enrol again.",
    )
}

fn key_refused(error: UseError) -> ApiError {
    let (code, title, detail) = match error {
        UseError::Unknown => (
            "enrollment_key_unknown",
            "The enrolment key is not known",
            "Check that the whole key was copied, and that it belongs to this server.",
        ),
        UseError::Closed(KeyState::Expired) => {
            ("enrollment_key_expired", "The enrolment key has expired", "Make a new key under \"Add a device\".")
        }
        UseError::Closed(KeyState::UsedUp) => (
            "enrollment_key_used_up",
            "The enrolment key was used as often as it may be",
            "Make a new key under \"Add a device\".",
        ),
        UseError::Closed(KeyState::Revoked | KeyState::Active) => {
            ("enrollment_key_revoked", "The enrolment key was revoked", "Make a new key under \"Add a device\".")
        }
        UseError::Model(error) => return error.into(),
    };
    metrics::counter!("breeze_enrollments_refused_total", "code" => code).increment(1);
    ApiError::new(StatusCode::FORBIDDEN, code, title, detail)
}

/// Issues the certificate and gathers what the agent needs.
async fn hand_out(app: &App, device: &DeviceConfig, key: &ProvenKey) -> Result<EnrollResponse, ApiError> {
    let public_key = hex::encode(&key.spki);
    if trust::is_revoked(&*app.state, device.id).await? {
        return Err(rejected());
    }
    if !device.keys.contains(&public_key) {
        return Err(ApiError::conflict("The device has renewed its key since; it must use its newer certificate."));
    }
    let documents = app.authority.first_documents(&device.home_region).await.map_err(ApiError::internal)?;
    let documents = documents.ok_or_else(|| {
        ApiError::unavailable("No relay is registered yet that the agent could connect to: breeze admin add-relay.")
    })?;
    let lifetime = Duration::from_secs(app.config.device_certificate_s);
    let issued = app.authority.ca().issue_device(device.id, key, lifetime).map_err(ApiError::internal)?;
    let expires_ms = issued.expires_unix_s * 1_000;
    device::record_certificate(&*app.state, device.id, &public_key, &public_key, expires_ms, None, now_ms()).await?;
    app.deliver_now(device::DEVICES, &device.id.to_bytes()).await?;
    let (root, endorsement) = app.authority.endorsed_root().map_err(ApiError::internal)?;
    metrics::counter!("breeze_enrollments_total").increment(1);
    Ok(EnrollResponse::Enrolled {
        device_id: device.id,
        certificate: STANDARD.encode(issued.der),
        chain: vec![STANDARD.encode(app.authority.ca().certificate_der())],
        root: STANDARD.encode(root),
        root_endorsement: STANDARD.encode(endorsement),
        documents: documents.iter().map(|document| STANDARD.encode(document.encode_to_vec())).collect(),
    })
}

/// A stranger's text: bounded, one line, otherwise as it is.
fn facts(request: &EnrollRequest) -> Result<EnrolledFacts, ApiError> {
    let mut errors = Vec::new();
    let mut text = |field: &str, value: &str| {
        if value.len() > MAX_TEXT_BYTES {
            let message = format!("must have at most {MAX_TEXT_BYTES} bytes");
            errors.push(FieldError { field: field.into(), message });
        }
        value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
    };
    let facts = EnrolledFacts {
        hostname: text("hostname", &request.hostname),
        os_type: text("os_type", &request.os_type),
        os_version: text("os_version", &request.os_version),
        os_build: text("os_build", &request.os_build),
        architecture: text("architecture", &request.architecture),
        agent_version: text("agent_version", &request.agent_version),
        serial_number: text("serial_number", &request.serial_number),
    };
    if !["linux", "windows", "macos"].contains(&facts.os_type.as_str()) {
        errors.push(FieldError { field: "os_type".into(), message: "must be linux, windows or macos".into() });
    }
    if errors.is_empty() { Ok(facts) } else { Err(ApiError::fields(errors)) }
}

/// Devices that wait, after `after`, and how many there are.
///
/// # Errors
/// The store's.
pub async fn pending(
    app: &App,
    caller: &Caller<EnrollmentRead>,
    after: Option<DeviceId>,
    limit: usize,
) -> Result<(Vec<DeviceConfig>, u64), ApiError> {
    Ok(device::pending(&*app.state, caller.scope(), caller.org_id, after, limit).await?)
}

/// A person's answer to a waiting device.
///
/// # Errors
/// `not_found`, `conflict` when it does not wait any more.
pub async fn decide(
    app: &App,
    caller: &Caller<EnrollmentWrite>,
    mutation: &Mutation,
    id: DeviceId,
    admit: bool,
) -> Result<(), ApiError> {
    let seen = device::find(&*app.state, caller.scope(), id).await?;
    let name = seen.config().enrolled.hostname.clone();
    let intent = mutation.intent(Resource::new("device", id).named(name).in_org(seen.config().org_id));
    device::decide(&*app.state, &seen, admit, &intent, now_ms()).await.map_err(|error| {
        if matches!(error, ModelError::Version) {
            ApiError::conflict("Somebody else decided at the same time; look again.")
        } else {
            error.into()
        }
    })?;
    app.deliver_now(device::DEVICES, &id.to_bytes()).await
}
