//! Files that a configuration names: secrets that only their owner may read, and authorities.

use anyhow::{Context as _, ensure};
use breeze_runtime::secret::Secret;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Largest secret that is read, in bytes.
const MAX_SECRET_BYTES: u64 = 16 * 1024;

/// A file that holds one secret; the configuration and its printed form hold the path only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SecretFile(PathBuf);

impl SecretFile {
    pub(crate) fn below(&mut self, folder: &Path) {
        self.0 = folder.join(&self.0);
    }

    /// Another file in its folder.
    pub(crate) fn sibling(&self, name: &str) -> PathBuf {
        self.0.with_file_name(name)
    }

    /// The secret, without the line's end.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or others may read it.
    pub(crate) fn read(&self) -> anyhow::Result<Secret<String>> {
        let path = &self.0;
        private(path)?;
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let secret = text.trim_end_matches(['\r', '\n']).to_owned();
        ensure!(!secret.is_empty(), "{} is empty", path.display());
        Ok(Secret::new(secret))
    }
}

/// Refuses a file that is not there, is large, or that others may read.
///
/// # Errors
/// Says which, and what to do.
pub(crate) fn private(path: &Path) -> anyhow::Result<()> {
    let found = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(found.is_file(), "{} is no file", path.display());
    let mode = found.permissions().mode() & 0o777;
    ensure!(mode & 0o077 == 0, "{} may be read by others (mode {mode:o}); run chmod 600 on it", path.display());
    ensure!(found.len() <= MAX_SECRET_BYTES, "{} is larger than {MAX_SECRET_BYTES} bytes", path.display());
    Ok(())
}
