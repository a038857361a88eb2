//! Room on the disk of a role's own folder. A role that has to make its keys waits for it; one that has
//! them works without, and says so.

use super::wait::{Absence, until_there};
use crate::files::make_private_folder;
use anyhow::Context as _;
use breeze_runtime::{ops::Component, shutdown::Shutdown};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether there is room.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// What is written to see: more than any of the files that roles keep.
const PROBE_BYTES: usize = 64 * 1024;

/// Waits until something can be written below `folder`, which is made; `None` when the process is to stop.
///
/// # Errors
/// As [`until_there`].
pub(super) async fn wait(folder: &Path, component: &Component, shutdown: &Shutdown) -> anyhow::Result<Option<()>> {
    let attempt = async || probe(folder).map_err(|error| Absence::Away(format!("{error:#}")));
    until_there(component, shutdown, attempt).await
}

/// Tells from now on when nothing can be written below `folder`.
pub(super) fn watch(folder: &Path, component: Component, stop: CancellationToken) {
    let folder = folder.to_owned();
    tokio::spawn(async move {
        loop {
            let looked_at = folder.clone();
            match tokio::task::spawn_blocking(move || probe(&looked_at)).await {
                Ok(Ok(())) => component.ready(),
                Ok(Err(error)) => component.degraded(format!("{error:#}; what is there already is used")),
                Err(_stopping) => return,
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_none() {
                return;
            }
        }
    });
}

/// Not synced: a file system says at once that it has no room.
fn probe(folder: &Path) -> anyhow::Result<()> {
    make_private_folder(folder)?;
    let path: PathBuf = folder.join(".room");
    let written = fs::write(&path, vec![0; PROBE_BYTES]);
    let _not_made = fs::remove_file(&path);
    written.with_context(|| format!("cannot write below {}", folder.display()))
}
