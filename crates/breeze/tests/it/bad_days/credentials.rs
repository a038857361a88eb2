//! Wrong credentials for each engine: the role lives, says who does not let whom in, and goes on by itself
//! when the files are put right.

use super::{configured_nats, folder, secret, write_bus};
use crate::support::role::{Engines, Running, nobody, run_breeze, tools};
use anyhow::Context;
use breeze_testkit::servers::{Cassandra, ClickHouse, clickhouse, nats::Ports};
use std::{fs, thread};

#[test]
fn whoever_is_not_let_in_says_so_and_goes_on_when_it_is_put_right() -> anyhow::Result<()> {
    let all = |tools: &breeze_testkit::servers::Tools| {
        tools.nats_server().is_some() && tools.clickhouse().is_some() && tools.cassandra().is_some()
    };
    let Some(tools) = tools(all) else { return Ok(()) };
    let home = folder()?;
    let folder = home.path();
    let credentials = Some(("breeze".to_owned(), "right".to_owned()));
    let (node, metrics) = thread::scope(|scope| {
        let node = scope.spawn(|| Cassandra::with_passwords(&tools, &folder.join("cassandra"), "dc1"));
        let options = clickhouse::Options { credentials, ..clickhouse::Options::default() };
        let metrics = ClickHouse::start(&tools, &folder.join("clickhouse"), "clickhouse", &options);
        (node.join(), metrics)
    });
    let (node, metrics) = (node.map_err(|_| anyhow::anyhow!("no node"))??, metrics?);
    let mut bus = configured_nats(&tools, folder, "")?;
    bus.restart()?;

    let engines = |name: &str| {
        let mut engines = Engines::default();
        engines.bus_at(&bus.url(), &format!("nkey_file = \"{name}.nk\""));
        let state = format!("username = \"cassandra\"\npassword_file = \"{name}.cql\"");
        engines.state_at(node.address, "dc1", &state);
        engines.metrics_at(&metrics.url(), &format!("user = \"breeze\"\npassword_file = \"{name}.clickhouse\""));
        engines
    };
    let put = |name: &str, seed: &str, cql: &str, clickhouse: &str| -> anyhow::Result<()> {
        secret(&folder.join(format!("{name}.nk")), seed)?;
        secret(&folder.join(format!("{name}.cql")), cql)?;
        secret(&folder.join(format!("{name}.clickhouse")), clickhouse)
    };
    let seed = fs::read_to_string(folder.join("bus/collector-eu-a.nk"))?;
    let strange = write_bus(folder, &folder.join("other"), Ports::choose()?, bus.ports, "")?;
    put("right", &seed, "cassandra", "right")?;
    put("role", &fs::read_to_string(strange.join("collector-eu-a.nk"))?, "wrong", "wrong")?;

    let http = nobody();
    let file = engines("role").collector_file(folder.join("collector.toml"), http);
    let mut collector = Running::start("collector", &file, http)?;
    let right = engines("right").collector_file(folder.join("migrate.toml"), nobody());
    let seed_file = folder.join("bus/migrate.nk").display().to_string();
    run_breeze(&["migrate", "--bus-nkey", &seed_file], &right)?;
    let bus_words = [bus.url(), "does not accept these credentials (bus.nkey_file)".to_owned()];
    collector.fails_with("bus", &bus_words.each_ref().map(String::as_str))?;
    let node_words = [node.address.to_string(), "does not accept user \"cassandra\"".to_owned()];
    collector.fails_with("state", &node_words.each_ref().map(String::as_str))?;
    collector.fails_with("metrics", &[&metrics.address(), "refuses user \"breeze\""])?;
    let said = collector.said();
    anyhow::ensure!(!said.contains(seed.trim()) && !said.contains("\"wrong\""), "no secret is told: {said}");

    put("role", &seed, "cassandra", "right")?;
    collector.ready().context("let in")
}
