//! Enrolment keys, enrolment, and the queue of devices that wait.

use crate::support::{Device, Server, send, stable};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use breeze_bus::Bus as _;
use breeze_proto::{
    enroll::{EnrollResponse, EnrollmentKey, ROOT_ENDORSEMENT_PREFIX},
    id::DeviceId,
    subject,
    trust::{Role, Root},
    v1,
};
use breeze_store::model::relay::{self, RelayRecord};
use prost::Message as _;
use reqwest::{Method, StatusCode};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::{Value, json};
use std::time::Duration;

fn key_of(answer: &crate::support::Answer) -> EnrollmentKey {
    answer.text("key").parse().expect("a key")
}

#[tokio::test]
async fn a_device_enrols_before_anybody_has_set_up_and_believes_what_it_gets() {
    let server = Server::start().await;
    let (device, client) = (Device::new(), server.client());
    let answer = device.enroll(&client, &server.key).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.raw);
    let EnrollResponse::Enrolled { device_id, certificate, chain, root, root_endorsement, documents } =
        serde_json::from_value(answer.body.clone()).expect("the protocol's own type")
    else {
        panic!("pending");
    };
    let bytes = |text: &String| STANDARD.decode(text).expect("base64");
    let ca = bytes(chain.last().expect("the authority"));
    let (_, ca) = x509_parser::parse_x509_certificate(&ca).expect("parses");
    let spki: [u8; 32] =
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), ca.public_key().raw))
            .into();
    assert_eq!(spki, server.key.ca_spki_sha256, "the key pins the authority");
    let certificate = bytes(&certificate);
    let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).expect("parses");
    certificate.verify_signature(Some(ca.public_key())).expect("issued by it");
    assert_eq!(certificate.subject().to_string(), format!("CN={device_id}"));

    let root = v1::SignedRoot::decode(bytes(&root).as_slice()).expect("root");
    let endorsed = [ROOT_ENDORSEMENT_PREFIX, &root.payload].concat();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &ca.public_key().subject_public_key.data)
        .verify(&endorsed, &bytes(&root_endorsement))
        .expect("endorsed by it");
    let now = breeze_control_plane::api::time::now_s();
    let root = Root::accept_first(root, now).expect("valid");
    assert!(root.names_ca(&spki));
    let documents: Vec<_> =
        documents.iter().map(|text| v1::SignedDocument::decode(bytes(text).as_slice()).expect("document")).collect();
    let relays: v1::RelayList = root.open(Role::Relays, &documents[0], now).expect("relays");
    assert_eq!(relays.relays, [crate::support::relay()]);
    let config: v1::AgentConfig = root.open(Role::Config, &documents[1], now).expect("config");
    assert_eq!(config.heartbeat_interval_ms, 60_000);

    // Again is the same device, and uses the key once.
    let again = device.enroll(&client, &server.key).await;
    assert_eq!(again.text("device_id"), device_id.to_string());
    let admin = server.admin().await;
    let keys = admin.get("/api/v1/enrollment-keys").await;
    let ours = &keys.body["data"].as_array().expect("data")[0];
    assert_eq!((&ours["name"], &ours["uses"]), (&json!("This machine"), &json!(1)));
    server.stop().await;
}

/// An agent hears of relays over a relay: one that was let in without any would wait for ever.
#[tokio::test]
async fn nobody_is_let_in_without_a_relay_and_the_first_one_counts_at_once() {
    let server = Server::start().await;
    server.handle.set_relays(Vec::new()).await.expect("set");
    let (device, stranger) = (Device::new(), server.client());
    let refused = device.enroll(&stranger, &server.key).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::SERVICE_UNAVAILABLE, "unavailable"), "{}", refused.raw);
    assert!(!refused.header("retry-after").is_empty(), "the agent asks again");

    let now = breeze_control_plane::api::time::now_ms();
    let v1::Relay { id, region, quic, wss } = crate::support::relay();
    let record = RelayRecord { id, region, quic, wss, created_ms: now, updated_ms: now };
    relay::put(&*server.handle.app().state, &record).await.expect("registered");
    let enrolled = device.enroll(&stranger, &server.key).await;
    assert_eq!(enrolled.status, StatusCode::OK, "{}", enrolled.raw);
    let EnrollResponse::Enrolled { root, documents, .. } = serde_json::from_str(&enrolled.raw).expect("enrolled")
    else {
        panic!("waits for approval");
    };
    let bytes = |text: &str| STANDARD.decode(text).expect("base64");
    let now = breeze_control_plane::api::time::now_s();
    let root = v1::SignedRoot::decode(bytes(&root).as_slice()).expect("root");
    let root = Root::accept_first(root, now).expect("valid");
    let relays = v1::SignedDocument::decode(bytes(&documents[0]).as_slice()).expect("document");
    let relays: v1::RelayList = root.open(Role::Relays, &relays, now).expect("relays");
    assert_eq!(relays.relays, [crate::support::relay()]);
    server.stop().await;
}

