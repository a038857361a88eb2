//! Renewal and revocation, as relays ask for them on the bus.

use crate::support::{Device, Server};
use breeze_bus::{Bus as _, Received};
use breeze_control_plane::{api::time::now_s, pki::renewal::PROOF_PREFIX};
use breeze_proto::{
    id::DeviceId,
    subject,
    trust::{Role, Root},
    v1::{self, renew_reply::Result as Reply},
};
use breeze_store::model::{
    Scope,
    audit::{Entry, Intent},
    device,
};
use bytes::Bytes;
use prost::Message;
use rcgen::{PublicKeyData as _, SigningKey as _};
use sha2::{Digest as _, Sha256};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

async fn ask<M: Message + Default>(server: &Server, subject: &str, request: &impl Message) -> M {
    let answer = server.bus.request(subject, request.encode_to_vec().into(), WAIT).await.expect("answers");
    M::decode(answer).expect("decodes")
}

async fn enrolled(server: &Server, device: &Device) -> DeviceId {
    let answer = device.enroll(&server.client(), &server.key).await;
    answer.text("device_id").parse().expect("id")
}

fn id_bytes(id: DeviceId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

async fn challenge(server: &Server, id: DeviceId) -> Bytes {
    let request = v1::ChallengeRequest { device_id: id_bytes(id) };
    ask::<v1::ChallengeReply>(server, subject::CA_CHALLENGE, &request).await.challenge
}

/// `signer` proves for a new key of `new`.
async fn renew(server: &Server, id: DeviceId, challenge: &Bytes, signer: &Device, new: &Device) -> Reply {
    let csr = new.csr();
    let signed = [PROOF_PREFIX, challenge, &Sha256::digest(&csr)].concat();
    let signature = signer.pair.sign(&signed).expect("signs");
    let proof = v1::RenewProof { challenge: challenge.clone(), csr_der: csr.into(), signature: signature.into() };
    let request = v1::RenewCertificate { device_id: id_bytes(id), proof: Some(proof) };
    ask::<v1::RenewReply>(server, subject::CA_RENEW, &request).await.result.expect("result")
}

fn root(server: &Server) -> Root {
    let (root, _) = server.handle.app().authority.endorsed_root().expect("root");
    Root::accept_first(v1::SignedRoot::decode(root.as_slice()).expect("decodes"), now_s()).expect("valid")
}

async fn decommission(server: &Server, id: DeviceId) {
    let app = server.handle.app();
    let seen = device::find(&*app.state, &Scope::system("test"), id).await.expect("there");
    let intent =
        Intent::new(Entry { partner_id: Some(seen.config().partner_id), ..Entry::by_system("device.decommission", 1) });
    device::decommission(&*app.state, &seen, "sold", &intent, 1).await.expect("decommissions");
    app.deliver_now(device::DEVICES, &id.to_bytes()).await.expect("delivers");
}

#[tokio::test]
async fn a_certificate_renews_with_the_current_key_and_with_none_else() {
    let server = Server::start().await;
    let (first, second, third, thief) = (Device::new(), Device::new(), Device::new(), Device::new());
    let id = enrolled(&server, &first).await;
    let fresh = challenge(&server, id).await;
    assert!(matches!(renew(&server, id, &fresh, &thief, &thief).await, Reply::Refused(_)));
    let Reply::Issued(issued) = renew(&server, id, &fresh, &first, &second).await else { panic!("refused") };
    let (_, certificate) = x509_parser::parse_x509_certificate(&issued.certificate_der).expect("parses");
    assert_eq!(certificate.subject().to_string(), format!("CN={id}"));
    assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), second.pair.public_key_raw());

    // The reply may have been lost: the key before still proves; the one before that does not.
    let fresh = challenge(&server, id).await;
    assert!(matches!(renew(&server, id, &fresh, &first, &second).await, Reply::Issued(_)));
    assert!(matches!(renew(&server, id, &fresh, &second, &third).await, Reply::Issued(_)));
    assert!(matches!(renew(&server, id, &fresh, &first, &third).await, Reply::Refused(_)));

    // However many replies are lost, each for another key: the key that the device holds stays.
    for _ in 0..4 {
        let fresh = challenge(&server, id).await;
        assert!(matches!(renew(&server, id, &fresh, &third, &Device::new()).await, Reply::Issued(_)));
    }

    // A challenge belongs to one device and was made here.
    let other = Device::new();
    let other_id = enrolled(&server, &other).await;
    assert!(matches!(renew(&server, other_id, &fresh, &other, &other).await, Reply::Refused(_)));
    let made_up = Bytes::from(vec![0xff; fresh.len()]);
    assert!(matches!(renew(&server, id, &made_up, &third, &third).await, Reply::Refused(_)));
    assert!(matches!(renew(&server, id, &Bytes::new(), &third, &third).await, Reply::Refused(_)));
    let stranger = DeviceId::generate();
    let fresh = challenge(&server, stranger).await;
    assert!(matches!(renew(&server, stranger, &fresh, &first, &first).await, Reply::Refused(_)));
    server.stop().await;
}

