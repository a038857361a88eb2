//! A small disk of the test's own.

use super::process::run;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk(pub(crate) PathBuf);

impl Disk {
    pub(crate) fn mount(path: &Path, mib: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(path)?;
        run(&["mount", "-t", "tmpfs", "-o", &format!("size={mib}M"), "breeze-test", &path.display().to_string()])?;
        Ok(Self(path.to_owned()))
    }

    /// Fills it but for so many bytes; the file that does.
    pub(crate) fn fill(&self, rest_bytes: u64) -> anyhow::Result<PathBuf> {
        let disk = rustix::fs::statvfs(&self.0)?;
        let (ballast, free_bytes) = (self.0.join("ballast"), disk.f_bavail * disk.f_frsize);
        let size = free_bytes.saturating_sub(rest_bytes);
        run(&["fallocate", "-l", &size.to_string(), &ballast.display().to_string()])?;
        Ok(ballast)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _already_gone = run(&["umount", "-l", &self.0.display().to_string()]);
    }
}
