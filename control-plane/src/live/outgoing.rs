//! What waits to be sent to one connection: bounded, and the fresher the better.
//!
//! Answers to the client keep their order. Of a topic that shows a state only the newest one waits.
//! Samples wait in a short queue that drops the oldest. Changed devices do not wait at all: it is only
//! noted that there are some, and they are looked up when it is their turn to be sent. So a client that
//! reads slowly is told less, and never costs more.

use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use tokio::sync::Notify;

/// Answers that wait; a client that asks on without reading is cut off.
pub const MAX_ANSWERS: usize = 64;
/// Samples that wait.
pub const MAX_SAMPLES: usize = 64;

/// What is to be sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Text(Arc<str>),
    /// Look up the changed devices now.
    Devices,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: VecDeque<Arc<str>>,
    states: BTreeMap<String, Arc<str>>,
    samples: VecDeque<(String, Arc<str>)>,
    devices: bool,
    /// Whether the last item was a sample, so that states and samples take turns.
    sampled: bool,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Outgoing {
    waiting: Mutex<Waiting>,
    ready: Notify,
}

impl Outgoing {
    /// Queues an answer; `false` if too many wait.
    #[must_use]
    pub fn answer(&self, text: String) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.answers.len() >= MAX_ANSWERS {
            return false;
        }
        waiting.answers.push_back(text.into());
        drop(waiting);
        self.ready.notify_one();
        true
    }

    /// The newest state of a topic, in the place of one that still waits.
    pub fn state(&self, topic: &str, text: String) {
        let replaced = self.waiting.lock().states.insert(topic.to_owned(), text.into());
        if replaced.is_some() {
            metrics::counter!("breeze_ws_states_coalesced_total").increment(1);
        }
        self.ready.notify_one();
    }

    /// A sample of a topic; the oldest of all makes room.
    pub fn sample(&self, topic: &str, text: Arc<str>) {
        let mut waiting = self.waiting.lock();
        if waiting.samples.len() >= MAX_SAMPLES {
            waiting.samples.pop_front();
            metrics::counter!("breeze_ws_samples_dropped_total").increment(1);
        }
        waiting.samples.push_back((topic.to_owned(), text));
        drop(waiting);
        self.ready.notify_one();
    }

    /// Notes that devices may have changed.
    pub fn devices(&self) {
        self.waiting.lock().devices = true;
        self.ready.notify_one();
    }

    /// Forgets what waits of a topic.
    pub fn forget(&self, topic: &str) {
        let mut waiting = self.waiting.lock();
        waiting.states.remove(topic);
        waiting.samples.retain(|(of, _)| of != topic);
        if topic == "devices" {
            waiting.devices = false;
        }
    }

    /// The next to be sent: answers, then changed devices, then states and samples in turn.
    /// Dropping the future loses nothing.
    pub async fn next(&self) -> Item {
        loop {
            let ready = self.ready.notified();
            if let Some(item) = self.take() {
                return item;
            }
            ready.await;
        }
    }

    fn take(&self) -> Option<Item> {
        let mut waiting = self.waiting.lock();
        if let Some(answer) = waiting.answers.pop_front() {
            return Some(Item::Text(answer));
        }
        if std::mem::take(&mut waiting.devices) {
            return Some(Item::Devices);
        }
        let sample_first = !waiting.sampled;
        waiting.sampled = sample_first;
        let state = |waiting: &mut Waiting| waiting.states.pop_first().map(|(_, text)| text);
        let sample = |waiting: &mut Waiting| waiting.samples.pop_front().map(|(_, text)| text);
        let text = if sample_first {
            sample(&mut waiting).or_else(|| state(&mut waiting))
        } else {
            state(&mut waiting).or_else(|| sample(&mut waiting))
        };
        text.map(Item::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(queue: &Outgoing) -> Vec<String> {
        std::iter::from_fn(|| queue.take())
            .map(|item| match item {
                Item::Text(text) => text.to_string(),
                Item::Devices => "devices".to_owned(),
            })
            .collect()
    }

    #[test]
    fn a_slow_reader_gets_the_newest_and_the_queue_stays_short() {
        let queue = Outgoing::default();
        for n in 0..10_000 {
            queue.sample("device:x", format!("sample {n}").into());
            queue.state("overview", format!("overview {n}"));
            queue.devices();
        }
        let got = all(&queue);
        assert_eq!(got.len(), 1 + 1 + MAX_SAMPLES);
        assert_eq!(got[0], "devices");
        assert!(got.contains(&"overview 9999".to_owned()) && got.contains(&"sample 9999".to_owned()));
        assert!(got.contains(&format!("sample {}", 10_000 - MAX_SAMPLES)));
        assert!(!got.contains(&format!("sample {}", 10_000 - MAX_SAMPLES - 1)));
    }

    #[test]
    fn answers_come_first_in_order_and_are_limited() {
        let queue = Outgoing::default();
        queue.state("status", "s".into());
        for n in 0..MAX_ANSWERS {
            assert!(queue.answer(n.to_string()));
        }
        assert!(!queue.answer("one too many".into()));
        let got = all(&queue);
        assert_eq!((got[0].as_str(), got[MAX_ANSWERS].as_str()), ("0", "s"));
    }

    #[test]
    fn what_was_unsubscribed_is_not_sent() {
        let queue = Outgoing::default();
        queue.sample("device:x", "x".into());
        queue.sample("device:y", "y".into());
        queue.devices();
        queue.forget("device:x");
        queue.forget("devices");
        assert_eq!(all(&queue), ["y"]);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes() {
        let queue = Arc::new(Outgoing::default());
        let reader = Arc::clone(&queue);
        let waiting = tokio::spawn(async move { reader.next().await });
        tokio::task::yield_now().await;
        queue.devices();
        assert_eq!(waiting.await.expect("no panic"), Item::Devices);
    }
}