#[tokio::test]
async fn a_key_that_does_not_admit_says_why() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let stranger = server.client();
    let make = |body: Value| {
        let admin = admin.clone();
        async move {
            let answer = admin.post("/api/v1/enrollment-keys", &body).await;
            assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.raw);
            answer
        }
    };
    let revoked = make(json!({"name": "revoked"})).await;
    let path = format!("/api/v1/enrollment-keys/{}", revoked.text("id"));
    assert_eq!(admin.delete(&path).await.status, StatusCode::NO_CONTENT);
    assert_eq!(admin.delete(&path).await.status, StatusCode::NO_CONTENT);
    let used_up = make(json!({"name": "used up", "max_uses": 1})).await;
    let first = Device::new();
    assert_eq!(first.enroll(&stranger, &key_of(&used_up)).await.status, StatusCode::OK);
    let mut unknown = server.key.clone();
    unknown.secret = "x".repeat(43);

    for (key, code) in [
        (key_of(&revoked), "enrollment_key_revoked"),
        (key_of(&used_up), "enrollment_key_used_up"),
        (unknown, "enrollment_key_unknown"),
    ] {
        let answer = Device::new().enroll(&stranger, &key).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, code));
    }
    // Who used it once may lose the answer and ask again.
    assert_eq!(first.enroll(&stranger, &key_of(&used_up)).await.status, StatusCode::OK);

    let states: Vec<_> = admin.get("/api/v1/enrollment-keys").await.body["data"]
        .as_array()
        .expect("data")
        .iter()
        .map(|key| key["state"].clone())
        .collect();
    assert_eq!(states, ["used_up", "revoked", "active"], "newest first");
    let answer = Device::new().enroll(&stranger, &key_of(&revoked)).await;
    insta::assert_json_snapshot!("revoked_key", stable(answer.body));
    server.stop().await;
}

#[tokio::test]
async fn a_limit_holds_however_many_ask_at_once() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let created = admin.post("/api/v1/enrollment-keys", &json!({"name": "thirty", "max_uses": 30})).await;
    let key = key_of(&created);
    let tries: Vec<_> = (0..80)
        .map(|_| {
            let (client, key) = (server.client(), key.clone());
            tokio::spawn(async move { Device::new().enroll(&client, &key).await.status })
        })
        .collect();
    let mut admitted = 0;
    for done in tries {
        admitted += u32::from(done.await.expect("no panic") == StatusCode::OK);
    }
    assert_eq!(admitted, 30);
    server.stop().await;
}

