//! Keys that are never in the store: files of mode 0600 in the data directory's `keys` folder. One
//! master key, from which each purpose derives its own; the certification authority's and the
//! signers' keys lie beside it (`pki`).

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::Sha256;
use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The folder of keys.
#[derive(Debug, Clone)]
pub struct KeyFolder(PathBuf);

impl KeyFolder {
    /// Opens `<data>/keys`, made with mode 0700 if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or others may read it.
    pub fn open(data: &Path) -> anyhow::Result<Self> {
        let folder = data.join("keys");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the folder of keys {}", folder.display()))?;
        let mode = fs::metadata(&folder)?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!("{} may be read by others (mode {:o}); run chmod 700 on it", folder.display(), mode & 0o777);
        }
        Ok(Self(folder))
    }

    /// Whether there is no key in it.
    ///
    /// # Errors
    /// The file system's.
    pub fn is_empty(&self) -> anyhow::Result<bool> {
        Ok(self.names()?.is_empty())
    }

    /// Removes every key. For keys that were just made and that nobody has seen.
    ///
    /// # Errors
    /// The file system's.
    pub fn clear(&self) -> anyhow::Result<()> {
        for name in self.names()? {
            fs::remove_file(self.0.join(&name)).with_context(|| format!("cannot remove the key {name}"))?;
        }
        Ok(())
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        let read = || -> std::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.0)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            Ok(names)
        };
        read().with_context(|| format!("cannot read the folder of keys {}", self.0.display()))
    }

    /// The content of `name`, made by `make` if it is not there. The file is complete or absent,
    /// also after a crash.
    ///
    /// # Errors
    /// When it cannot be read or written, or others may read it.
    pub fn load_or_make(
        &self,
        name: &str,
        make: impl FnOnce() -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        if let Some(found) = self.load(name)? {
            return Ok(found);
        }
        let fresh = Zeroizing::new(make()?);
        self.save(name, &fresh)?;
        Ok(fresh)
    }

    /// The content of `name`, if it is there.
    ///
    /// # Errors
    /// When it cannot be read, or others may read it.
    pub fn load(&self, name: &str) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        let path = self.0.join(name);
        match fs::metadata(&path) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                bail!("the key {} may be read by others; run chmod 600 on it", path.display())
            }
            Ok(_) => {
                let bytes = fs::read(&path).with_context(|| format!("cannot read the key {}", path.display()))?;
                Ok(Some(Zeroizing::new(bytes)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read the key {}", path.display())),
        }
    }

    /// Writes `name` anew.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.0.join(name);
        let write = || -> std::io::Result<()> {
            let fresh = self.0.join(format!(".{name}.new"));
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            fs::File::open(&self.0)?.sync_all()
        };
        write().with_context(|| format!("cannot write the key {}", path.display()))
    }
}

/// The master key and what derives from it.
pub struct Keyring {
    master: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

impl Keyring {
    /// Loads the master key, made at the first start.
    ///
    /// # Errors
    /// As [`KeyFolder::load_or_make`], and when the file is not a key.
    pub fn open(folder: &KeyFolder) -> anyhow::Result<Self> {
        let bytes = folder.load_or_make("master.key", || Ok(rand::random::<[u8; 32]>().to_vec()))?;
        let master: [u8; 32] = bytes.as_slice().try_into().context("keys/master.key must be 32 bytes")?;
        Ok(Self { master: Zeroizing::new(master) })
    }

    /// The key of one purpose.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        mac(&*self.master, &[b"breeze/v1/key", purpose.as_bytes()])
    }

    /// Encrypts (AES-256-GCM, random nonce) what the store shall keep; `context` says where it
    /// belongs and is bound to it.
    ///
    /// # Errors
    /// When the cipher refuses, which it does not for the sizes used here.
    pub fn seal(&self, context: &str, plain: &[u8]) -> anyhow::Result<String> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = plain.to_vec();
        self.cipher()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context.as_bytes()), &mut sealed)
            .map_err(|_| anyhow::anyhow!("cannot encrypt"))?;
        let mut out = nonce.to_vec();
        out.append(&mut sealed);
        Ok(STANDARD_NO_PAD.encode(out))
    }

    /// Decrypts what [`Keyring::seal`] made for the same context.
    ///
    /// # Errors
    /// When it was altered or belongs elsewhere.
    pub fn unseal(&self, context: &str, sealed: &str) -> anyhow::Result<Vec<u8>> {
        let mut bytes = STANDARD_NO_PAD.decode(sealed).context("sealed text is not base64")?;
        let nonce: [u8; NONCE_LEN] =
            bytes.get(..NONCE_LEN).and_then(|nonce| nonce.try_into().ok()).context("sealed text is too short")?;
        let plain = self
            .cipher()?
            .open_within(Nonce::assume_unique_for_key(nonce), Aad::from(context.as_bytes()), &mut bytes, NONCE_LEN..)
            .map_err(|_| anyhow::anyhow!("sealed text was altered or belongs elsewhere"))?;
        Ok(plain.to_vec())
    }

    fn cipher(&self) -> anyhow::Result<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, &self.derive("sealing")).map_err(|_| anyhow::anyhow!("bad key"))?;
        Ok(LessSafeKey::new(key))
    }
}

/// HMAC-SHA256 over the parts, each with its length.
#[must_use]
pub fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// SHA-256 as hex: how secrets are kept.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(Sha256::digest(bytes))
}

/// A new secret: 32 random bytes as 43 characters of unpadded URL-safe base64.
#[must_use]
pub fn new_secret() -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_persist_and_are_private() {
        let data = tempfile::tempdir().expect("folder");
        let folder = KeyFolder::open(data.path()).expect("opens");
        let first = Keyring::open(&folder).expect("made").derive("a");
        let again = Keyring::open(&folder).expect("loaded");
        assert_eq!(first, again.derive("a"));
        assert_ne!(first, again.derive("b"));
        let file = data.path().join("keys/master.key");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
        let error = Keyring::open(&folder).expect_err("readable by others").to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn sealed_text_opens_only_in_its_place_and_unaltered() {
        let data = tempfile::tempdir().expect("folder");
        let keyring = Keyring::open(&KeyFolder::open(data.path()).expect("opens")).expect("made");
        let sealed = keyring.seal("here", b"secret").expect("seals");
        assert_eq!(keyring.unseal("here", &sealed).expect("opens"), b"secret");
        assert!(keyring.unseal("there", &sealed).is_err());
        let mut altered = STANDARD_NO_PAD.decode(&sealed).expect("base64");
        *altered.last_mut().expect("not empty") ^= 1;
        assert!(keyring.unseal("here", &STANDARD_NO_PAD.encode(altered)).is_err());
        assert!(keyring.unseal("here", "").is_err());
    }
}
