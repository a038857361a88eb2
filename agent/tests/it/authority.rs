//! A certification authority, root keys and documents.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use breeze_proto::{
    ALPN,
    enroll::{EnrollResponse, EnrollmentKey, ROOT_ENDORSEMENT_PREFIX},
    id::{DeviceId, EnrollmentKeyId},
    trust::{Role, key_id, sign, signed_bytes},
    v1::{
        AgentConfig, PublicKey, Relay, RelayList, RevocationNotice, RoleKeys, RootDocument, RootSignature,
        SignedDocument, SignedRoot,
    },
};
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair, SanType,
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const FAR_S: u64 = 4_000_000_000;

pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) certificate: Vec<u8>,
    pub spki_sha256: [u8; 32],
    root_key: SigningKey,
    online_key: SigningKey,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(DnType::CommonName, "Breeze test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("certificate").der().to_vec();
        let spki_sha256 = breeze_agent::pki::read_certificate(&certificate).expect("certificate").spki_sha256;
        Self {
            params,
            key,
            certificate,
            spki_sha256,
            root_key: SigningKey::from_bytes(&[1; 32]),
            online_key: SigningKey::from_bytes(&[2; 32]),
        }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// An enrolment key's text that pins this authority.
    pub(crate) fn enrollment_key(&self) -> EnrollmentKey {
        EnrollmentKey { id: EnrollmentKeyId::generate(), secret: "s".repeat(43), ca_spki_sha256: self.spki_sha256 }
    }

    pub(crate) fn device_certificate(&self, csr_der: &[u8], device: DeviceId, life: Duration) -> Vec<u8> {
        let mut request = CertificateSigningRequestParams::from_der(&csr_der.into()).expect("request");
        request.params.distinguished_name.push(DnType::CommonName, device.to_string());
        request.params.subject_alt_names =
            vec![SanType::URI(format!("breeze:device:{device}").try_into().expect("ascii"))];
        let now = SystemTime::now();
        request.params.not_before = (now - Duration::from_secs(1)).into();
        request.params.not_after = (now + life).into();
        request.signed_by(&self.issuer()).expect("certificate").der().to_vec()
    }

    pub(crate) fn root(&self) -> SignedRoot {
        let public = |key: &SigningKey| PublicKey {
            key_id: key_id(&key.verifying_key()),
            ed25519: Bytes::copy_from_slice(key.verifying_key().as_bytes()),
        };
        let role = |role: &str, key: &SigningKey| RoleKeys {
            role: role.into(),
            key_ids: vec![key_id(&key.verifying_key())],
            threshold: 1,
            expires_unix_s: FAR_S,
        };
        let document = RootDocument {
            version: 1,
            expires_unix_s: FAR_S,
            instance_id: Bytes::from_static(&[1; 16]),
            keys: vec![public(&self.root_key), public(&self.online_key)],
            roles: std::iter::once(role("root", &self.root_key))
                .chain(Role::DELEGATED.iter().map(|delegated| role(delegated.name(), &self.online_key)))
                .collect(),
            ca_spki_sha256: vec![Bytes::copy_from_slice(&self.spki_sha256)],
        };
        let payload = Bytes::from(document.encode_to_vec());
        let signature = self.root_key.sign(&signed_bytes(Role::Root, &payload));
        let signatures = vec![RootSignature {
            key_id: key_id(&self.root_key.verifying_key()),
            signature: Bytes::copy_from_slice(&signature.to_bytes()),
        }];
        SignedRoot { payload, signatures }
    }

    pub(crate) fn relays(&self, version: u64, relay: Relay) -> SignedDocument {
        let list = RelayList { version, expires_unix_s: FAR_S, relays: vec![relay] };
        sign(Role::Relays, &self.online_key, list.encode_to_vec().into())
    }

    pub(crate) fn config(&self, version: u64, heartbeat_interval_ms: u32) -> SignedDocument {
        let config = AgentConfig { version, heartbeat_interval_ms, ..AgentConfig::default() };
        sign(Role::Config, &self.online_key, config.encode_to_vec().into())
    }

    pub(crate) fn revocation(&self, device: DeviceId) -> SignedDocument {
        let notice = RevocationNotice {
            device_id: Bytes::copy_from_slice(&device.to_bytes()),
            revoked_unix_s: 1,
            reason: "sold".into(),
        };
        sign(Role::Revocations, &self.online_key, notice.encode_to_vec().into())
    }

    /// What `POST /api/v1/agents/enroll` answers.
    pub(crate) fn enrolled(
        &self,
        device: DeviceId,
        csr: &str,
        documents: &[SignedDocument],
        life: Duration,
    ) -> EnrollResponse {
        let csr = STANDARD.decode(csr).expect("base64");
        let root = self.root();
        let endorsement = {
            let signer = EcdsaKeyPair::from_pkcs8(
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                &self.key.serialize_der(),
                &SystemRandom::new(),
            );
            let message = [ROOT_ENDORSEMENT_PREFIX, &root.payload].concat();
            signer.expect("key").sign(&SystemRandom::new(), &message).expect("signature")
        };
        EnrollResponse::Enrolled {
            device_id: device,
            certificate: STANDARD.encode(self.device_certificate(&csr, device, life)),
            chain: vec![STANDARD.encode(&self.certificate)],
            root: STANDARD.encode(root.encode_to_vec()),
            root_endorsement: STANDARD.encode(endorsement),
            documents: documents.iter().map(|document| STANDARD.encode(document.encode_to_vec())).collect(),
        }
    }

    /// A server certificate with these names.
    fn server_identity(&self, names: Vec<SanType>) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.subject_alt_names = names;
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(86_400)).into();
        params.not_after = (now + Duration::from_secs(30 * 86_400)).into();
        let certificate = params.signed_by(&key, &self.issuer()).expect("certificate");
        let chain = vec![certificate.der().clone(), CertificateDer::from(self.certificate.clone())];
        (chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    /// TLS of a relay towards agents.
    pub(crate) fn relay_tls(&self, relay_id: &str) -> ServerConfig {
        let name = SanType::URI(format!("breeze:relay:{relay_id}").try_into().expect("ascii"));
        let (chain, key) = self.server_identity(vec![name]);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.certificate.clone())).expect("anchor");
        let provider = breeze_agent::pki::provider();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("verifier");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .expect("identity");
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    }

    /// TLS of a web server at 127.0.0.1.
    pub(crate) fn web_tls(&self) -> ServerConfig {
        let (chain, key) = self.server_identity(vec![SanType::IpAddress([127, 0, 0, 1].into())]);
        ServerConfig::builder_with_provider(breeze_agent::pki::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("identity")
    }
}

/// The bytes that a renewal's signature covers.
pub(crate) fn renewal_message(challenge: &[u8], csr: &[u8]) -> Vec<u8> {
    [b"breeze/v1/renew\0".as_slice(), challenge, &Sha256::digest(csr)].concat()
}

pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64
}
