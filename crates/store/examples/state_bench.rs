//! What a state does a second, and what it costs:
//! `cargo run --release -p breeze-store --example state_bench [FOLDER | cql=HOST:PORT]`.
//!
//! The embedded one in a folder, or one on a database (data centre "dc1", one copy, keyspaces
//! `breeze_bench_*`, made when missing). CPU is of this whole process, engine threads included. The folder's disk decides the commits of one
//! caller, since each waits for a `fdatasync` of its own.

use breeze_store::state::{
    Assert, Commit, CommitOutcome, CommitTable, Family, Merge, MergeTable, Serial, State,
    cql::{CqlConfig, CqlState, migrate},
    embedded::{Config, EmbeddedState},
};
use bytes::Bytes;
use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const USERS: CommitTable = CommitTable::new("user", Family::Config, Serial::Local);
const DEVICES: MergeTable = MergeTable::new("device_state", Family::Device);
const DEVICE_COUNT: u64 = 10_000;
const VALUE_BYTES: usize = 300;
const RUN: Duration = Duration::from_secs(4);
const DELIVERED_RUNS: u32 = 5;

fn cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

fn value(seed: u64) -> Bytes {
    let words =
        (0..VALUE_BYTES as u64 / 8).flat_map(|word| (seed ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    words.collect::<Vec<u8>>().into()
}

fn device(number: u64) -> Bytes {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Bytes::copy_from_slice(&id)
}

/// Runs `work` on `callers` tasks for a while and prints what came of it.
async fn measure<F: Future<Output = u64> + Send>(
    name: &str,
    callers: u64,
    work: impl Fn(u64) -> F + Send + Sync + 'static,
) {
    let (work, numbers, done) = (Arc::new(work), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (began, spent) = (Instant::now(), cpu());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let (work, numbers, done) = (Arc::clone(&work), Arc::clone(&numbers), Arc::clone(&done));
        // One task polls its own work; it is not spawned, so that the future need not be 'static.
        tasks.spawn(async move {
            while began.elapsed() < RUN {
                let rows = work(numbers.fetch_add(1, Ordering::Relaxed)).await;
                done.fetch_add(rows, Ordering::Relaxed);
            }
        });
    }
    tasks.join_all().await;
    let (rows, elapsed, spent) = (done.load(Ordering::Relaxed), began.elapsed(), cpu() - spent);
    let per_second = rows as f64 / elapsed.as_secs_f64();
    let cpu_us = spent.as_secs_f64() * 1e6 / rows as f64;
    let _ = writeln!(std::io::stdout(), "{name:<48} {per_second:>10.0} /s {cpu_us:>8.1} us CPU each");
}

async fn database(address: &str) -> CqlState {
    let config = CqlConfig {
        contact_points: vec![address.to_owned()],
        datacenter: "dc1".into(),
        config_datacenter: "dc1".into(),
        keyspace_prefix: "breeze_bench".into(),
        replication: [("dc1".to_owned(), 1)].into(),
        tables: vec![USERS.into(), DEVICES.into()],
        ..CqlConfig::default()
    };
    migrate(&config, &config.tables).await.expect("migrated");
    CqlState::connect(config).await.expect("connected")
}

/// As the control plane does it: each commit is followed by its delivery, while a sweep goes on every
/// five seconds. Twice, since what sweeps read may grow.
async fn delivered(state: &Arc<dyn State>) {
    let on = Arc::clone(state);
    let sweeps = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(5));
        loop {
            every.tick().await;
            let mut cursor = None;
            loop {
                cursor = on.outbox_hints(cursor, 256).await.expect("readable").next;
                if cursor.is_none() {
                    break;
                }
            }
        }
    });
    let run: u64 = rand::random();
    for _ in 0..DELIVERED_RUNS {
        let on = Arc::clone(state);
        measure("commit with 1 item, delivered, 64 callers", 64, move |number| {
            let state = Arc::clone(&on);
            async move {
                let partition = Bytes::from([run.to_be_bytes(), rand::random::<u64>().to_be_bytes()].concat());
                let commit = Commit::new(USERS, partition.clone()).put("user", value(number)).outbox("index", "");
                let outcome = state.commit(commit).await.expect("judged");
                let items = state.outbox(USERS, &partition, 64).await.expect("readable");
                let last = items.last().expect("it was committed").position;
                state.outbox_delivered(USERS, &partition, last).await.expect("written");
                u64::from(matches!(outcome, CommitOutcome::Applied { .. }))
            }
        })
        .await;
    }
    sweeps.abort();
}

#[tokio::main]
async fn main() {
    let temporary = tempfile::tempdir().expect("a folder");
    let argument = std::env::args().nth(1);
    let mut embedded = None;
    let state: Arc<dyn State> = match argument.as_deref().and_then(|argument| argument.strip_prefix("cql=")) {
        Some(address) => Arc::new(database(address).await),
        None => {
            let folder = argument.map_or_else(|| temporary.path().to_owned(), Into::into);
            let config = Config { reserve_bytes: 0, ..Config::default() };
            let state = Arc::new(EmbeddedState::open(folder.join("state-bench"), config).await.expect("it opens"));
            embedded = Some(Arc::clone(&state));
            state
        }
    };

    for callers in [1, 16, 256] {
        let on = Arc::clone(&state);
        measure(&format!("commit, {callers} callers, 1 put"), callers, move |number| {
            let state = Arc::clone(&on);
            async move {
                let commit = Commit::new(USERS, device(number % DEVICE_COUNT)).put("user", value(number));
                let outcome = state.commit(commit).await.expect("judged");
                u64::from(matches!(outcome, CommitOutcome::Applied { .. }))
            }
        })
        .await;
    }
    let run: u64 = rand::random();
    let on = Arc::clone(&state);
    measure("commit, 256 callers, assert, 2 puts, 1 item", 256, move |number| {
        let state = Arc::clone(&on);
        async move {
            let commit = Commit::new(USERS, Bytes::from([run.to_be_bytes(), number.to_be_bytes()].concat()))
                .assert(Assert::Absent("user".into()))
                .put("user", value(number))
                .put("index", "")
                .outbox("index", device(number));
            u64::from(matches!(state.commit(commit).await.expect("judged"), CommitOutcome::Applied { .. }))
        }
    })
    .await;
    delivered(&state).await;
    for rows in [1, 100, 1000] {
        let on = Arc::clone(&state);
        measure(&format!("merge, 4 callers, {rows} rows a call"), 4, move |number| {
            let state = Arc::clone(&on);
            async move {
                let merge = |row: u64| Merge {
                    table: DEVICES,
                    partition: device((number * rows + row) % DEVICE_COUNT),
                    key: "latest".into(),
                    version: number * rows + row + rows * 1_000_000_000,
                    value: Some(value(number + row)),
                };
                state.merge((0..rows).map(merge).collect()).await.expect("merged");
                rows
            }
        })
        .await;
    }
    for callers in [1, 16] {
        let on = Arc::clone(&state);
        measure(&format!("get, {callers} callers"), callers, move |number| {
            let state = Arc::clone(&on);
            async move {
                let row = state.get(DEVICES.into(), &device(number % DEVICE_COUNT), b"latest").await.expect("readable");
                u64::from(row.is_some())
            }
        })
        .await;
    }
    if let Some(embedded) = embedded {
        embedded.close().await;
    }
}
