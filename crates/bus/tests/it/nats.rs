//! NATS against the conformance suite, and against what happens to servers.

use crate::nats_server::{Server, connect, eventually, program};
use async_trait::async_trait;
use breeze_bus::{
    Bus, BusError, MAX_PAYLOAD_BYTES,
    conformance::{self, Backend},
    nats::{NatsBus, Streams, migrate},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const MIB: u64 = 1024 * 1024;
const SOON: Duration = Duration::from_secs(10);
/// The client's pauses between two attempts grow to six seconds.
const RECONNECTED: Duration = Duration::from_secs(60);

/// Connections live here, whichever runtime a test calls from.
fn background() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    })
}

/// One server for all cases; each has streams of its own folder, that is, a new server folder each.
struct Nats {
    server: Arc<Mutex<Server>>,
    bus: Option<Arc<NatsBus>>,
    _dir: TempDir,
}

impl Nats {
    fn open(streams: &[&str]) -> Option<Self> {
        let program = program()?;
        let dir = tempfile::tempdir().expect("a folder");
        let server = Server::single(&program, dir.path(), "eu");
        let names: Vec<String> = streams.iter().map(|name| (*name).to_owned()).collect();
        let config = server.config("eu", "test");
        let made = async move {
            eventually(|| migrate::ensure(&config, &names, 1, 64 * MIB)).await;
            Arc::new(connect(&config).await)
        };
        let bus = std::thread::scope(|scope| scope.spawn(|| background().block_on(made)).join().expect("connects"));
        Some(Self { server: Arc::new(Mutex::new(server)), bus: Some(bus), _dir: dir })
    }
}

#[async_trait]
impl Backend for Nats {
    fn bus(&self) -> Arc<dyn Bus> {
        self.bus.clone().expect("open")
    }

    /// The server is killed and comes back; the connection finds it again by itself.
    async fn reopen(&mut self) -> bool {
        let bus = self.bus.clone().expect("open");
        let server = self.server.clone();
        server.lock().expect("not poisoned").kill();
        within(RECONNECTED, "that the connection is lost", bus.when_connected(false)).await;
        tokio::task::spawn_blocking(move || server.lock().expect("not poisoned").restart()).await.expect("restarts");
        within(RECONNECTED, "that the connection is back", bus.when_connected(true)).await;
        for stream in 0..3 {
            eventually(|| bus.extent(["model.s-0", "model.s-1", "model.s-2"][stream])).await;
        }
        true
    }
}

#[test]
fn nats_streams_match_the_model() {
    if program().is_some() {
        conformance::streams_match_the_model(8, || {
            Nats::open(&["model.s-0", "model.s-1", "model.s-2"]).expect("a server")
        });
    }
}

#[tokio::test]
async fn nats_plays_the_scenes() {
    let Some(nats) = Nats::open(&["waits.a", "waits.b", "limits"]) else { return };
    conformance::scenes(nats.bus()).await;
}

#[tokio::test]
async fn a_full_stream_refuses_and_takes_again_once_it_is_trimmed() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::single(&program, dir.path(), "");
    let config = server.config("", "test");
    let names = ["lane.eu.0".to_owned()];
    eventually(|| migrate::ensure(&config, &names, 1, MIB)).await;
    let bus = connect(&config).await;
    let payload = Bytes::from(vec![7; 200 * 1024]);
    let mut stored = 0;
    let error = loop {
        match bus.append("lane.eu.0", "", payload.clone()).await {
            Ok(position) => stored = position,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, BusError::Full { stream, .. } if stream == "lane.eu.0"), "{error:?}");
    assert_eq!(stored, 5);
    bus.trim("lane.eu.0", 3).await.expect("trims");
    assert_eq!(bus.append("lane.eu.0", "", payload).await, Ok(6));
    let held = bus.read("lane.eu.0", 0, MAX_PAYLOAD_BYTES, Duration::ZERO).await.expect("reads");
    assert_eq!(held.iter().map(|entry| entry.position).collect::<Vec<_>>(), [3, 4, 5, 6]);
}

