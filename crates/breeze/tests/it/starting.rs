//! A second start keeps everything and takes seconds.

use crate::support::{Options, System, process::figure};
use reqwest::StatusCode;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_second_start_keeps_all_data_and_takes_seconds() -> anyhow::Result<()> {
    let mut system = System::start_with(Options::quick()).await?;
    let mut agent = system.agent("agent")?;
    agent.run()?;
    agent.acknowledges(3).await?;
    let id = agent.device()?;
    system.device_that("online with figures", |device| device["cpu_percent"].is_number()).await?;
    agent.stop()?;
    system.device_that("its goodbye has arrived", |device| device["status"] == "offline").await?;
    let points = |body: &serde_json::Value| body["series"][0]["points"].as_array().map_or(0, Vec::len);
    let path = format!("/devices/{id}/metrics?series=uptime_s");
    let before = points(&system.get(&path).await?);
    let (dashboard, key) = (system.dashboard().to_owned(), system.enrollment_key().to_owned());

    system.server.stop()?;
    assert!(!system.ready_file().exists(), "the ready file says that everything answers");
    let started = Instant::now();
    system.restart()?;
    figure("second start", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(system.dashboard(), dashboard, "the ports are kept");
    assert_eq!(system.enrollment_key(), key);
    assert!(system.ready["setup_url"].is_null(), "set-up is done once");
    let (status, _) = system.probe("/readyz").await?;
    assert_eq!(status, StatusCode::OK);
    // The session of before is still good.
    let device = system.get(&format!("/devices/{id}")).await?;
    assert_eq!(device["status"], "offline", "{device}");
    assert!(points(&system.get(&path).await?) >= before);
    agent.run()?;
    agent.acknowledges(1).await?;
    Ok(())
}
