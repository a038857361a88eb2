//! Answers that are lost between the database and us: a commit is decided all the same, and never
//! applied twice.
//!
//! A proxy between the two reads the frames of the protocol (CQL binary protocol v4, section 2) and
//! does to the next batch what a test asks for.

use crate::{USERS, apart::Apart, cql};
use breeze_store::state::{
    Commit, CommitOutcome, Scan, State, StateError,
    cql::{CqlConfig, CqlState},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU32, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::sleep,
};

const HEADER: usize = 9;
const BATCH: u8 = 0x0d;

/// What happens to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It arrives; the connection is cut before its answer does.
    CutAnswer,
    /// It never arrives; the connection is cut.
    CutRequest,
    /// The connection is cut, and it arrives later.
    Late(Duration),
    /// It arrives; its answer does not, and nobody says so.
    SwallowAnswer,
    /// It arrives late, within what the caller waits.
    Slow(Duration),
}

#[derive(Debug, Default)]
struct Plan {
    next: Mutex<Option<Fault>>,
    done: AtomicU32,
}

struct Proxy {
    address: SocketAddr,
    plan: Arc<Plan>,
    _running: JoinSet<()>,
}

impl Proxy {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let plan = Arc::new(Plan::default());
        let mut running = JoinSet::new();
        let planned = Arc::clone(&plan);
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(upstream) = TcpStream::connect(&server).await else { continue };
                connections.spawn(pass(client, upstream, Arc::clone(&planned)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, plan, _running: running }
    }
}

async fn frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    from.read_exact(&mut frame).await.ok()?;
    let length = u32::from_be_bytes(frame[5..].try_into().expect("four bytes"));
    frame.resize(HEADER + length as usize, 0);
    from.read_exact(&mut frame[HEADER..]).await.ok()?;
    Some(frame)
}

fn stream_of(frame: &[u8]) -> [u8; 2] {
    [frame[2], frame[3]]
}

