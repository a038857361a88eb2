//! Certificates, keys and signed documents of a test's own Breeze.

use breeze_proto::{
    id::DeviceId,
    trust::{self, Role, Root},
    v1::{
        PublicKey, Revocation, RevocationNotice, RevocationSet, RoleKeys, RootDocument, RootSignature, SignedDocument,
        SignedRoot,
    },
};
use breeze_runtime::tls::{Identity, LiveIdentity};
use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::time::{Duration, SystemTime};

pub(crate) struct Pki {
    ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    revocations: SigningKey,
    root: SigningKey,
    /// What the relay shows.
    pub(crate) shown: LiveIdentity,
}

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3_600);

fn issue(
    issuer: &Issuer<'static, KeyPair>,
    name: SanType,
    usage: ExtendedKeyUsagePurpose,
    from: SystemTime,
    to: SystemTime,
) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![name];
    params.extended_key_usages = vec![usage];
    (params.not_before, params.not_after) = (from.into(), to.into());
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    Identity { chain_der: vec![certificate.der().clone()], key_der: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
}

fn server(issuer: &Issuer<'static, KeyPair>) -> Identity {
    let now = SystemTime::now();
    let name = SanType::DnsName("localhost".try_into().expect("ASCII"));
    issue(issuer, name, ExtendedKeyUsagePurpose::ServerAuth, now - DAY, now + DAY)
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let ca = params.self_signed(&key).expect("a certificate").der().clone();
        let issuer = Issuer::new(params, key);
        let shown = LiveIdentity::new(server(&issuer)).expect("a certificate and its key");
        Self {
            ca,
            issuer,
            shown,
            revocations: SigningKey::from_bytes(&[1; 32]),
            root: SigningKey::from_bytes(&[2; 32]),
        }
    }

    pub(crate) fn ca(&self) -> CertificateDer<'static> {
        self.ca.clone()
    }

    pub(crate) fn server(&self) -> Identity {
        server(&self.issuer)
    }

    pub(crate) fn device(&self, device: DeviceId) -> Identity {
        let now = SystemTime::now();
        self.device_between(device, now - DAY, now + DAY)
    }

    pub(crate) fn device_between(&self, device: DeviceId, from: SystemTime, to: SystemTime) -> Identity {
        let name = SanType::URI(format!("breeze:device:{device}").try_into().expect("ASCII"));
        issue(&self.issuer, name, ExtendedKeyUsagePurpose::ClientAuth, from, to)
    }

    pub(crate) fn root(&self) -> Root {
        let id = |key: &SigningKey| trust::key_id(&key.verifying_key());
        let public = |key: &SigningKey| PublicKey {
            key_id: id(key),
            ed25519: Bytes::copy_from_slice(key.verifying_key().as_bytes()),
        };
        let role = |name: &str, key: &SigningKey| RoleKeys {
            role: name.to_owned(),
            key_ids: vec![id(key)],
            threshold: 1,
            expires_unix_s: u64::MAX,
        };
        let document = RootDocument {
            version: 1,
            expires_unix_s: u64::MAX,
            instance_id: Bytes::from_static(&[3; 16]),
            keys: vec![public(&self.root), public(&self.revocations)],
            roles: vec![role("root", &self.root), role("revocations", &self.revocations)],
            ca_spki_sha256: Vec::new(),
        };
        let payload = Bytes::from(document.encode_to_vec());
        let signature = self.root.sign(&trust::signed_bytes(Role::Root, &payload));
        let signature =
            RootSignature { key_id: id(&self.root), signature: Bytes::copy_from_slice(&signature.to_bytes()) };
        Root::accept_first(SignedRoot { payload, signatures: vec![signature] }, 0).expect("a root")
    }

    pub(crate) fn notice(&self, device: DeviceId) -> SignedDocument {
        let notice = RevocationNotice {
            device_id: Bytes::copy_from_slice(&device.to_bytes()),
            revoked_unix_s: 1,
            reason: "test".to_owned(),
        };
        trust::sign(Role::Revocations, &self.revocations, Bytes::from(notice.encode_to_vec()))
    }

    pub(crate) fn revocation_set(&self, version: u64, base_version: u64, added: &[DeviceId]) -> SignedDocument {
        let revocation = |device: &DeviceId| Revocation {
            device_id: Bytes::copy_from_slice(&device.to_bytes()),
            notice: Some(self.notice(*device)),
        };
        let added = added.iter().map(revocation).collect();
        let set = RevocationSet { version, base_version, added, ..Default::default() };
        trust::sign(Role::Revocations, &self.revocations, Bytes::from(set.encode_to_vec()))
    }
}
