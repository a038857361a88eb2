//! `kill -9` in a loop: whatever was acknowledged is there afterwards, at its position, unaltered.

use breeze_bus::{Bus, EmbeddedBus, EmbeddedBusConfig};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

const CHILD_DIR: &str = "BREEZE_BUS_CRASH_DIR";
const ROUNDS: usize = 6;
const STREAMS: usize = 3;

fn config(dir: &Path) -> EmbeddedBusConfig {
    EmbeddedBusConfig { segment_bytes: 64 * 1024, reserve_bytes: 0, ..EmbeddedBusConfig::new(dir) }
}

fn payload(stream: usize, seed: u64) -> Bytes {
    let len = (seed % 3000) as usize;
    let mut bytes = seed.to_be_bytes().to_vec();
    bytes.push(stream as u8);
    bytes.resize(len + 9, seed as u8);
    bytes.into()
}

/// Not a test of its own: the process that is killed. Tells "stream position seed" of each acknowledgement.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let bus = Arc::new(EmbeddedBus::open(config(Path::new(&dir))).expect("opens after a kill"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..STREAMS * 4 {
            let bus = bus.clone();
            tasks.spawn(async move {
                let stream = task % STREAMS;
                loop {
                    let seed = rand::random::<u64>();
                    let appended = bus.append(&format!("s{stream}"), "", payload(stream, seed)).await;
                    let position = appended.expect("appends");
                    let line = format!("{stream} {position} {seed}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens");
                }
            });
        }
        tasks.join_all().await;
    });
}

/// Runs the child until it has acknowledged a few hundred, kills it, and collects what it acknowledged.
fn run_and_kill(dir: &Path, acknowledged: &mut BTreeMap<(usize, u64), u64>, after: usize) {
    let mut child = Command::new(std::env::current_exe().expect("this test's path"))
        .args(["--exact", "crash::child_that_appends_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut seen = 0;
    for line in lines {
        let line = line.expect("text");
        let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
        let [stream, position, seed] = fields[..] else { continue };
        let before = acknowledged.insert((stream as usize, position), seed);
        assert_eq!(before, None, "position {position} of stream {stream} was given twice");
        seen += 1;
        if seen == after {
            child.kill().expect("kill -9");
        }
    }
    child.wait().expect("it is gone");
    assert!(seen >= after, "the child ended by itself after {seen}");
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        run_and_kill(dir.path(), &mut acknowledged, 40 + 60 * round);
        let bus = EmbeddedBus::open(config(dir.path())).expect("opens after a kill");
        let mut found = BTreeMap::new();
        for stream in 0..STREAMS {
            let mut next = 1;
            loop {
                let name = format!("s{stream}");
                let entries = bus.read(&name, next, 1 << 20, Duration::ZERO).await.expect("reads");
                let Some(newest) = entries.last() else { break };
                assert_eq!(entries[0].position, next, "positions are dense");
                next = newest.position + 1;
                found.extend(entries.into_iter().map(|entry| ((stream, entry.position), entry.payload)));
            }
        }
        for ((stream, position), seed) in &acknowledged {
            assert_eq!(found.get(&(*stream, *position)), Some(&payload(*stream, *seed)), "round {round}");
        }
    }
}
