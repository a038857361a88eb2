//! What every backend of [`Bus`] must give, as tests that take the backend: streams against a
//! reference model, broadcasts and requests as scenes. Panics where a backend deviates.

use crate::{Bus, BusError, Extent, MAX_PAYLOAD_BYTES, Position, Received, Request, Subscription};
use async_trait::async_trait;
use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};
use std::{collections::HashMap, sync::Arc, time::Duration};

const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(10);

/// A backend under test.
#[async_trait]
pub trait Backend: Send {
    fn bus(&self) -> Arc<dyn Bus>;
    /// Closes and opens again, where what was appended must still be there; `false` if it cannot.
    async fn reopen(&mut self) -> bool;
}

#[derive(Debug, Clone)]
enum Step {
    Append { stream: usize, len: usize },
    AppendTogether { stream: usize, count: usize },
    Read { stream: usize, from: Position, max_bytes: usize },
    Trim { stream: usize, before: Position },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..3, 0usize..3000).prop_map(|(stream, len)| Step::Append { stream, len }),
        2 => (0usize..3, 1usize..40).prop_map(|(stream, count)| Step::AppendTogether { stream, count }),
        4 => (0usize..3, 0u64..120, 0usize..6000).prop_map(|(stream, from, max_bytes)| Step::Read { stream, from, max_bytes }),
        2 => (0usize..3, 0u64..120).prop_map(|(stream, before)| Step::Trim { stream, before }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

/// One stream as it must look.
#[derive(Debug)]
struct Model {
    entries: Vec<Bytes>,
    first: Position,
    /// Since its first entry.
    identity: Option<u64>,
}

impl Default for Model {
    fn default() -> Self {
        Self { entries: vec![], first: 1, identity: None }
    }
}

impl Model {
    fn last(&self) -> Position {
        self.entries.len() as Position
    }
}

/// Random steps on streams of a fresh backend each, against the model.
pub fn streams_match_the_model<B: Backend>(cases: u32, open: impl Fn() -> B) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        runtime.block_on(run_steps(open(), steps));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

async fn run_steps<B: Backend>(mut backend: B, steps: Vec<Step>) {
    let mut models: HashMap<usize, Model> = HashMap::new();
    let mut made = 0u32;
    for step in steps {
        let bus = backend.bus();
        match step {
            Step::Append { stream, len } => {
                let model = models.entry(stream).or_default();
                let payload = payload(&mut made, len);
                let position = bus.append(&name(stream), "", payload.clone()).await.expect("appends");
                model.entries.push(payload);
                assert_eq!(position, model.last(), "positions are dense");
            }
            Step::AppendTogether { stream, count } => {
                append_together(&bus, &name(stream), count, &mut made, models.entry(stream).or_default()).await;
            }
            Step::Read { stream, from, max_bytes } => {
                check_read(&bus, &name(stream), models.entry(stream).or_default(), from, max_bytes).await;
            }
            Step::Trim { stream, before } => {
                let model = models.entry(stream).or_default();
                bus.trim(&name(stream), before).await.expect("trims");
                model.first = model.first.max(before.min(model.last() + 1));
            }
            Step::Reopen => {
                drop(bus);
                if backend.reopen().await {
                    forget_trims(&backend.bus(), &mut models).await;
                }
            }
        }
        let bus = backend.bus();
        for (stream, model) in &mut models {
            check_extent(bus.extent(&name(*stream)).await.expect("an extent"), model);
        }
    }
    let bus = backend.bus();
    for (stream, model) in &models {
        check_read(&bus, &name(*stream), model, 0, usize::MAX).await;
    }
}

fn name(stream: usize) -> String {
    format!("model.s-{stream}")
}

/// Unique content, so that nothing can stand for something else.
fn payload(made: &mut u32, len: usize) -> Bytes {
    *made += 1;
    let mut bytes = made.to_be_bytes().to_vec();
    bytes.resize(len.max(4), *made as u8);
    bytes.into()
}

async fn append_together(bus: &Arc<dyn Bus>, stream: &str, count: usize, made: &mut u32, model: &mut Model) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (bus, stream, payload) = (bus.clone(), stream.to_owned(), payload(made, 100));
        tasks.spawn(async move { (bus.append(&stream, "", payload.clone()).await.expect("appends"), payload) });
    }
    let mut appended = tasks.join_all().await;
    appended.sort_by_key(|(position, _)| *position);
    for (position, payload) in appended {
        model.entries.push(payload);
        assert_eq!(position, model.last(), "overlapping appends get positions of their own, without a gap");
    }
}

