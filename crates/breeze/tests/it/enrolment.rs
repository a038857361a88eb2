//! The beginning and the end of a device: keys that say why they do not work, approval, decommission.

use crate::{
    clocks::faketime,
    support::{
        Options, System,
        agent::Agent,
        process::{PATIENCE, Process, eventually, figure, run, said, skip},
    },
};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant},
};

#[tokio::test]
async fn a_decommissioned_device_is_told_within_a_second_and_stays_out() -> anyhow::Result<()> {
    let system = System::start_with(Options::quick()).await?;
    let mut agent = system.agent("agent")?;
    agent.run()?;
    agent.acknowledges(1).await?;
    let id = agent.device()?;
    let copy = agent.state.with_extension("copy").display().to_string();
    run(&["cp", "-a", &agent.state.display().to_string(), &copy])?;

    let (status, body) = system.call(Method::DELETE, &format!("/devices/{id}"), None, &[]).await?;
    assert_eq!(status, StatusCode::PRECONDITION_REQUIRED, "{body}");
    let asked = Instant::now();
    system.decommission(&id).await?;
    let status_file = agent.state.join("status.json");
    let told = eventually("the agent knows that it was revoked", async || {
        Ok(fs::read_to_string(&status_file)?.contains("\"state\": \"revoked\"").then(|| asked.elapsed()))
    })
    .await?;
    figure("decommission to told", told);
    assert!(told < Duration::from_secs(2), "{told:?}, with both processes on a busy machine");
    assert!(agent.status()?["revoked"].is_string());
    agent.stop()?;

    // A copy that never heard of it asks, and is told.
    fs::remove_dir_all(&agent.state)?;
    run(&["mv", &copy, &agent.state.display().to_string()])?;
    agent.run()?;
    let status = agent.status_that("turned away with the proof", |status| status["state"] == "revoked").await?;
    assert_eq!(status["acknowledged"], 0, "{status}");
    let again = agent.try_enroll(system.dashboard(), system.enrollment_key())?;
    assert!(!again.status.success(), "its state is in use");
    Ok(())
}

fn refusal(agent: &Agent, system: &System, key: &str) -> anyhow::Result<String> {
    let output = agent.try_enroll(system.dashboard(), key)?;
    assert!(!output.status.success(), "{}", said(&output));
    Ok(said(&output))
}

#[tokio::test]
async fn a_key_that_does_not_work_says_why() -> anyhow::Result<()> {
    let mut system = System::start_with(Options::quick()).await?;
    let text = |key: &serde_json::Value| key["key"].as_str().unwrap_or_default().to_owned();

    let once = system.make_key(json!({ "name": "once", "max_uses": 1 })).await?;
    let agent = system.new_agent("first");
    agent.enroll(system.dashboard(), &text(&once))?;
    let words = refusal(&system.new_agent("second"), &system, &text(&once))?;
    assert!(words.contains("used as often as it may be"), "{words}");

    let revoked = system.make_key(json!({ "name": "revoked" })).await?;
    let path = format!("/enrollment-keys/{}", revoked["id"].as_str().unwrap_or_default());
    let (status, body) = system.call(Method::DELETE, &path, None, &[]).await?;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    let words = refusal(&system.new_agent("third"), &system, &text(&revoked))?;
    assert!(words.contains("revoked"), "{words}");

    let words = refusal(&system.new_agent("fourth"), &system, "brz1_nonsense")?;
    assert!(words.contains("key"), "{words}");

    let Some(library) = faketime() else { return skip("libfaketime is not installed: no key can expire here") };
    let short = system.make_key(json!({ "name": "short", "expires_in_s": 60 })).await?;
    system.server.stop()?;
    system.options.environment = vec![
        ("LD_PRELOAD".into(), library.display().to_string()),
        ("FAKETIME".into(), "+5m".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
    ];
    system.restart()?;
    let words = refusal(&system.new_agent("fifth"), &system, &text(&short))?;
    assert!(words.contains("expired"), "{words}");
    Ok(())
}

/// Begins to enrol with a key that asks for approval, and waits until the server lists it.
async fn ask(system: &System, agent: &Agent, key: &str) -> anyhow::Result<(Process, String)> {
    let key_file = agent.key_file(key)?.display().to_string();
    let mut command = agent.command(&["enroll", "--server", system.dashboard(), "--key-file", &key_file]);
    let waiting = Process::start(&mut command, &agent.log())?;
    let id = eventually("it is listed as pending", async || {
        let page = system.get("/pending-devices").await?;
        Ok(page["data"][0]["id"].as_str().map(str::to_owned))
    })
    .await?;
    Ok((waiting, id))
}

#[tokio::test]
async fn a_person_approves_or_rejects_and_a_device_can_leave() -> anyhow::Result<()> {
    let system = System::start_with(Options::quick()).await?;
    let key = system.make_key(json!({ "name": "careful", "requires_approval": true })).await?;
    let key = key["key"].as_str().unwrap_or_default();

    let unwanted = system.new_agent("unwanted");
    let (mut waiting, id) = ask(&system, &unwanted, key).await?;
    assert!(!waiting.has_ended());
    let (status, body) = system.call(Method::POST, &format!("/pending-devices/{id}/reject"), None, &[]).await?;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    assert!(!waiting.end()?.success());
    let words = fs::read_to_string(unwanted.log())?;
    assert!(words.contains("reject"), "{words}");

    let mut agent = system.new_agent("agent");
    let (mut waiting, id) = ask(&system, &agent, key).await?;
    let (status, body) = system.call(Method::POST, &format!("/pending-devices/{id}/approve"), None, &[]).await?;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    let approved = Instant::now();
    assert!(waiting.end()?.success(), "{}", fs::read_to_string(agent.log())?);
    figure("approval to enrolled", approved.elapsed());
    assert!(approved.elapsed() < PATIENCE);
    agent.run()?;
    agent.acknowledges(1).await?;
    agent.stop()?;

    let left = agent.output(&["unenroll"])?;
    assert!(left.status.success(), "{}", said(&left));
    assert!(!agent.state.join("identity.json").exists(), "the key is erased");
    let alone = agent.output(&["run"])?;
    assert!(!alone.status.success() && said(&alone).contains("not enrolled"), "{}", said(&alone));
    Ok(())
}
