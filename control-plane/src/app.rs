//! What the endpoints do, one module a resource; no HTTP here but its errors.

pub mod audit;
pub mod devices;
pub mod enrollment;
pub mod installer;
pub mod organization;
pub mod password;
pub mod session;
pub mod setup;
