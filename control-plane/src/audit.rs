//! What keeps the audit log beside the model's sequencer: entries on their way to the node that holds a chain's
//! lease, checkpoints published elsewhere, and the archive of what is kept no longer.

pub mod checkpoint;
pub mod forward;
pub mod places;
pub mod retention;
pub mod store;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Name of the file of checkpoints in the data folder, unless another is configured.
pub const CHECKPOINT_FILE: &str = "audit-checkpoints.jsonl";

/// Where the log's checkpoints and archives go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often checkpoints are published, in seconds; 1 to 3600.
    pub checkpoint_s: u64,
    /// File that checkpoints are appended to: best on another disk. In the data folder unless given.
    pub checkpoint_file: Option<PathBuf>,
    /// `udp://host:port` or `tcp://host:port` of a syslog server (RFC 5424).
    pub syslog: Option<String>,
    /// Object storage for checkpoints and archives.
    pub store: Option<store::Config>,
}

impl Default for Config {
    fn default() -> Self {
        Self { checkpoint_s: 60, checkpoint_file: None, syslog: None, store: None }
    }
}

impl Config {
    /// Checks what no type can.
    ///
    /// # Errors
    /// Names the key and says what to write instead.
    pub fn check(&self) -> anyhow::Result<()> {
        if !(1..=3600).contains(&self.checkpoint_s) {
            anyhow::bail!("audit.checkpoint_s must be between 1 and 3600, and is {}", self.checkpoint_s);
        }
        if let Some(syslog) = &self.syslog {
            places::Syslog::parse(syslog)?;
        }
        if let Some(store) = &self.store {
            store.check()?;
        }
        Ok(())
    }
}
