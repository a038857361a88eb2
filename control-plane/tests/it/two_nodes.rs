//! Two nodes of one control plane, on one store and one bus.

use crate::support::{Client, Device, PATIENCE, Server, config, eventually, relay};
use breeze_bus::{Bus as _, Received, memory::MemoryBus};
use breeze_control_plane::{ControlPlane, Deps};
use breeze_proto::{
    enroll::EnrollmentKey,
    id::DeviceId,
    subject,
    v1::{
        AgentConfig, DocumentsRequest, RelayCertificateReply, RelayCertificateRequest, RelayList, RevocationSet,
        RevocationsRequest, SignedDocument,
    },
};
use breeze_store::{
    metrics::{EmbeddedMetrics, EmbeddedMetricsConfig},
    model::relay::{self as registry, RelayRecord},
    state::memory::MemoryState,
};
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// Node A, whose keys node B has.
pub(crate) async fn two() -> (Server, Server) {
    let (state, bus) = (Arc::<MemoryState>::default(), Arc::new(MemoryBus::new()));
    let (a, b) = (folder(), folder());
    let first = node(&a, "a", &state, &bus);
    let first = Server::start_on(first, Arc::clone(&state), Arc::clone(&bus), a).await;
    copy_keys(&first.handle.app().config.data.clone(), b.path());
    let second = node(&b, "b", &state, &bus);
    (first, Server::start_on(second, state, bus, b).await)
}

fn node(data: &TempDir, id: &str, _: &MemoryState, _: &MemoryBus) -> breeze_control_plane::Config {
    breeze_control_plane::Config {
        id: id.to_owned(),
        regions: vec!["eu".into(), "us".into()],
        default_region: Some("eu".into()),
        ..config(data.path())
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("folder")
}

fn copy_keys(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let to = to.join("keys");
    std::fs::create_dir_all(&to).expect("made");
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o700)).expect("set");
    for entry in std::fs::read_dir(from.join("keys")).expect("there").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

/// The same browser at the other node.
fn at(client: &Client, server: &Server) -> Client {
    Client { base: server.base.clone(), ..client.clone() }
}

