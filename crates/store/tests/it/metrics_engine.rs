//! Promises of the engine one by one: durability, tokens, retention, refusals, damage.

use crate::metrics_support::{DAY, DAY_MS, at, batch, config, device, heartbeat, named, open, scalar_query, token};
use breeze_store::metrics::{
    Appended, EmbeddedMetrics, EmbeddedMetricsConfig, FrozenBatch, MAX_POINTS, MAX_SERIES, Metrics, MetricsError,
    Query, Resolution, Selector,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).expect("list").map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
}

async fn count(engine: &EmbeddedMetrics, day: u32) -> u64 {
    let found = engine.query(&scalar_query(1, at(day, 0), at(day + 1, 0), DAY_MS)).await.expect("query");
    found.series[0].points.iter().map(|point| point.count).sum()
}

#[tokio::test]
async fn a_token_is_taken_once_whatever_lies_between() {
    let dir = tempfile::tempdir().expect("folder");
    let (first, rows) = (token(1, 5, DAY), batch(at(DAY, 1_000), 1));
    let engine = open(dir.path());
    assert_eq!(engine.append(&first, &rows).await.expect("append"), Appended::New);
    assert_eq!(engine.append(&first, &rows).await.expect("append"), Appended::Duplicate);
    // The same positions of another day are another token.
    assert_eq!(engine.append(&token(1, 5, DAY + 1), &batch(at(DAY + 1, 0), 1)).await.expect("append"), Appended::New);
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.append(&first, &rows).await.expect("from the log"), Appended::Duplicate);
    engine.flush().await.expect("flush");
    assert_eq!(engine.append(&first, &rows).await.expect("after a flush"), Appended::Duplicate);
    drop(engine);
    let engine = open(dir.path());
    engine.maintain(at(DAY + 5, 0)).await.expect("seal");
    assert_eq!(engine.append(&first, &rows).await.expect("after sealing"), Appended::Duplicate);
    assert_eq!(count(&engine, DAY).await, 1);
    let overlap = engine.append(&token(5, 9, DAY), &rows).await;
    assert!(matches!(overlap, Err(MetricsError::Overlap(_))), "{overlap:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_race_under_one_token_store_once() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..200_u64 {
        let engine = std::sync::Arc::clone(&engine);
        let position = i % 20;
        tasks.spawn(async move {
            engine
                .append(&token(position, position, DAY), &batch(at(DAY, position * 1_000), position))
                .await
                .expect("append")
        });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Appended::New).count(), 20);
    assert_eq!(count(&engine, DAY).await, 20);
}

#[tokio::test]
async fn the_last_row_of_a_time_wins_in_memory_and_in_every_segment() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    for i in 0..30_u64 {
        engine.append(&token(i, i, DAY), &batch(at(DAY, 5_000), i)).await.expect("append");
        let found = engine.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 0)).await.expect("query");
        assert_eq!((found.series[0].points.len(), found.series[0].points[0].last), (1, i as f64));
        if i % 2 == 0 {
            engine.flush().await.expect("flush");
            engine.maintain(at(DAY, 6_000)).await.expect("maintain");
        }
    }
    assert!(engine.usage().await.expect("usage").segments < 15, "segments were merged");
}

#[tokio::test]
async fn a_wrong_day_a_bad_batch_and_a_bad_query_are_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    let wrong_day = engine.append(&token(1, 1, DAY), &batch(at(DAY + 1, 0), 1)).await;
    assert!(matches!(wrong_day, Err(MetricsError::Invalid(_))), "{wrong_day:?}");
    let torn = FrozenBatch::from_bytes(batch(at(DAY, 0), 1).as_bytes().slice(..20));
    assert!(matches!(engine.append(&token(1, 1, DAY), &torn).await, Err(MetricsError::Corrupt(_))));
    let backwards = engine.append(&token(2, 1, DAY), &batch(at(DAY, 0), 1)).await;
    assert!(matches!(backwards, Err(MetricsError::Invalid(_))));
    // None of these used the token up.
    assert_eq!(engine.append(&token(1, 1, DAY), &batch(at(DAY, 0), 1)).await.expect("append"), Appended::New);
    for (from, to, step) in [(5, 5, 0), (6, 5, 0), (0, u64::MAX, 1), (0, 10, u64::MAX), (0, at(DAY, 0), 60_000)] {
        let refused = engine.query(&scalar_query(1, from, to, step)).await;
        assert!(matches!(refused, Err(MetricsError::Invalid(_))), "{from} {to} {step}: {refused:?}");
    }
    let query = Query { selector: Selector::Scalars(vec![12]), ..scalar_query(1, 0, 1, 0) };
    assert!(matches!(engine.query(&query).await, Err(MetricsError::Invalid(_))));
    let everything = engine.query(&scalar_query(1, 0, u64::MAX, 0)).await.expect("all rows");
    assert_eq!(everything.series[0].points.len(), 1);
}

