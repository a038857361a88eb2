//! Tests of the store at its boundaries, in one binary.

mod clickhouse_access;
mod clickhouse_differential;
mod clickhouse_engine;
mod clickhouse_slow;
mod clickhouse_support;
mod history;
mod metrics_engine;
mod metrics_frozen;
mod metrics_image;
mod metrics_kill;
mod metrics_model;
mod metrics_recorded;
mod metrics_support;
mod regional;
mod tls;
