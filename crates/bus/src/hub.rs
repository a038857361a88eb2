//! Broadcasts and requests within one process: bounded queues, nothing stored. Shared by the
//! backends that live in one process.

use crate::{
    BusError, MAX_PAYLOAD_BYTES, Received, Request, Service, Subscription,
    name::{self, Pattern},
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, oneshot};

/// Messages that wait for one subscriber; the oldest is dropped beyond.
pub(crate) const MAX_SUBSCRIBER_MESSAGES: usize = 4096;
/// Payload bytes that wait for one subscriber.
pub(crate) const MAX_SUBSCRIBER_BYTES: usize = 16 * 1024 * 1024;
/// Requests that wait for the servers of one subject; more are refused as overloaded.
pub(crate) const MAX_WAITING_REQUESTS: usize = 4096;
/// Subscriptions of one process together.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 65_536;

/// The in-process switchboard.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    subscribers: RwLock<Subscribers>,
    services: Mutex<HashMap<String, Arc<ServiceQueue>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Subscribers {
    by_pattern: HashMap<Pattern, Vec<Arc<SubscriberQueue>>>,
    count: usize,
    closed: bool,
}

impl Hub {
    pub(crate) fn publish(&self, subject: &str, payload: &Bytes) -> Result<(), BusError> {
        check_payload(payload)?;
        name::check(subject)?;
        let subscribers = self.inner.subscribers.read();
        if subscribers.closed {
            return Err(closed());
        }
        if subscribers.count == 0 {
            return Ok(());
        }
        let deliver = |pattern: &Pattern| {
            for queue in subscribers.by_pattern.get(pattern).into_iter().flatten() {
                queue.push(subject, payload);
            }
        };
        deliver(&Pattern::Exact(subject.to_owned()));
        for (dot, _) in subject.match_indices('.') {
            deliver(&Pattern::Below(subject[..dot].to_owned()));
        }
        Ok(())
    }

    pub(crate) fn subscribe(&self, pattern: &str) -> Result<Box<dyn Subscription>, BusError> {
        let pattern = Pattern::parse(pattern)?;
        let queue = Arc::new(SubscriberQueue::default());
        let mut subscribers = self.inner.subscribers.write();
        if subscribers.closed {
            return Err(closed());
        }
        if subscribers.count >= MAX_SUBSCRIPTIONS {
            return Err(BusError::Invalid(format!("this process already has {MAX_SUBSCRIPTIONS} subscriptions")));
        }
        subscribers.count += 1;
        subscribers.by_pattern.entry(pattern.clone()).or_default().push(queue.clone());
        Ok(Box::new(HubSubscription { pattern, queue, hub: self.inner.clone() }))
    }

    pub(crate) async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        check_payload(&payload)?;
        name::check(subject)?;
        let deadline = tokio::time::Instant::now() + timeout;
        let (reply, answer) = oneshot::channel();
        {
            let services = self.inner.services.lock();
            let queue = services.get(subject).ok_or_else(|| BusError::NoResponder(subject.to_owned()))?;
            let mut state = queue.state.lock();
            state.waiting.retain(|waiting| !waiting.reply.is_closed());
            if state.waiting.len() >= MAX_WAITING_REQUESTS {
                metrics::counter!("breeze_bus_requests_overloaded_total").increment(1);
                return Err(BusError::Overloaded(subject.to_owned()));
            }
            state.waiting.push_back(Waiting { payload, reply });
            drop(state);
            queue.arrived.notify_one();
        }
        // A request that was dropped unanswered is indistinguishable from a lost one on a real
        // network, so it ends at the deadline here too.
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => {
                tokio::time::sleep_until(deadline).await;
                Err(BusError::Timeout { subject: subject.to_owned(), timeout })
            }
            Err(_) => Err(BusError::Timeout { subject: subject.to_owned(), timeout }),
        }
    }

    pub(crate) fn serve(&self, subject: &str) -> Result<Box<dyn Service>, BusError> {
        name::check(subject)?;
        if self.inner.subscribers.read().closed {
            return Err(closed());
        }
        let mut services = self.inner.services.lock();
        let queue = services.entry(subject.to_owned()).or_default().clone();
        queue.state.lock().servers += 1;
        Ok(Box::new(HubService { subject: subject.to_owned(), queue, hub: self.inner.clone() }))
    }

    /// Ends every subscription and service.
    pub(crate) fn close(&self) {
        let mut subscribers = self.inner.subscribers.write();
        subscribers.closed = true;
        for queue in subscribers.by_pattern.values().flatten() {
            queue.close();
        }
        drop(subscribers);
        for queue in self.inner.services.lock().values() {
            queue.state.lock().closed = true;
            queue.arrived.notify_waiters();
        }
    }
}

