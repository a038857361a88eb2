//! Tests of the store at its boundaries, in one binary.

mod metrics_engine;
mod metrics_frozen;
mod metrics_kill;
mod metrics_model;
mod metrics_recorded;
mod metrics_support;
