//! What an agent could not deliver: it survives the server's absence, its own death and an older copy
//! of its state.

use crate::support::{
    Options, System,
    books::longest_gap_ms,
    process::{figure, run},
};
use std::fs;

/// The server is away until `spooled` heartbeats wait; the agent is killed twice meanwhile.
async fn killed_with_a_spool(spooled: u64) -> anyhow::Result<()> {
    let mut system = System::start_with(Options::quick()).await?;
    let mut agent = system.agent("agent")?;
    agent.run()?;
    agent.acknowledges(2).await?;
    system.server.kill_9();
    for waiting in [spooled / 2, spooled] {
        agent.status_that("heartbeats wait", |status| status["spooled"].as_u64() >= Some(waiting)).await?;
        agent.running()?.kill_9();
        agent.run()?;
    }
    system.restart()?;
    agent.acknowledges(spooled).await?;
    agent.has_delivered().await?;
    let device = agent.device()?.parse()?;
    agent.stop()?;
    let rows = system.stop_and_read().await?.check_whole(device).await?;
    figure("heartbeats", rows.len());
    assert!(rows.len() as u64 >= spooled + 3, "{} rows", rows.len());
    // A new process takes its first heartbeat at once.
    assert!(longest_gap_ms(&rows) < 3_500, "a hole of {} ms", longest_gap_ms(&rows));
    Ok(())
}

#[tokio::test]
async fn an_agent_killed_with_a_spool_delivers_all_of_it_once() -> anyhow::Result<()> {
    killed_with_a_spool(10).await
}

#[tokio::test]
async fn an_older_copy_of_the_state_goes_on_as_a_new_series_of_numbers() -> anyhow::Result<()> {
    let mut system = System::start_with(Options::quick()).await?;
    let mut agent = system.agent("agent")?;
    let state = agent.state.display().to_string();
    let copy = format!("{state}.copy");

    agent.run()?;
    agent.acknowledges(2).await?;
    agent.stop()?;
    run(&["cp", "-a", &state, &copy])?;
    agent.run()?;
    agent.acknowledges(4).await?;
    agent.stop()?;
    let newer = system.device_that("it said goodbye", |device| device["status"] == "offline").await?;

    fs::remove_dir_all(&agent.state)?;
    run(&["mv", &copy, &state])?;
    agent.run()?;
    // Of its own numbers some were used by the life that is forgotten: none of these may be taken for
    // those.
    let status = agent.acknowledges(4).await?;
    assert_eq!(status["trouble"], "", "no lasting suspicion: {status}");
    let device = system
        .device_that("the device is online and goes on", |device| {
            device["status"] == "online" && device["last_seen_at"].as_str() > newer["last_seen_at"].as_str()
        })
        .await?;
    let device = device["id"].as_str().unwrap_or_default().parse()?;
    let acknowledged = agent.status()?["acknowledged"].as_u64().unwrap_or_default();
    agent.stop()?;

    let books = system.stop_and_read().await?;
    let rows = books.rows(device).await?;
    figure("rows", rows.len());
    let newer = newer["last_seen_at"].as_str().unwrap_or_default().parse::<jiff::Timestamp>()?.as_millisecond();
    let after = rows.iter().filter(|row| row.at_ms > newer.unsigned_abs()).count() as u64;
    assert!(after >= acknowledged, "{after} rows of the restored agent, {acknowledged} acknowledged");
    Ok(())
}

mod long {
    #[tokio::test]
    async fn an_agent_killed_with_a_large_spool_delivers_all_of_it_once() -> anyhow::Result<()> {
        super::killed_with_a_spool(50).await
    }
}