async fn pass(client: TcpStream, server: TcpStream, plan: Arc<Plan>) {
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let swallowed = Arc::new(Mutex::new(HashSet::new()));
    let answers = tokio::spawn(answers(server_in, client_out, Arc::clone(&swallowed)));
    let held = requests(client_in, server_out, &plan, &swallowed).await;
    answers.abort();
    // The answers' half of the client is gone by now: for the caller the connection is cut.
    let _ = answers.await;
    if let Some((mut server, frame, after)) = held {
        sleep(after).await;
        let _ = server.write_all(&frame).await;
        // Until the server has read and done it.
        sleep(Duration::from_secs(2)).await;
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallowed: Arc<Mutex<HashSet<[u8; 2]>>>) {
    while let Some(frame) = frame(&mut from).await {
        if swallowed.lock().remove(&stream_of(&frame)) {
            continue;
        }
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Until the connection ends. A frame that is to be sent afterwards, and how long afterwards.
async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    plan: &Plan,
    swallowed: &Mutex<HashSet<[u8; 2]>>,
) -> Option<(OwnedWriteHalf, Vec<u8>, Duration)> {
    while let Some(frame) = frame(&mut from).await {
        let fault = if frame[4] == BATCH { plan.next.lock().take() } else { None };
        if fault.is_some() {
            plan.done.fetch_add(1, Ordering::SeqCst);
        }
        match fault {
            None => {}
            Some(Fault::Slow(wait)) => sleep(wait).await,
            Some(Fault::SwallowAnswer) => drop(swallowed.lock().insert(stream_of(&frame))),
            Some(Fault::CutRequest) => return None,
            Some(Fault::CutAnswer) => return Some((to, frame, Duration::ZERO)),
            Some(Fault::Late(after)) => return Some((to, frame, after)),
        }
        to.write_all(&frame).await.ok()?;
    }
    None
}

struct World {
    proxy: Proxy,
    broken: Apart<CqlState>,
    direct: Apart<CqlState>,
}

async fn world() -> Option<World> {
    let config = cql::config()?;
    let direct = Apart::new(cql::connect().await?);
    let proxy = Proxy::start(config.contact_points[0].clone()).await;
    let through = CqlConfig {
        contact_points: vec![proxy.address.to_string()],
        // What is swallowed is missed after this long.
        request_timeout: Duration::from_secs(3),
        ..config
    };
    let broken = direct.sharing(CqlState::connect(through).await.expect("through the proxy"));
    Some(World { proxy, broken, direct })
}

const FAULTS: [Fault; 6] = [
    Fault::CutAnswer,
    Fault::CutRequest,
    Fault::SwallowAnswer,
    Fault::Late(Duration::from_millis(5)),
    Fault::Late(Duration::from_millis(400)),
    Fault::Slow(Duration::from_millis(300)),
];

/// One caller, a fault at every commit: all are decided, each is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_whose_answer_is_lost_is_decided() {
    let Some(world) = world().await else { return };
    for (number, fault) in (1u64..).zip(FAULTS) {
        *world.proxy.plan.next.lock() = Some(fault);
        let key = Bytes::copy_from_slice(&number.to_be_bytes());
        let commit = Commit::new(USERS, "one").put(key, "v").outbox("topic", "x");
        let outcome = world.broken.commit(commit).await;
        assert_eq!(outcome.expect("decided"), CommitOutcome::Applied { version: number }, "{fault:?}");
    }
    assert_eq!(world.proxy.plan.done.load(Ordering::SeqCst), 6, "every fault has happened");
    // What was held back has arrived by now, and came too late.
    sleep(Duration::from_millis(600)).await;
    assert_eq!(world.direct.partition_version(USERS, b"one").await.expect("readable"), 6);
    let page = world.direct.scan(USERS.into(), b"one", Scan::default()).await.expect("readable");
    let versions: Vec<u64> = page.rows.iter().map(|row| row.version).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
    let items = world.direct.outbox(USERS, b"one", 0).await.expect("readable");
    assert_eq!(items.iter().map(|item| item.position.version).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}

/// Others commit to the same partition meanwhile: what is said to be applied is, once; what is not
/// said may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_applied_twice_among_other_writers() {
    let Some(World { proxy, broken, direct }) = world().await else { return };
    let (broken, direct) = (Arc::new(broken), Arc::new(direct));
    let mut writers = JoinSet::new();
    for writer in 0..4u64 {
        let state = if writer < 2 { Arc::clone(&broken) } else { Arc::clone(&direct) };
        writers.spawn(async move {
            let mut said = Vec::new();
            for number in 0..10u64 {
                let key = Bytes::copy_from_slice(&(writer << 32 | number).to_be_bytes());
                said.push((key.clone(), state.commit(Commit::new(USERS, "many").put(key, "v")).await));
            }
            said
        });
    }
    let plan = Arc::clone(&proxy.plan);
    let breaking = tokio::spawn(async move {
        for round in 0.. {
            *plan.next.lock() = Some(FAULTS[round % FAULTS.len()]);
            while plan.next.lock().is_some() {
                sleep(Duration::from_millis(2)).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
    });
    let said: Vec<(Bytes, Result<CommitOutcome, StateError>)> =
        writers.join_all().await.into_iter().flatten().collect();
    breaking.abort();
    sleep(Duration::from_millis(600)).await;
    let page = direct.scan(USERS.into(), b"many", Scan::default()).await.expect("readable");
    let rows: BTreeMap<Bytes, u64> = page.rows.into_iter().map(|row| (row.key, row.version)).collect();
    let mut unknown = 0;
    for (key, outcome) in said {
        match outcome {
            Ok(CommitOutcome::Applied { version }) => assert_eq!(rows.get(&key), Some(&version)),
            Ok(CommitOutcome::Conflict { .. }) => panic!("nothing was asserted"),
            Err(error) => {
                assert!(!error.is_definite(), "{error}");
                unknown += 1;
            }
        }
    }
    eprintln!("{} faults, {unknown} of 40 commits without an answer", proxy.plan.done.load(Ordering::SeqCst));
    let version = direct.partition_version(USERS, b"many").await.expect("readable");
    assert_eq!(version, rows.len() as u64, "each version has one row: none was applied twice");
    let versions: HashSet<u64> = rows.values().copied().collect();
    assert_eq!(versions.len(), rows.len());
}
