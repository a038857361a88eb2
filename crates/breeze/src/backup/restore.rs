//! `breeze restore`: a backup into an empty folder.
//!
//! Everything is put into a folder of its own and moved into place once the backup has proved to be
//! whole, so a server never starts on half of one.

use super::archive;
use crate::keys;
use anyhow::{Context as _, bail, ensure};
use breeze_store::state::embedded;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, Read},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

/// The folder of what is not yet complete. A server does not start while it is there.
pub(crate) const UNFINISHED: &str = ".restoring";

/// What was restored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Restored {
    pub(super) rows: u64,
    pub(super) files: u64,
    pub(super) sealed_keys: Option<Vec<u8>>,
}

/// Fails when a restore into `data` was cut off, and when there are data without their keys: new ones
/// would be made, which no agent believes and which cannot read what the old ones sealed.
pub(crate) fn check_finished(data: &Path) -> anyhow::Result<()> {
    let unfinished = data.join(UNFINISHED);
    ensure!(!unfinished.exists(), "a restore into {} was cut off: empty the folder and restore again", data.display());
    Ok(())
}

/// Restores what `input` gives.
pub(super) fn restore(input: impl Read, data: &Path) -> anyhow::Result<Restored> {
    DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    for entry in fs::read_dir(data)? {
        let name = entry?.file_name();
        // Keys may be imported first.
        ensure!(name == "keys", "{} is not empty ({}): restore into an empty folder", data.display(), name.display());
    }
    let staging = data.join(UNFINISHED);
    DirBuilder::new().mode(0o700).create(&staging)?;
    let restored = unpack(input, &staging).and_then(|restored| {
        rustix::fs::syncfs(File::open(&staging)?).context("cannot make it durable")?;
        for entry in fs::read_dir(&staging)? {
            let entry = entry?;
            fs::rename(entry.path(), data.join(entry.file_name()))?;
        }
        Ok(restored)
    });
    if restored.is_err() {
        let _left = fs::remove_dir_all(&staging);
    }
    let restored = restored?;
    fs::remove_dir(&staging)?;
    File::open(data)?.sync_all()?;
    Ok(restored)
}

fn unpack(input: impl Read, staging: &Path) -> anyhow::Result<Restored> {
    let mut archive = archive::Reader::new(BufReader::with_capacity(1 << 20, input))?;
    let mut restored = Restored::default();
    let mut has_state = false;
    while let Some(mut entry) = archive.next()? {
        let path = entry.path.clone();
        match path.as_str() {
            "state.image" => {
                restored.rows = embedded::restore(&staging.join("state"), &mut entry).context("state")?;
                has_state = true;
            }
            keys::ENTRY => {
                let mut sealed = Vec::new();
                (&mut entry).take(keys::MAX_SEALED_BYTES).read_to_end(&mut sealed)?;
                restored.sealed_keys = Some(sealed);
            }
            _ => {
                let to = place(staging, &path)?;
                write(&to, &mut entry).with_context(|| format!("cannot write {}", to.display()))?;
                restored.files += 1;
            }
        }
        ensure!(io::copy(&mut entry, &mut io::sink())? == 0, "{path} has more than was expected");
    }
    ensure!(has_state, "the backup has no state");
    Ok(restored)
}

/// Where a file goes. The archive is input like any other: nothing leaves the folder.
fn place(staging: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let known = path == "ports.json" || path.starts_with("bus/") || path.starts_with("metrics/");
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !known || !plain {
        bail!("the backup has {path:?}, which this version does not know");
    }
    Ok(staging.join(path))
}

fn write(to: &Path, content: &mut dyn Read) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(content, &mut file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(path: &str) -> Vec<u8> {
        let mut writer = archive::Writer::new(Vec::new()).expect("writes");
        writer.copy(path, &mut &b"x"[..]).expect("writes");
        writer.finish().expect("finishes")
    }

    #[test]
    fn nothing_leaves_the_folder_and_nothing_unknown_enters() {
        for path in ["../x", "bus/../../x", "/etc/x", "bus//../../x", "keys/master.key", "x", "metrics/./../../x"] {
            let data = tempfile::tempdir().expect("a folder");
            let error = restore(archive(path).as_slice(), &data.path().join("d")).expect_err(path);
            assert!(error.to_string().contains("does not know"), "{path}: {error:#}");
            assert_eq!(fs::read_dir(data.path().join("d")).expect("there").count(), 0, "{path}");
        }
    }

    #[test]
    fn only_an_empty_folder_is_taken() {
        let data = tempfile::tempdir().expect("a folder");
        fs::write(data.path().join("something"), "").expect("written");
        let error = restore(archive("ports.json").as_slice(), data.path()).expect_err("not empty");
        assert!(error.to_string().contains("something"), "{error:#}");
        fs::remove_file(data.path().join("something")).expect("removed");
        let error = restore(archive("ports.json").as_slice(), data.path()).expect_err("no state");
        assert!(error.to_string().contains("no state"), "{error:#}");
        check_finished(data.path()).expect("nothing is left behind");
        fs::create_dir(data.path().join(UNFINISHED)).expect("made");
        check_finished(data.path()).expect_err("cut off");
    }
}
