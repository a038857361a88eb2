//! `kill -9` of a whole process with bus, stores and collector under load, in a loop: every heartbeat
//! whose entry the stream had acknowledged is queryable afterwards, and nothing is there twice.

use crate::{embedded::Engines, world::*};
use breeze_runtime::shutdown::Shutdown;
use breeze_store::metrics::Metrics as _;
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

const CHILD_DIR: &str = "BREEZE_COLLECTOR_KILL_DIR";
const CHILD_FROM: &str = "BREEZE_COLLECTOR_KILL_FROM";
const ROUNDS: u64 = 5;
const DEVICES: u8 = 5;
/// Sequence numbers, and so milliseconds, that a round may use.
const PER_ROUND: u64 = 100_000;

/// Not a test of its own: the process that is killed. Tells "device seq time" of each acknowledged heartbeat.
#[test]
fn child_that_ingests_until_it_is_killed() {
    let (Ok(dir), Ok(from)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_FROM)) else { return };
    let fields: Vec<u64> = from.split(' ').filter_map(|field| field.parse().ok()).collect();
    let [round, base_us] = fields[..] else { panic!("round and base: {from}") };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let engines = Engines::open(Path::new(&dir)).await;
        let _running = engines.start(&Shutdown::new()).await;
        for seq in round * PER_ROUND + 1.. {
            // Rows are named by device and millisecond: each has one of its own.
            let at = base_us + seq * 1000;
            let beats = (1..=DEVICES).map(|number| heartbeat(device(number), seq, at)).collect();
            append(&*engines.bus, beats).await;
            let line = format!("{seq} {}\n", at / 1000);
            std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens");
        }
    });
}

fn run_and_kill(dir: &Path, (round, base_us): (u64, u64), acknowledged: &mut BTreeSet<(u64, u64)>) {
    let mut child = Command::new(std::env::current_exe().expect("this test's path"))
        .args(["--exact", "kill::child_that_ingests_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .env(CHILD_FROM, format!("{round} {base_us}"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut seen = 0;
    for line in lines {
        let line = line.expect("text");
        let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
        let [seq, at_ms] = fields[..] else { continue };
        acknowledged.insert((at_ms, seq));
        seen += 1;
        if seen == 60 + 70 * round {
            child.kill().expect("kill -9");
        }
    }
    child.wait().expect("it is gone");
    assert!(seen >= 60, "the child ended by itself after {seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_stream_acknowledged_is_queryable_after_kill_9() {
    let dir = tempfile::tempdir().expect("a folder");
    let base_us = now_us() - 1_000_000_000;
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        run_and_kill(dir.path(), (round, base_us), &mut acknowledged);
    }
    let engines = Engines::open(dir.path()).await;
    let shutdown = Shutdown::new();
    let running = engines.start(&shutdown).await;
    let held = || async { breeze_bus::Bus::extent(&*engines.bus, &stream()).await.expect("an extent") };
    until("the lane to be applied", || async {
        let extent = held().await;
        (extent.first > extent.last).then_some(())
    })
    .await;
    for number in 1..=DEVICES {
        let mut found = BTreeSet::new();
        for (at_ms, load) in engines.load_of(number).await {
            assert!(found.insert((at_ms, load as u64)), "a row is there twice");
        }
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "device {number} lost {lost:?}");
        // The last entry of each round may have been stored without being told.
        assert!(found.len() as u64 <= acknowledged.len() as u64 + ROUNDS);
    }
    let usage = engines.metrics.usage().await.expect("usage");
    let most = (acknowledged.len() as u64 + ROUNDS) * u64::from(DEVICES);
    assert!((acknowledged.len() as u64 * u64::from(DEVICES)..=most).contains(&usage.heartbeat_rows), "{usage:?}");
    shutdown.begin();
    running.join().await.expect("stops");
    engines.close().await;
}
