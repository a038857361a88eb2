//! The instance's certification authority and the documents that agents and relays believe. Private
//! keys are used here and nowhere else.

pub mod authority;
pub mod ca;
pub mod certificates;
pub mod csr;
pub mod instance_keys;
pub mod renewal;
pub mod revocation;
pub mod signer;

pub use ca::{CertificateAuthority, LocalCa};
pub use instance_keys::InstanceKeys;
pub use signer::{LocalSigner, Signer};
