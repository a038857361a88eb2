//! The socket by which `breeze backup` asks a running server: `control.sock` in the data folder, for
//! the server's own user and root.
//!
//! The client sends one line, the server answers with a backup and closes.

use super::{
    archive,
    image::{Images, Live},
};
use anyhow::{Context as _, bail, ensure};
use std::{
    fs::{self, File, Permissions},
    io::{BufWriter, ErrorKind, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream as Blocking},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Mutex,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const NAME: &str = "control.sock";
const REQUEST: &str = "backup 1\n";
const MAX_REQUEST_BYTES: u64 = 64;
/// Connections at one time; backups are taken one after the other.
const MAX_CONNECTIONS: usize = 8;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest silence that a client accepts: the images are taken, another backup is under way.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The listening socket of a running server.
#[derive(Debug)]
pub(crate) struct Control {
    stop: CancellationToken,
    task: JoinSet<()>,
    path: PathBuf,
}

impl Control {
    /// Listens. A socket that an earlier process left is replaced: the folder is locked by its engines.
    pub(crate) fn listen(live: Live) -> anyhow::Result<Self> {
        let path = live.data.join(NAME);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        let folder = File::open(&live.data)?;
        let listener =
            UnixListener::bind(short(&folder)).with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(accept(listener, live, stop.clone()));
        Ok(Self { stop, task, path })
    }

    /// Ends backups that are under way, and lets go of the engines.
    pub(crate) async fn close(mut self) {
        self.stop.cancel();
        while self.task.join_next().await.is_some() {}
        let _gone = fs::remove_file(&self.path);
    }
}

/// The socket's path through the open folder, since a socket's own path may have 107 bytes only.
fn short(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()))
}

async fn accept(listener: UnixListener, live: Live, stop: CancellationToken) {
    let turn = Arc::new(Mutex::new(()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let (live, turn, stop) = (live.clone(), Arc::clone(&turn), stop.clone());
                    connections.spawn(async move {
                        if let Err(error) = serve(stream, &live, &turn, &stop).await {
                            metrics::counter!("breeze_backups_total", "outcome" => "failed").increment(1);
                            tracing::warn!("backup: {error:#}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: UnixStream, live: &Live, turn: &Mutex<()>, stop: &CancellationToken) -> anyhow::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    ensure!(peer == own || peer == 0, "user {peer} asked on the control socket and was refused");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut limited = (&mut stream).take(MAX_REQUEST_BYTES);
    tokio::time::timeout(REQUEST_TIMEOUT, limited.read_line(&mut line)).await.context("no request came")??;
    ensure!(line == REQUEST, "a request that is not known; is the client of another version?");

    let stream = stream.into_inner().into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let out = stream.try_clone()?;
    let _turn = tokio::select! {
        turn = turn.lock() => turn,
        () = stop.cancelled() => bail!("the server is stopping"),
    };
    let images = live.take().await;
    tracing::info!("a backup is being taken");
    let mut writing = tokio::task::spawn_blocking(move || send(images, out));
    let written = tokio::select! {
        written = &mut writing => written,
        () = stop.cancelled() => {
            // Ends the thread, which holds on to the engines.
            let _closed = stream.shutdown(std::net::Shutdown::Both);
            writing.await
        }
    };
    let bytes = written??;
    metrics::counter!("breeze_backups_total", "outcome" => "done").increment(1);
    tracing::info!(bytes, "a backup was taken");
    Ok(())
}

/// Writes the backup, or why there is none; its length in bytes.
pub(super) fn send(images: anyhow::Result<Images>, out: Blocking) -> anyhow::Result<u64> {
    let mut archive = archive::Writer::new(Counted { out: BufWriter::with_capacity(1 << 20, out), bytes: 0 })?;
    let written = images.and_then(|images| images.write_to(&mut archive));
    match written {
        Ok(()) => Ok(archive.finish()?.bytes),
        Err(error) => {
            // The reader may be what failed.
            let _told = archive.fail(&format!("{error:#}"));
            Err(error)
        }
    }
}

struct Counted {
    out: BufWriter<Blocking>,
    bytes: u64,
}

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Asks the server that runs on `data`; `None` when none does.
pub(super) fn ask(data: &Path) -> anyhow::Result<Option<Blocking>> {
    let folder = File::open(data).with_context(|| format!("there is no data in {}", data.display()))?;
    let mut stream = match Blocking::connect(short(&folder)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{}", data.join(NAME).display())),
    };
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.write_all(REQUEST.as_bytes())?;
    Ok(Some(stream))
}
