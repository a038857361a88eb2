//! The data disk fills up: nothing more is acknowledged, Breeze says why, answers what it knows, and
//! goes on by itself once there is room.

use crate::support::{
    Options, System,
    books::longest_gap_ms,
    disk::Disk,
    process::{eventually, figure, is_root, skip},
};
use std::{fs, time::Instant};

const DISK_MIB: u64 = 192;

#[tokio::test]
async fn a_full_disk_is_told_and_survived() -> anyhow::Result<()> {
    if !is_root() {
        return skip("mounting a small disk needs root");
    }
    let home = tempfile::Builder::new().prefix("breeze-disk-").tempdir()?;
    let disk = Disk::mount(&home.path().join("disk"), DISK_MIB)?;
    let options = Options {
        more: vec!["--heartbeat-interval", "1", "--disk-reserve", "16"],
        data: Some(disk.0.join("data")),
        ..Options::default()
    };
    let mut system = System::start_with(options).await?;
    let mut agent = system.agent("agent")?;
    agent.run()?;
    agent.acknowledges(3).await?;

    let ballast = disk.fill(4 << 20)?;
    let filled = Instant::now();
    let words = eventually("the status tells that the disk is full", async || {
        let status = system.get("/status").await?;
        let roles = status["roles"].as_array().cloned().unwrap_or_default();
        let told = roles.iter().find(|role| role["ready"] == false).map(|role| role["message"].to_string());
        Ok(told.filter(|words| words.contains("full") || words.contains("space")))
    })
    .await?;
    figure("full to told", (filled.elapsed(), words));
    agent.status_that("heartbeats wait", |status| status["spooled"].as_u64() >= Some(5)).await?;
    let devices = system.get("/devices").await?;
    assert_eq!(devices["data"].as_array().map(Vec::len), Some(1), "reads still work: {devices}");
    let id = devices["data"][0]["id"].as_str().unwrap_or_default().to_owned();
    let graph = system.get(&format!("/devices/{id}/metrics?series=cpu_percent")).await?;
    assert!(graph["series"][0]["points"].get(0).is_some(), "{graph}");

    fs::remove_file(&ballast)?;
    let freed = Instant::now();
    agent.has_delivered().await?;
    figure("room to all delivered", freed.elapsed());
    eventually("all is well again", async || Ok((system.get("/status").await?["ready"] == true).then_some(()))).await?;
    agent.acknowledges(2).await?;
    agent.stop()?;
    let rows = system.stop_and_read().await?.check_whole(id.parse()?).await?;
    assert!(longest_gap_ms(&rows) < 2_500, "a hole of {} ms", longest_gap_ms(&rows));
    Ok(())
}
