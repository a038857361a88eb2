//! What a process does on Windows: private files, the local pipe, the events that stop it.

use super::files::output_of;
use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use std::{fs::OpenOptions, future::Future, io, path::Path, time::Duration};
use tokio::{
    io::AsyncReadExt as _,
    net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, PipeMode, ServerOptions},
    signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown},
};

/// Where an installer keeps the state directory. Not in `ProgramData`: there any user may make the
/// folder first and keep a hand on it.
pub(crate) const DEFAULT_STATE_DIR: &str = r"C:\Program Files\Breeze Agent\state";

/// The local channel is a pipe and leaves nothing behind in the state directory; on a Unix this file
/// would be it.
pub(crate) const LOCAL_SOCKET: &str = "metric.sock";

/// Who may enter the state directory: the system, administrators, and the owner of each file; by
/// security identifier, since the names are translated.
const GRANTS: [&str; 3] = ["*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F", "*S-1-3-4:(OI)(CI)F"];

/// All instances of the pipe are taken.
const ERROR_PIPE_BUSY: i32 = 231;
/// Between attempts to get an instance; the caller sets the end.
const RETRY_PERIOD: Duration = Duration::from_millis(20);
/// One serves each connection, one waits for the next.
const MAX_PIPE_INSTANCES: usize = 16;

/// Lets nobody but owner, administrators and system look into a directory; what lies in it inherits.
pub(crate) fn restrict_to_owner(directory: &Path) -> io::Result<()> {
    let path = directory.to_string_lossy();
    let [system, administrators, owner] = GRANTS;
    output_of("icacls.exe", &[&path, "/inheritance:r", "/grant:r", system, administrators, owner, "/Q"])
        .map(drop)
        .ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, "icacls does not restrict it"))
}

/// New files inherit the state directory's access list.
pub(crate) fn private_options() -> OpenOptions {
    OpenOptions::new()
}

/// Windows has no flush of a directory; NTFS journals names in the order of the changes.
#[expect(clippy::unnecessary_wraps, reason = "the same signature on every system")]
pub(crate) fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

/// One name for each state directory, however it is written.
fn pipe_name(state: &Path) -> String {
    let state = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
    let digest = Sha256::digest(state.to_string_lossy().to_lowercase());
    format!(r"\\.\pipe\breeze-agent-{}", hex::encode(&digest[..16]))
}

/// A connection that the listener has accepted.
pub(crate) type LocalStream = NamedPipeServer;

/// Accepts who may write to the pipe. Its default access list is used: full for the system, for
/// administrators and for the account that made it, reading alone for others, who so cannot open it
/// as [`connect_local`] does.
#[derive(Debug)]
pub(crate) struct LocalListener {
    name: String,
    next: NamedPipeServer,
}

impl LocalListener {
    pub(crate) fn bind(state: &Path) -> anyhow::Result<Self> {
        let name = pipe_name(state);
        // The first of its name: nobody has set up a pipe to listen in.
        let next =
            options().first_pipe_instance(true).create(&name).with_context(|| format!("cannot listen at {name}"))?;
        Ok(Self { name, next })
    }

    pub(crate) async fn accept(&mut self) -> io::Result<LocalStream> {
        self.next.connect().await?;
        let fresh = options().create(&self.name)?;
        Ok(std::mem::replace(&mut self.next, fresh))
    }
}

fn options() -> ServerOptions {
    let mut options = ServerOptions::new();
    options.pipe_mode(PipeMode::Byte).reject_remote_clients(true).max_instances(MAX_PIPE_INSTANCES);
    options
}

/// To the agent that runs on `state`. Tries until an instance is free.
pub(crate) async fn connect_local(state: &Path) -> anyhow::Result<NamedPipeClient> {
    let name = pipe_name(state);
    loop {
        match ClientOptions::new().open(&name) {
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY) => tokio::time::sleep(RETRY_PERIOD).await,
            opened => return opened.with_context(|| format!("no agent listens at {name}")),
        }
    }
}

/// Ends a connection whose last word has been written: a pipe whose server goes first takes along
/// what has not been read. The caller sets the end.
pub(crate) async fn finish_local(mut stream: LocalStream) {
    while let Ok(1..) = stream.read(&mut [0; 64]).await {}
}

/// Ready on the first Ctrl-C, Ctrl-Break, closing of the console or shutdown.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut stop, mut close, mut shutdown) =
        (ctrl_c()?, ctrl_break()?, ctrl_close()?, ctrl_shutdown()?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = stop.recv() => {}
            _ = close.recv() => {}
            _ = shutdown.recv() => {}
        }
    })
}