#[tokio::test]
async fn a_repeated_id_is_stored_once() {
    let Some(nats) = Nats::open(&["lane.eu.0"]) else { return };
    let bus = nats.bus();
    assert_eq!(bus.append("lane.eu.0", "r-1", Bytes::from_static(b"first")).await, Ok(1));
    assert_eq!(bus.append("lane.eu.0", "r-2", Bytes::from_static(b"second")).await, Ok(2));
    assert_eq!(bus.append("lane.eu.0", "r-1", Bytes::from_static(b"first")).await, Ok(1));
    assert_eq!(bus.extent("lane.eu.0").await.expect("an extent").last, 2);
    // Whoever uses somebody's id first must not make what that one writes vanish.
    assert_eq!(bus.append("lane.eu.0", "r-1", Bytes::from_static(b"another")).await, Ok(3));
    let held = bus.read("lane.eu.0", 1, MAX_PAYLOAD_BYTES, Duration::ZERO).await.expect("reads");
    assert_eq!(held[2].payload, "another");
}

/// The plain client of the server that a case uses, for what a bus does not do.
async fn plain(nats: &Nats) -> async_nats::Client {
    let port = nats.server.lock().expect("not poisoned").port;
    async_nats::connect(format!("nats://127.0.0.1:{port}")).await.expect("connects")
}

/// What comes next, or words of what did not come.
async fn soon<T>(what: &str, next: impl Future<Output = Option<T>>) -> T {
    in_time(what, next).await.unwrap_or_else(|| panic!("{what}: it has ended"))
}

/// As [`soon`], of what has an outcome.
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    within(SOON, what, work).await
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// The server has handled all that this client sent: a flush alone ends when the bytes are on their way.
async fn settle(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.expect("subscribes");
    client.publish(inbox, Bytes::new()).await.expect("sends");
    soon("the server's echo", echo.next()).await;
}

async fn api(client: &async_nats::Client, subject: &str, request: &str) {
    let asked = client.request(subject.to_owned(), Bytes::from(request.to_owned()));
    let answer = in_time(subject, asked).await.expect("answers");
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert!(answer.get("error").is_none(), "{subject}: {answer}");
}

/// A reader and a trim that know a stream from before it was lost do no harm to the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_made_anew_is_neither_trimmed_beyond_its_end_nor_asked_for_ever() {
    let Some(nats) = Nats::open(&["lane.eu.0"]) else { return };
    let (bus, client) = (nats.bus(), plain(&nats).await);
    for number in 1..=9 {
        assert_eq!(bus.append("lane.eu.0", "", Bytes::from_static(b"old")).await, Ok(number));
    }
    assert_eq!(bus.read("lane.eu.0", 1, MAX_PAYLOAD_BYTES, Duration::ZERO).await.expect("reads").len(), 9);
    api(&client, "$JS.API.STREAM.DELETE.lane_eu_0", "").await;
    let config = nats.server.lock().expect("not poisoned").config("eu", "other");
    migrate::ensure(&config, &["lane.eu.0".to_owned()], 1, 64 * MIB).await.expect("made anew");
    let other = connect(&config).await;
    for number in 1..=2 {
        assert_eq!(other.append("lane.eu.0", "", Bytes::from_static(b"new")).await, Ok(number));
    }

    let mut asked = client.subscribe("$JS.API.DIRECT.GET.lane_eu_0").await.expect("subscribes");
    settle(&client).await;
    let idle = bus.read("lane.eu.0", 3, MAX_PAYLOAD_BYTES, Duration::from_millis(1200)).await;
    assert_eq!(idle, Ok(Vec::new()));
    let mut reads = 0;
    while tokio::time::timeout(Duration::from_millis(100), asked.next()).await.is_ok_and(|read| read.is_some()) {
        reads += 1;
    }
    assert!((1..=6).contains(&reads), "{reads} reads in 1.2 s");

    bus.trim("lane.eu.0", 2).await.expect("trims");
    let held = bus.extent("lane.eu.0").await.expect("an extent");
    assert_eq!((held.first, held.last), (2, 2));
    // What it read of the old one is far beyond the end of the new one.
    for _ in 0..2 {
        bus.trim("lane.eu.0", 10).await.expect("trims");
    }
    let held = bus.extent("lane.eu.0").await.expect("an extent");
    assert_eq!((held.first, held.last), (3, 2), "its end is where it was");
    assert_eq!(bus.append("lane.eu.0", "", Bytes::from_static(b"new")).await, Ok(3));
}