async fn check_read(bus: &Arc<dyn Bus>, stream: &str, model: &Model, from: Position, max_bytes: usize) {
    let entries = bus.read(stream, from, max_bytes, NOW).await.expect("reads");
    let begins = from.max(model.first);
    assert_eq!(entries.is_empty(), begins > model.last(), "a read from {from} gives what is there: {model:?}");
    for (expected, entry) in (begins..).zip(&entries) {
        assert_eq!(entry.position, expected);
        assert_eq!(entry.payload, model.entries[expected as usize - 1]);
    }
    let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
    assert!(entries.len() <= 1 || bytes <= max_bytes, "{bytes} bytes were read, {max_bytes} asked for");
}

fn check_extent(extent: Extent, model: &mut Model) {
    assert_eq!((extent.first, extent.last), (model.first, model.last()));
    let bytes: usize = model.entries.iter().skip(model.first as usize - 1).map(Bytes::len).sum();
    assert!(extent.bytes >= bytes as u64, "{extent:?} cannot hold {bytes} bytes");
    if extent.last > 0 {
        let identity = *model.identity.get_or_insert(extent.identity);
        assert!(identity != 0 && extent.identity == identity, "{extent:?} is the stream {identity}");
    }
}

/// A crash, and so also a restart, may undo a trim; never more.
async fn forget_trims(bus: &Arc<dyn Bus>, models: &mut HashMap<usize, Model>) {
    for (stream, model) in models {
        let first = bus.extent(&name(*stream)).await.expect("an extent").first;
        assert!(first <= model.first);
        model.first = first;
    }
}

/// A reader that waits is woken by an append, and one that waits in vain comes back empty.
pub async fn readers_wait(bus: Arc<dyn Bus>) {
    assert_eq!(bus.read("waits.a", 1, 100, Duration::from_millis(20)).await, Ok(vec![]));
    let reader = tokio::spawn({
        let bus = bus.clone();
        async move { bus.read("waits.a", 1, 100, SOON).await }
    });
    bus.append("waits.b", "", Bytes::from_static(b"other")).await.expect("appends");
    tokio::task::yield_now().await;
    bus.append("waits.a", "", Bytes::from_static(b"this")).await.expect("appends");
    let entries = reader.await.expect("no panic").expect("reads");
    assert_eq!((entries.len(), entries[0].position, entries[0].payload.as_ref()), (1, 1, b"this".as_slice()));
}

/// Sizes and names outside the limits are refused before anything happens.
pub async fn limits_are_refused(bus: Arc<dyn Bus>) {
    let large = Bytes::from(vec![0; MAX_PAYLOAD_BYTES + 1]);
    assert!(matches!(bus.append("limits", "", large.clone()).await, Err(BusError::TooLarge { .. })));
    assert!(matches!(bus.publish("limits", large.clone()).await, Err(BusError::TooLarge { .. })));
    assert!(matches!(bus.request("limits", large.clone(), SOON).await, Err(BusError::TooLarge { .. })));
    let largest = large.slice(1..);
    assert_eq!(bus.append("limits", "", largest.clone()).await, Ok(1));
    assert_eq!(bus.read("limits", 1, 1, NOW).await.expect("reads")[0].payload, largest);
    for bad in ["", "a..b", "../x", "a b", "a.>"] {
        assert!(matches!(bus.append(bad, "", Bytes::new()).await, Err(BusError::Invalid(_))), "{bad}");
        assert!(matches!(bus.publish(bad, Bytes::new()).await, Err(BusError::Invalid(_))), "{bad}");
    }
    assert!(matches!(bus.subscribe("a.>.b").await, Err(BusError::Invalid(_))));
}

