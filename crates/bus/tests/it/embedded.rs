//! What only the embedded bus has: limits, trimming by files, recovery, and a disk that fills.

use breeze_bus::{Bus, BusError, EmbeddedBus, EmbeddedBusConfig};
use bytes::Bytes;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

fn config(dir: &Path) -> EmbeddedBusConfig {
    EmbeddedBusConfig {
        max_stream_bytes: 64 * 1024,
        segment_bytes: 8 * 1024,
        reserve_bytes: 0,
        tail_bytes: 4 * 1024,
        ..EmbeddedBusConfig::new(dir)
    }
}

fn open(dir: &Path) -> EmbeddedBus {
    EmbeddedBus::open(config(dir)).expect("opens")
}

fn segments(dir: &Path, stream: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir.join(stream))
        .expect("the stream's folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn a_full_stream_refuses_until_it_is_trimmed_and_others_go_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let bus = open(dir.path());
    let payload = Bytes::from(vec![7; 1000]);
    let mut last = 0;
    let refused = loop {
        match bus.append("s", "", payload.clone()).await {
            Ok(position) => last = position,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, BusError::Full { .. }), "{refused}");
    assert!(refused.is_definite());
    assert_eq!(bus.append("other", "", payload.clone()).await, Ok(1));
    assert_eq!(bus.extent("s").await.expect("an extent").last, last);

    bus.trim("s", last / 2).await.expect("trims");
    assert_eq!(bus.append("s", "", payload.clone()).await, Ok(last + 1), "no position was used up by a refusal");
    let first = bus.read("s", 0, 1, Duration::ZERO).await.expect("reads")[0].position;
    assert_eq!(first, last / 2);
}

#[tokio::test]
async fn a_stream_whose_last_file_is_full_and_trimmed_takes_appends_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = EmbeddedBusConfig { max_stream_bytes: 4096, segment_bytes: 2048, ..config(dir.path()) };
    let bus = EmbeddedBus::open(config).expect("opens");
    for round in 0..20 {
        let position = bus.append("s", "", Bytes::from(vec![0; 1900])).await.expect("has room");
        assert_eq!(position, round + 1);
        bus.trim("s", position + 1).await.expect("trims");
    }
    assert!(segments(dir.path(), "s").len() <= 2);
}

#[tokio::test]
async fn files_go_with_the_trim_and_positions_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    {
        let bus = open(dir.path());
        for _ in 0..40 {
            bus.append("s", "", Bytes::from(vec![1; 1000])).await.expect("appends");
        }
        assert!(segments(dir.path(), "s").len() >= 5);
        bus.trim("s", 1000).await.expect("trims");
        assert_eq!(segments(dir.path(), "s").len(), 1);
    }
    let bus = open(dir.path());
    let extent = bus.extent("s").await.expect("an extent");
    assert_eq!((extent.first, extent.last), (41, 40), "the trim point is remembered");
    assert_eq!(bus.append("s", "", Bytes::new()).await, Ok(41));
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_other_damage_is_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    {
        let bus = open(dir.path());
        for number in 0..5u8 {
            bus.append("s", "", Bytes::from(vec![number; 100])).await.expect("appends");
        }
    }
    let path = segments(dir.path(), "s").pop().expect("a segment");
    let whole = fs::read(&path).expect("reads");

    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[24..80]);
    fs::write(&path, &torn).expect("writes");
    {
        let bus = open(dir.path());
        assert_eq!(bus.extent("s").await.expect("an extent").last, 5);
        assert_eq!(bus.read("s", 0, 10_000, Duration::ZERO).await.expect("reads").len(), 5);
    }
    assert_eq!(fs::read(&path).expect("reads"), whole);

    let mut damaged = whole;
    damaged[24 + 60] ^= 1;
    fs::write(&path, &damaged).expect("writes");
    let error = EmbeddedBus::open(config(dir.path())).expect_err("an acknowledged entry is damaged");
    assert!(matches!(&error, BusError::Corrupt(text) if text.contains(".seg at offset 24: entry 1")), "{error}");
    assert_eq!(fs::read(&path).expect("reads"), damaged, "nothing is thrown away");
}

#[tokio::test]
async fn a_missing_file_in_the_middle_is_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    {
        let bus = open(dir.path());
        for _ in 0..30 {
            bus.append("s", "", Bytes::from(vec![1; 1000])).await.expect("appends");
        }
    }
    fs::remove_file(&segments(dir.path(), "s")[1]).expect("removes");
    let error = EmbeddedBus::open(config(dir.path())).expect_err("entries are missing");
    assert!(matches!(&error, BusError::Corrupt(text) if text.contains("are missing")), "{error}");
}

