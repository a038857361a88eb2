//! A backup of a running server, restored onto another machine: the same devices and graphs, agents
//! come back, what was acknowledged before is there once.

use crate::support::{
    Options, System,
    load::Load,
    process::{figure, program, said},
};
use anyhow::{Context as _, ensure};
use breeze_proto::id::DeviceId;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

const AGENTS: usize = 30;
const PASSPHRASE: &str = "a passphrase for tests";

/// `breeze` with these words; the passphrase in a file of `folder`.
fn breeze(folder: &Path, passphrase: &str, words: &[&str], paths: &[(&str, &Path)]) -> anyhow::Result<Output> {
    let file = folder.join("passphrase");
    fs::write(&file, passphrase)?;
    let mut command = Command::new(program("breeze"));
    command.args(words).stdin(Stdio::null());
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    if words[0] != "backup" || words.contains(&"--with-keys") {
        command.arg("--passphrase-file").arg(&file);
    }
    Ok(command.output()?)
}

fn succeed(output: Output) -> anyhow::Result<String> {
    ensure!(output.status.success(), "{}", said(&output));
    Ok(said(&output))
}

fn refuse(output: &Output, because: &str) -> anyhow::Result<()> {
    ensure!(!output.status.success() && said(output).contains(because), "not {because:?}: {}", said(output));
    Ok(())
}

/// What the list of devices says that does not change by itself, by id.
async fn devices(system: &System) -> anyhow::Result<BTreeMap<String, String>> {
    let page = system.get("/devices?limit=200").await?;
    let devices = page["data"].as_array().context("a list")?;
    let name = |device: &serde_json::Value| device["hostname"].to_string();
    Ok(devices.iter().map(|device| (device["id"].to_string(), name(device))).collect())
}

async fn points(system: &System, device: &str) -> anyhow::Result<usize> {
    let body = system.get(&format!("/devices/{device}/metrics?series=uptime_s")).await?;
    Ok(body["series"][0]["points"].as_array().map_or(0, Vec::len))
}

fn only_backup(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    ensure!(found.len() == 1, "{found:?}");
    found.pop().context("one")
}

#[tokio::test]
async fn a_backup_under_load_restores_what_was_acknowledged_once() -> anyhow::Result<()> {
    let mut system = System::start_with(Options::quick()).await?;
    let mut agent = system.agent("agent")?;
    agent.run()?;
    let mut load = Load::start(&system, AGENTS)?;
    load.everybody_is_acknowledged(3).await?;
    agent.acknowledges(3).await?;
    let device = agent.device()?;
    let (folder, data) = (system.folder.path().to_owned(), system.folder.path().join("server"));

    let before = load.acknowledged()?;
    let graph = points(&system, &device).await?;
    let (known, backups) = (devices(&system).await?, folder.join("backups"));
    fs::create_dir(&backups)?;
    let began = Instant::now();
    succeed(breeze(&folder, PASSPHRASE, &["backup"], &[("--data", &data), ("--to", &backups)])?)?;
    figure("backup under load", began.elapsed());
    let (file, keys) = (only_backup(&backups)?, folder.join("keys.sealed"));
    figure("bytes of the backup", fs::metadata(&file)?.len());
    succeed(breeze(&folder, PASSPHRASE, &["keys", "export"], &[("--data", &data), ("--to", &keys)])?)?;
    // The server goes on as if nothing had been.
    load.everybody_is_acknowledged(2).await?;
    system.server.stop().with_context(|| system.log())?;
    let at_stop = load.acknowledged()?;

    // Another machine.
    fs::rename(&data, folder.join("lost"))?;
    let restored = folder.join("restored");
    let restore = [("--from", file.as_path()), ("--data", restored.as_path())];
    succeed(breeze(&folder, PASSPHRASE, &["restore"], &restore)?)?;
    refuse(&breeze(&folder, PASSPHRASE, &["restore"], &restore)?, "not empty")?;
    system.options.data = Some(restored.clone());
    let error = system.restart().expect_err("there are no keys");
    ensure!(error.to_string().contains("breeze keys import"), "{error:#}");
    let import = [("--from", keys.as_path()), ("--data", restored.as_path())];
    refuse(&breeze(&folder, "another passphrase", &["keys", "import"], &import)?, "the passphrase is wrong")?;
    succeed(breeze(&folder, PASSPHRASE, &["keys", "import"], &import)?)?;
    refuse(&breeze(&folder, PASSPHRASE, &["keys", "import"], &import)?, "not overwritten")?;
    let began = Instant::now();
    system.restart()?;
    assert_eq!(devices(&system).await?, known);
    assert!(points(&system, &device).await? >= graph, "the graph is there");
    load.everybody_is_acknowledged(2).await.with_context(|| system.log())?;
    agent.acknowledges(2).await?;
    figure("restored, started, every agent acknowledged", began.elapsed());

    agent.stop()?;
    load.process.kill_9();
    let books = system.stop_and_read().await?;
    let after = load.acknowledged()?;
    for (id, stored) in stored(&books, &after).await? {
        let distinct: BTreeSet<u32> = stored.iter().copied().collect();
        ensure!(distinct.len() == stored.len(), "{id}: a heartbeat is stored twice: {stored:?}");
        let newest = before[&id].iter().copied().max().unwrap_or_default();
        let missing: Vec<u32> = (1..=newest).filter(|value| !distinct.contains(value)).collect();
        ensure!(missing.is_empty(), "{id}: {missing:?} were acknowledged before the backup and are missing");
        let later = &after[&id][at_stop[&id].len()..];
        ensure!(later.len() >= 2 && later.iter().all(|value| distinct.contains(value)), "{id}: {later:?} {stored:?}");
    }
    Ok(())
}

