//! The entities, written once above [`crate::state::State`]. Every call on a tenant's data carries
//! the caller's [`Scope`], which only the composition root and the authenticator can make.

pub mod audit;
pub mod device;
pub mod device_state;
pub mod enrollment;
pub mod error;
pub mod index;
pub mod instance;
pub mod inventory;
pub mod lane;
pub mod people;
pub mod record;
pub mod scope;
pub mod session;
pub mod tenancy;
pub mod trust;

pub use scope::{Scope, Sites, Tenant};
