//! Checkpoints: signed statements of how far a chain has come, for places that whoever can write to the store
//! cannot write to.

use crate::keyring::Keyring;
use anyhow::{Context as _, bail};
use breeze_store::model::audit::{Chain, Head, Published};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// The longest file of checkpoints that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// How deep a folder of checkpoints is searched.
const MAX_DEPTH: usize = 8;

/// One statement, as it is published: a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub instance_id: String,
    pub chain: String,
    pub sequence: u64,
    /// Of that entry, hex.
    pub mac: String,
    pub time_ms: u64,
    /// Ed25519, hex.
    pub signature: String,
}

impl Checkpoint {
    /// What is signed: each part with its length, so that none can be taken for another.
    fn message(&self) -> Vec<u8> {
        let Self { instance_id, chain, sequence, mac, time_ms, signature: _ } = self;
        let mut message = b"breeze/v1/audit-checkpoint".to_vec();
        for part in [instance_id, chain, &sequence.to_string(), mac, &time_ms.to_string()] {
            message.extend_from_slice(&(part.len() as u64).to_be_bytes());
            message.extend_from_slice(part.as_bytes());
        }
        message
    }

    /// Whether the signature is of `key`.
    #[must_use]
    pub fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        let mut bytes = [0; 64];
        hex::decode_to_slice(&self.signature, &mut bytes).is_ok()
            && key.verify_strict(&self.message(), &Signature::from_bytes(&bytes)).is_ok()
    }

    /// Without a line's end.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| unreachable!("a checkpoint is plain data: {error}"))
    }
}

/// Signs checkpoints.
#[derive(Debug)]
pub struct Notary {
    key: SigningKey,
    instance_id: String,
}

impl Notary {
    /// With a key that derives from the master key, so that there is nothing more to keep.
    #[must_use]
    pub fn new(keyring: &Keyring, instance_id: String) -> Self {
        Self { key: SigningKey::from_bytes(&keyring.derive("audit checkpoints")), instance_id }
    }

    /// What checks the signatures.
    #[must_use]
    pub fn public_key(&self) -> VerifyingKey {
        self.key.verifying_key()
    }

    /// States how far a chain has come.
    #[must_use]
    pub fn sign(&self, chain: Chain, head: &Head, time_ms: u64) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            instance_id: self.instance_id.clone(),
            chain: chain.to_string(),
            sequence: head.sequence,
            mac: head.mac.clone(),
            time_ms,
            signature: String::new(),
        };
        checkpoint.signature = hex::encode(self.key.sign(&checkpoint.message()).to_bytes());
        checkpoint
    }
}

/// Reads checkpoints of a file of lines, or of a folder of such files (a copy of the bucket).
///
/// # Errors
/// When it cannot be read, a line is no checkpoint, or a signature is wrong: whoever writes here must not be able to
/// take statements away by making them unreadable. An unfinished last line is left out: its writer died.
pub fn read(path: &Path, key: &VerifyingKey) -> anyhow::Result<Vec<Published>> {
    let mut found = Vec::new();
    read_into(path, key, 0, &mut found)?;
    Ok(found)
}

fn read_into(path: &Path, key: &VerifyingKey, depth: usize, found: &mut Vec<Published>) -> anyhow::Result<()> {
    let shown = path.display();
    let meta = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
    if meta.is_dir() {
        anyhow::ensure!(depth < MAX_DEPTH, "{shown} lies too deep");
        for entry in fs::read_dir(path).with_context(|| format!("cannot read {shown}"))? {
            read_into(&entry?.path(), key, depth + 1, found)?;
        }
        return Ok(());
    }
    anyhow::ensure!(meta.len() <= MAX_FILE_BYTES, "{shown} is larger than {MAX_FILE_BYTES} bytes");
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let is_whole = text.ends_with('\n') || path.extension().is_some_and(|kind| kind == "json");
    let mut lines = text.lines().enumerate().peekable();
    while let Some((n, line)) = lines.next() {
        let is_last = lines.peek().is_none();
        if line.trim().is_empty() {
            continue;
        }
        let checkpoint: Checkpoint = match serde_json::from_str(line) {
            Ok(checkpoint) => checkpoint,
            Err(_) if is_last && !is_whole => continue,
            Err(error) => bail!("{shown}, line {}: no checkpoint: {error}", n + 1),
        };
        if !checkpoint.is_signed_by(key) {
            bail!("{shown}, line {}: the signature of the checkpoint is wrong", n + 1);
        }
        let chain = checkpoint.chain.parse().map_err(|error| anyhow::anyhow!("{shown}, line {}: {error}", n + 1))?;
        found.push(Published { chain, sequence: checkpoint.sequence, mac: checkpoint.mac });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::KeyFolder;

    #[test]
    fn a_checkpoint_is_read_back_and_an_altered_one_refused() {
        let data = tempfile::tempdir().expect("folder");
        let keyring = Keyring::open(&KeyFolder::open(data.path()).expect("opens")).expect("made");
        let notary = Notary::new(&keyring, "i".into());
        let head = Head { sequence: 7, sealed_ms: 1, mac: "ab".into() };
        let checkpoint = notary.sign(Chain::Instance, &head, 5);
        let file = data.path().join("checkpoints");
        fs::write(&file, format!("{}\n{{\"inst", checkpoint.line())).expect("written");
        let published = read(&file, &notary.public_key()).expect("reads");
        assert_eq!(published, [Published { chain: Chain::Instance, sequence: 7, mac: "ab".into() }]);

        for altered in [
            Checkpoint { sequence: 6, ..checkpoint.clone() },
            Checkpoint { mac: "ac".into(), ..checkpoint.clone() },
            Checkpoint { time_ms: 6, ..checkpoint.clone() },
            Checkpoint { instance_id: "j".into(), ..checkpoint },
        ] {
            fs::write(&file, format!("{}\n", altered.line())).expect("written");
            let error = read(&file, &notary.public_key()).expect_err("refused").to_string();
            assert!(error.contains("line 1: the signature"), "{error}");
        }
    }
}
