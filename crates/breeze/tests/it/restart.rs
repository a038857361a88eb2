//! A restart in good order: agents are told, come back within seconds, and lose nothing.

use crate::support::{Options, System, books::longest_gap_ms, load::Load, process::figure};
use std::time::Instant;

const AGENTS: usize = 40;

#[tokio::test]
async fn agents_return_from_a_restart_without_a_hole() -> anyhow::Result<()> {
    let mut system = System::start_with(Options::quick()).await?;
    let mut agent = system.agent("agent")?;
    agent.run()?;
    let mut load = Load::start(&system, AGENTS)?;
    load.everybody_is_acknowledged(2).await?;
    agent.acknowledges(2).await?;

    let told = Instant::now();
    system.server.stop()?;
    let status = agent.status_that("the agent was told", |status| status["state"] != "connected").await?;
    figure("SIGTERM to stopped and told", told.elapsed());
    assert_eq!(status["revoked"], serde_json::Value::Null);
    let back = Instant::now();
    system.restart()?;
    figure("start", back.elapsed());
    load.everybody_is_acknowledged(1).await?;
    figure("start to all agents acknowledged", back.elapsed());
    agent.has_delivered().await?;
    agent.acknowledges(2).await?;

    let device = agent.device()?.parse()?;
    agent.stop()?;
    let books = system.stop_and_read().await?;
    load.check_against(&books).await?;
    let rows = books.check_whole(device).await?;
    assert!(longest_gap_ms(&rows) < 2_500, "a hole of {} ms", longest_gap_ms(&rows));
    Ok(())
}