/// What is missing inside a stream costs itself alone, and the reader sees that it is missing.
#[tokio::test]
async fn a_gap_inside_a_stream_is_read_over() {
    let Some(nats) = Nats::open(&[]) else { return };
    let (bus, client) = (nats.bus(), plain(&nats).await);
    let config = r#"{"name": "lane_eu_0", "subjects": ["lane.eu.0"], "allow_direct": true, "storage": "file"}"#;
    api(&client, "$JS.API.STREAM.CREATE.lane_eu_0", config).await;
    for number in 1..=6 {
        assert_eq!(bus.append("lane.eu.0", "", Bytes::from_static(b"x")).await, Ok(number));
    }
    for lost in [3, 4] {
        api(&client, "$JS.API.STREAM.MSG.DELETE.lane_eu_0", &format!(r#"{{"seq": {lost}}}"#)).await;
    }
    let mut parts = Vec::new();
    let mut from = 1;
    while from <= 6 {
        let part = bus.read("lane.eu.0", from, MAX_PAYLOAD_BYTES, Duration::ZERO).await.expect("reads");
        parts.push(part.iter().map(|entry| entry.position).collect::<Vec<_>>());
        from = part.last().expect("there is more").position + 1;
    }
    assert_eq!(parts, [vec![1, 2], vec![5, 6]]);
}

/// Who is asked learns nothing from which the inbox of another question could be told.
#[tokio::test]
async fn inboxes_cannot_be_guessed() {
    let Some(nats) = Nats::open(&[]) else { return };
    let (bus, client) = (nats.bus(), plain(&nats).await);
    let mut questions = client.subscribe("ask.me").await.expect("subscribes");
    settle(&client).await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let asking = bus.request("ask.me", Bytes::new(), SOON);
        let answering = async {
            let inbox = soon("a question", questions.next()).await.reply.expect("an inbox");
            let (prefix, token) = inbox.rsplit_once('.').expect("a token");
            let token = u128::from_str_radix(token, 16).expect("hexadecimal");
            // The neighbours of a counter; whoever takes one of them for its answer fails here.
            for near in [token.wrapping_sub(1), token.wrapping_add(1)] {
                client
                    .publish(format!("{prefix}.{near:032x}"), Bytes::from_static(b"\x01forged"))
                    .await
                    .expect("sends");
            }
            client.publish(inbox.clone(), Bytes::from_static(b"\x01true")).await.expect("sends");
            token
        };
        let (answer, token) = tokio::join!(asking, answering);
        assert_eq!(answer, Ok(Bytes::from_static(b"true")));
        tokens.push(token);
    }
    assert!(tokens[0].abs_diff(tokens[1]) > 1 << 64, "{tokens:x?}");
}

/// An answer on the wire says what it is; what does not is none.
#[tokio::test]
async fn an_empty_answer_is_an_answer_and_noise_is_none() {
    let Some(nats) = Nats::open(&[]) else { return };
    let (bus, client) = (nats.bus(), plain(&nats).await);
    let mut service = bus.serve("ask.me").await.expect("serves");
    let answering = async {
        let request = soon("a request", service.next()).await;
        (request.reply)(Bytes::new());
    };
    let wire = async { in_time("an answer", client.request("ask.me", Bytes::new())).await.expect("answers").payload };
    assert_eq!(tokio::join!(answering, wire).1, Bytes::from_static(b"\x01"), "never empty");
    let mut questions = client.subscribe("ask.you").await.expect("subscribes");
    settle(&client).await;
    let noise = async {
        let inbox = soon("a question", questions.next()).await.reply.expect("an inbox");
        client.publish(inbox, Bytes::new()).await.expect("sends");
    };
    let (answer, ()) = tokio::join!(bus.request("ask.you", Bytes::new(), SOON), noise);
    assert!(matches!(answer, Err(BusError::Corrupt(_))), "{answer:?}");
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let Some(nats) = Nats::open(&["lane.eu.0"]) else { return };
    let bus = nats.bus();
    for error in [
        bus.append("lane.eu.1", "", Bytes::new()).await.expect_err("no stream"),
        bus.read("lane.eu.1", 1, 10, Duration::ZERO).await.expect_err("no stream"),
        bus.extent("lane.eu.1").await.map(|_| ()).expect_err("no stream"),
    ] {
        assert!(matches!(&error, BusError::Unavailable(text) if text.contains("lane.eu.1")), "{error}");
    }
    let error = bus.extent("lane.us.0").await.expect_err("no such domain");
    assert!(error.to_string().contains("domain us"), "{error}");
    let nats_bus = nats.bus.as_ref().expect("open");
    assert_eq!(nats_bus.check_streams(&["lane.eu.0".to_owned()]).await, Ok(()));
    let error = nats_bus.check_streams(&["lane.eu.1".to_owned()]).await.expect_err("missing");
    assert!(error.to_string().contains("breeze migrate"), "{error}");
}

/// Broadcasts and services outlive the server; what waits when it dies is told at once.
#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_with_the_server() {
    let Some(mut nats) = Nats::open(&["model.s-0", "model.s-1", "model.s-2"]) else { return };
    let bus = nats.bus();
    let mut heard = bus.subscribe("status.>").await.expect("subscribes");
    let mut service = bus.serve("ask.me").await.expect("serves");
    let waiting = tokio::spawn({
        let bus = bus.clone();
        async move { bus.request("ask.me", Bytes::from_static(b"before"), Duration::from_secs(60)).await }
    });
    let before = soon("the first request", service.next()).await;
    assert!(nats.reopen().await);
    let lost = in_time("the end of what waits", waiting).await.expect("no panic");
    assert!(matches!(lost, Err(BusError::Unavailable(_))), "{lost:?}");
    drop(before);

    eventually(|| bus.publish("status.a.b", Bytes::from_static(b"after"))).await;
    let first = soon("what was missed", heard.next()).await;
    assert_eq!(first, breeze_bus::Received::Lagged(0), "that something may be missing is said");
    let then = soon("a broadcast", heard.next()).await;
    assert!(matches!(then, breeze_bus::Received::Message { payload, .. } if payload == "after"));
    let answering = tokio::spawn(async move {
        let request = soon("a request", service.next()).await;
        (request.reply)(request.payload);
    });
    let answer = bus.request("ask.me", Bytes::from_static(b"again"), SOON).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"again")));
    in_time("the answering", answering).await.expect("no panic");
}