#[tokio::test]
async fn decommissioning_reaches_relays_within_a_second_in_dense_versions() {
    let server = Server::start().await;
    let root = root(&server);
    let mut updates = server.bus.subscribe(subject::REVOCATIONS_UPDATE).await.expect("subscribes");
    let empty: v1::SignedDocument =
        ask(&server, subject::REVOCATIONS_SNAPSHOT, &v1::RevocationsRequest::default()).await;
    let empty: v1::RevocationSet = root.open(Role::Revocations, &empty, now_s()).expect("signed");
    assert_eq!((empty.version, empty.added.len()), (0, 0));

    let device = Device::new();
    for version in 1..=3 {
        let device = if version == 1 { &device } else { &Device::new() };
        let id = enrolled(&server, device).await;
        let began = Instant::now();
        decommission(&server, id).await;
        let Some(Received::Message { payload, .. }) =
            tokio::time::timeout(WAIT, updates.next()).await.expect("in time")
        else {
            panic!("no update");
        };
        assert!(began.elapsed() < Duration::from_secs(1));
        let document = v1::SignedDocument::decode(payload).expect("decodes");
        let update: v1::RevocationSet = root.open(Role::Revocations, &document, now_s()).expect("signed");
        assert_eq!((update.version, update.base_version), (version, version - 1));
        let revocation = &update.added[0];
        assert_eq!(revocation.device_id, id_bytes(id));
        let notice = revocation.notice.as_ref().expect("notice");
        let notice: v1::RevocationNotice = root.open(Role::Revocations, notice, now_s()).expect("signed");
        assert_eq!((notice.device_id, notice.reason.as_str()), (id_bytes(id), "sold"));
    }

    let document: v1::SignedDocument =
        ask(&server, subject::REVOCATIONS_SNAPSHOT, &v1::RevocationsRequest::default()).await;
    let set: v1::RevocationSet = root.open(Role::Revocations, &document, now_s()).expect("signed");
    assert_eq!((set.version, set.base_version, set.added.len()), (3, 0, 3));
    let same = v1::RevocationsRequest { have_version: 3, ..v1::RevocationsRequest::default() };
    let nothing =
        server.bus.request(subject::REVOCATIONS_SNAPSHOT, same.encode_to_vec().into(), WAIT).await.expect("answers");
    assert!(nothing.is_empty(), "there is nothing newer");

    // A revoked device neither renews nor enrols again with its old key, and gets no documents.
    let id = DeviceId::from_slice(&set.added.iter().map(|it| it.device_id.clone()).next().expect("one")).expect("id");
    let answer = device.enroll(&server.client(), &server.key).await;
    assert_eq!(answer.code(), "device_rejected");
    let fresh = challenge(&server, id).await;
    assert!(matches!(renew(&server, id, &fresh, &device, &device).await, Reply::Refused(_)));
    let request = v1::DocumentsRequest { device_id: id_bytes(id), ..v1::DocumentsRequest::default() };
    assert!(ask::<v1::DocumentsReply>(&server, subject::AGENT_DOCUMENTS, &request).await.unknown_device);
    server.stop().await;
}

#[tokio::test]
async fn a_device_is_told_what_it_does_not_have_yet() {
    let server = Server::start().await;
    let root = root(&server);
    let id = enrolled(&server, &Device::new()).await;
    let mut request = v1::DocumentsRequest { device_id: id_bytes(id), root_version: 1, ..Default::default() };
    let reply: v1::DocumentsReply = ask(&server, subject::AGENT_DOCUMENTS, &request).await;
    assert_eq!((reply.documents.len(), reply.roots.len()), (2, 0));
    let relays: v1::RelayList = root.open(Role::Relays, &reply.documents[0], now_s()).expect("relays");
    let config: v1::AgentConfig = root.open(Role::Config, &reply.documents[1], now_s()).expect("config");
    (request.relay_list_version, request.config_version) = (relays.version, config.version);
    let reply: v1::DocumentsReply = ask(&server, subject::AGENT_DOCUMENTS, &request).await;
    assert!(reply.documents.is_empty());

    let moved = v1::Relay { quic: "127.0.0.1:5555".into(), ..crate::support::relay() };
    server.handle.set_relays(vec![moved.clone()]).await.expect("set");
    let reply: v1::DocumentsReply = ask(&server, subject::AGENT_DOCUMENTS, &request).await;
    let newer: v1::RelayList = root.open(Role::Relays, &reply.documents[0], now_s()).expect("relays");
    assert_eq!((newer.version, newer.relays), (relays.version + 1, vec![moved]));

    let fast = server
        .handle
        .app()
        .authority
        .fast_config(id, "local", Duration::from_secs(1), Duration::from_secs(3_600))
        .expect("signs");
    let fast: v1::AgentConfig = root.open(Role::Config, &fast, now_s()).expect("config");
    assert!(fast.version > config.version && fast.heartbeat_interval_ms == 1_000);
    assert!(fast.expires_unix_s <= now_s() + 300, "a fast interval always ends soon");
    server.stop().await;
}

#[tokio::test]
async fn a_renewal_is_an_entry_of_the_device_and_one_that_is_too_late_says_what_to_do() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let (first, second) = (Device::new(), Device::new());
    let id = enrolled(&server, &first).await;
    let fresh = challenge(&server, id).await;
    assert!(matches!(renew(&server, id, &fresh, &first, &second).await, Reply::Issued(_)));
    let entry = crate::support::eventually("the entry", || async {
        let log = admin.get("/api/v1/audit/logs").await;
        let mut entries = log.body["data"].as_array().expect("data").clone().into_iter();
        entries.find(|entry| entry["action"] == "device.certificate.renew")
    })
    .await;
    assert_eq!((&entry["actor_type"], &entry["result"]), (&"agent".into(), &"success".into()));
    assert_eq!((&entry["resource_id"], &entry["actor_id"]), (&id.to_string().into(), &id.to_string().into()));

    let app = server.handle.app();
    let key = hex::encode(second.pair.subject_public_key_info());
    let long_ago = now_s().saturating_sub(366 * 24 * 3_600) * 1_000;
    device::record_certificate(&*app.state, id, &key, &key, long_ago, None, now_s() * 1_000).await.expect("records");
    let fresh = challenge(&server, id).await;
    let Reply::Refused(text) = renew(&server, id, &fresh, &second, &first).await else { panic!("renewed") };
    assert!(text.contains("enrol the device again"), "{text}");
    server.stop().await;
}
