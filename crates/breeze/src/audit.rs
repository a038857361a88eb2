//! `breeze audit`: what somebody does who does not take the audit log's word for it.

use crate::{config, process::cql_config};
use anyhow::{Context as _, bail, ensure};
use breeze_control_plane::{
    audit::{
        CHECKPOINT_FILE,
        checkpoint::{self, Notary},
    },
    keyring::{KeyFolder, Keyring},
};
use breeze_store::{
    model::audit::{AuditLog, Published, Verdict},
    state::{
        State,
        cql::CqlState,
        embedded::{self, EmbeddedState},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Check the audit log
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Verify(Verify),
    /// Print the public key (Ed25519, hex) that checkpoints are signed with
    Key {
        /// Folder of all data and keys
        #[arg(long, value_name = "DIR", env = "BREEZE_DATA")]
        data: PathBuf,
    },
}

/// Check every chain of the audit log: that no entry was altered, removed, added or cut off
///
/// With --data of `breeze up`, the server must be stopped; with --config of a control-plane node, it may run. Nothing is
/// written. Exits with 1 if a chain is broken. Without checkpoints, entries cut off at the end are not seen.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Folder of all data and keys, as given to `breeze up`
    #[arg(long, value_name = "DIR", env = "BREEZE_DATA", required_unless_present = "config")]
    data: Option<PathBuf>,
    /// Configuration of a node of the control plane
    #[arg(long, value_name = "FILE", env = "BREEZE_CONFIG", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// File of checkpoints, or a folder with copies of them; the data folder's own file unless given
    #[arg(long, value_name = "PATH")]
    checkpoints: Vec<PathBuf>,
    /// Folder with a copy of the archive: its objects are checked, too
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
}

/// Runs it; `print` gets the lines of the result.
///
/// # Errors
/// When the data cannot be read, and when a chain is broken.
pub(crate) fn run(command: &Command, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    match command {
        Command::Key { data } => {
            let notary = Notary::new(&keyring(data)?, String::new());
            print(&hex::encode(notary.public_key().to_bytes()));
            Ok(())
        }
        Command::Verify(verify) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            runtime.block_on(verify.run(print))
        }
    }
}

/// The keys of a folder. Opening would make what is not there.
fn keyring(data: &Path) -> anyhow::Result<Keyring> {
    let there = data.join("keys/master.key").is_file();
    ensure!(there, "the key that the audit log is checked with is not in {}/keys", data.display());
    Keyring::open(&KeyFolder::open(data)?)
}

impl Verify {
    async fn run(&self, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        if let Some(file) = &self.config {
            let file = config::control_plane(file)?;
            breeze_runtime::tls::install_provider();
            let state = CqlState::connect(cql_config(&file.state)?).await.context("state")?;
            return self.check(Arc::new(state), &file.control_plane.data, print).await;
        }
        let Some(data) = &self.data else { bail!("give --data or --config") };
        // Opening would make what is not there.
        let folder = data.join("state");
        ensure!(folder.is_dir(), "there is no data in {}", data.display());
        keyring(data)?;
        let config = embedded::Config { reserve_bytes: 0, ..embedded::Config::default() };
        let state = EmbeddedState::open(folder, config).await.context("state (is the server stopped?)")?;
        let state = Arc::new(state);
        let checked = self.check(Arc::<EmbeddedState>::clone(&state), data, print).await;
        state.close().await;
        checked
    }

    async fn check(&self, state: Arc<dyn State>, data: &Path, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let keyring = keyring(data)?;
        let key = Notary::new(&keyring, String::new()).public_key();
        let mut published: Vec<Published> = Vec::new();
        let own = data.join(CHECKPOINT_FILE);
        if self.checkpoints.is_empty() && own.is_file() {
            published = checkpoint::read(&own, &key)?;
        }
        for path in &self.checkpoints {
            published.extend(checkpoint::read(path, &key)?);
        }
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let log = AuditLog::new(state, keyring.derive("audit"), "verify", now);
        let verdicts = log.verify_all(&published).await?;
        verdicts.iter().for_each(|verdict| print(&line(verdict)));
        let mut broken = verdicts.iter().filter(|verdict| verdict.broken.is_some()).count();
        if let Some(folder) = &self.archive {
            for verdict in &verdicts {
                broken += usize::from(!archives_hold(&log, verdict, folder, print).await?);
            }
        }
        ensure!(broken == 0, "{broken} of {} chains of the audit log are broken", verdicts.len());
        Ok(())
    }
}