/// However far it has grown by then.
#[tokio::test]
async fn a_stream_that_was_deleted_and_made_again_is_another_one() {
    let Some(mut nats) = Nats::open(&["model.s-0", "model.s-1", "model.s-2"]) else { return };
    let bus = nats.bus();
    bus.append("model.s-0", "", Bytes::from_static(b"before")).await.expect("appends");
    let before = bus.extent("model.s-0").await.expect("an extent");
    assert!(nats.reopen().await);
    assert_eq!(bus.extent("model.s-0").await, Ok(before), "a restart is none");

    let config = nats.server.lock().expect("not poisoned").config("eu", "test");
    let client = async_nats::connect(&config.servers[0]).await.expect("connects");
    let asked = client.request("$JS.API.STREAM.DELETE.model_s-0", Bytes::new());
    let deleted = in_time("deleting", asked).await.expect("answers");
    assert!(deleted.payload.windows(14).any(|text| text == b"\"success\":true"), "{deleted:?}");
    migrate::ensure(&config, &["model.s-0".to_owned()], 1, 64 * MIB).await.expect("makes it");
    for _ in 0..3 {
        bus.append("model.s-0", "", Bytes::from_static(b"after")).await.expect("appends");
    }
    let after = bus.extent("model.s-0").await.expect("an extent");
    assert!(after.last > before.last && after.identity != before.identity, "{before:?} {after:?}");
    assert!(after.identity > 1_700_000_000_000_000_000, "a time in nanoseconds");
}

