//! `breeze backup` and `breeze restore`: the embedded engines, online, as one file.

mod archive;
mod control;
mod image;
mod restore;

pub(crate) use control::Control;
pub(crate) use image::Live;
pub(crate) use restore::check_finished;

use crate::keys::{self, Passphrase};
use anyhow::{Context as _, bail, ensure};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
};

/// Back up all data of a server of `breeze up`, while it runs or not.
///
/// State, bus and metrics are taken at one moment: what was acknowledged until then is in the backup.
/// Keys are not, unless asked for; see `breeze keys export`. The file is as confidential as the data.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArguments {
    /// Folder of all data and keys, as given to `breeze up`
    #[arg(long, value_name = "DIR", env = "BREEZE_DATA")]
    data: PathBuf,
    /// A file that does not exist, a folder in which one is made, or - for standard output
    #[arg(long, value_name = "FILE|DIR")]
    to: PathBuf,
    /// Also the keys, encrypted with a passphrase
    #[arg(long)]
    with_keys: bool,
    #[command(flatten)]
    passphrase: Passphrase,
}

/// Restore a backup into an empty folder.
///
/// The keys of the instance must be there when the server starts: they come from the backup if it has
/// them, else by `breeze keys import`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArguments {
    /// The backup's file, or - for standard input
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// An empty folder, or none; keys may lie in it
    #[arg(long, value_name = "DIR", env = "BREEZE_DATA")]
    data: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

/// Runs `breeze backup`; `print` gets what was done.
pub(crate) fn backup(arguments: &BackupArguments, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let BackupArguments { data, to, with_keys, passphrase } = arguments;
    ensure!(data.join("state").is_dir(), "there is no data in {}", data.display());
    // Before anything else, since it may ask for a passphrase.
    let sealed = if *with_keys { Some(keys::seal_folder(data, &passphrase.chosen()?)?) } else { None };
    if to == Path::new("-") {
        let out = io::stdout().lock();
        take(data, BufWriter::new(out), sealed.as_deref())?;
        return Ok(());
    }
    let to = if to.is_dir() { to.join(file_name()) } else { to.clone() };
    ensure!(!to.exists(), "{} is there already", to.display());
    let mut partial = to.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let write = || -> anyhow::Result<u64> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        let file = take(data, BufWriter::with_capacity(1 << 20, file), sealed.as_deref())?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&partial, &to)?;
        let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(file.metadata()?.len())
    };
    match write() {
        Ok(bytes) => {
            print(&format!("{}: {bytes} bytes, {} keys", to.display(), if *with_keys { "with" } else { "without" }));
            Ok(())
        }
        Err(error) => {
            let _left = fs::remove_file(&partial);
            Err(error.context(format!("no backup was written to {}", to.display())))
        }
    }
}

/// Sortable by time: `breeze-20261124T174500Z.backup`.
fn file_name() -> String {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    format!("breeze-{now}.backup")
}

/// Writes a backup of `data` to `out`: from the server that runs on it, or from the files.
fn take<W: Write>(data: &Path, out: W, sealed_keys: Option<&[u8]>) -> anyhow::Result<W> {
    match control::ask(data)? {
        Some(stream) => relay(stream, out, sealed_keys),
        None => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let live =
                runtime.block_on(Live::open(data)).context("no server answers, and its data cannot be opened")?;
            let (from, to) = UnixStream::pair()?;
            let images = runtime.block_on(live.take());
            let sending = std::thread::spawn(move || control::send(images, to));
            let written = relay(from, out, sealed_keys);
            let sent = sending.join();
            runtime.block_on(live.close());
            let out = written?;
            match sent {
                Ok(sent) => sent.map(|_| out),
                Err(_) => bail!("writing the backup panicked"),
            }
        }
    }
}

/// Checks what comes and writes it on, with the keys if there are any.
fn relay<W: Write>(from: UnixStream, out: W, sealed_keys: Option<&[u8]>) -> anyhow::Result<W> {
    let mut from = archive::Reader::new(BufReader::with_capacity(1 << 20, from)).context("the server's answer")?;
    let mut to = archive::Writer::new(out)?;
    if let Some(mut sealed) = sealed_keys {
        to.copy(keys::ENTRY, &mut sealed)?;
    }
    while let Some(mut entry) = from.next()? {
        let path = entry.path.clone();
        to.copy(&path, &mut entry)?;
    }
    Ok(to.finish()?)
}

/// Runs `breeze restore`; `print` gets what was done.
pub(crate) fn restore(arguments: &RestoreArguments, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let RestoreArguments { from, data, passphrase } = arguments;
    let input: Box<dyn Read> = if from == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(from).with_context(|| format!("cannot open {}", from.display()))?)
    };
    let restored = restore::restore(input, data).with_context(|| format!("{} was not restored", from.display()))?;
    print(&format!("{}: {} rows, {} files", data.display(), restored.rows, restored.files));
    match restored.sealed_keys {
        Some(_) if data.join("keys").exists() => print("the keys that lie there already are kept"),
        Some(sealed) => {
            let names = keys::import(&sealed, data, &passphrase.existing()?)
                .context("the data are restored, the keys are not: take them by `breeze keys import`")?;
            print(&format!("keys: {}", names.join(", ")));
        }
        None if data.join("keys").exists() => {}
        None => print("the backup has no keys: bring them by `breeze keys import` before the server starts"),
    }
    Ok(())
}
