//! A full disk, for real: on a small tmpfs, where there may be one.

use crate::{DEVICES, USERS};
use breeze_store::state::{
    Commit, Merge, State, StateError,
    embedded::{Config, EmbeddedState},
};
use bytes::Bytes;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const MIB: usize = 1024 * 1024;

struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None`, saying why, where nothing may be mounted.
    fn mount(mib: usize) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={mib}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        match mount {
            Ok(done) if done.status.success() => Some(Self(folder)),
            refused => {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "skipped: a tmpfs cannot be mounted here: {refused:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes space away.
    fn fill(&self, mib: usize) -> PathBuf {
        let path = self.path().join("filler");
        std::fs::write(&path, vec![1; mib * MIB]).expect("there is room for it");
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Bytes that do not compress.
fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect::<Vec<u8>>().into()
}

async fn put(state: &EmbeddedState, number: u64) -> Result<(), StateError> {
    let value = Some(noise(number, MIB / 2));
    let partition = Bytes::copy_from_slice(&number.to_be_bytes());
    state.merge(vec![Merge { table: DEVICES, partition, key: "k".into(), version: 1, value }]).await
}

/// Writes until it is refused; how many were acknowledged, and with what it was refused.
async fn fill_up(state: &EmbeddedState, from: u64) -> (u64, StateError) {
    for number in from..from + 2_000 {
        if let Err(error) = put(state, number).await {
            return (number, error);
        }
    }
    panic!("a small disk takes a gigabyte");
}

async fn all_there(state: &EmbeddedState, acknowledged: u64) {
    for number in 0..acknowledged {
        let row = state.get(DEVICES.into(), &number.to_be_bytes(), b"k").await.expect("readable");
        assert_eq!(row.expect("it was acknowledged").value, noise(number, MIB / 2), "row {number}");
    }
}

async fn recovers(state: &EmbeddedState, number: u64) {
    let began = Instant::now();
    while let Err(error) = put(state, number).await {
        assert!(began.elapsed() < Duration::from_secs(30), "still refused: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn refuses_before_the_reserve_is_touched() {
    let Some(disk) = Tmpfs::mount(160) else { return };
    let config = Config { reserve_bytes: 32 * MIB as u64, memtable_bytes: 4 * MIB as u64, ..Config::default() };
    let state = EmbeddedState::open(disk.path().join("state"), config).await.expect("it opens");
    put(&state, 0).await.expect("there is room");
    let filler = disk.fill(90);
    let (acknowledged, error) = fill_up(&state, 1).await;
    assert!(matches!(error, StateError::Full { .. }) && error.is_definite(), "{error}");
    assert!(error.to_string().contains("free space"), "{error}");
    assert!(acknowledged > 1, "some fitted");
    let commit = state.commit(Commit::new(USERS, "p").put("k", "v")).await;
    assert!(matches!(commit, Err(StateError::Full { .. })));
    assert_eq!(state.partition_version(USERS, b"p").await.expect("readable"), 0);
    all_there(&state, acknowledged).await;

    std::fs::remove_file(filler).expect("removed");
    put(&state, acknowledged).await.expect("at once, without a restart");
    all_there(&state, acknowledged + 1).await;
    state.close().await;
}

/// Without a reserve the engine itself runs into the wall, breaks, and comes back.
#[tokio::test]
async fn comes_back_after_the_engine_broke() {
    let Some(disk) = Tmpfs::mount(96) else { return };
    let config = Config { reserve_bytes: 0, memtable_bytes: 4 * MIB as u64, ..Config::default() };
    let state = EmbeddedState::open(disk.path().join("state"), config.clone()).await.expect("it opens");
    let mut acknowledged = 0;
    for _ in 0..7 {
        put(&state, acknowledged).await.expect("there is room");
        acknowledged += 1;
    }
    // What is in memory by now does not fit on the disk any more.
    let free = rustix::fs::statvfs(disk.path()).map(|stat| stat.f_bavail * stat.f_frsize).expect("measured");
    let filler = disk.fill(usize::try_from(free).expect("small") / MIB - 2);
    let began = Instant::now();
    loop {
        match put(&state, acknowledged).await {
            Ok(()) => acknowledged += 1,
            Err(StateError::Unavailable(_)) => break,
            Err(StateError::Full { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("not what it is: {other}"),
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the engine does not notice that it cannot flush");
    }
    std::fs::remove_file(filler).expect("removed");
    recovers(&state, acknowledged).await;
    all_there(&state, acknowledged + 1).await;
    state.close().await;
    let state = EmbeddedState::open(disk.path().join("state"), config).await.expect("it opens again");
    all_there(&state, acknowledged + 1).await;
    state.close().await;
}