#[tokio::test]
async fn an_unreachable_server_is_named() {
    let [port] = crate::nats_server::free_ports();
    let config = crate::nats_server::config(&[port], "eu", "test");
    let error = NatsBus::connect(config).await.expect_err("nobody there");
    assert!(
        matches!(&error, BusError::Unavailable(text) if text.contains(&format!("nats://127.0.0.1:{port}"))),
        "{error}"
    );
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::single(&program, dir.path(), "");
    let config = server.config("", "test");
    let streams =
        Streams { lanes: 2, regions: vec!["eu".to_owned(), "us".to_owned()], replicas: 1, max_stream_bytes: MIB };
    let done = eventually(|| migrate(&config, &streams)).await;
    assert_eq!(done.len(), 7);
    assert!(done.iter().all(|line| line.contains(": made")), "{done:?}");
    let done = migrate(&config, &streams).await.expect("again");
    assert!(done.iter().all(|line| line.ends_with("unchanged")), "{done:?}");
    let bus = connect(&config).await;
    for (lanes, fits) in [(1, false), (2, true), (4, false)] {
        let other = Streams { lanes, ..streams.clone() };
        if !fits {
            let error = migrate(&config, &other).await.expect_err("another number of lanes");
            assert!(matches!(&error, BusError::Invalid(text) if text.contains("has 2 lanes")), "{error}");
        }
        // As a role of each region asks.
        for region in ["eu", "us"] {
            match bus.check_streams(&other.names(region).expect("names")).await {
                Ok(()) => assert!(fits),
                Err(error) => {
                    let is_clear =
                        matches!(&error, BusError::Invalid(text) if text.contains(&format!("lanes = {lanes}")));
                    assert!(is_clear && !fits, "{lanes}: {error}");
                }
            }
        }
    }
    let grown = Streams { max_stream_bytes: 2 * MIB, ..streams.clone() };
    let done = migrate(&config, &grown).await.expect("grows");
    assert!(done.iter().all(|line| line.contains(": updated")), "{done:?}");
    let error = migrate(&config, &streams).await.expect_err("shrinks");
    assert!(matches!(&error, BusError::Invalid(text) if text.contains("not made smaller")), "{error}");
}

/// Appends of 64 KiB under `sync_interval: always`, then reads of all of it. Prints figures.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; takes some seconds"]
async fn measure_appends_and_reads() {
    const ENTRIES: usize = 4_000;
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::single(&program, dir.path(), "");
    let config = server.config("", "test");
    let names: Vec<String> = (0..4).map(|lane| format!("lane.eu.{lane}")).collect();
    eventually(|| migrate::ensure(&config, &names, 1, 2048 * MIB)).await;
    let bus = Arc::new(connect(&config).await);
    let payload = Bytes::from(vec![7; 64 * 1024]);
    for writers in [1, 4, 16] {
        let began = std::time::Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let (bus, payload, stream) = (bus.clone(), payload.clone(), names[writer % 4].clone());
            tasks.spawn(async move {
                let mut slowest = Duration::ZERO;
                for _ in 0..ENTRIES / 4 / writers {
                    let began = std::time::Instant::now();
                    bus.append(&stream, "", payload.clone()).await.expect("appends");
                    slowest = slowest.max(began.elapsed());
                }
                slowest
            });
        }
        let slowest = tasks.join_all().await.into_iter().max();
        let rate = (ENTRIES / 4) as f64 / began.elapsed().as_secs_f64();
        eprintln!("{writers} writers: {rate:.0} appends/s, {:.1} MiB/s, slowest {slowest:?}", rate / 16.0);
    }
    let (began, mut entries, mut reads) = (std::time::Instant::now(), 0, 0);
    for stream in &names {
        let mut from = 1;
        while let Some(last) = bus.read(stream, from, 4 << 20, Duration::ZERO).await.expect("reads").last() {
            entries += last.position - from + 1;
            from = last.position + 1;
            reads += 1;
        }
    }
    let rate = entries as f64 / began.elapsed().as_secs_f64();
    eprintln!("{entries} entries in {reads} reads: {rate:.0} entries/s, {:.1} MiB/s", rate / 16.0);
    let mut delays = Vec::new();
    for _ in 0..200 {
        let from = bus.extent("lane.eu.0").await.expect("an extent").last + 1;
        let reader = tokio::spawn({
            let bus = bus.clone();
            async move { bus.read("lane.eu.0", from, 1 << 20, SOON).await.map(|_| std::time::Instant::now()) }
        });
        bus.append("lane.eu.0", "", Bytes::from_static(b"x")).await.expect("appends");
        let appended = std::time::Instant::now();
        let read = reader.await.expect("no panic").expect("reads");
        delays.push(read.saturating_duration_since(appended));
    }
    delays.sort();
    eprintln!("from acknowledgement to a waiting reader: p50 {:?}, p99 {:?}", delays[100], delays[197]);
}
