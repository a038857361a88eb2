//! The shell around every role: one way to read configuration, to log, to count, to own tasks and
//! to stop. It knows nothing of agents or tenants.

pub mod config;
pub mod metrics;
pub mod ops;
pub mod secret;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod tls;
