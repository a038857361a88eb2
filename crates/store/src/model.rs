//! The entities, written once above [`crate::state::State`]. Every call on a tenant's data carries
//! the caller's [`Scope`], which only the composition root and the authenticator can make.

pub mod scope;

pub use scope::{Scope, Sites, Tenant};
