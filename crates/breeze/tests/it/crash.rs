//! kill -9 of the server under load: whatever was acknowledged is stored exactly once.

use crate::support::{Options, System, load::Load, process::figure};
use std::time::Duration;

const AGENTS: usize = 60;

async fn killed_under_load(rounds: u64) -> anyhow::Result<()> {
    let mut system = System::start_with(Options::default()).await?;
    let mut load = Load::start(&system, AGENTS)?;
    for round in 0..rounds {
        load.everybody_is_acknowledged(2).await?;
        // Somewhere else in the gathering, recording and appending of batches each time.
        tokio::time::sleep(Duration::from_millis(round * 237 % 1_000)).await;
        system.server.kill_9();
        system.restart()?;
    }
    load.everybody_is_acknowledged(2).await?;
    let books = system.stop_and_read().await?;
    let acknowledged = load.check_against(&books).await?;
    figure("acknowledged, and stored once each", acknowledged);
    assert!(acknowledged >= AGENTS * 2 * (rounds as usize + 1));
    Ok(())
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_doubled_by_a_kill() -> anyhow::Result<()> {
    killed_under_load(3).await
}

mod long {
    #[tokio::test]
    async fn nothing_acknowledged_is_lost_or_doubled_by_many_kills() -> anyhow::Result<()> {
        // Agents wait longer after each connection that did not last a minute: fresh ones each time.
        for _ in 0..5 {
            super::killed_under_load(3).await?;
        }
        Ok(())
    }
}
