//! The state directory: its owner's alone (on a Unix 0700, everything in it 0600), one process at a
//! time. Files are replaced whole (written beside, fsynced, renamed, the directory fsynced), so that a
//! crash leaves the old or the new.

use crate::os::process;
use anyhow::{Context as _, bail};
use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

/// Where a package keeps it.
pub const DEFAULT: &str = process::DEFAULT_STATE_DIR;
/// No state file is larger; more is damage.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A state directory, perhaps locked by this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Option<Lock>,
}

/// The lock, given back when it is dropped. Closing the file would do that only with its last copy, and a
/// program that this process is just about to start has one until it runs.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // If this fails, closing the file remains.
        let _ = self.0.unlock();
    }
}

impl StateDir {
    /// Makes the directory where it is missing and takes its lock.
    ///
    /// # Errors
    /// If another process holds the lock, it says so.
    pub fn lock(path: &Path) -> anyhow::Result<Self> {
        create_private(path)?;
        let lock_path = path.join("lock");
        let lock = process::private_options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .with_context(|| format!("cannot open {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: Some(Lock(lock)) }),
            Err(fs::TryLockError::WouldBlock) => bail!(
                "another breeze-agent uses {}: stop it first, or choose another directory with --state",
                path.display()
            ),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", lock_path.display()))
            }
        }
    }

    /// To read from beside a running agent.
    #[must_use]
    pub fn unlocked(path: &Path) -> Self {
        Self { path: path.to_owned(), _lock: None }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file's bytes; `None` if there is none.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.file(name);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if length > MAX_FILE_BYTES {
            bail!("{} is {length} bytes long and cannot be this agent's", path.display());
        }
        fs::read(&path).map(Some).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Replaces a file durably.
    ///
    /// # Errors
    /// With the file's name; the old content is kept then.
    pub fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        self.replace(name, content, true)
    }

    /// Replaces a file whole, but lets a loss of power take it: for what is only looked at.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn write_lightly(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        self.replace(name, content, false)
    }

    fn replace(&self, name: &str, content: &[u8], durable: bool) -> anyhow::Result<()> {
        let path = self.file(name);
        let beside = self.file(&format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = process::private_options().write(true).create(true).truncate(true).open(&beside)?;
            file.write_all(content)?;
            if durable {
                file.sync_all()?;
            }
            fs::rename(&beside, &path)?;
            if durable {
                process::sync_directory(&self.path)?;
            }
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a file if it is there.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }
}

/// Makes a directory that only its owner may look into.
///
/// # Errors
/// With the directory's name.
pub fn create_private(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    process::restrict_to_owner(path).with_context(|| format!("cannot restrict {} to its owner", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_given_back_even_while_a_copy_of_its_file_is_open() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let dir = StateDir::lock(folder.path()).expect("locks");
        // As a child has it between its fork and its exec.
        let Some(Lock(file)) = &dir._lock else { panic!("a lock") };
        let copy = file.try_clone().expect("a copy");
        assert!(StateDir::lock(folder.path()).is_err(), "it is taken");
        drop(dir);
        StateDir::lock(folder.path()).expect("it is free again");
        drop(copy);
    }
}
