//! Makes a fleet: enrols devices through the API as agents do, many at a time.

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use breeze_agent::identity::{DeviceIdentity, DeviceKey};
use breeze_agent_core::Documents;
use breeze_proto::{
    enroll::{EnrollRequest, EnrollResponse, EnrollmentKey},
    trust::Root,
    v1::{SignedDocument, SignedRoot},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Enrolments under way at a time.
const PARALLEL: usize = 64;

/// One enrolled device.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) identity: DeviceIdentity,
    pub(crate) documents: Documents,
}

/// Enrols `count` devices, by each key in turn; `api` is the base of the API.
///
/// # Errors
/// The first refusal, with the server's words.
pub(crate) async fn enroll(api: &str, keys: &[EnrollmentKey], count: usize) -> anyhow::Result<Vec<Arc<Member>>> {
    let client = reqwest::Client::new();
    stream::iter(0..count)
        .map(|number| enroll_one(&client, api, &keys[number % keys.len()], number))
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

async fn enroll_one(
    client: &reqwest::Client,
    api: &str,
    key: &EnrollmentKey,
    number: usize,
) -> anyhow::Result<Arc<Member>> {
    let device_key = DeviceKey::generate()?;
    let request = EnrollRequest {
        key_id: key.id,
        secret: key.secret.clone(),
        csr: STANDARD.encode(device_key.request()?),
        hostname: hostname(number),
        os_type: "linux".into(),
        os_version: "Debian GNU/Linux 12 (bookworm)".into(),
        os_build: "6.1.0-18-amd64".into(),
        architecture: "amd64".into(),
        agent_version: breeze_agent::VERSION.into(),
        serial_number: format!("LOAD-{number:06}"),
    };
    let response = client.post(format!("{api}/agents/enroll")).json(&request).send().await?;
    let status = response.status();
    let text = response.text().await?;
    anyhow::ensure!(status.is_success(), "enrolment of {}: {status} {text}", request.hostname);
    let EnrollResponse::Enrolled { device_id, certificate, chain, root, documents, .. } = serde_json::from_str(&text)?
    else {
        anyhow::bail!("the enrolment key asks for approval");
    };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let root = Root::accept_first(SignedRoot::decode(STANDARD.decode(root)?.as_slice())?, now_s)?;
    let mut known = Documents::new(device_id, root);
    for document in documents {
        let document = SignedDocument::decode(STANDARD.decode(document)?.as_slice())?;
        known.accept(&document, now_s).context("a document that came with the enrolment")?;
    }
    let identity = DeviceIdentity {
        device: device_id,
        server: api.to_owned(),
        instance_nonce: rand::random(),
        machine: [0; 32],
        key: device_key,
        certificate: STANDARD.decode(certificate)?,
        chain: chain.iter().map(|der| STANDARD.decode(der)).collect::<Result<_, _>>()?,
    };
    Ok(Arc::new(Member { identity, documents: known }))
}

/// Names as a fleet has them: some role, some number.
pub(crate) fn hostname(number: usize) -> String {
    const ROLES: &[&str] = &["web", "db", "ws", "file", "print", "mail"];
    format!("{}-{number:05}", ROLES[number % ROLES.len()])
}
