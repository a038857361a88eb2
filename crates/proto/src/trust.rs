//! Signing and checking of [`SignedDocument`]s and of the root document, in the manner of TUF:
//! a root, kept apart, delegates roles to keys; a document is believed only from a key of its role.

use crate::v1::{RootDocument, SignedDocument, SignedRoot};
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use prost::Message;
use sha2::{Digest, Sha256};

/// What a key may sign for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Root,
    Commands,
    Updates,
    Relays,
    Config,
    Revocations,
}

impl Role {
    /// Every role that is delegated by the root.
    pub const DELEGATED: [Self; 5] = [Self::Commands, Self::Updates, Self::Relays, Self::Config, Self::Revocations];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Commands => "commands",
            Self::Updates => "updates",
            Self::Relays => "relays",
            Self::Config => "config",
            Self::Revocations => "revocations",
        }
    }
}

/// Why a document is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("document is for role {found:?}, expected {expected:?}")]
    WrongRole { expected: &'static str, found: String },
    #[error("key {0:?} is not delegated for this role")]
    UnknownKey(String),
    #[error("signature does not match")]
    BadSignature,
    #[error("the delegation or document has expired")]
    Expired,
    #[error("document does not decode: {0}")]
    Malformed(String),
    #[error("root version {offered} does not follow version {held}")]
    RootVersion { held: u64, offered: u64 },
    #[error("too few valid root signatures: {valid} of {threshold}")]
    BelowThreshold { valid: u32, threshold: u32 },
}

/// The bytes under a signature: a domain prefix that names the role, then the payload as sent.
#[must_use]
pub fn signed_bytes(role: Role, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + payload.len());
    bytes.extend_from_slice(b"breeze/v1/");
    bytes.extend_from_slice(role.name().as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(payload);
    bytes
}

/// Id of a public key: lower-case hex of the first eight bytes of its SHA-256.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> String {
    hex::encode(&Sha256::digest(key.as_bytes())[..8])
}

/// Signs `payload` for `role`.
#[must_use]
pub fn sign(role: Role, key: &SigningKey, payload: Bytes) -> SignedDocument {
    let signature = key.sign(&signed_bytes(role, &payload));
    SignedDocument {
        role: role.name().to_owned(),
        key_id: key_id(&key.verifying_key()),
        payload,
        signature: Bytes::copy_from_slice(&signature.to_bytes()),
    }
}

/// A root document that has been accepted, and what it delegates.
#[derive(Debug, Clone, PartialEq)]
pub struct Root {
    document: RootDocument,
    signed: SignedRoot,
}

impl Root {
    /// Accepts the first root: its own threshold of its own root keys must have signed it. That it
    /// is *ours* must be known otherwise (the pinned CA endorses it at enrolment).
    ///
    /// # Errors
    /// [`TrustError`] if it does not decode, has expired at `now_unix_s` or has too few signatures.
    pub fn accept_first(signed: SignedRoot, now_unix_s: u64) -> Result<Self, TrustError> {
        let document = decode_root(&signed)?;
        require_threshold(&document, &signed)?;
        if document.expires_unix_s <= now_unix_s {
            return Err(TrustError::Expired);
        }
        Ok(Self { document, signed })
    }

    /// Accepts a successor: exactly the next version, signed by the thresholds of both documents.
    ///
    /// # Errors
    /// As [`Root::accept_first`], and [`TrustError::RootVersion`].
    pub fn accept_next(&self, signed: SignedRoot, now_unix_s: u64) -> Result<Self, TrustError> {
        let next = Self::accept_first(signed, now_unix_s)?;
        if next.document.version != self.document.version + 1 {
            return Err(TrustError::RootVersion { held: self.document.version, offered: next.document.version });
        }
        require_threshold(&self.document, &next.signed)?;
        Ok(next)
    }

    #[must_use]
    pub const fn document(&self) -> &RootDocument {
        &self.document
    }

    /// As it was received, to be kept on disk.
    #[must_use]
    pub const fn signed(&self) -> &SignedRoot {
        &self.signed
    }

    /// Whether `spki_sha256` is the public key of one of our certification authorities.
    #[must_use]
    pub fn names_ca(&self, spki_sha256: &[u8; 32]) -> bool {
        self.document.ca_spki_sha256.iter().any(|hash| hash.as_ref() == spki_sha256)
    }

    /// Checks a document's role, key, delegation and signature; its payload comes back for decoding.
    ///
    /// # Errors
    /// [`TrustError`] says which of them failed.
    pub fn verify<'a>(
        &self,
        role: Role,
        document: &'a SignedDocument,
        now_unix_s: u64,
    ) -> Result<&'a Bytes, TrustError> {
        if document.role != role.name() {
            return Err(TrustError::WrongRole { expected: role.name(), found: cut(&document.role) });
        }
        let delegation = self
            .document
            .roles
            .iter()
            .find(|delegation| delegation.role == role.name())
            .filter(|delegation| delegation.key_ids.contains(&document.key_id))
            .ok_or_else(|| TrustError::UnknownKey(cut(&document.key_id)))?;
        if delegation.expires_unix_s <= now_unix_s {
            return Err(TrustError::Expired);
        }
        let key =
            find_key(&self.document, &document.key_id).ok_or_else(|| TrustError::UnknownKey(cut(&document.key_id)))?;
        verify_with(&key, role, &document.payload, &document.signature)?;
        Ok(&document.payload)
    }

    /// As [`Root::verify`], decoded.
    ///
    /// # Errors
    /// As [`Root::verify`], and [`TrustError::Malformed`].
    pub fn open<M: Message + Default>(
        &self,
        role: Role,
        document: &SignedDocument,
        now_unix_s: u64,
    ) -> Result<M, TrustError> {
        let payload = self.verify(role, document, now_unix_s)?;
        M::decode(payload.clone()).map_err(|error| TrustError::Malformed(error.to_string()))
    }
}