#[tokio::test]
async fn answers_are_bounded_and_say_so() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    let rows: Vec<_> = (0..MAX_POINTS as u64 + 10).map(|i| heartbeat(1, at(DAY, i * 1_000), i)).collect();
    let series: Vec<_> =
        (0..MAX_SERIES + 10).map(|i| named(1, at(DAY, 0), &format!("custom.{i:04}"), i as f64)).collect();
    engine.append(&token(1, 1, DAY), &FrozenBatch::encode(&rows, &series)).await.expect("append");
    // A later day brings back a name that was put out, and one that was not.
    let more = [named(1, at(DAY + 1, 0), "custom.0605", 1.0), named(1, at(DAY + 1, 0), "custom.0001", 1.0)];
    engine.append(&token(2, 2, DAY + 1), &FrozenBatch::encode(&[], &more)).await.expect("append");
    for is_flushed in [false, true] {
        if is_flushed {
            engine.flush().await.expect("flush");
        }
        let raw = engine.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 0)).await.expect("query");
        assert!(raw.truncated);
        assert_eq!(raw.series[0].points.len(), MAX_POINTS);
        assert_eq!(raw.series[0].points[0].at_ms, at(DAY, 0), "the oldest are kept");
        let selector = Selector::Named { prefix: "custom.".into() };
        let all = Query { device: device(1), selector, from_ms: at(DAY, 0), to_ms: at(DAY + 2, 0), step_ms: 0 };
        let named = engine.query(&all).await.expect("query");
        assert!(named.truncated);
        assert_eq!(named.series.len(), MAX_SERIES);
        assert_eq!((named.series[1].name.as_str(), named.series[1].points.len()), ("custom.0001", 2));
        assert_eq!(named.series[MAX_SERIES - 1].name, format!("custom.{:04}", MAX_SERIES - 1));
    }
}

#[tokio::test]
async fn what_has_expired_is_gone_and_roll_ups_outlive_rows() {
    let dir = tempfile::tempdir().expect("folder");
    let short = EmbeddedMetricsConfig {
        retention_raw_days: 3,
        retention_5m_days: 5,
        retention_1h_days: 7,
        retention_1d_days: 9,
        ..config(dir.path())
    };
    let engine = EmbeddedMetrics::open(short.clone()).expect("open");
    for minute in 0..120 {
        engine.append(&token(minute, minute, DAY), &batch(at(DAY, minute * 60_000), minute)).await.expect("append");
    }
    let day = |step| scalar_query(1, at(DAY, 0), at(DAY + 1, 0), step);
    let resolutions = [(3, Resolution::Raw), (4, Resolution::FiveMinutes), (6, Resolution::Hour), (8, Resolution::Day)];
    for (age, resolution) in resolutions {
        engine.maintain(at(DAY + age, 0)).await.expect("maintain");
        let found = engine.query(&day(60_000 * 7)).await.expect("query");
        assert_eq!(found.resolution, resolution, "at {age} days");
        let points = &found.series[0].points;
        assert_eq!(points.iter().map(|point| point.count).sum::<u64>(), 120);
        assert_eq!((points[0].min, points[points.len() - 1].max, points[points.len() - 1].last), (0.0, 119.0, 119.0));
        // A wide step is answered by the coarsest throughout.
        assert_eq!(engine.query(&day(DAY_MS)).await.expect("query").resolution, Resolution::Day);
    }
    assert!(engine.query(&day(0)).await.expect("query").series[0].points.is_empty(), "raw rows are gone");
    // Rows of a day without raw data cannot be added to its roll-ups.
    assert_eq!(engine.append(&token(900, 900, DAY), &batch(at(DAY, 1), 5)).await.expect("append"), Appended::New);
    assert_eq!(count(&engine, DAY).await, 120);
    engine.maintain(at(DAY + 10, 0)).await.expect("maintain");
    assert_eq!(count(&engine, DAY).await, 0);
    // A clock that falls back does not bring a floor back.
    engine.maintain(at(DAY, 0)).await.expect("maintain");
    engine.append(&token(901, 901, DAY), &batch(at(DAY, 1), 5)).await.expect("append");
    assert_eq!(count(&engine, DAY).await, 0);
    let usage = engine.usage().await.expect("usage");
    assert_eq!((usage.segments, usage.heartbeat_rows), (0, 0));
    drop(engine);
    assert!(files(&dir.path().join("segments"), "seg").is_empty(), "files of dropped days are deleted");
}

