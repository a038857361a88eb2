//! Networks that block, inspect and change: between two hosts of network namespaces.

mod proxy;

use crate::support::{
    Options, System,
    agent::Agent,
    books::longest_gap_ms,
    network::{AGENT, Network, SERVER},
    process::{Process, eventually, figure, skip},
};
use proxy::Proxy;
use serde_json::Value;
use std::{
    fs,
    time::{Duration, Instant},
};

const OTHER_ADDRESS: &str = "10.77.0.3";

async fn start() -> anyhow::Result<(Network, System)> {
    let network = Network::enter()?;
    let system = System::start_with(Options { listen: "10.77.0.1:0", ..Options::quick() }).await?;
    Ok((network, system))
}

fn agent_on(network: &Network, system: &System) -> Agent {
    let mut agent = system.new_agent("agent");
    agent.wrapper = network.on_agent();
    agent
}

fn over(transport: &str) -> impl Fn(&Value) -> bool {
    move |status| status["state"] == "connected" && status["transport"] == transport
}

/// Everything it took is stored once, and there is no hole.
async fn check(mut system: System, mut agent: Agent) -> anyhow::Result<()> {
    agent.has_delivered().await?;
    let device = agent.device()?.parse()?;
    agent.stop()?;
    let rows = system.stop_and_read().await?.check_whole(device).await?;
    figure("heartbeats", rows.len());
    assert!(longest_gap_ms(&rows) < 2_500, "a hole of {} ms", longest_gap_ms(&rows));
    Ok(())
}

#[tokio::test]
async fn where_udp_is_blocked_the_agent_takes_the_websocket() -> anyhow::Result<()> {
    if let Some(why) = Network::missing() {
        return skip(why);
    }
    let (network, system) = start().await?;
    let mut agent = agent_on(&network, &system);
    agent.enroll(system.dashboard(), system.enrollment_key())?;
    network.block("meta l4proto udp")?;
    let started = Instant::now();
    agent.run()?;
    agent.status_that("connected over WebSocket", over("websocket")).await?;
    figure("blocked UDP, start to WebSocket", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    agent.acknowledges(3).await?;
    let device = system.device_that("the API says so", |device| device["status"] == "online").await?;
    let id = device["id"].as_str().unwrap_or_default();
    let device = system.get(&format!("/devices/{id}")).await?;
    assert_eq!(device["connection"]["transport"], "websocket", "{device}");
    check(system, agent).await
}

#[tokio::test]
async fn a_proxy_that_wants_a_password_is_used_for_enrolment_and_relay() -> anyhow::Result<()> {
    if let Some(why) = Network::missing() {
        return skip(why);
    }
    let (network, system) = start().await?;
    let proxy = Proxy::start(SERVER, "ada", "p@ss word")?;
    network.block("meta l4proto udp")?;
    network.block(&format!("tcp dport != {}", proxy.port))?;
    let mut agent = agent_on(&network, &system);

    agent.environment = vec![("BREEZE_PROXY".into(), format!("http://ada:wrong@{SERVER}:{}", proxy.port))];
    let key_file = agent.key_file(system.enrollment_key())?.display().to_string();
    let enroll = ["enroll", "--server", system.dashboard(), "--key-file", &key_file];
    // It tries again for a minute; the first refusal is enough.
    let mut refused = Process::start(&mut agent.command(&enroll), &agent.log())?;
    let words = eventually("it says what is wrong", async || {
        Ok(Some(fs::read_to_string(agent.log())?).filter(|words| words.contains("user name and password")))
    })
    .await?;
    assert!(!words.contains("wrong"), "the password is not repeated: {words}");
    refused.kill_9();
    fs::remove_file(key_file)?;

    agent.environment = vec![("BREEZE_PROXY".into(), format!("http://ada:p%40ss%20word@{SERVER}:{}", proxy.port))];
    agent.enroll(system.dashboard(), system.enrollment_key())?;
    agent.run()?;
    agent.status_that("connected through the proxy", over("websocket")).await?;
    agent.acknowledges(3).await?;
    assert!(proxy.tunnels() >= 2 && proxy.refusals() >= 1, "one tunnel to enrol, one to the relay");
    check(system, agent).await
}

#[tokio::test]
async fn a_new_address_costs_neither_the_connection_nor_a_heartbeat() -> anyhow::Result<()> {
    if let Some(why) = Network::missing() {
        return skip(why);
    }
    let (network, system) = start().await?;
    let mut agent = agent_on(&network, &system);
    agent.enroll(system.dashboard(), system.enrollment_key())?;
    agent.run()?;
    agent.status_that("connected over QUIC", over("quic")).await?;
    agent.acknowledges(2).await?;
    let device = system.device_that("the device is online", |device| device["status"] == "online").await?;
    let id = device["id"].as_str().unwrap_or_default().to_owned();
    let before = system.get(&format!("/devices/{id}")).await?["connection"].clone();
    assert!(before["address"].as_str().is_some_and(|address| address.contains(AGENT)), "{before}");

    let changed = Instant::now();
    network.change_address(AGENT, OTHER_ADDRESS)?;
    agent.acknowledges(1).await?;
    figure("new address to the next acknowledgement", changed.elapsed());
    assert!(changed.elapsed() < Duration::from_secs(15), "{:?}", changed.elapsed());
    let after = system.get(&format!("/devices/{id}")).await?["connection"].clone();
    assert_eq!((&after["since"], &after["transport"]), (&before["since"], &before["transport"]), "it moved: {after}");
    check(system, agent).await
}

mod long {
    use super::*;

    #[tokio::test]
    async fn an_agent_goes_back_to_quic_when_udp_works_again() -> anyhow::Result<()> {
        if let Some(why) = Network::missing() {
            return skip(why);
        }
        let (network, system) = start().await?;
        let mut agent = agent_on(&network, &system);
        agent.enroll(system.dashboard(), system.enrollment_key())?;
        agent.run()?;
        agent.status_that("connected over QUIC", over("quic")).await?;
        network.block("meta l4proto udp")?;
        let blocked = Instant::now();
        agent.status_that("falls back to WebSocket", over("websocket")).await?;
        figure("UDP blocked to WebSocket", blocked.elapsed());
        network.unblock()?;
        let allowed = Instant::now();
        let mut back = agent.status_that("back on QUIC", over("quic")).await;
        for _ in 0..4 {
            if back.is_err() {
                back = agent.status_that("back on QUIC", over("quic")).await;
            }
        }
        back?;
        figure("UDP allowed to QUIC", allowed.elapsed());
        agent.acknowledges(2).await?;
        check(system, agent).await
    }
}
