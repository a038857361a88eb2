//! SIGKILL in a loop, with the set of acknowledged writes as the oracle.

use crate::{DEVICES, USERS, open};
use breeze_store::state::{Assert, Commit, CommitOutcome, Merge, State};
use bytes::Bytes;
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
};

const FOLDER: &str = "BREEZE_STORE_CRASH_FOLDER";
const ROUNDS: usize = 5;
const WRITERS: u8 = 8;

fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().expect("eight bytes"))
}

/// The child: writes until it is killed, and says what was acknowledged.
#[test]
#[ignore = "run by the test below, as a process of its own"]
fn writes_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let state = Arc::new(open(folder.as_ref()).await);
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let state = Arc::clone(&state);
            tasks.spawn(async move {
                loop {
                    let version =
                        if writer % 2 == 0 { commit(&*state, writer).await } else { merge(&*state, writer).await };
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {writer} {version}").and_then(|()| out.flush()).expect("the parent listens");
                }
            });
        }
        tasks.join_all().await;
    });
}

/// Two rows and an item per commit, so that a torn one would show.
async fn commit(state: &dyn State, writer: u8) -> u64 {
    let version = state.partition_version(USERS, &[writer]).await.expect("readable");
    let value = Bytes::copy_from_slice(&(version + 1).to_be_bytes());
    let commit = Commit::new(USERS, vec![writer])
        .assert(Assert::PartitionVersion(version))
        .put("a", value.clone())
        .put("b", value.clone())
        .outbox("topic", value);
    match state.commit(commit).await.expect("judged") {
        CommitOutcome::Applied { version } => version,
        CommitOutcome::Conflict { .. } => panic!("nobody else writes here"),
    }
}

async fn merge(state: &dyn State, writer: u8) -> u64 {
    let row = state.get(DEVICES.into(), &[writer], b"latest").await.expect("readable");
    let version = row.map_or(1, |row| row.version + 1);
    let value = Some(Bytes::copy_from_slice(&version.to_be_bytes()));
    let merge = Merge { table: DEVICES, partition: vec![writer].into(), key: "latest".into(), version, value };
    state.merge(vec![merge]).await.expect("merged");
    version
}

#[tokio::test]
async fn every_acknowledged_write_survives_sigkill() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut acknowledged: HashMap<u8, u64> = HashMap::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "crash::writes_until_killed", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let (mut line, mut seen) = (String::new(), 0);
        while lines.read_line(&mut line).expect("readable") > 0 {
            // A line without its end was cut off by the kill.
            if let Some(ack) = line.strip_suffix('\n').and_then(|line| line.split("ack ").nth(1)) {
                let (writer, version) = ack.split_once(' ').expect("two numbers");
                let version: u64 = version.parse().expect("a number");
                let last = acknowledged.entry(writer.parse().expect("a number")).or_default();
                assert!(version > *last, "acknowledged {version} after {last}");
                *last = version;
                seen += 1;
                if seen == 100 + 90 * round {
                    child.kill().expect("killed");
                }
            }
            line.clear();
        }
        child.wait().expect("it is gone");
        assert!(seen >= 100 + 90 * round, "round {round}: the child stopped by itself after {seen}");
        total += seen;

        let state = open(folder.path()).await;
        for (&writer, &last) in &acknowledged {
            if writer % 2 == 0 {
                let version = state.partition_version(USERS, &[writer]).await.expect("readable");
                assert!(version == last || version == last + 1, "round {round}: {version} is there, {last} was said");
                for key in [b"a", b"b"] {
                    let row = state.get(USERS.into(), &[writer], key).await.expect("readable").expect("it was put");
                    assert_eq!((row.version, number(&row.value)), (version, version), "commits are whole");
                }
                let items = state.outbox(USERS, &[writer], 1).await.expect("readable");
                assert_eq!(items[0].position.version, 1);
            } else {
                let row = state.get(DEVICES.into(), &[writer], b"latest").await.expect("readable").expect("it was put");
                assert!(row.version == last || row.version == last + 1);
                assert_eq!(number(&row.value), row.version);
            }
        }
        state.close().await;
    }
    assert!(total >= ROUNDS * 100);
}