/// Whether the objects of a chain's archive are what their records say.
async fn archives_hold(
    log: &AuditLog,
    verdict: &Verdict,
    folder: &Path,
    print: &mut dyn FnMut(&str),
) -> anyhow::Result<bool> {
    for archive in log.archives(verdict.chain).await? {
        let Some(name) = &archive.object else { continue };
        // Under a MAC, so it is a name that we made.
        let lines = std::fs::read(folder.join(name));
        let holds = lines.as_ref().is_ok_and(|lines| log.archive_holds(verdict.chain, &archive, lines));
        if !holds {
            let why = lines.err().map_or_else(|| "it was altered".to_owned(), |error| error.to_string());
            print(&format!("{}: BROKEN archive {name}: {why}", verdict.chain));
            return Ok(false);
        }
    }
    Ok(true)
}

fn line(verdict: &Verdict) -> String {
    let Verdict { chain, entries, archived, checkpoints, broken } = verdict;
    let archived = if *archived > 0 { format!(", {archived} of them archived") } else { String::new() };
    let checkpoints = match checkpoints {
        0 => "no checkpoint".to_owned(),
        n => format!("{n} checkpoints fit"),
    };
    match broken {
        None => format!("{chain}: ok, {entries} entries{archived}; {checkpoints}"),
        Some(broken) => format!("{chain}: BROKEN at entry {}: {}; {checkpoints}", broken.sequence, broken.why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use breeze_store::{
        model::audit::{Entry, LOG},
        state::{Merge, Table},
    };

    fn entry(action: &str) -> Entry {
        Entry::by_system(action, 1)
    }

    async fn open(data: &Path) -> Arc<EmbeddedState> {
        let config = embedded::Config { reserve_bytes: 0, ..embedded::Config::default() };
        Arc::new(EmbeddedState::open(data.join("state"), config).await.expect("opens"))
    }

    fn verify(data: &Path) -> (bool, Vec<String>) {
        let mut lines = Vec::new();
        let command = Command::Verify(Verify {
            data: Some(data.to_owned()),
            config: None,
            checkpoints: Vec::new(),
            archive: None,
        });
        let result = run(&command, &mut |line| lines.push(line.to_owned()));
        (result.is_ok(), lines)
    }

    #[test]
    fn an_edited_row_is_named_and_nothing_is_made_where_there_is_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path();
        assert_eq!(verify(data), (false, vec![]));
        assert_eq!(std::fs::read_dir(data).expect("there").count(), 0, "nothing was made");

        let key = Keyring::open(&KeyFolder::open(data).expect("opens")).expect("made").derive("audit");
        let runtime = tokio::runtime::Runtime::new().expect("starts");
        runtime.block_on(async {
            let state = open(data).await;
            let log = AuditLog::new(Arc::<EmbeddedState>::clone(&state), key, "test", || 1);
            for action in ["first.done", "second.done", "third.done"] {
                log.append(entry(action)).await.expect("appends");
            }
            state.close().await;
        });
        assert_eq!(verify(data), (true, vec!["instance: ok, 3 entries; no checkpoint".to_owned()]));

        runtime.block_on(async {
            let state = open(data).await;
            let (partition, key) = (b"instance/0", 2_u64.to_be_bytes());
            let row = state.get(Table::Merge(LOG), partition, &key).await.expect("reads").expect("second");
            let text = String::from_utf8(row.value.to_vec()).expect("text").replace("second.done", "nothing.done");
            let (partition, key) = (partition.to_vec().into(), key.to_vec().into());
            let edited = Merge { table: LOG, partition, key, version: 3, value: Some(text.into()) };
            state.merge(vec![edited]).await.expect("merges");
            state.close().await;
        });
        let (holds, lines) = verify(data);
        assert!(!holds);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("instance: BROKEN at entry 2: the entry was altered"), "{lines:?}");
    }
}
