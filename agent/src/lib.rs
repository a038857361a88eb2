//! The Breeze agent: what surrounds `breeze-agent-core` on a real machine. The core decides; here are
//! sockets, files, keys, the operating system and the command line.

pub mod cli;
pub mod enroll;
pub mod identity;
pub mod inventory;
pub mod metric_socket;
pub mod os;
pub mod pki;
pub mod proxy;
pub mod run;
pub mod spool;
pub mod state_dir;
pub mod status;
pub mod transport;

/// Shown by `--version`, told to the server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
