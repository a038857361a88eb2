//! Delivery: order, repetition, what was left behind, what fails.

use crate::{LANES, Temporary, USERS, open};
use async_trait::async_trait;
use breeze_store::state::{
    Commit, CommitOutcome, State,
    outbox::{Deliver, Delivery, DeliveryError, Outbox},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Recorder {
    seen: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
    /// How often each payload is still to fail.
    fails: Mutex<HashMap<Vec<u8>, u32>>,
}

#[async_trait]
impl Deliver for Recorder {
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        if let Some(left) = self.fails.lock().get_mut(delivery.payload.as_ref())
            && *left > 0
        {
            *left -= 1;
            assert!(delivery.payload != "panic", "as a handler with a bug does");
            return Err(DeliveryError("not yet".into()));
        }
        self.seen.lock().push((delivery.partition.to_vec(), delivery.payload.to_vec()));
        Ok(())
    }
}

impl Recorder {
    fn of(&self, partition: &str) -> Vec<String> {
        let seen = self.seen.lock();
        let own = seen.iter().filter(|(of, _)| of == partition.as_bytes());
        own.map(|(_, payload)| String::from_utf8_lossy(payload).into_owned()).collect()
    }
}

struct Running {
    recorder: Arc<Recorder>,
    outbox: Arc<Outbox>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn outbox(state: Arc<dyn State>, recorder: &Arc<Recorder>) -> Outbox {
    Outbox::new(state, &[USERS, LANES]).on("topic", Arc::<Recorder>::clone(recorder))
}

impl Running {
    fn start(state: Arc<dyn State>, recorder: Arc<Recorder>, sweep: Duration) -> Self {
        let outbox = Arc::new(outbox(state, &recorder).sweep_every(sweep));
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&outbox).run(stop.clone().cancelled_owned()));
        Self { recorder, outbox, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it stops");
    }
}

async fn commit(state: &dyn State, partition: &'static str, payload: &'static str) {
    let commit = Commit::new(USERS, partition).outbox("topic", payload);
    assert!(matches!(state.commit(commit).await.expect("judged"), CommitOutcome::Applied { .. }));
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(20), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

/// Whoever delivers sees what follows from the commit, in order, and nothing is left.
#[tokio::test]
async fn delivers_in_order_before_it_answers_and_forgets() {
    let temporary = Temporary::new().await;
    let state = temporary.state.clone();
    let recorder = Arc::new(Recorder::default());
    let outbox = outbox(state.clone(), &recorder);
    commit(&*state, "a", "1").await;
    commit(&*state, "a", "2").await;
    outbox.deliver(USERS, b"a").await.expect("delivered");
    assert_eq!(recorder.of("a"), ["1", "2"]);
    commit(&*state, "a", "3").await;
    outbox.deliver(USERS, b"a").await.expect("delivered");
    assert_eq!(recorder.of("a"), ["1", "2", "3"]);
    assert!(state.outbox(USERS, b"a", 9).await.expect("readable").is_empty());
    assert!(state.outbox_hints(None, 9).await.expect("readable").hints.is_empty());
}

/// Many commit and deliver in one partition at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn callers_take_turns_in_a_partition() {
    const COMMITS: usize = 64;
    let temporary = Temporary::new().await;
    let state = temporary.state.clone();
    let recorder = Arc::new(Recorder::default());
    let outbox = Arc::new(outbox(state.clone(), &recorder));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..COMMITS {
        let (state, outbox) = (state.clone(), outbox.clone());
        callers.spawn(async move {
            let commit = Commit::new(USERS, "a").outbox("topic", number.to_string());
            let CommitOutcome::Applied { .. } = state.commit(commit).await.expect("judged") else { panic!("refused") };
            outbox.deliver(USERS, b"a").await.expect("delivered");
        });
    }
    callers.join_all().await;
    let mut seen: Vec<usize> = recorder.of("a").iter().map(|payload| payload.parse().expect("a number")).collect();
    assert_eq!(seen.len(), COMMITS, "nothing is delivered twice without a failure");
    seen.sort_unstable();
    assert_eq!(seen, (0..COMMITS).collect::<Vec<_>>());
}

/// Committed, never delivered, the process restarted: the sweep finds it.
#[tokio::test]
async fn finds_what_was_left_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = open(folder.path()).await;
    commit(&state, "left", "behind").await;
    state.close().await;
    let state: Arc<dyn State> = Arc::new(open(folder.path()).await);
    let running = Running::start(state.clone(), Arc::default(), SOON);
    until("it is found", async || running.recorder.of("left") == ["behind"]).await;
    until("the hint goes", async || state.outbox_hints(None, 9).await.expect("readable").hints.is_empty()).await;
    running.stop().await;
}

