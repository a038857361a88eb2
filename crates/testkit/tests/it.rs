//! The real servers: they come up, and what they were told survives a kill.

#![cfg(feature = "servers")]

use breeze_testkit::{
    deployment::Link,
    servers::{
        Cassandra, ClickHouse, Nats, Tools,
        clickhouse::{self, Faults},
        nats, skip,
    },
};
use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

fn tools() -> Option<Tools> {
    let tools = Tools::find();
    if tools.is_none() {
        skip("the servers are not installed: cargo xtask test installs them");
    }
    tools
}

#[test]
fn clickhouse_keeps_what_it_took_and_fails_as_it_was_told() -> anyhow::Result<()> {
    let Some(tools) = tools().filter(|tools| tools.clickhouse().is_some()) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let mut server = ClickHouse::start(&tools, folder.path(), "clickhouse", &clickhouse::Options::default())?;
    server.query("default", "CREATE DATABASE d")?;
    server.query("d", "CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")?;
    server.query("d", "INSERT INTO t VALUES (1)")?;
    server.process.kill();
    server.restart()?;
    assert_eq!(server.query("d", "SELECT a FROM t")?, "1\n");

    server.set_faults(Faults { fail_before: 1, ..Faults::default() })?;
    assert!(server.query("d", "INSERT INTO t VALUES (2)").is_err());
    server.set_faults(Faults { fail_after: 1, ..Faults::default() })?;
    assert!(server.query("d", "INSERT INTO t VALUES (3)").is_err());
    server.set_faults(Faults { cut_after: 1, ..Faults::default() })?;
    assert!(server.query("d", "INSERT INTO t VALUES (4)").is_err());
    server.set_faults(Faults { twice: 1, ..Faults::default() })?;
    server.query("d", "INSERT INTO t VALUES (5)")?;
    assert_eq!(server.query("d", "SELECT a FROM t ORDER BY a")?, "1\n3\n4\n5\n5\n");

    server.set_faults(Faults { die_during: 1, ..Faults::default() })?;
    assert!(server.query("d", "INSERT INTO t SELECT number FROM numbers(30000000)").is_err());
    server.process.kill();
    server.restart()?;
    assert_eq!(server.query("d", "SELECT count() FROM t WHERE a > 5")?, "0\n");
    Ok(())
}

#[test]
fn nats_comes_up_alone_as_a_cluster_and_as_hub_with_leaves() -> anyhow::Result<()> {
    let Some(tools) = tools().filter(|tools| tools.nats_server().is_some()) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let mut single = Nats::single(&tools, &folder.path().join("single"), "single", &nats::Options::default())?;
    single.process.kill();
    single.restart()?;
    single.process.stop()?;
    single.lose_data()?;
    let _cluster = Nats::cluster(&tools, &folder.path().join("three"), "three", &nats::Options::default())?;
    let _hub = Nats::hub_and_leaves(&tools, &folder.path().join("regions"), &["eu", "us"])?;
    Ok(())
}

#[test]
fn cassandra_forms_two_datacenters_and_comes_back() -> anyhow::Result<()> {
    let Some(tools) = tools().filter(|tools| tools.cassandra().is_some()) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let mut nodes = Cassandra::datacenters(&tools, folder.path(), &["eu", "us"])?;
    let node = nodes.last_mut().expect("two nodes");
    node.process.kill();
    node.restart()
}

#[test]
fn a_link_that_is_cut_ends_connections_and_heals() -> anyhow::Result<()> {
    let echo = TcpListener::bind("127.0.0.1:0")?;
    let link = Link::to(echo.local_addr()?)?;
    thread::spawn(move || {
        for mut stream in echo.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    let echoes = |stream: &mut TcpStream| {
        let mut byte = [0];
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
    };
    let mut before = TcpStream::connect(link.address())?;
    assert!(echoes(&mut before));
    link.cut();
    assert!(!echoes(&mut before));
    assert!(!echoes(&mut TcpStream::connect(link.address())?));
    link.heal();
    assert!(echoes(&mut TcpStream::connect(link.address())?));
    assert!(!echoes(&mut before), "what was cut stays cut");
    Ok(())
}
