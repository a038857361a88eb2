//! Signing of documents that agents and relays believe, and the root that delegates it. The keys of
//! the root and of each role are files of their own, so that they can be taken apart: the root's may
//! live offline between its renewals.

use crate::{api::time::now_s, keyring::KeyFolder};
use anyhow::Context as _;
use breeze_proto::{
    id::InstanceId,
    trust::{self, Role, Root},
    v1::{PublicKey, RoleKeys, RootDocument, RootSignature, SignedDocument, SignedRoot},
};
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use parking_lot::RwLock;
use prost::Message as _;
use std::{collections::HashMap, time::Duration};

/// How long a delegation is good.
const DELEGATION: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// How long a root is good.
const ROOT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A root whose delegations end sooner gets a successor.
const RENEW_BEFORE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Root versions that are looked for; one a year.
const MAX_ROOTS: u64 = 1_000;

/// What signs. One implementation keeps its keys in files; another may ask a process of its own.
pub trait Signer: Send + Sync + std::fmt::Debug {
    /// Signs the payload with the key that is delegated for `role`.
    ///
    /// # Errors
    /// When there is no such key.
    fn sign(&self, role: Role, payload: Bytes) -> anyhow::Result<SignedDocument>;

    /// Role names and ids of its keys, in the order of names.
    fn key_ids(&self) -> Vec<(&'static str, String)>;

    /// Every version of the root, oldest first.
    fn roots(&self) -> Vec<SignedRoot>;
}

/// The keys lie in files.
pub struct LocalSigner {
    keys: HashMap<Role, SigningKey>,
    roots: RwLock<Vec<SignedRoot>>,
}

impl std::fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSigner").field("roots", &self.roots.read().len()).finish_non_exhaustive()
    }
}

impl LocalSigner {
    /// Loads keys and roots, made at the first start; renews the root when its delegations near
    /// their end.
    ///
    /// # Errors
    /// When files cannot be read or written, or a stored root does not verify.
    pub fn open(folder: &KeyFolder, instance: InstanceId, ca_spki_sha256: [u8; 32]) -> anyhow::Result<Self> {
        let mut keys = HashMap::new();
        for role in Role::DELEGATED.into_iter().chain([Role::Root]) {
            let name = format!("{}.ed25519", role.name());
            let seed = folder.load_or_make(&name, || Ok(rand::random::<[u8; 32]>().to_vec()))?;
            let seed: [u8; 32] = seed.as_slice().try_into().with_context(|| format!("keys/{name} must be 32 bytes"))?;
            keys.insert(role, SigningKey::from_bytes(&seed));
        }
        let mut roots = Vec::new();
        for version in 1..=MAX_ROOTS {
            let Some(bytes) = folder.load(&root_name(version))? else { break };
            roots.push(SignedRoot::decode(bytes.as_slice()).with_context(|| format!("keys/root.{version}"))?);
        }
        let now = now_s();
        let renew = match roots.last() {
            None => true,
            Some(last) => {
                let document = RootDocument::decode(last.payload.clone()).context("the newest root")?;
                let first_end = document.roles.iter().map(|role| role.expires_unix_s).min().unwrap_or(0);
                first_end < now + RENEW_BEFORE.as_secs()
            }
        };
        if renew {
            let version = roots.len() as u64 + 1;
            let root = make_root(version, &keys, instance, ca_spki_sha256, now);
            Root::accept_first(root.clone(), now).context("the new root does not verify")?;
            folder.save(&root_name(version), &root.encode_to_vec())?;
            roots.push(root);
        }
        Ok(Self { keys, roots: RwLock::new(roots) })
    }
}

impl Signer for LocalSigner {
    fn sign(&self, role: Role, payload: Bytes) -> anyhow::Result<SignedDocument> {
        let key = self.keys.get(&role).with_context(|| format!("no key for the role {}", role.name()))?;
        Ok(trust::sign(role, key, payload))
    }

    fn key_ids(&self) -> Vec<(&'static str, String)> {
        let mut ids: Vec<_> =
            self.keys.iter().map(|(role, key)| (role.name(), trust::key_id(&key.verifying_key()))).collect();
        ids.sort_unstable();
        ids
    }

    fn roots(&self) -> Vec<SignedRoot> {
        self.roots.read().clone()
    }
}

/// Its file's name.
pub(super) fn root_name(version: u64) -> String {
    format!("root.{version}")
}

fn make_root(
    version: u64,
    keys: &HashMap<Role, SigningKey>,
    instance: InstanceId,
    ca_spki_sha256: [u8; 32],
    now: u64,
) -> SignedRoot {
    let roles: Vec<Role> = std::iter::once(Role::Root).chain(Role::DELEGATED).collect();
    let id_of = |role: &Role| trust::key_id(&keys[role].verifying_key());
    let document = RootDocument {
        version,
        expires_unix_s: now + ROOT.as_secs(),
        instance_id: Bytes::copy_from_slice(&instance.to_bytes()),
        keys: roles
            .iter()
            .map(|role| PublicKey {
                key_id: id_of(role),
                ed25519: Bytes::copy_from_slice(keys[role].verifying_key().as_bytes()),
            })
            .collect(),
        roles: roles
            .iter()
            .map(|role| RoleKeys {
                role: role.name().to_owned(),
                key_ids: vec![id_of(role)],
                threshold: 1,
                expires_unix_s: now + if *role == Role::Root { ROOT } else { DELEGATION }.as_secs(),
            })
            .collect(),
        ca_spki_sha256: vec![Bytes::copy_from_slice(&ca_spki_sha256)],
    };
    let payload = Bytes::from(document.encode_to_vec());
    let signature = keys[&Role::Root].sign(&trust::signed_bytes(Role::Root, &payload));
    let signature =
        RootSignature { key_id: id_of(&Role::Root), signature: Bytes::copy_from_slice(&signature.to_bytes()) };
    SignedRoot { payload, signatures: vec![signature] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_persists_and_delegates_every_role() {
        let data = tempfile::tempdir().expect("folder");
        let folder = KeyFolder::open(data.path()).expect("opens");
        let instance = InstanceId::generate();
        let signer = LocalSigner::open(&folder, instance, [7; 32]).expect("made");
        let again = LocalSigner::open(&folder, instance, [7; 32]).expect("loaded");
        assert_eq!(signer.roots(), again.roots());
        let root = Root::accept_first(signer.roots().remove(0), now_s()).expect("valid");
        assert!(root.names_ca(&[7; 32]));
        for role in Role::DELEGATED {
            let document = again.sign(role, Bytes::from_static(b"x")).expect("signs");
            assert_eq!(root.verify(role, &document, now_s()).map(Bytes::as_ref), Ok(b"x".as_slice()));
        }
    }

    #[test]
    fn a_successor_is_accepted_by_who_holds_the_root_before() {
        let data = tempfile::tempdir().expect("folder");
        let folder = KeyFolder::open(data.path()).expect("opens");
        let instance = InstanceId::generate();
        let signer = LocalSigner::open(&folder, instance, [7; 32]).expect("made");
        let first = Root::accept_first(signer.roots().remove(0), now_s()).expect("valid");
        let next = make_root(2, &signer.keys, instance, [7; 32], now_s());
        first.accept_next(next, now_s()).expect("follows");
    }
}
