//! kill -9 of the server while people change things: neither a change nor its entry is there without the other,
//! and `breeze audit verify` finds the log whole, and an edit of the file of checkpoints.

use crate::support::{Options, System, process::program};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const ROUNDS: u64 = 3;
const PEOPLE: usize = 6;
/// Changes that a round waits for before it ends with a kill.
const CHANGES: usize = 12;

fn verify(system: &System) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(program("breeze"));
    let output = command.args(["audit", "verify", "--data"]).arg(system.folder.path().join("server")).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

/// Names of all keys, or of all that the log says were made.
async fn names(system: &System, path: &str, field: &str) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut names = BTreeMap::new();
    let mut next = format!("{path}limit=200");
    loop {
        let (status, page) = system.call(Method::GET, &next, None, &[]).await?;
        anyhow::ensure!(status == StatusCode::OK, "{status} {page}");
        for row in page["data"].as_array().into_iter().flatten() {
            *names.entry(row[field].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("{path}limit=200&cursor={cursor}"),
            None => return Ok(names),
        }
    }
}

#[tokio::test]
async fn no_change_is_without_its_entry_after_a_kill_and_no_entry_without_its_change() -> anyhow::Result<()> {
    let mut system = System::start_with(Options::default()).await?;
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let (stop, made) = (AtomicBool::new(false), Arc::new(AtomicUsize::new(0)));
        let (shared, stopped, counted) = (&system, &stop, &made);
        let people = futures_util::future::join_all((0..PEOPLE).map(|person| async move {
            let mut done = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let name = format!("r{round}-p{person}-{n}");
                let body = Some(json!({ "name": name }));
                match shared.call(Method::POST, "/enrollment-keys", body, &[]).await {
                    Ok((StatusCode::CREATED, _)) => {
                        done.push(name);
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            done
        }));
        let pid = system.server.pid();
        let killing = async {
            while made.load(Ordering::SeqCst) < CHANGES {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Somewhere else in the writing each time.
            tokio::time::sleep(Duration::from_millis(round * 7)).await;
            kill(pid);
            stop.store(true, Ordering::SeqCst);
        };
        let (done, ()) = tokio::join!(people, killing);
        acknowledged.extend(done.into_iter().flatten());
        system.server.kill_9();
        let (holds, text) = verify(&system)?;
        assert!(holds, "round {round}: {text}");
        system.restart()?;
    }
    let keys = names(&system, "/enrollment-keys?", "name").await?;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let told = names(&system, "/audit/logs?action=enrollment_key.create&", "resource_name").await?;
        if told == keys {
            break;
        }
        // Of what was killed before its entry was delivered.
        assert!(std::time::Instant::now() < deadline, "keys {keys:?}\nentries {told:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(acknowledged.len() >= CHANGES * ROUNDS as usize);
    assert!(acknowledged.iter().all(|name| keys.get(name) == Some(&1)), "acknowledged and there once");

    system.server.stop()?;
    let (holds, text) = verify(&system)?;
    assert!(holds && text.contains("checkpoints fit"), "{text}");
    let file = system.folder.path().join("server/audit-checkpoints.jsonl");
    let published = std::fs::read_to_string(&file)?;
    let mut last: Value = serde_json::from_str(published.lines().last().unwrap_or_default())?;
    last["sequence"] = json!(1_000_000);
    std::fs::write(&file, format!("{published}{last}\n"))?;
    let (holds, text) = verify(&system)?;
    assert!(!holds && text.contains("signature of the checkpoint is wrong"), "{text}");
    Ok(())
}

/// SIGKILL, without waiting: clients are in the middle of their calls.
fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
