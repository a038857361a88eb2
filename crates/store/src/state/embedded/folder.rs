//! The data folder: one process at a time, one known format.
//!
//! ```text
//! LOCK       held exclusively as long as the state is open
//! FORMAT     "breeze-state 1", written when the engine's folder is complete
//! CREATING   there while the engine's folder is being made for the first time
//! engine/    fjall's
//! ```

use crate::state::StateError;
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

const FORMAT: &str = "breeze-state 1\n";

/// A locked data folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    _lock: File,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let what = format!("cannot {what} {}", path.display());
    move |error| StateError::Unavailable(format!("{what}: {error}"))
}

impl Folder {
    /// Makes the folder if there is none, and locks it.
    pub(super) fn lock(root: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(root).map_err(failed("create", root))?;
        let path = root.join("LOCK");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(StateError::Unavailable(format!("{} is in use by another process", root.display())))
            }
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    pub(super) fn engine(&self) -> PathBuf {
        self.root.join("engine")
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the engine's folder is complete. If it is not, what is left of an earlier attempt to
    /// make it is removed, and the attempt that now begins is marked.
    pub(super) fn begin(&self) -> Result<bool, StateError> {
        let (format, creating) = (self.root.join("FORMAT"), self.root.join("CREATING"));
        match fs::read_to_string(&format) {
            Ok(found) if found == FORMAT => return Ok(true),
            Ok(found) => {
                let found: String = found.chars().take(64).collect();
                return Err(StateError::Corrupt(format!(
                    "{} says {:?}; this program reads {:?} only",
                    format.display(),
                    found.trim_end(),
                    FORMAT.trim_end()
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &format)(error)),
        }
        let engine = self.engine();
        if engine.exists() {
            if !creating.exists() {
                return Err(StateError::Corrupt(format!("{} holds data of no known format", self.root.display())));
            }
            fs::remove_dir_all(&engine).map_err(failed("remove", &engine))?;
        }
        self.write("CREATING", "")?;
        Ok(false)
    }

    /// Marks the engine's folder as complete.
    pub(super) fn complete(&self) -> Result<(), StateError> {
        self.write("FORMAT", FORMAT)?;
        let creating = self.root.join("CREATING");
        fs::remove_file(&creating).map_err(failed("remove", &creating))
    }

    fn write(&self, name: &str, content: &str) -> Result<(), StateError> {
        let (path, draft) = (self.root.join(name), self.root.join(format!("{name}.new")));
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.root)?.sync_all()
        });
        written.map_err(failed("write", &path))
    }

    /// Bytes that may still be written to the disk under the folder.
    pub(super) fn free_bytes(&self) -> Result<u64, StateError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| failed("measure", &self.root)(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::lock(root.path()).expect("nobody else is here");
        (root, folder)
    }

    #[test]
    fn lets_one_in() {
        let (root, folder) = fresh();
        let refused = Folder::lock(root.path()).expect_err("it is locked");
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
        drop(folder);
        Folder::lock(root.path()).expect("it is free again");
    }

    #[test]
    fn begins_again_after_a_half_made_engine() {
        let (_root, folder) = fresh();
        assert!(!folder.begin().expect("empty"));
        fs::create_dir_all(folder.engine().join("half")).expect("a folder");
        assert!(!folder.begin().expect("half made"));
        assert!(!folder.engine().exists());
        folder.complete().expect("it is complete");
        assert!(folder.begin().expect("whole"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let (root, folder) = fresh();
        fs::write(root.path().join("FORMAT"), "breeze-state 2\n").expect("written");
        assert!(matches!(folder.begin(), Err(StateError::Corrupt(said)) if said.contains("breeze-state 2")));
        fs::remove_file(root.path().join("FORMAT")).expect("removed");
        fs::create_dir(folder.engine()).expect("a folder");
        assert!(matches!(folder.begin(), Err(StateError::Corrupt(said)) if said.contains("no known format")));
    }
}
