//! Schemas and streams that are missing, or that a newer version made: the role ends, and says which
//! engine, what it found, what it knows and what is to be done.

use super::{ask, folder, name_of_its_own};
use crate::support::role::{Engines, PIN, Running, nobody, relay_file, run_breeze, tools};
use anyhow::{Context, ensure};
use breeze_testkit::servers::{Nats, cassandra, clickhouse, nats, shared_clickhouse, shared_cql, skip};
use std::{fs, path::Path};

struct Misfit {
    role: Running,
    /// All of them in the last line.
    words: Vec<String>,
}

impl Misfit {
    fn start(role: &str, file: &Path, http: std::net::SocketAddr, words: &[&str]) -> anyhow::Result<Self> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Ok(Self { role: Running::start(role, file, http)?, words })
    }

    fn ends(mut self) -> anyhow::Result<()> {
        let (code, said) = self.role.ended()?;
        ensure!(code == Some(1), "{code:?}: {said}");
        let last = said.lines().last().unwrap_or_default();
        let missing: Vec<_> = self.words.iter().filter(|word| !last.contains(*word)).collect();
        ensure!(missing.is_empty(), "{missing:?} are not in {last:?}");
        Ok(())
    }
}

/// A relay on a server of its own, after `prepare`.
fn relay(folder: &Path, name: &str, migrated: bool, words: &[&str]) -> anyhow::Result<Option<(Nats, Misfit)>> {
    let Some(tools) = tools(|tools| tools.nats_server().is_some()) else { return Ok(None) };
    let folder = folder.join(name);
    let options = nats::Options { domain: Some("eu".to_owned()), ..nats::Options::default() };
    let server = Nats::single(&tools, &folder, name, &options)?;
    let http = nobody();
    let file = relay_file(folder.join("relay.toml"), &server.url(), http, PIN, ([127, 0, 0, 1], 0).into());
    if migrated {
        run_breeze(&["migrate", "--only", "bus"], &file)?;
        let info = ask(server.ports.client, "$JS.eu.API.STREAM.INFO.lane_eu_0", b"")?;
        let mut config = info["config"].clone();
        config["metadata"]["breeze.version"] = "9".into();
        let config = serde_json::to_vec(&config)?;
        let answer = ask(server.ports.client, "$JS.eu.API.STREAM.UPDATE.lane_eu_0", &config)?;
        ensure!(answer["error"].is_null(), "{answer}");
        let error = run_breeze(&["migrate", "--only", "bus"], &file).expect_err("it is newer").to_string();
        ensure!(error.contains("of version 9") && error.contains("knows 1"), "{error}");
    }
    let url = server.url();
    let words: Vec<&str> = words.iter().copied().chain(["breeze: bus:", "NATS", &url, "lane.eu.0"]).collect();
    Ok(Some((server, Misfit::start("relay", &file, http, &words)?)))
}

fn collector_on_newer_cql(folder: &Path) -> anyhow::Result<Option<Misfit>> {
    let Some(node) = shared_cql() else { return Ok(None) };
    let prefix = name_of_its_own("newer");
    let address = node.parse()?;
    let replication = "{'class': 'NetworkTopologyStrategy', 'dc1': 1}";
    for statement in [
        format!("CREATE KEYSPACE {prefix}_config WITH replication = {replication}"),
        format!("CREATE TABLE {prefix}_config.breeze_schema (name text PRIMARY KEY, value text)"),
        format!("INSERT INTO {prefix}_config.breeze_schema (name, value) VALUES ('version', '99')"),
    ] {
        cassandra::execute(address, &statement)?;
    }
    let (mut engines, http) = (Engines::nowhere(), nobody());
    engines.state_at(&node, "dc1", &format!("keyspace_prefix = \"{prefix}\""));
    let file = engines.collector_file(folder.join("newer-cql.toml"), http);
    let words = ["breeze: state:", "CQL", &node, "version 99", "this knows 2", "install the newer version"];
    Misfit::start("collector", &file, http, &words).map(Some)
}

fn collector_on_newer_clickhouse(folder: &Path) -> anyhow::Result<Option<Misfit>> {
    let Some(url) = shared_clickhouse() else { return Ok(None) };
    let database = name_of_its_own("newer");
    let (mut engines, http) = (Engines::nowhere(), nobody());
    engines.metrics_at(&url, &format!("database = \"{database}\""));
    let file = engines.collector_file(folder.join("newer-clickhouse.toml"), http);
    run_breeze(&["migrate", "--only", "metrics"], &file)?;
    let address = url.trim_start_matches("http://");
    clickhouse::query(address, &database, "INSERT INTO breeze_schema (version) VALUES (99)")?;
    let error = run_breeze(&["migrate", "--only", "metrics"], &file).expect_err("it is newer").to_string();
    ensure!(error.contains("version 99") && error.contains("knows 1"), "{error}");
    let words = ["breeze: metrics:", "ClickHouse", address, &database, "version 99", "knows 1"];
    Misfit::start("collector", &file, http, &words).map(Some)
}

#[test]
fn what_does_not_fit_ends_the_role_and_says_what_to_do() -> anyhow::Result<()> {
    let folder = folder()?;
    fs::create_dir_all(folder.path()).context("folder")?;
    // Side by side: each looks some times before it ends.
    let missing = relay(folder.path(), "missing", false, &["does not exist", "`breeze migrate`"])?;
    let newer = relay(folder.path(), "newer", true, &["version 9", "knows 1", "must be updated"])?;
    let (mut servers, mut misfits): (Vec<_>, Vec<_>) = missing.into_iter().chain(newer).unzip();
    for of_store in [collector_on_newer_cql(folder.path())?, collector_on_newer_clickhouse(folder.path())?] {
        match of_store {
            Some(misfit) => misfits.push(misfit),
            None => skip("BREEZE_TEST_CQL or BREEZE_TEST_CLICKHOUSE is not set: cargo xtask test does"),
        }
    }
    misfits.into_iter().try_for_each(Misfit::ends)?;
    servers.iter_mut().for_each(|server| server.process.kill());
    Ok(())
}