#[tokio::test]
async fn a_folder_has_one_process_at_a_time_and_closing_ends_everything() {
    let dir = tempfile::tempdir().expect("a folder");
    let bus = Arc::new(open(dir.path()));
    let error = EmbeddedBus::open(config(dir.path())).expect_err("in use");
    assert!(error.to_string().contains("in use by another process"), "{error}");

    let mut subscription = bus.subscribe("x").await.expect("subscribes");
    let reader = tokio::spawn({
        let bus = bus.clone();
        async move { bus.read("s", 1, 1, Duration::from_secs(60)).await }
    });
    while Arc::strong_count(&bus) < 2 {
        tokio::task::yield_now().await;
    }
    bus.close().await;
    assert_eq!(subscription.next().await, None);
    assert!(matches!(bus.append("s", "", Bytes::new()).await, Err(BusError::Unavailable(_))));
    assert!(matches!(reader.await.expect("no panic"), Err(BusError::Unavailable(_))));
}

#[tokio::test]
async fn appends_that_wait_together_share_syncs() {
    let dir = tempfile::tempdir().expect("a folder");
    let bus = Arc::new(EmbeddedBus::open(EmbeddedBusConfig::new(dir.path())).expect("opens"));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..400 {
        let bus = bus.clone();
        tasks.spawn(async move {
            bus.append(&format!("lane.local.{}", number % 4), "", Bytes::from(vec![0; 2000])).await.expect("appends")
        });
    }
    tasks.join_all().await;
    let stats = bus.stats();
    assert_eq!(stats.appended, 400);
    assert!(stats.syncs <= 100, "400 appends took {} syncs", stats.syncs);
}

/// A small file system of its own, unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: &Path, size: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(path)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(path.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_says_so_and_recovers() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(_mount) = Tmpfs::mount(dir.path(), "2m") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    for reserve_bytes in [0, 256 * 1024] {
        let config = EmbeddedBusConfig {
            reserve_bytes,
            max_stream_bytes: 1 << 30,
            segment_bytes: 256 * 1024,
            ..EmbeddedBusConfig::new(dir.path().join(format!("bus-{reserve_bytes}")))
        };
        let bus = EmbeddedBus::open(config.clone()).expect("opens");
        let payload = Bytes::from(vec![9; 10_000]);
        let mut last = 0;
        let refused = loop {
            match bus.append("s", "", payload.clone()).await {
                Ok(position) => last = position,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, BusError::Full { .. }), "{refused}");
        assert!(last > 50, "{last}");
        bus.trim("s", last - 10).await.expect("trims");
        assert_eq!(bus.append("s", "", payload.clone()).await, Ok(last + 1), "recovers without a restart");
        drop(bus);
        let bus = EmbeddedBus::open(config).expect("opens again");
        let entries = bus.read("s", 0, usize::MAX, Duration::ZERO).await.expect("reads");
        assert!(entries.iter().all(|entry| entry.payload == payload));
        assert_eq!(bus.extent("s").await.expect("an extent").last, last + 1);
        bus.trim("s", last + 2).await.expect("trims");
        drop(bus);
        fs::remove_dir_all(dir.path().join(format!("bus-{reserve_bytes}"))).expect("removes");
    }
}

#[tokio::test]
async fn a_stream_that_was_made_anew_is_another_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut identities = Vec::new();
    for round in 0..4 {
        let bus = open(dir.path());
        match round {
            // It stays the same when it is opened again.
            1 => assert_eq!(bus.extent("s").await.expect("there").identity, identities[0]),
            // What an earlier version made is given one.
            2 => assert_ne!(bus.extent("s").await.expect("there").identity, 0),
            0 | 3 => assert_eq!(bus.extent("s").await.expect("an extent").identity, 0, "there is none"),
            _ => unreachable!(),
        }
        bus.append("s", "", Bytes::from_static(b"x")).await.expect("appends");
        identities.push(bus.extent("s").await.expect("there").identity);
        drop(bus);
        match round {
            1 => fs::remove_file(dir.path().join("s/identity")).expect("removes"),
            2 => fs::remove_dir_all(dir.path().join("s")).expect("removes"),
            _ => {}
        }
    }
    assert_eq!(identities[0], identities[1]);
    assert_ne!(identities[1], identities[2]);
    assert_ne!(identities[2], identities[3]);
}
