//! From enrolment to graphs.

use crate::support::{System, process::eventually};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_device_enrols_and_everything_about_it_can_be_seen() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut agent = system.agent("agent")?;
    let started = Instant::now();
    agent.run()?;
    let device = system
        .device_that("the device is online with figures", |d| d["status"] == "online" && d["ram_percent"].is_number())
        .await?;
    assert!(started.elapsed() < Duration::from_secs(30), "the first heartbeat is sent at once");
    assert_eq!(device["os_type"], "linux");
    let id = device["id"].as_str().expect("an id").to_owned();

    for (section, field) in [("hardware", "cpu_model"), ("network", "addresses")] {
        let path = format!("/devices/{id}/{section}");
        let body = eventually(section, async || system.get(&path).await.map(Some)).await?;
        assert!(!body[field].is_null(), "{section}: {body}");
    }
    let software = eventually("software", async || {
        let page = system.get(&format!("/devices/{id}/software?q=libc6")).await?;
        Ok(page["data"].get(0).cloned())
    })
    .await?;
    assert_eq!(software["source"], "dpkg", "this test runs on Debian");

    let points = eventually("a point of the graph", async || {
        let body = system.get(&format!("/devices/{id}/metrics?series=cpu_percent,ram_percent")).await?;
        Ok(body["series"][1]["points"].get(0).cloned())
    })
    .await?;
    assert!(points[1].as_f64().is_some_and(|percent| percent > 0.0 && percent <= 100.0), "{points}");

    agent.stop()?;
    system.device_that("a goodbye shows as offline", |d| d["status"] == "offline").await?;
    Ok(())
}