/// The same on a database, where another process has committed, among hints that are not ours.
#[tokio::test]
async fn finds_what_another_process_left_behind() {
    let Some(first) = crate::cql::apart().await else { return };
    commit(&first, "left", "behind").await;
    let second = crate::cql::connect().await.expect("the first did");
    let state: Arc<dyn State> = Arc::new(first.sharing(second));
    drop(first);
    let running = Running::start(state.clone(), Arc::default(), SOON);
    until("it is found", async || running.recorder.of("left") == ["behind"]).await;
    until("no item is left", async || state.outbox(USERS, b"left", 9).await.expect("readable").is_empty()).await;
    running.stop().await;
    let (mut cursor, mut hints) = (None, 0);
    loop {
        let page = state.outbox_hints(cursor, 100).await.expect("readable");
        hints += page.hints.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(hints, 0, "the hint has gone with its last item");
}

/// A sweep does not wait for the next one to go on.
#[tokio::test]
async fn finds_all_that_was_left_behind_at_once() {
    const PARTITIONS: u32 = 600;
    let temporary = Temporary::new().await;
    let state = temporary.state.clone();
    let mut commits = tokio::task::JoinSet::new();
    for number in 0..PARTITIONS {
        let state = state.clone();
        let commit = Commit::new(USERS, number.to_be_bytes().to_vec()).outbox("topic", "x");
        commits.spawn(async move { state.commit(commit).await.expect("judged") });
    }
    assert_eq!(commits.join_all().await.len(), PARTITIONS as usize);
    let running = Running::start(state.clone(), Arc::default(), NEVER);
    until("all is found", async || running.recorder.seen.lock().len() == PARTITIONS as usize).await;
    running.stop().await;
}

/// No sweep helps: what a caller could not deliver is tried again by itself.
#[tokio::test]
async fn a_failure_holds_back_its_own_partition_only() {
    let temporary = Temporary::new().await;
    let state = temporary.state.clone();
    let recorder = Arc::new(Recorder::default());
    recorder.fails.lock().extend([(b"fails".to_vec(), 2), (b"panic".to_vec(), 1)]);
    // The start's own sweep must not meet the failures before the callers below do: once it has delivered
    // this one it has read all its hints.
    commit(&*state, "before", "swept").await;
    let running = Running::start(state.clone(), recorder, NEVER);
    until("the start's sweep is over", async || running.recorder.of("before") == ["swept"]).await;
    for (partition, payload) in [("bad", "fails"), ("bad", "after"), ("worse", "panic"), ("good", "fine")] {
        commit(&*state, partition, payload).await;
    }
    let error = running.outbox.deliver(USERS, b"bad").await.expect_err("the handler refused");
    assert_eq!(error.to_string(), "topic: not yet");
    let error = running.outbox.deliver(USERS, b"worse").await.expect_err("the handler panicked");
    assert!(error.to_string().contains("panicked"), "{error}");
    running.outbox.deliver(USERS, b"good").await.expect("another partition");
    assert_eq!(running.recorder.of("good"), ["fine"]);
    until("the bad one is tried again", async || running.recorder.of("bad") == ["fails", "after"]).await;
    until("a panic is survived", async || running.recorder.of("worse") == ["panic"]).await;
    running.stop().await;
}

/// A request whose client goes away is dropped in the middle of the delivery.
#[tokio::test]
async fn what_a_caller_gave_up_is_delivered_all_the_same() {
    let temporary = Temporary::new().await;
    let state = temporary.state.clone();
    let running = Running::start(state.clone(), Arc::default(), NEVER);
    commit(&*state, "a", "1").await;
    {
        let mut delivering = std::pin::pin!(running.outbox.deliver(USERS, b"a"));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(delivering.as_mut().poll(&mut context).is_pending());
    }
    until("it is delivered", async || running.recorder.of("a") == ["1"]).await;
    running.stop().await;
}

/// Nobody takes the topic: it stays, and is delivered once somebody does.
#[tokio::test]
async fn keeps_what_has_no_handler() {
    let temporary = Temporary::new().await;
    let state = temporary.state.clone();
    let unknown = Commit::new(USERS, "a").outbox("unknown", "x");
    assert!(matches!(state.commit(unknown).await.expect("judged"), CommitOutcome::Applied { .. }));
    let running = Running::start(state.clone(), Arc::default(), SOON);
    commit(&*state, "b", "y").await;
    until("the other is delivered", async || running.recorder.of("b") == ["y"]).await;
    running.stop().await;
    assert_eq!(state.outbox(USERS, b"a", 9).await.expect("readable").len(), 1);
    assert_eq!(state.outbox_hints(None, 9).await.expect("readable").hints.len(), 1);
}