pub(crate) fn check_payload(payload: &Bytes) -> Result<(), BusError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(BusError::TooLarge { len: payload.len(), limit: MAX_PAYLOAD_BYTES });
    }
    Ok(())
}

pub(crate) fn closed() -> BusError {
    BusError::Unavailable("it has been closed".to_owned())
}

/// What waits for one subscriber; the oldest goes when it is slow.
#[derive(Debug, Default)]
pub(crate) struct SubscriberQueue {
    state: Mutex<SubscriberState>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct SubscriberState {
    messages: VecDeque<(String, Bytes)>,
    bytes: usize,
    lagged: u64,
    /// Something may have been lost that nobody counted.
    missed: bool,
    closed: bool,
}

impl SubscriberQueue {
    pub(crate) fn push(&self, subject: &str, payload: &Bytes) {
        let mut state = self.state.lock();
        state.messages.push_back((subject.to_owned(), payload.clone()));
        state.bytes += payload.len();
        while state.messages.len() > MAX_SUBSCRIBER_MESSAGES || state.bytes > MAX_SUBSCRIBER_BYTES {
            let Some((_, dropped)) = state.messages.pop_front() else { break };
            state.bytes -= dropped.len();
            state.lagged += 1;
            metrics::counter!("breeze_bus_broadcasts_dropped_total").increment(1);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Messages may have been lost on their way here, nobody knows how many.
    pub(crate) fn miss(&self) {
        self.state.lock().missed = true;
        self.arrived.notify_one();
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }

    /// The next; `None` once it is closed and empty.
    pub(crate) async fn next(&self) -> Option<Received> {
        loop {
            let arrived = self.arrived.notified();
            match self.pop() {
                Ok(received) => return Some(received),
                Err(true) => return None,
                Err(false) => arrived.await,
            }
        }
    }

    /// The next; `Err(closed)` when there is none.
    fn pop(&self) -> Result<Received, bool> {
        let mut state = self.state.lock();
        if state.lagged > 0 || std::mem::take(&mut state.missed) {
            // What was lost is older than all that is left.
            state.missed = false;
            return Ok(Received::Lagged(std::mem::take(&mut state.lagged)));
        }
        let Some((subject, payload)) = state.messages.pop_front() else { return Err(state.closed) };
        state.bytes -= payload.len();
        Ok(Received::Message { subject, payload })
    }
}

#[derive(Debug)]
struct HubSubscription {
    pattern: Pattern,
    queue: Arc<SubscriberQueue>,
    hub: Arc<Inner>,
}

#[async_trait]
impl Subscription for HubSubscription {
    async fn next(&mut self) -> Option<Received> {
        self.queue.next().await
    }
}

impl Drop for HubSubscription {
    fn drop(&mut self) {
        let mut subscribers = self.hub.subscribers.write();
        if let Some(queues) = subscribers.by_pattern.get_mut(&self.pattern) {
            queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
            if queues.is_empty() {
                subscribers.by_pattern.remove(&self.pattern);
            }
            subscribers.count -= 1;
        }
    }
}

#[derive(Debug, Default)]
struct ServiceQueue {
    state: Mutex<ServiceState>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct ServiceState {
    waiting: VecDeque<Waiting>,
    servers: usize,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    payload: Bytes,
    reply: oneshot::Sender<Bytes>,
}

#[derive(Debug)]
struct HubService {
    subject: String,
    queue: Arc<ServiceQueue>,
    hub: Arc<Inner>,
}

impl HubService {
    /// The next that somebody still waits for; `Err(closed)` when there is none.
    fn pop(&self) -> Result<Request, bool> {
        let mut state = self.queue.state.lock();
        loop {
            let Some(Waiting { payload, reply }) = state.waiting.pop_front() else { return Err(state.closed) };
            if !reply.is_closed() {
                let reply = Box::new(move |answer: Bytes| {
                    // The asker may have gone meanwhile.
                    let _ = reply.send(answer);
                });
                return Ok(Request { subject: self.subject.clone(), payload, reply });
            }
        }
    }
}

#[async_trait]
impl Service for HubService {
    async fn next(&mut self) -> Option<Request> {
        loop {
            let mut arrived = std::pin::pin!(self.queue.arrived.notified());
            // Registered before looking: closing wakes only who waits.
            arrived.as_mut().enable();
            match self.pop() {
                Ok(request) => return Some(request),
                Err(true) => return None,
                Err(false) => arrived.await,
            }
        }
    }
}

impl Drop for HubService {
    fn drop(&mut self) {
        let mut services = self.hub.services.lock();
        let mut state = self.queue.state.lock();
        state.servers -= 1;
        if state.servers == 0 {
            state.waiting.clear();
            services.remove(&self.subject);
        }
    }
}
