//! Conventions that every endpoint shares: who may call it, how its input is read, how a mutation
//! runs, how lists are paged. No business logic.

pub mod access;
pub mod client;
pub mod cursor;
pub mod extract;
pub mod guard;
pub mod headers;
pub mod mutation;
pub mod rate;
pub mod request_id;
pub mod router;
pub mod time;

pub use access::{Caller, Permission, Principal};
pub use cursor::{Cursors, Page, PageQuery};
pub use extract::{IfMatch, Json, Path, Query, etag};
pub use mutation::Mutation;
pub use router::{Action, Api};
pub use time::Timestamp;
