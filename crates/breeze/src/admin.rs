//! `breeze admin`: what is done to a folder of data while no server uses it, and to the registry of relays
//! while any may.

mod relays;

use anyhow::{Context as _, bail, ensure};
use breeze_control_plane::keyring::{KeyFolder, Keyring};
use breeze_store::{
    model::audit::{AuditLog, Verdict},
    state::embedded::{self, EmbeddedState},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Look after a stopped server's data.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check every chain of the audit log: that no entry was altered, removed or added
    ///
    /// The server must be stopped; nothing is written to the log. Exits with 1 if a chain is broken. Entries
    /// cut off at the end by somebody who also put the chain's head back are not seen.
    AuditVerify {
        /// Folder of all data and keys, as given to `breeze up`
        #[arg(long, value_name = "DIR", env = "BREEZE_DATA")]
        data: PathBuf,
    },
    /// Print what relays pin: SHA-256 over the public key of the instance's authority, in hex
    InstanceCa {
        #[command(flatten)]
        node: relays::Node,
    },
    AddRelay(relays::AddRelay),
    /// Take a relay off the list that agents are given
    ///
    /// It gets no certificate any more; the one that it has ends within 30 days. Stop it, too.
    RemoveRelay {
        #[command(flatten)]
        node: relays::Node,
        /// As it was registered
        #[arg(long)]
        id: String,
    },
    /// Print the registered relays
    ListRelays {
        #[command(flatten)]
        node: relays::Node,
    },
}

/// Runs it; `print` gets the lines of the result.
///
/// # Errors
/// When the data cannot be read, and when a chain is broken.
pub(crate) fn run(command: &Command, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let data = match command {
        Command::AuditVerify { data } => data,
        Command::InstanceCa { node } => return relays::instance_ca(node, print),
        Command::AddRelay(relay) => return relays::add(relay, print),
        Command::RemoveRelay { node, id } => return relays::remove(node, id, print),
        Command::ListRelays { node } => return relays::list(node, print),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let verdicts = runtime.block_on(audit_verify(data))?;
    verdicts.iter().for_each(|verdict| print(&line(verdict)));
    let broken = verdicts.iter().filter(|verdict| verdict.broken.is_some()).count();
    if broken > 0 {
        bail!("{broken} of {} chains of the audit log are broken", verdicts.len());
    }
    Ok(())
}

fn line(verdict: &Verdict) -> String {
    let Verdict { chain, entries, broken } = verdict;
    match broken {
        None => format!("{chain}: ok, {entries} entries"),
        Some(broken) => format!("{chain}: BROKEN at entry {}: {}", broken.sequence, broken.why),
    }
}

async fn audit_verify(data: &Path) -> anyhow::Result<Vec<Verdict>> {
    // Opening would make what is not there.
    let state = data.join("state");
    ensure!(state.is_dir(), "there is no data in {}", data.display());
    ensure!(
        data.join("keys/master.key").is_file(),
        "the key that the audit log is checked with is not in {}/keys",
        data.display()
    );
    let key = Keyring::open(&KeyFolder::open(data)?)?.derive("audit");
    let config = embedded::Config { reserve_bytes: 0, ..embedded::Config::default() };
    let state = EmbeddedState::open(state, config).await.context("state (is the server stopped?)")?;
    let state = Arc::new(state);
    let verdicts = AuditLog::new(Arc::<EmbeddedState>::clone(&state), key).verify_all().await;
    state.close().await;
    Ok(verdicts?)
}

#[cfg(test)]
mod tests {
    use super::*;

    use breeze_store::{
        model::audit::{Entry, LOG},
        state::{Merge, State as _, Table},
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
        let command = Command::AuditVerify { data: data.to_owned() };
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
            let log = AuditLog::new(Arc::<EmbeddedState>::clone(&state), key);
            for action in ["first.done", "second.done", "third.done"] {
                log.append(entry(action)).await.expect("appends");
            }
            state.close().await;
        });
        assert_eq!(verify(data), (true, vec!["instance: ok, 3 entries".to_owned()]));

        runtime.block_on(async {
            let state = open(data).await;
            let (partition, key) = (b"instance/0", 2_u64.to_be_bytes());
            let row = state.get(Table::Merge(LOG), partition, &key).await.expect("reads").expect("second");
            let text = String::from_utf8(row.value.to_vec()).expect("text").replace("second.done", "nothing.done");
            let (partition, key) = (partition.to_vec().into(), key.to_vec().into());
            let edited = Merge { table: LOG, partition, key, version: 2, value: Some(text.into()) };
            state.merge(vec![edited]).await.expect("merges");
            state.close().await;
        });
        let (holds, lines) = verify(data);
        assert!(!holds);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("instance: BROKEN at entry 2: the entry was altered"), "{lines:?}");
    }
}