#[tokio::test]
async fn late_rows_reopen_a_sealed_day() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    engine.append(&token(1, 1, DAY), &batch(at(DAY, 1_000), 10)).await.expect("append");
    engine.maintain(at(DAY + 2, 0)).await.expect("seal");
    let hour = scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 3_600_000);
    assert_eq!(engine.query(&hour).await.expect("query").series[0].points[0].sum, 10.0);
    engine.append(&token(2, 2, DAY), &batch(at(DAY, 2_000), 30)).await.expect("late");
    for round in 0..4 {
        let point = engine.query(&hour).await.expect("query").series[0].points[0];
        assert_eq!((point.sum, point.max, point.count), (40.0, 30.0, 2), "round {round}");
        // Seen, then flushed and sealed again once the wait is over.
        engine.maintain(at(DAY + 2, round * 1_900_000)).await.expect("maintain");
    }
    // Raw and three roll-ups, and nothing else.
    assert_eq!(engine.usage().await.expect("usage").segments, 4);
}

#[tokio::test]
async fn below_the_reserve_appends_are_refused_and_work_again_later() {
    let dir = tempfile::tempdir().expect("folder");
    let greedy = EmbeddedMetricsConfig { reserve_bytes: u64::MAX, ..config(dir.path()) };
    let engine = EmbeddedMetrics::open(greedy).expect("open");
    let full = engine.append(&token(1, 1, DAY), &batch(at(DAY, 0), 1)).await;
    assert!(matches!(full, Err(MetricsError::Full { reserve_bytes: u64::MAX, .. })), "{full:?}");
    assert_eq!(count(&engine, DAY).await, 0);
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.append(&token(1, 1, DAY), &batch(at(DAY, 0), 1)).await.expect("append"), Appended::New);
}

#[tokio::test]
async fn a_folder_has_one_owner_and_a_known_format() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    let second = EmbeddedMetrics::open(config(dir.path()));
    assert!(matches!(second, Err(MetricsError::Unavailable(_))), "{second:?}");
    engine.append(&token(1, 1, DAY), &batch(at(DAY, 0), 1)).await.expect("append");
    engine.flush().await.expect("flush");
    drop(engine);
    let path = dir.path().join("MANIFEST");
    let text = fs::read_to_string(&path).expect("manifest");
    let (_, body) = text.split_once('\n').expect("two lines");
    let newer = body.replacen("\"format\":1", "\"format\":2", 1);
    fs::write(&path, format!("{:08x}\n{newer}", crc32c::crc32c(newer.as_bytes()))).expect("write");
    let error = EmbeddedMetrics::open(config(dir.path())).expect_err("a newer format");
    assert!(error.to_string().contains("format 2"), "{error}");
    fs::write(&path, text.replacen("wal_first", "wal_fist_", 1)).expect("write");
    assert!(matches!(EmbeddedMetrics::open(config(dir.path())), Err(MetricsError::Corrupt(_))));
    fs::write(&path, text).expect("write");
    assert_eq!(count(&open(dir.path()), DAY).await, 1);
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_cut_off_and_other_damage_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    for i in 0..3 {
        engine.append(&token(i, i, DAY), &batch(at(DAY, i * 1_000), i)).await.expect("append");
    }
    drop(engine);
    let log = files(&dir.path().join("log"), "wal").pop().expect("a log");
    let whole = fs::read(&log).expect("read");
    // Every way in which the last frame can be torn.
    let frame = whole.len() / 3;
    for cut in [2 * frame + 1, 2 * frame + 11, whole.len() - 1] {
        let copy = tempfile::tempdir().expect("folder");
        fs::create_dir(copy.path().join("log")).expect("create");
        let torn = copy.path().join("log").join(log.file_name().expect("name"));
        fs::write(&torn, &whole[..cut]).expect("write");
        let engine = open(copy.path());
        assert_eq!(count(&engine, DAY).await, 2);
        assert_eq!(engine.append(&token(2, 2, DAY), &batch(at(DAY, 2_000), 2)).await.expect("append"), Appended::New);
        drop(engine);
        assert_eq!(count(&open(copy.path()), DAY).await, 3, "and the log is whole again");
    }
    let mut damaged = whole.clone();
    damaged[frame + 20] ^= 1;
    fs::write(&log, &damaged).expect("write");
    assert!(matches!(EmbeddedMetrics::open(config(dir.path())), Err(MetricsError::Corrupt(_))));
}