async fn stored(
    books: &crate::support::books::Books,
    devices: &BTreeMap<DeviceId, Vec<u32>>,
) -> anyhow::Result<Vec<(DeviceId, Vec<u32>)>> {
    let mut all = Vec::new();
    for &device in devices.keys() {
        all.push((device, books.counts(device).await?));
    }
    Ok(all)
}

#[tokio::test]
async fn a_stopped_server_is_backed_up_with_its_keys() -> anyhow::Result<()> {
    let mut system = System::start_with(Options::quick()).await?;
    let mut agent = system.agent("agent")?;
    agent.run()?;
    agent.acknowledges(2).await?;
    let (folder, data) = (system.folder.path().to_owned(), system.folder.path().join("server"));
    system.server.stop().with_context(|| system.log())?;
    let file = folder.join("all.backup");
    let backup = [("--data", data.as_path()), ("--to", file.as_path())];
    refuse(&breeze(&folder, "short", &["backup", "--with-keys"], &backup)?, "at least 12")?;
    succeed(breeze(&folder, PASSPHRASE, &["backup", "--with-keys"], &backup)?)?;
    refuse(&breeze(&folder, PASSPHRASE, &["backup", "--with-keys"], &backup)?, "there already")?;
    let mut damaged = fs::read(&file)?;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let damaged_file = folder.join("damaged.backup");
    fs::write(&damaged_file, damaged)?;

    let restored = folder.join("restored");
    let from = |file| [("--from", file), ("--data", restored.as_path())];
    refuse(&breeze(&folder, PASSPHRASE, &["restore"], &from(damaged_file.as_path()))?, "checksum")?;
    succeed(breeze(&folder, PASSPHRASE, &["restore"], &from(file.as_path()))?)?;
    fs::remove_dir_all(&data)?;
    system.options.data = Some(restored);
    system.restart()?;
    agent.acknowledges(2).await.with_context(|| system.log())?;
    // Everything that the agent ever sent is there: nothing was acknowledged after the backup.
    let device = agent.device()?.parse()?;
    agent.stop()?;
    system.stop_and_read().await?.check_whole(device).await?;
    Ok(())
}