#[tokio::test]
async fn creating_a_key_is_idempotent_under_its_header() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let create = |body: Value| {
        let request = admin.request(Method::POST, "/api/v1/enrollment-keys").header("idempotency-key", "k-1");
        send(request.json(&body))
    };
    let first = create(json!({"name": "once"})).await;
    let second = create(json!({"name": "once"})).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!((second.status, &second.body), (StatusCode::CREATED, &first.body));
    let other = create(json!({"name": "another"})).await;
    assert_eq!((other.status, other.code()), (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_conflict"));
    assert_eq!(admin.get("/api/v1/enrollment-keys").await.body["total"], 2);
    server.stop().await;
}

#[tokio::test]
async fn a_device_that_needs_approval_gets_nothing_until_a_person_says_so() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let created = admin.post("/api/v1/enrollment-keys", &json!({"name": "ask", "requires_approval": true})).await;
    let key = key_of(&created);
    let (good, bad, client) = (Device::new(), Device::new(), server.client());
    let mut hostile = good.request(&key);
    hostile["hostname"] = json!("<img src=x onerror=alert(1)>");
    let waiting = client.post("/api/v1/agents/enroll", &hostile).await;
    assert_eq!(waiting.status, StatusCode::ACCEPTED, "{}", waiting.raw);
    assert_eq!(waiting.body["status"], "pending");
    assert!(waiting.body.get("certificate").is_none());
    assert_eq!(bad.enroll(&client, &key).await.status, StatusCode::ACCEPTED);
    assert_eq!(good.enroll(&client, &key).await.status, StatusCode::ACCEPTED, "asking again does not help");

    let list = admin.get("/api/v1/pending-devices").await;
    assert_eq!(list.body["total"], 2, "{}", list.raw);
    let names: Vec<_> = list.body["data"].as_array().expect("data").iter().map(|d| d["hostname"].clone()).collect();
    assert!(names.contains(&json!("<img src=x onerror=alert(1)>")), "text stays text: {names:?}");
    let id_of = |answer: &crate::support::Answer| answer.text("device_id");
    let rejected = id_of(&bad.enroll(&client, &key).await);
    let path = |id: &str, verb: &str| format!("/api/v1/pending-devices/{id}/{verb}");
    let decide = |id: String, verb: &'static str| {
        let admin = admin.clone();
        async move { admin.post(&path(&id, verb), &json!({})).await }
    };
    assert_eq!(decide(id_of(&waiting), "approve").await.status, StatusCode::NO_CONTENT);
    assert_eq!(decide(rejected, "reject").await.status, StatusCode::NO_CONTENT);
    assert_eq!(decide(id_of(&waiting), "reject").await.status, StatusCode::CONFLICT);
    assert_eq!(good.enroll(&client, &key).await.status, StatusCode::OK);
    let refused = bad.enroll(&client, &key).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::FORBIDDEN, "device_rejected"));
    assert_eq!(admin.get("/api/v1/pending-devices").await.body["total"], 0);
    server.stop().await;
}

#[tokio::test]
async fn hostile_certificate_requests_are_refused() {
    let server = Server::start().await;
    let (device, client) = (Device::new(), server.client());
    let mut altered = device.csr();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    for csr in [STANDARD.encode(altered), "!".into(), STANDARD.encode(vec![0x30; 5_000]), String::new()] {
        let mut body = device.request(&server.key);
        body["csr"] = json!(csr);
        let answer = client.post("/api/v1/agents/enroll", &body).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "validation"), "{}", answer.raw);
        assert_eq!(answer.body["errors"][0]["field"], "csr");
    }
    let mut body = device.request(&server.key);
    body["hostname"] = json!("h".repeat(300));
    body["os_type"] = json!("plan9");
    let answer = client.post("/api/v1/agents/enroll", &body).await;
    assert_eq!(answer.body["errors"].as_array().map(Vec::len), Some(2), "{}", answer.raw);
    server.stop().await;
}

#[tokio::test]
async fn every_change_of_a_device_is_in_the_directory_stream() {
    let server = Server::start().await;
    let answer = Device::new().enroll(&server.client(), &server.key).await;
    let id: DeviceId = answer.text("device_id").parse().expect("id");
    let entries = server.bus.read(subject::DIRECTORY_STREAM, 1, 1 << 20, Duration::from_secs(5)).await.expect("reads");
    let changes: Vec<_> = entries
        .iter()
        .map(|entry| v1::DirectoryChange::decode(entry.payload.clone()).expect("change"))
        .filter(|change| change.device_id == id.to_bytes().as_slice())
        .collect();
    assert_eq!(changes.iter().map(|change| change.version).collect::<Vec<_>>(), [1, 2], "made, then certified");
    let record = breeze_store::model::device::decode(&changes[1].record).expect("record");
    assert_eq!((record.id, record.enrolled.hostname.as_str()), (id, "web-1"));
    assert!(record.certificate_expires_ms > 0);
    server.stop().await;
}
