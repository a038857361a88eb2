//! Certificates of all three engines that have ended, or are another's: `/readyz` and the log name server,
//! owner and end; a good one in their place is enough.

use super::{configured_nats, folder, name_of_its_own};
use crate::support::{
    process::{figure, skip},
    role::{Engines, Running, nobody, run_breeze, tools},
};
use breeze_testkit::servers::{
    Nats, shared_clickhouse, shared_cql,
    tls::{Authority, Front, Validity},
};
use std::{fs, time::Instant};

#[test]
fn a_certificate_that_is_not_accepted_is_told_and_a_good_one_is_enough() -> anyhow::Result<()> {
    let Some(tools) = tools(|tools| tools.nats_server().is_some()) else { return Ok(()) };
    let (Some(cql), Some(clickhouse)) = (shared_cql(), shared_clickhouse()) else {
        return skip("BREEZE_TEST_CQL or BREEZE_TEST_CLICKHOUSE is not set: cargo xtask test does");
    };
    let home = folder()?;
    let folder = home.path();
    let authority = Authority::new("Bad days")?;
    let good = authority.issue(&["127.0.0.1"], Validity::Good)?;
    let expired = authority.issue(&["127.0.0.1"], Validity::Expired)?;
    let another = authority.issue(&["elsewhere.example"], Validity::Good)?;
    let (ca, chain, key) = (folder.join("ca.pem"), folder.join("nats.pem"), folder.join("nats.key"));
    fs::write(&ca, &authority.pem)?;
    good.write(&chain, &key)?;
    let tls = format!("[tls]\nca_file = {ca:?}\ncert_file = {chain:?}\nkey_file = {key:?}\n");
    let mut bus = configured_nats(&tools, folder, &tls)?;
    bus.restart()?;
    let state = Front::start(&cql, &good)?;
    let metrics = Front::start(clickhouse.trim_start_matches("http://"), &good)?;

    let name = name_of_its_own("days");
    let ca = format!("ca_file = {ca:?}\n");
    let mut engines = Engines::default();
    let bus_server = format!("127.0.0.1:{}", bus.ports.client);
    engines.bus_at(&format!("tls://{bus_server}"), &format!("{ca}nkey_file = \"bus/collector-eu-a.nk\""));
    engines.state_at(state.address(), "dc1", &format!("{ca}keyspace_prefix = \"{name}\""));
    engines.metrics_at(&format!("https://{}", metrics.address()), &format!("{ca}database = \"{name}\""));
    let http = nobody();
    let file = engines.collector_file(folder.join("collector.toml"), http);
    run_breeze(&["migrate"], &file)?;

    let servers = [
        ("bus", "NATS", bus_server),
        ("state", "CQL", state.address().to_string()),
        ("metrics", "ClickHouse", metrics.address().to_string()),
    ];
    let told = |collector: &mut Running, words: &[&str]| {
        servers.iter().try_for_each(|(component, engine, server)| {
            let all = [words, &["cannot be trusted", "by CN=Bad days", engine, server]].concat();
            collector.fails_with(component, &all).map(drop)
        })
    };
    let recovers = |bus: &mut Nats, collector: &mut Running, what: &str| {
        good.write(&chain, &key)?;
        bus.reload();
        state.show(&good)?;
        metrics.show(&good)?;
        let began = Instant::now();
        collector.ready()?;
        figure(what, began.elapsed());
        anyhow::Ok(())
    };
    expired.write(&chain, &key)?;
    bus.process.kill();
    bus.restart()?;
    state.show(&expired)?;
    metrics.show(&expired)?;
    let mut collector = Running::start("collector", &file, http)?;
    told(&mut collector, &["127.0.0.1", "it ended 2024-02-03 00:00 UTC"])?;

    recovers(&mut bus, &mut collector, "good certificates to ready")?;

    another.write(&chain, &key)?;
    bus.process.kill();
    state.show(&another)?;
    metrics.show(&another)?;
    bus.restart()?;
    told(&mut collector, &["elsewhere.example", "until 2095-02-03", "does not name 127.0.0.1"])?;

    recovers(&mut bus, &mut collector, "good certificates to ready again")?;
    collector.stop()
}
