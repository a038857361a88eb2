//! What every Unix does alike: private files, the local socket, the signals that stop a process.

use anyhow::Context as _;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    future::Future,
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};

/// Where a package keeps the state directory.
#[cfg(not(target_os = "macos"))]
pub(crate) const DEFAULT_STATE_DIR: &str = "/var/lib/breeze-agent";
#[cfg(target_os = "macos")]
pub(crate) const DEFAULT_STATE_DIR: &str = "/Library/Application Support/breeze-agent";

/// The local socket's file in the state directory.
pub(crate) const LOCAL_SOCKET: &str = "metric.sock";

/// Lets nobody but its owner look into a directory.
pub(crate) fn restrict_to_owner(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o700))
}

/// Options under which new files are 0600.
pub(crate) fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Makes the names in a directory survive a loss of power.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn socket(state: &Path) -> PathBuf {
    state.join(LOCAL_SOCKET)
}

/// A connection that the listener has accepted.
pub(crate) type LocalStream = UnixStream;

/// Accepts whoever may enter the state directory.
#[derive(Debug)]
pub(crate) struct LocalListener(UnixListener);

impl LocalListener {
    pub(crate) fn bind(state: &Path) -> anyhow::Result<Self> {
        let path = socket(state);
        // Left behind by a killed agent; the lock says that none lives.
        let _absent = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self(listener))
    }

    pub(crate) async fn accept(&mut self) -> io::Result<LocalStream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }
}

/// To the agent that runs on `state`.
pub(crate) async fn connect_local(state: &Path) -> anyhow::Result<UnixStream> {
    let path = socket(state);
    UnixStream::connect(&path).await.with_context(|| format!("no agent listens at {}", path.display()))
}

/// Ends a connection whose last word has been written.
pub(crate) async fn finish_local(mut stream: LocalStream) {
    // Whoever has gone already needs no end.
    let _gone = stream.shutdown().await;
}

/// Ready on the first SIGTERM or SIGINT.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
