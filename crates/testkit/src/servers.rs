//! Real servers for tests, as children of the test: NATS, ClickHouse's engine, Cassandra, an S3 server. Each can be
//! stopped, killed, paused and started again on the same data; whatever still runs when its handle is
//! dropped is killed, by its id.

pub mod cassandra;
pub mod clickhouse;
pub(crate) mod http;
pub mod nats;
mod port;
pub mod process;
pub mod s3;
pub mod tls;
mod tools;

pub use cassandra::Cassandra;
pub use clickhouse::ClickHouse;
pub use nats::Nats;
pub use port::free_port;
pub use process::Process;
pub use s3::S3;
pub use tools::Tools;

/// How long a server may take to its first answer on a busy machine.
pub const START_PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Contact point (`host:port`, data centre "dc1") of the Cassandra that this run of the tests shares.
#[must_use]
pub fn shared_cql() -> Option<String> {
    std::env::var("BREEZE_TEST_CQL").ok().filter(|address| !address.is_empty())
}

/// Address (`http://host:port`) of the ClickHouse that this run of the tests shares.
#[must_use]
pub fn shared_clickhouse() -> Option<String> {
    std::env::var("BREEZE_TEST_CLICKHOUSE").ok().filter(|address| !address.is_empty())
}

/// Says why a test does nothing here.
#[expect(clippy::print_stderr, reason = "whoever runs the tests is told what was left out")]
pub fn skip(why: &str) {
    eprintln!("skipped: {why}");
}
