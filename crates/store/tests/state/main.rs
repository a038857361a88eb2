//! The state: every engine against the reference model, and the embedded one against crashes, a full
//! disk and damaged files.

#![expect(clippy::print_stderr, reason = "tests say what they skip, and the seed of what they run")]

mod apart;
mod blocks;
mod conformance;
mod cql;
mod cql_access;
mod cql_faults;
mod cql_slots;
mod crash;
mod embedded;
mod full;
mod histories;
mod image;
mod outbox;
#[path = "../it/tls.rs"]
mod tls;

use breeze_store::state::{
    CommitTable, Family, MergeTable, Serial, State,
    embedded::{Config, EmbeddedState},
    memory::MemoryState,
};
use std::{path::Path, sync::Arc};

const USERS: CommitTable = CommitTable::new("user", Family::Config, Serial::Local);
const LANES: CommitTable = CommitTable::new("lane", Family::Device, Serial::Local);
const CLAIMS: CommitTable = CommitTable::new("claim", Family::Config, Serial::Global);
const DEVICES: MergeTable = MergeTable::new("device_state", Family::Device);
const EVENTS: MergeTable = MergeTable::new("event", Family::Log);

/// Without a reserve: what is free on the machine that tests is not the test's concern.
fn config() -> Config {
    Config { reserve_bytes: 0, ..Config::default() }
}

async fn open(folder: &Path) -> EmbeddedState {
    EmbeddedState::open(folder, config()).await.expect("the folder opens")
}

/// An embedded state in a folder that goes with it.
struct Temporary {
    state: Arc<EmbeddedState>,
    _folder: tempfile::TempDir,
}

impl Temporary {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { state: Arc::new(open(folder.path()).await), _folder: folder }
    }
}

/// All engines, for what must hold on each: the database only where there is one.
async fn engines() -> (Temporary, Vec<Arc<dyn State>>) {
    let temporary = Temporary::new().await;
    let mut engines: Vec<Arc<dyn State>> = vec![Arc::new(MemoryState::new()), temporary.state.clone()];
    if let Some(state) = cql::apart().await {
        engines.push(Arc::new(state));
    }
    (temporary, engines)
}
