//! The servers that one run of the tests shares: a Cassandra node and ClickHouse's engine. They cost
//! seconds to start, so each test does not have its own; tests that kill theirs do.

use crate::process::{say, step};
use breeze_testkit::servers::{Cassandra, ClickHouse, Tools, clickhouse};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Running servers, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    cassandra: Option<Cassandra>,
    clickhouse: Option<ClickHouse>,
    tools: PathBuf,
    // Last: fields are dropped in order.
    _data: TempDir,
}

impl Servers {
    /// Starts what is installed.
    pub(crate) fn start(tools: &Tools) -> anyhow::Result<Self> {
        step("Servers of the tests");
        let data = data_folder()?;
        let cassandra = match tools.cassandra() {
            Some(_) => Some(Cassandra::single(tools, &data.path().join("cassandra"), "dc1")?),
            None => None,
        };
        let clickhouse = match tools.clickhouse() {
            Some(_) => {
                let options = clickhouse::Options::default();
                Some(ClickHouse::start(tools, &data.path().join("clickhouse"), "clickhouse", &options)?)
            }
            None => None,
        };
        let servers = Self { cassandra, clickhouse, tools: tools.root().to_path_buf(), _data: data };
        for (name, value) in servers.environment() {
            say(&format!("{name}={value}"));
        }
        Ok(servers)
    }

    /// How the tests are told.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![("BREEZE_TEST_TOOLS", self.tools.display().to_string())];
        environment.extend(self.cassandra.iter().map(|node| ("BREEZE_TEST_CQL", node.address.to_string())));
        environment.extend(self.clickhouse.iter().map(|server| ("BREEZE_TEST_CLICKHOUSE", server.url())));
        environment
    }
}

/// In memory where there is such a place: what is tested is not the disk, and the disk is shared.
pub(crate) fn data_folder() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("breeze-servers-");
    let memory = Path::new("/dev/shm");
    Ok(if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? })
}