/// Patterns get what they name, in order, and nothing from before or after.
pub async fn broadcasts_reach_who_listens(bus: Arc<dyn Bus>) {
    bus.publish("cast.a", Bytes::from_static(b"before")).await.expect("publishes");
    let mut exact = bus.subscribe("cast.a").await.expect("subscribes");
    let mut below = bus.subscribe("cast.>").await.expect("subscribes");
    let gone = bus.subscribe("cast.>").await.expect("subscribes");
    drop(gone);
    for subject in ["cast.a", "cast.b.c", "cast", "castle.a", "cast.a"] {
        bus.publish(subject, Bytes::copy_from_slice(subject.as_bytes())).await.expect("publishes");
    }
    bus.publish("cast.a", Bytes::from_static(b"end")).await.expect("publishes");
    assert_eq!(subjects_until_end(&mut *exact).await, ["cast.a", "cast.a"]);
    assert_eq!(subjects_until_end(&mut *below).await, ["cast.a", "cast.b.c", "cast.a"]);
}

async fn subjects_until_end(subscription: &mut dyn Subscription) -> Vec<String> {
    let mut subjects = Vec::new();
    loop {
        match tokio::time::timeout(SOON, subscription.next()).await.expect("in time").expect("open") {
            Received::Message { payload, .. } if payload == "end" => return subjects,
            Received::Message { subject, .. } => subjects.push(subject),
            Received::Lagged(lost) => panic!("lost {lost}"),
        }
    }
}

/// A subscriber that does not read loses the oldest, is told how many, and nobody waits for it.
pub async fn slow_subscribers_are_told(bus: Arc<dyn Bus>) {
    const SENT: u32 = 20_000;
    let mut slow = bus.subscribe("slow").await.expect("subscribes");
    for number in 0..SENT {
        bus.publish("slow", Bytes::copy_from_slice(&number.to_be_bytes())).await.expect("publishes");
    }
    let (mut received, mut lost, mut newest) = (0, 0, None);
    while newest != Some(SENT - 1) {
        match tokio::time::timeout(SOON, slow.next()).await.expect("in time").expect("open") {
            Received::Message { payload, .. } => {
                let number = u32::from_be_bytes(payload.as_ref().try_into().expect("four bytes"));
                assert!(newest.is_none_or(|newest| newest < number), "in order");
                newest = Some(number);
                received += 1;
            }
            Received::Lagged(count) => lost += count,
        }
    }
    assert!(lost > 0, "the queue of a subscriber is bounded");
    assert_eq!(u64::from(SENT), received + lost);
}

/// One answer each, servers share, and every way to get none has its error.
pub async fn requests_are_answered(bus: Arc<dyn Bus>) {
    let ask = |payload: &'static [u8], timeout| bus.request("ask.me", Bytes::from_static(payload), timeout);
    assert_eq!(ask(b"x", SOON).await, Err(BusError::NoResponder("ask.me".into())));

    let mut servers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut service = bus.serve("ask.me").await.expect("serves");
        servers.spawn(async move {
            while let Some(Request { payload, reply, .. }) = service.next().await {
                if payload != "ignore" {
                    reply(payload);
                }
            }
        });
    }
    let mut asks = tokio::task::JoinSet::new();
    for number in 0..200u32 {
        let bus = bus.clone();
        asks.spawn(async move {
            let payload = Bytes::copy_from_slice(&number.to_be_bytes());
            assert_eq!(bus.request("ask.me", payload.clone(), SOON).await, Ok(payload));
        });
    }
    asks.join_all().await;
    let short = Duration::from_millis(30);
    assert_eq!(ask(b"ignore", short).await, Err(BusError::Timeout { subject: "ask.me".into(), timeout: short }));
    servers.shutdown().await;
    assert_eq!(ask(b"x", short).await, Err(BusError::NoResponder("ask.me".into())));
}

/// All scenes that need no model, each on its own subjects.
pub async fn scenes(bus: Arc<dyn Bus>) {
    readers_wait(bus.clone()).await;
    limits_are_refused(bus.clone()).await;
    broadcasts_reach_who_listens(bus.clone()).await;
    slow_subscribers_are_told(bus.clone()).await;
    requests_are_answered(bus).await;
}
