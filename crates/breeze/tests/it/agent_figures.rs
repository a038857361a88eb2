//! What the agent costs while it does what it does all day.

use crate::support::{
    System,
    process::{eventually, figure},
};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Of a development build; a release is far smaller.
const MAX_RSS_KIB: u64 = 40 * 1024;
/// Ticks a second of `/proc/<pid>/stat`, fixed on Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;

fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / TICKS_PER_SECOND)
}

/// At the default interval, for `idle` after everything was told.
async fn idle_for(idle: Duration) -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut agent = system.agent("agent")?;
    agent.run()?;
    agent.acknowledges(1).await?;
    let id = agent.device()?;
    eventually("the inventory has arrived", async || {
        system.get(&format!("/devices/{id}/hardware")).await?;
        let software = system.get(&format!("/devices/{id}/software?limit=1")).await?;
        Ok((software["total"].as_u64() > Some(0)).then_some(()))
    })
    .await?;
    let pid = agent.running()?.pid();
    figure("CPU seconds to start and tell everything", cpu_s(pid)?);
    let (started, before) = (Instant::now(), cpu_s(pid)?);
    // What is measured is that nothing happens.
    tokio::time::sleep(idle).await;
    let share = (cpu_s(pid)? - before) / started.elapsed().as_secs_f64();
    figure("idle, share of a core", share);
    figure("RSS, KiB", rss_kib(pid)?);
    assert!(rss_kib(pid)? < MAX_RSS_KIB, "{} KiB", rss_kib(pid)?);
    assert!(share < 0.02, "{share} of a core, idle");
    Ok(())
}

#[tokio::test]
async fn an_idle_agent_costs_next_to_nothing() -> anyhow::Result<()> {
    idle_for(Duration::from_secs(10)).await
}

mod long {
    use std::time::Duration;

    #[tokio::test]
    async fn an_agent_idle_for_minutes_costs_next_to_nothing() -> anyhow::Result<()> {
        super::idle_for(Duration::from_secs(150)).await
    }
}
