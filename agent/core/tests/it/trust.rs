//! Keys and documents.

use breeze_proto::{
    id::DeviceId,
    trust::{Role, Root, key_id, sign, signed_bytes},
    v1::{
        AgentConfig, PublicKey, Relay, RelayList, RevocationNotice, RoleKeys, RootDocument, RootSignature,
        SignedDocument, SignedRoot,
    },
};
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use prost::Message as _;

const FAR_S: u64 = 4_000_000_000;

fn root_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn online_key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

pub(crate) fn signed_root(version: u64) -> SignedRoot {
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
        version,
        expires_unix_s: FAR_S,
        instance_id: Bytes::from_static(&[1; 16]),
        keys: vec![public(&root_key()), public(&online_key())],
        roles: std::iter::once(role("root", &root_key()))
            .chain(Role::DELEGATED.iter().map(|delegated| role(delegated.name(), &online_key())))
            .collect(),
        ca_spki_sha256: vec![Bytes::from_static(&[7; 32])],
    };
    let payload = Bytes::from(document.encode_to_vec());
    let signature = root_key().sign(&signed_bytes(Role::Root, &payload));
    let signatures = vec![RootSignature {
        key_id: key_id(&root_key().verifying_key()),
        signature: Bytes::copy_from_slice(&signature.to_bytes()),
    }];
    SignedRoot { payload, signatures }
}

pub(crate) fn root() -> Root {
    Root::accept_first(signed_root(1), 0).expect("a valid root")
}

pub(crate) fn relays(version: u64, ids: &[&str]) -> SignedDocument {
    let relay = |id: &&str| Relay {
        id: (*id).into(),
        region: "test".into(),
        quic: format!("{id}:4433"),
        wss: format!("{id}:443"),
    };
    let list = RelayList { version, expires_unix_s: FAR_S, relays: ids.iter().map(relay).collect() };
    sign(Role::Relays, &online_key(), list.encode_to_vec().into())
}

pub(crate) fn config(config: &AgentConfig) -> SignedDocument {
    sign(Role::Config, &online_key(), config.encode_to_vec().into())
}

pub(crate) fn revocation(device: DeviceId) -> SignedDocument {
    let device_id = Bytes::copy_from_slice(&device.to_bytes());
    let notice = RevocationNotice { device_id, revoked_unix_s: 1, reason: "sold".into() };
    sign(Role::Revocations, &online_key(), notice.encode_to_vec().into())
}
