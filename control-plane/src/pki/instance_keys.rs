//! The keys of the instance on a node. All nodes share one set: the first makes it and claims the
//! instance in the store for it; it is carried to the others. A node with other keys would sign what no
//! agent believes, and must not start.

use super::{CertificateAuthority as _, LocalCa, LocalSigner, Signer as _, signer};
use crate::keyring::{KeyFolder, Keyring, sha256_hex};
use anyhow::{Context as _, bail};
use breeze_proto::{trust::Root, v1::SignedRoot};
use breeze_store::{
    model::{
        instance::{self, Instance},
        trust,
    },
    state::State,
};
use prost::Message as _;
use std::path::Path;

/// Rounds in which nodes agree on root documents; one is the usual.
const MAX_ROUNDS: usize = 8;

/// What was opened.
#[derive(Debug)]
pub struct InstanceKeys {
    pub keyring: Keyring,
    pub ca: LocalCa,
    pub signer: LocalSigner,
}

impl InstanceKeys {
    /// Loads the keys below `data`, made at the instance's first start.
    ///
    /// # Errors
    /// When the instance belongs to other keys; when files cannot be read or written, or the store refuses.
    pub async fn open(data: &Path, state: &dyn State, record: &Instance) -> anyhow::Result<Self> {
        let folder = KeyFolder::open(data)?;
        let fresh = folder.is_empty()?;
        if fresh && record.keys_sha256.is_some() {
            bail!(
                "there are no keys in {}/keys, and the instance in the store has some, on another node: take them there \
                 with `breeze keys export` and bring them here with `breeze keys import`",
                data.display()
            );
        }
        let keys = Self::load(&folder, record)?;
        let own = keys.fingerprint();
        let held = instance::claim_keys(state, &own).await.context("cannot claim the instance for its keys")?;
        if held != own {
            if fresh {
                // Nobody has seen them; left here they would only be in the way of the right ones.
                folder.clear()?;
            }
            bail!(
                "the keys in {}/keys are not those of the instance in the store (this node's {}…, the instance's {}…): \
                 take them from a node that runs with `breeze keys export` and bring them here with `breeze keys \
                 import`, or correct the store's address",
                data.display(),
                &own[..12],
                held.get(..12).unwrap_or(&held)
            );
        }
        keys.agree(&folder, state, record).await
    }

    fn load(folder: &KeyFolder, record: &Instance) -> anyhow::Result<Self> {
        let keyring = Keyring::open(folder)?;
        let ca = LocalCa::open(folder)?;
        let signer = LocalSigner::open(folder, record.id, ca.spki_sha256())?;
        Ok(Self { keyring, ca, signer })
    }

    /// SHA-256 over all of them, hex; tells nothing of a key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = format!("master {}\n", hex::encode(self.keyring.derive("fingerprint")));
        text += &format!("ca {}\n", hex::encode(self.ca.spki_sha256()));
        for (role, key_id) in self.signer.key_ids() {
            text += &format!("{role} {key_id}\n");
        }
        sha256_hex(text.as_bytes())
    }

    /// Makes all nodes show the same root documents: of two that were made for one version, the one that
    /// reached the store first.
    async fn agree(mut self, folder: &KeyFolder, state: &dyn State, record: &Instance) -> anyhow::Result<Self> {
        for _ in 0..MAX_ROUNDS {
            let own = self.signer.roots();
            let mut agreed: Vec<SignedRoot> = Vec::new();
            for (version, root) in trust::roots(state).await? {
                anyhow::ensure!(version == agreed.len() as u64 + 1, "root documents in the store have a gap");
                agreed.push(SignedRoot::decode(root).context("a root document in the store")?);
            }
            for (at, root) in own.iter().enumerate().skip(agreed.len()) {
                let version = at as u64 + 1;
                let counts = trust::agree_on_root(state, version, root.encode_to_vec().into()).await?;
                agreed.push(SignedRoot::decode(counts).context("a root document in the store")?);
            }
            if agreed == own {
                return Ok(self);
            }
            self.verify(&agreed).context("a root document in the store is not of this instance's keys")?;
            for (at, root) in agreed.iter().enumerate() {
                folder.save(&signer::root_name(at as u64 + 1), &root.encode_to_vec())?;
            }
            self = Self::load(folder, record)?;
        }
        bail!("the nodes of the control plane cannot agree on a root document; start again")
    }

    /// The chain holds, and its end is signed by our own key.
    fn verify(&self, roots: &[SignedRoot]) -> anyhow::Result<()> {
        let mut chain = roots.iter().cloned();
        let now = crate::api::time::now_s();
        let first = Root::accept_first(chain.next().context("there is none")?, now)?;
        let newest = chain.try_fold(first, |root, next| root.accept_next(next, now))?;
        let own = self.signer.key_ids();
        let is_own = newest.signed().signatures.iter().any(|signed| {
            own.iter().any(|(role, key_id)| *role == breeze_proto::trust::Role::Root.name() && *key_id == signed.key_id)
        });
        anyhow::ensure!(is_own && newest.names_ca(&self.ca.spki_sha256()), "it is signed by others");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::setup::FIRST_NAMES;
    use breeze_store::state::memory::MemoryState;

    async fn open(data: &Path, state: &MemoryState) -> anyhow::Result<InstanceKeys> {
        let record = instance::open(state, &FIRST_NAMES, 1).await?;
        InstanceKeys::open(data, state, &record).await
    }

    fn copy(from: &Path, to: &Path) {
        let folder = KeyFolder::open(to).expect("opens");
        for entry in std::fs::read_dir(from.join("keys")).expect("there").flatten() {
            let name = entry.file_name().into_string().expect("text");
            folder.save(&name, &std::fs::read(entry.path()).expect("reads")).expect("saves");
        }
    }

    #[tokio::test]
    async fn nodes_with_other_keys_are_refused_and_told_how_to_get_them() {
        let state = MemoryState::new();
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("folder")).collect();
        let first = open(folders[0].path(), &state).await.expect("claims");
        let error = open(folders[1].path(), &state).await.expect_err("it has none").to_string();
        assert!(error.contains("breeze keys import"), "{error}");
        assert!(KeyFolder::open(folders[1].path()).expect("opens").is_empty().expect("reads"), "none were made");

        let other = MemoryState::new();
        open(folders[2].path(), &other).await.expect("of an instance of its own");
        let error = open(folders[2].path(), &state).await.expect_err("others").to_string();
        assert!(error.contains("breeze keys import"), "{error}");
        assert!(!KeyFolder::open(folders[2].path()).expect("opens").is_empty().expect("reads"), "another's stay");

        copy(folders[0].path(), folders[1].path());
        let second = open(folders[1].path(), &state).await.expect("the same keys");
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(first.signer.roots(), second.signer.roots());
    }

    #[tokio::test]
    async fn two_that_start_at_once_do_not_both_win() {
        let state = MemoryState::new();
        let (a, b) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let (one, two) = tokio::join!(open(a.path(), &state), open(b.path(), &state));
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    }

    #[tokio::test]
    async fn roots_made_on_two_nodes_become_one() {
        let state = MemoryState::new();
        let (a, b) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let first = open(a.path(), &state).await.expect("claims");
        copy(a.path(), b.path());
        // As if it had made one of its own.
        std::fs::remove_file(b.path().join("keys/root.1")).expect("there");
        let second = open(b.path(), &state).await.expect("agrees");
        assert_eq!(first.signer.roots(), second.signer.roots());
        assert_eq!(std::fs::read(a.path().join("keys/root.1")).ok(), std::fs::read(b.path().join("keys/root.1")).ok());
    }
}