#[tokio::test]
async fn damage_in_a_segment_is_said_and_not_answered() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    engine.append(&token(1, 1, DAY), &batch(at(DAY, 0), 1)).await.expect("append");
    engine.flush().await.expect("flush");
    let path = files(&dir.path().join("segments"), "seg").pop().expect("a segment");
    let whole = fs::read(&path).expect("read");
    let mut damaged = whole.clone();
    damaged[10] ^= 1;
    fs::write(&path, &damaged).expect("write");
    let found = engine.query(&scalar_query(1, at(DAY, 0), at(DAY + 1, 0), 0)).await;
    assert!(matches!(found, Err(MetricsError::Corrupt(_))), "{found:?}");
    drop(engine);
    let last = whole.len() - 20;
    damaged[last] ^= 1;
    fs::write(&path, &damaged).expect("write");
    let error = EmbeddedMetrics::open(config(dir.path())).expect_err("a damaged footer");
    assert!(error.to_string().contains(".seg"), "it names the file: {error}");
    fs::write(&path, &whole).expect("write");
    fs::write(path.with_file_name("00000000000000ff.seg"), b"left by a crash").expect("write");
    let engine = open(dir.path());
    assert_eq!(count(&engine, DAY).await, 1);
    assert_eq!(files(&dir.path().join("segments"), "seg").len(), 1, "orphans are deleted");
}

/// A small file system of its own; unmounted with the guard.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None` where this process may not mount.
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("folder");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(dir.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).output();
        assert!(unmounted.is_ok_and(|output| output.status.success()), "unmounted");
    }
}

#[tokio::test]
async fn a_disk_that_runs_full_in_the_middle_of_a_write_loses_nothing() {
    let Some(mounted) = Mounted::new("size=2m") else {
        #[expect(clippy::print_stderr, reason = "a skipped test says why")]
        {
            eprintln!("skipped: needs the right to mount a tmpfs");
        }
        return;
    };
    let dir = mounted.0.path();
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).expect("write");
    let engine = open(dir);
    let rows = |i: u64| {
        let rows: Vec<_> = (0..1_000).map(|row| heartbeat(1, at(DAY, i * 10_000 + row), u64::MAX - i)).collect();
        FrozenBatch::encode(&rows, &[])
    };
    let mut stored = 0;
    let full = loop {
        match engine.append(&token(stored, stored, DAY), &rows(stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 1_000, "two megabytes are never full");
    };
    assert!(matches!(full, MetricsError::Full { .. }), "{full}");
    assert!(stored > 3);
    assert_eq!(count(&engine, DAY).await, stored * 1_000, "what was refused is not there");
    assert!(engine.append(&token(stored, stored, DAY), &rows(stored)).await.is_err(), "still full");
    drop(engine);
    let engine = open(dir);
    assert_eq!(count(&engine, DAY).await, stored * 1_000);
    // Space is made: the refused batch is taken under the same token, and rows can be flushed.
    fs::remove_file(&ballast).expect("remove");
    assert_eq!(engine.append(&token(stored, stored, DAY), &rows(stored)).await.expect("append"), Appended::New);
    engine.flush().await.expect("flush");
    assert_eq!(count(&engine, DAY).await, (stored + 1) * 1_000);
    drop(engine);
    assert_eq!(count(&open(dir), DAY).await, (stored + 1) * 1_000);
}

#[tokio::test]
async fn upkeep_ends_with_its_token_and_leaves_nothing_in_the_log() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    engine.append(&token(1, 1, DAY), &batch(at(DAY, 0), 1)).await.expect("append");
    let shutdown = tokio_util::sync::CancellationToken::new();
    let upkeep = tokio::spawn(std::sync::Arc::clone(&engine).run_maintenance(shutdown.clone()));
    shutdown.cancel();
    upkeep.await.expect("no panic").expect("ends well");
    let logged: u64 =
        files(&dir.path().join("log"), "wal").iter().map(|path| fs::metadata(path).expect("size").len()).sum();
    assert_eq!(logged, 0);
    let usage = engine.usage().await.expect("usage");
    assert_eq!((usage.heartbeat_rows, usage.named_rows, usage.segments), (1, 0, 1));
}
