//! kill -9 in the middle of appends, flushes and merges: what was acknowledged is there, once.

use crate::metrics_support::{DAY, DAY_MS, append, at, config, heartbeat, scalar_query, token};
use breeze_store::metrics::{Appended, EmbeddedMetrics, EmbeddedMetricsConfig, FrozenBatch, Metrics};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 6;
const DIR_VARIABLE: &str = "BREEZE_METRICS_KILL_DIR";
const START_VARIABLE: &str = "BREEZE_METRICS_KILL_START";

fn small(dir: &Path) -> EmbeddedMetricsConfig {
    // Flushes every few dozen rows, so that kills hit them too.
    EmbeddedMetricsConfig { flush_bytes: 4_000, ..config(dir) }
}

/// Two rows a position, at times that only this position has.
fn rows(position: u64) -> FrozenBatch {
    FrozenBatch::encode(
        &[heartbeat(1, at(DAY, position * 10), position), heartbeat(1, at(DAY, position * 10 + 5), position)],
        &[],
    )
}

/// Not a test of its own: the process that is killed.
#[test]
#[ignore = "started by the test below"]
fn kill_child() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let start: u64 = std::env::var(START_VARIABLE).expect("start").parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let engine = EmbeddedMetrics::open(small(Path::new(&dir))).expect("open");
        let upkeep = std::sync::Arc::clone(&engine);
        tokio::spawn(async move {
            loop {
                upkeep.maintain(at(DAY + 2, 0)).await.expect("maintain");
                tokio::task::yield_now().await;
            }
        });
        let mut position = start;
        loop {
            let (a, b) = (position, position + 1);
            let (rows_a, rows_b) = (rows(a), rows(b));
            let (token_a, token_b) = (token(a, a, DAY), token(b, b, DAY));
            let done = tokio::join!(append(&engine, &token_a, &rows_a), append(&engine, &token_b, &rows_b));
            assert_eq!(done, (Appended::New, Appended::New));
            // Written past the test harness's capture.
            let mut out = std::io::stderr().lock();
            writeln!(out, "acknowledged {b}").expect("write");
            position += 2;
        }
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_exactly_once() {
    let dir = tempfile::tempdir().expect("folder");
    let mut next = 0;
    for round in 0..ROUNDS {
        let wanted = 25 + 13 * round;
        let acknowledged = run_and_kill(dir.path(), next, wanted);
        let engine = EmbeddedMetrics::open(small(dir.path())).expect("reopen after kill -9");
        // Beyond the acknowledged, one pair may have been on its way.
        let mut stored = acknowledged + 1;
        for position in 0..=acknowledged + 2 {
            let outcome = append(&engine, &token(position, position, DAY), &rows(position)).await;
            assert!(position > acknowledged || outcome == Appended::Duplicate, "acknowledged {position} was lost");
            stored = stored.max(position + 1);
        }
        let found = engine.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), DAY_MS)).await.expect("query");
        assert_eq!(found.series[0].points[0].count, 2 * stored, "each row once");
        assert_eq!(found.series[0].points[0].sum, (stored * (stored - 1)) as f64);
        next = stored;
    }
}

/// Runs the child until it acknowledged `wanted` pairs, kills it, and gives the last position that it
/// acknowledged.
fn run_and_kill(dir: &Path, start: u64, wanted: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "metrics_kill::kill_child", "--ignored", "--nocapture"])
        .env(DIR_VARIABLE, dir)
        .env(START_VARIABLE, start.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the child");
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = None;
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut seen = 0;
    let mut other = Vec::new();
    while seen < wanted {
        let line = lines.next().unwrap_or_else(|| panic!("the child ended by itself: {other:?}")).expect("read");
        match line.strip_prefix("acknowledged ") {
            Some(number) => {
                last = Some(number.parse().expect("a number"));
                seen += 1;
            }
            None => other.push(line),
        }
        assert!(Instant::now() < deadline, "the child is too slow");
    }
    child.kill().expect("kill -9");
    // What it had acknowledged before the signal counts, too.
    for line in lines.map_while(Result::ok) {
        if let Some(number) = line.strip_prefix("acknowledged ") {
            last = Some(number.parse().expect("a number"));
        }
    }
    child.wait().expect("wait");
    last.expect("it acknowledged some")
}
