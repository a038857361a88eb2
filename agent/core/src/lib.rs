//! What the agent decides, without doing any of it: when to connect and how, what to send again,
//! what to keep and what to thin out, whom to believe.
//!
//! No tokio, no sockets, no clock: the shell calls `handle_*` with what happened and with [`Now`],
//! takes [`Command`]s from [`Session::poll_command`] and carries them out *in order*, and calls
//! [`Session::handle_timeout`] at [`Session::next_wakeup`]. Randomness is injected. What must
//! survive a crash lies in the [`Spool`]'s [`Storage`], which is called synchronously, so that nothing
//! is sent before it is kept.

mod clock;
mod command;
mod documents;
mod session;
mod spool;

pub use clock::Now;
pub use command::{Command, InventoryRequest, LinkId, Reading, State, Transfer, TransportKind};
pub use documents::{Documents, DocumentsError, Intervals};
pub use session::{Certificate, Identity, Phase, Session, Start, Status, Tuning};
pub use spool::{Counters, Entry, Limits, MemoryStorage, Number, Spool, Storage, StorageError};
