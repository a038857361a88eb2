//! Devices whose clocks are a day wrong, both ways: they enrol, connect, and what they measured is
//! stored at the time it was measured.

use crate::support::{Options, System, process::skip};
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// libfaketime, where it is installed.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let libraries = folders.map(|folder| Path::new(folder).join("faketime/libfaketime.so.1"));
    libraries.into_iter().find(|library| library.exists())
}

async fn a_day_wrong(offset: &str, offset_s: f64) -> anyhow::Result<()> {
    let Some(library) = faketime() else { return skip("libfaketime is not installed") };
    let mut system = System::start_with(Options::quick()).await?;
    let mut agent = system.new_agent("agent").with_wrong_clock(&library, offset);
    agent.enroll(system.dashboard(), system.enrollment_key())?;
    let started_ms = now_ms();
    agent.run()?;
    agent.acknowledges(3).await?;
    let device = system.device_that("online", |device| device["status"] == "online").await?;
    let id = device["id"].as_str().unwrap_or_default().to_owned();
    let seen = device["last_seen_at"].as_str().unwrap_or_default().parse::<jiff::Timestamp>()?;
    assert!(seen.as_millisecond().unsigned_abs().abs_diff(now_ms()) < 30_000, "{device}");
    let told = system.get(&format!("/devices/{id}")).await?["clock_offset_ms"].as_f64().unwrap_or_default();
    assert!((told - offset_s * 1000.0).abs() < 10_000.0, "the device's clock is {told} ms off");

    agent.stop()?;
    let rows = system.stop_and_read().await?.check_whole(id.parse()?).await?;
    assert!(rows.len() >= 3);
    for row in rows {
        assert!((started_ms - 1_000..now_ms()).contains(&row.at_ms), "{} is not between start and now", row.at_ms);
    }
    Ok(())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

#[tokio::test]
async fn a_device_that_is_a_day_ahead_is_stored_at_the_right_time() -> anyhow::Result<()> {
    a_day_wrong("+1d", 86_400.0).await
}

#[tokio::test]
async fn a_device_that_is_a_day_behind_is_stored_at_the_right_time() -> anyhow::Result<()> {
    a_day_wrong("-1d", -86_400.0).await
}