#[tokio::test]
async fn one_instance_one_link_and_one_who_wins() {
    let (a, b) = two().await;
    assert_eq!(a.setup_token(), b.setup_token(), "one link, whichever node prints it");
    let (one, two) = (a.client(), b.client());
    let body = a.setup_body();
    let (one, two) = tokio::join!(one.post("/api/v1/setup", &body), two.post("/api/v1/setup", &body));
    let mut codes = [one.status, two.status];
    codes.sort();
    assert_eq!(codes[0], StatusCode::CREATED);
    assert!([StatusCode::NOT_FOUND, StatusCode::FORBIDDEN, StatusCode::CONFLICT].contains(&codes[1]), "{codes:?}");
    for server in [&a, &b] {
        let answer = server.client().get("/api/v1/instance").await;
        assert_eq!(answer.body["setup_required"], json!(false));
        assert_eq!(server.client().post("/api/v1/setup", &body).await.status, StatusCode::NOT_FOUND);
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn what_one_node_writes_the_other_reads_and_a_revocation_is_seen_by_both() {
    let (a, b) = two().await;
    let admin_a = a.admin().await;
    // Cookies are of a host and not of its port: the session of A is B's.
    let admin_b = at(&admin_a, &b);
    let created = admin_a.post("/api/v1/enrollment-keys", &json!({"name": "us", "region": "us"})).await;
    assert_eq!((created.status, created.text("region").as_str()), (StatusCode::CREATED, "us"), "{}", created.raw);
    let listed = admin_b.get("/api/v1/enrollment-keys").await;
    assert!(listed.raw.contains(&created.text("id")), "read at B at once: {}", listed.raw);
    let wrong = admin_b.post("/api/v1/enrollment-keys", &json!({"name": "x", "region": "asia"})).await;
    assert!(wrong.status == StatusCode::BAD_REQUEST && wrong.raw.contains("eu, us"), "{}", wrong.raw);

    // Enrolled at B with A's key; read at A, whose directory waits for the version.
    let key: EnrollmentKey = created.text("key").parse().expect("a key");
    let enrolled = Device::new().enroll(&b.client(), &key).await;
    assert_eq!(enrolled.status, StatusCode::OK, "{}", enrolled.raw);
    let id = enrolled.text("device_id");
    let path = format!("/api/v1/devices/{id}");
    let device = admin_a.get(&path).await;
    assert_eq!((device.status, device.text("region").as_str()), (StatusCode::OK, "us"), "{}", device.raw);
    let change = admin_b.request(Method::PATCH, &path).header("if-match", device.header("etag"));
    let changed = crate::support::send(change.json(&json!({"display_name": "Till 1"}))).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.raw);
    assert_eq!(admin_a.get(&path).await.body["display_name"], json!("Till 1"));

    // Its configuration says its home, the same and under one version at both.
    let device_id: DeviceId = id.parse().expect("an id");
    let asked = DocumentsRequest { device_id: device_id.to_bytes().to_vec().into(), ..DocumentsRequest::default() };
    let of = async |server: &Server| server.handle.app().authority.documents_for(&asked).await.expect("documents");
    let (of_a, of_b) = (of(&a).await, of(&b).await);
    assert_eq!(of_a, of_b);
    let config = of_a.documents.iter().find(|document| document.role == "config").expect("there");
    assert_eq!(AgentConfig::decode(config.payload.clone()).expect("decodes").home_region, "us");

    let mut updates = b.bus.subscribe(subject::REVOCATIONS_UPDATE).await.expect("subscribes");
    let delete = admin_a.request(Method::DELETE, &path).header("if-match", changed.header("etag"));
    assert_eq!(crate::support::send(delete).await.status, StatusCode::NO_CONTENT);
    let told = tokio::time::timeout(PATIENCE, updates.next()).await.expect("in time").expect("open");
    assert!(matches!(told, Received::Message { .. }));
    let snapshot = b.handle.app().authority.revocations(&RevocationsRequest::default()).await.expect("answers");
    let set = SignedDocument::decode(snapshot).expect("decodes").payload;
    let set = RevocationSet::decode(set).expect("decodes");
    assert_eq!((set.version, set.added.len()), (1, 1));
    assert_eq!(admin_b.get(&path).await.status, StatusCode::NOT_FOUND);
    let again = Device::new().enroll(&b.client(), &key).await;
    assert_eq!(again.status, StatusCode::OK, "the key itself is good");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn two_that_revoke_at_once_make_one_dense_chain_and_one_audit_log() {
    let (a, b) = two().await;
    let admin_a = a.admin().await;
    let admin_b = at(&admin_a, &b);
    let mut paths = Vec::new();
    for n in 0..6 {
        let server = if n % 2 == 0 { &a } else { &b };
        let enrolled = Device::new().enroll(&server.client(), &a.key).await;
        paths.push(format!("/api/v1/devices/{}", enrolled.text("device_id")));
    }
    let mut updates = a.bus.subscribe(subject::REVOCATIONS_UPDATE).await.expect("subscribes");
    let deletes = paths.iter().enumerate().map(|(n, path)| {
        let client = if n % 2 == 0 { &admin_a } else { &admin_b };
        async move {
            let etag = client.get(path).await.header("etag").to_owned();
            crate::support::send(client.request(Method::DELETE, path).header("if-match", etag)).await.status
        }
    });
    let done = futures_util::future::join_all(deletes).await;
    assert!(done.iter().all(|status| *status == StatusCode::NO_CONTENT), "{done:?}");
    let mut versions = Vec::new();
    while versions.len() < paths.len() {
        let Ok(Some(Received::Message { payload, .. })) = tokio::time::timeout(PATIENCE, updates.next()).await else {
            panic!("{versions:?}")
        };
        let set = SignedDocument::decode(payload).expect("decodes").payload;
        let version = RevocationSet::decode(set).expect("decodes").version;
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
    // Each thing that was done is in the log once, in one chain that both wrote.
    let log = eventually("the audit log", || async {
        let log = admin_b.get("/api/v1/audit/logs?limit=500").await;
        let entries = log.body["data"].as_array().cloned().unwrap_or_default();
        let count = |action: &str| entries.iter().filter(|entry| entry["action"] == action).count();
        (count("device.decommission") + count("device.delete") >= paths.len()).then_some(entries)
    })
    .await;
    let mut ids: Vec<&Value> = log.iter().map(|entry| &entry["id"]).collect();
    let before = ids.len();
    ids.sort_by_key(|id| id.as_str());
    ids.dedup();
    assert_eq!(ids.len(), before, "no entry twice");
    let verdicts = b.handle.app().audit.verify_all(&[]).await.expect("reads");
    assert!(verdicts.iter().all(|verdict| verdict.broken.is_none()), "{verdicts:?}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_ticket_made_at_one_node_opens_a_socket_at_the_other_once() {
    let (a, b) = two().await;
    let admin = a.admin().await;
    let ticket = admin.post("/api/v1/ws-tickets", &json!({})).await.text("ticket");
    let open = async |server: &Server| {
        let url = format!("{}/api/v1/ws?ticket={ticket}", server.base.replace("http://", "ws://"));
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("origin", server.base.parse().expect("a header"));
        tokio_tungstenite::connect_async(request).await
    };
    let first = open(&b).await;
    assert!(first.is_ok(), "{first:?}");
    assert!(open(&a).await.is_err(), "used up");
    assert!(open(&b).await.is_err(), "used up");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn both_serve_one_list_of_relays_and_certify_only_those_on_it() {
    let (a, b) = two().await;
    let ask = async |id: &str| {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
        let mut params = CertificateParams::new(vec!["evil.example.com".to_owned()]).expect("names");
        params.distinguished_name.push(rcgen::DnType::CommonName, "evil");
        let csr = params.serialize_request(&key).expect("request").der().to_vec();
        let request = RelayCertificateRequest { csr_der: csr.into() }.encode_to_vec();
        let answer = b.bus.request(&subject::ca_relay(id), request.into(), Duration::from_secs(2)).await.ok()?;
        Some(RelayCertificateReply::decode(answer).expect("decodes"))
    };
    assert!(ask("us-1").await.is_none(), "nobody answers for a relay that is not registered");
    let record = RelayRecord {
        id: "us-1".into(),
        region: "us".into(),
        quic: "relay.us.example.com:443".into(),
        wss: "[2001:db8::1]:444".into(),
        created_ms: 1,
        updated_ms: 1,
    };
    registry::put(&*a.state, &record).await.expect("registers");
    let reply = eventually("a certificate", || ask("us-1")).await;
    assert_eq!(reply.refusal, "");
    let (_, leaf) = x509(&reply.chain_der[0]);
    assert_eq!(leaf, ["breeze:relay:us-1", "relay.us.example.com", "2001:db8::1"], "what is registered, no more");

    let list = async |server: &Server| {
        let documents = server.handle.app().authority.first_documents("").await.expect("signs").expect("relays");
        let list = documents.iter().find(|document| document.role == "relays").expect("there");
        RelayList::decode(list.payload.clone()).expect("decodes")
    };
    let lists = eventually("one list", || async {
        let (one, two) = (list(&a).await, list(&b).await);
        (one == two && one.relays.len() == 2).then_some(one)
    })
    .await;
    assert!(lists.relays.iter().any(|relay| relay.id == "us-1") && lists.relays.contains(&relay()));
    registry::remove(&*b.state, "us-1").await.expect("removes");
    eventually("the list without it", || async {
        let (one, two) = (list(&a).await, list(&b).await);
        (one == two && one.relays.len() == 1 && one.version > lists.version).then_some(())
    })
    .await;
    assert!(ask("us-1").await.is_none_or(|reply| !reply.refusal.is_empty()));
    a.stop().await;
    b.stop().await;
}

/// Names in a certificate: URI, host, address.
#[expect(clippy::wildcard_enum_match_arm, reason = "any other kind of name is one that the test does not expect")]
fn x509(der: &[u8]) -> (usize, Vec<String>) {
    use x509_parser::extensions::GeneralName;
    let (rest, certificate) = x509_parser::parse_x509_certificate(der).expect("parses");
    let names = certificate.subject_alternative_name().expect("valid").expect("there");
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) => (*text).to_owned(),
        GeneralName::IPAddress(bytes) => {
            let bytes: [u8; 16] = (*bytes).try_into().expect("IPv6");
            std::net::Ipv6Addr::from(bytes).to_string()
        }
        other => format!("{other:?}"),
    };
    (rest.len(), names.value.general_names.iter().map(text).collect())
}

#[tokio::test]
async fn the_other_goes_on_when_one_is_gone_in_the_middle() {
    let (a, b) = two().await;
    let admin_a = a.admin().await;
    let admin_b = at(&admin_a, &b);
    // What A has committed and not delivered when it dies, B's sweeper delivers.
    let state = Arc::clone(&b.state);
    let site = admin_b.get("/api/v1/orgs/current/sites").await.body["data"][0]["id"].clone();
    drop(a);
    let key = admin_b.post("/api/v1/enrollment-keys", &json!({"name": "after", "site_id": site})).await;
    assert_eq!(key.status, StatusCode::CREATED, "{}", key.raw);
    let key: EnrollmentKey = key.text("key").parse().expect("a key");
    let id = Device::new().enroll(&b.client(), &key).await.text("device_id");
    assert_eq!(admin_b.get(&format!("/api/v1/devices/{id}")).await.status, StatusCode::OK);
    let hints = async || {
        use breeze_store::state::State as _;
        state.outbox_hints(None, 100).await.expect("reads").hints.len()
    };
    eventually("an empty outbox", || async { (hints().await == 0).then_some(()) }).await;
    b.stop().await;
}

#[tokio::test]
async fn a_node_with_keys_of_its_own_does_not_start() {
    let (state, bus) = (Arc::<MemoryState>::default(), Arc::new(MemoryBus::new()));
    let data = folder();
    let first = Server::start_on(node(&data, "a", &state, &bus), Arc::clone(&state), Arc::clone(&bus), data).await;
    let other = folder();
    let deps = Deps {
        bus,
        state: Arc::<MemoryState>::clone(&state),
        metrics: EmbeddedMetrics::open(EmbeddedMetricsConfig::new(other.path().join("metrics"))).expect("metrics"),
        regional_metrics: std::collections::BTreeMap::default(),
        history: Arc::new(breeze_store::history::EmbeddedHistory::new(Arc::<MemoryState>::clone(&state))),
        render_metrics: None,
    };
    let error = ControlPlane::open(config(other.path()), deps).await.expect_err("refused");
    assert!(format!("{error:#}").contains("breeze keys import"), "{error:#}");
    first.stop().await;
}
