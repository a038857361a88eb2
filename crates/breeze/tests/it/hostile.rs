//! Hostile names and wrong uses: text stays text, and every mistake is answered in words.

use crate::support::{
    Options, System,
    process::{is_root, program, run, said, skip},
    up,
};
use std::process::{Command, Stdio};

const HOSTNAME: &str = "<img src=x onerror=alert(1)>";

#[tokio::test]
async fn a_hostname_of_html_is_text() -> anyhow::Result<()> {
    if !is_root() || run(&["unshare", "--uts", "true"]).is_err() {
        return skip("a host name of the test's own needs root and a UTS namespace");
    }
    let system = System::start_with(Options::quick()).await?;
    let mut agent = system.new_agent("agent");
    let named = format!("printf %s '{HOSTNAME}' > /proc/sys/kernel/hostname && exec \"$0\" \"$@\"");
    agent.wrapper = ["unshare", "--uts", "sh", "-c", &named].map(str::to_owned).to_vec();
    agent.enroll(system.dashboard(), system.enrollment_key())?;
    agent.run()?;
    let device = system.device_that("online", |device| device["status"] == "online").await?;
    assert_eq!(device["hostname"], HOSTNAME);
    let found = system.get("/devices?q=onerror").await?;
    assert_eq!(found["data"][0]["id"], device["id"], "it can be searched");
    let (_, page) = system.probe("/").await?;
    assert!(!page.contains(HOSTNAME), "no page has it in its markup");
    Ok(())
}

#[tokio::test]
async fn wrong_command_lines_and_folders_in_use_are_told() -> anyhow::Result<()> {
    let system = System::start_with(Options::quick()).await?;
    let breeze = |words: &[&str]| Command::new(program("breeze")).args(words).stdin(Stdio::null()).output();
    for (words, told) in [
        (&["up", "--data", "/nonexistent", "--listen", "nonsense"][..], "--listen"),
        (&["up", "--data", "/nonexistent", "--lissen", "127.0.0.1:0"], "--lissen"),
        (&["up", "--data", "/nonexistent", "--heartbeat-interval", "0"], "--heartbeat-interval"),
        (&["up", "--data", "/proc/breeze"], "/proc/breeze"),
        (&["up"], "--data"),
        (&["upp"], "upp"),
    ] {
        let output = breeze(words)?;
        assert!(!output.status.success(), "{words:?}");
        assert!(said(&output).contains(told), "{words:?}: {}", said(&output));
    }

    let second = up(system.folder.path(), &Options::default()).env("BREEZE_LOG", "warn").output()?;
    assert!(!second.status.success());
    assert!(said(&second).contains("another process"), "{}", said(&second));
    assert!(system.ready_file().exists(), "the first one's ready file is still there");

    let mut agent = system.agent("agent")?;
    agent.run()?;
    agent.acknowledges(1).await?;
    let second = agent.output(&["run"])?;
    assert!(!second.status.success());
    assert!(said(&second).contains("another"), "{}", said(&second));
    agent.acknowledges(1).await?;
    Ok(())
}

#[tokio::test]
async fn instances_run_side_by_side_and_know_their_own_keys_only() -> anyhow::Result<()> {
    let first = System::start_with(Options::quick()).await?;
    let second = System::start_with(Options::quick()).await?;
    assert_ne!(first.dashboard(), second.dashboard());
    let stranger = second.new_agent("stranger").try_enroll(second.dashboard(), first.enrollment_key())?;
    assert!(!stranger.status.success(), "{}", said(&stranger));
    assert!(said(&stranger).contains("not known"), "{}", said(&stranger));
    for system in [&first, &second] {
        let mut agent = system.agent("agent")?;
        agent.run()?;
        agent.acknowledges(1).await?;
        agent.stop()?;
        assert_eq!(system.get("/devices").await?["total"], 1);
    }
    Ok(())
}