fn decode_root(signed: &SignedRoot) -> Result<RootDocument, TrustError> {
    RootDocument::decode(signed.payload.clone()).map_err(|error| TrustError::Malformed(error.to_string()))
}

fn require_threshold(by: &RootDocument, signed: &SignedRoot) -> Result<(), TrustError> {
    let role = by.roles.iter().find(|role| role.role == Role::Root.name());
    let threshold = role.map_or(u32::MAX, |role| role.threshold.max(1));
    let mut counted: Vec<&str> = Vec::new();
    for signature in &signed.signatures {
        let id = signature.key_id.as_str();
        let delegated = role.is_some_and(|role| role.key_ids.iter().any(|key| key == id));
        if !delegated || counted.contains(&id) {
            continue;
        }
        let valid = find_key(by, id)
            .is_some_and(|key| verify_with(&key, Role::Root, &signed.payload, &signature.signature).is_ok());
        if valid {
            counted.push(id);
        }
    }
    let valid = counted.len() as u32;
    if valid < threshold { Err(TrustError::BelowThreshold { valid, threshold }) } else { Ok(()) }
}

/// The key of that id, if its id is really the hash of it.
fn find_key(document: &RootDocument, id: &str) -> Option<VerifyingKey> {
    let key = document.keys.iter().find(|key| key.key_id == id)?;
    let bytes: &[u8; 32] = key.ed25519.as_ref().try_into().ok()?;
    VerifyingKey::from_bytes(bytes).ok().filter(|key| key_id(key) == id)
}

fn verify_with(key: &VerifyingKey, role: Role, payload: &[u8], signature: &[u8]) -> Result<(), TrustError> {
    let signature = Signature::from_slice(signature).map_err(|_| TrustError::BadSignature)?;
    key.verify_strict(&signed_bytes(role, payload), &signature).map_err(|_| TrustError::BadSignature)
}

fn cut(text: &str) -> String {
    text.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{PublicKey, RoleKeys, RootSignature};

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn root(version: u64, root_keys: &[&SigningKey], config: &SigningKey, signers: &[&SigningKey]) -> SignedRoot {
        let public = |key: &SigningKey| PublicKey {
            key_id: key_id(&key.verifying_key()),
            ed25519: Bytes::copy_from_slice(key.verifying_key().as_bytes()),
        };
        let ids = |keys: &[&SigningKey]| keys.iter().map(|key| key_id(&key.verifying_key())).collect();
        let document = RootDocument {
            version,
            expires_unix_s: 2_000,
            instance_id: Bytes::from_static(&[1; 16]),
            keys: root_keys.iter().copied().chain([config]).map(public).collect(),
            roles: vec![
                RoleKeys {
                    role: "root".into(),
                    key_ids: ids(root_keys),
                    threshold: root_keys.len() as u32,
                    expires_unix_s: 2_000,
                },
                RoleKeys { role: "config".into(), key_ids: ids(&[config]), threshold: 1, expires_unix_s: 1_500 },
            ],
            ca_spki_sha256: vec![Bytes::from_static(&[7; 32])],
        };
        let payload = Bytes::from(document.encode_to_vec());
        let signatures = signers
            .iter()
            .map(|key| RootSignature {
                key_id: key_id(&key.verifying_key()),
                signature: Bytes::copy_from_slice(&key.sign(&signed_bytes(Role::Root, &payload)).to_bytes()),
            })
            .collect();
        SignedRoot { payload, signatures }
    }

    #[test]
    fn a_document_is_believed_only_from_its_role_key_unaltered_and_in_time() {
        let (a, config) = (key(1), key(3));
        let root = Root::accept_first(root(1, &[&a], &config, &[&a]), 1_000).expect("valid root");
        let document = sign(Role::Config, &config, Bytes::from_static(b"payload"));
        assert_eq!(root.verify(Role::Config, &document, 1_000).map(Bytes::as_ref), Ok(b"payload".as_slice()));

        let mut altered = document.clone();
        altered.payload = Bytes::from_static(b"Payload");
        assert_eq!(root.verify(Role::Config, &altered, 1_000), Err(TrustError::BadSignature));
        assert!(matches!(root.verify(Role::Relays, &document, 1_000), Err(TrustError::WrongRole { .. })));
        assert_eq!(root.verify(Role::Config, &document, 1_500), Err(TrustError::Expired));
        let foreign = sign(Role::Config, &a, Bytes::from_static(b"payload"));
        assert!(matches!(root.verify(Role::Config, &foreign, 1_000), Err(TrustError::UnknownKey(_))));

        // A signature for one role says nothing in another.
        let mut replayed = sign(Role::Relays, &config, Bytes::from_static(b"payload"));
        replayed.role = "config".into();
        assert_eq!(root.verify(Role::Config, &replayed, 1_000), Err(TrustError::BadSignature));
    }

    #[test]
    fn a_root_needs_its_threshold_and_a_successor_both() {
        let (a, b, config) = (key(1), key(2), key(3));
        assert!(matches!(
            Root::accept_first(root(1, &[&a, &b], &config, &[&a, &a]), 0),
            Err(TrustError::BelowThreshold { valid: 1, threshold: 2 })
        ));
        let first = Root::accept_first(root(1, &[&a], &config, &[&a]), 0).expect("valid");
        assert!(first.accept_next(root(2, &[&b], &config, &[&b]), 0).is_err(), "the old root must agree");
        assert!(first.accept_next(root(2, &[&b], &config, &[&a, &b]), 0).is_ok());
        assert!(matches!(first.accept_next(root(3, &[&a], &config, &[&a]), 0), Err(TrustError::RootVersion { .. })));
    }
}
