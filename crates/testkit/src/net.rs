//! A network without sockets or clocks. Messages are put in with [`Net::send`] (a datagram: may be lost,
//! doubled, overtaken) or [`Net::send_ordered`] (a stream: loss only costs time), and come out of
//! [`Net::receive`] in order of virtual time. The same seed and the same calls give the same run.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::RangeInclusive,
};

/// A host.
pub type Node = u32;
/// A direction of a stream; chosen by the caller, never used twice.
pub type Channel = u64;

/// What a lost segment of a stream costs, in microseconds.
const RETRANSMISSION_US: u64 = 250_000;
/// Losses in a row of one segment.
const MAX_LOSSES: u32 = 8;
/// Messages under way; more is a runaway test.
const MAX_UNDER_WAY: usize = 1_000_000;

/// How the paths between all nodes are.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditions {
    /// Chance that a datagram, or one transmission of a segment, is lost.
    pub loss: f64,
    /// Chance that a datagram arrives twice.
    pub duplication: f64,
    /// One way, in microseconds; its spread is what lets datagrams overtake each other.
    pub delay_us: RangeInclusive<u64>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { loss: 0.0, duplication: 0.0, delay_us: 10_000..=40_000 }
    }
}

/// A message that arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<M> {
    pub at_us: u64,
    pub from: Node,
    pub to: Node,
    pub message: M,
}

/// The network and its clock.
#[derive(Debug)]
pub struct Net<M> {
    rng: StdRng,
    conditions: Conditions,
    now_us: u64,
    /// Arrival and order of sending decide; the payload lies beside.
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    under_way: BTreeMap<u64, (Delivery<M>, Option<Channel>)>,
    sent: u64,
    /// When the last message of a stream arrives.
    arrivals: BTreeMap<Channel, u64>,
    /// Pairs of nodes that do not reach each other, and until when.
    partitions: BTreeMap<(Node, Node), u64>,
}

impl<M: Clone> Net<M> {
    #[must_use]
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            conditions,
            now_us: 0,
            queue: BinaryHeap::new(),
            under_way: BTreeMap::new(),
            sent: 0,
            arrivals: BTreeMap::new(),
            partitions: BTreeMap::new(),
        }
    }

    /// Microseconds since the start.
    #[must_use]
    pub const fn now_us(&self) -> u64 {
        self.now_us
    }

    pub fn set_conditions(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// Cuts two nodes off from each other until `until_us`. Datagrams are lost, streams wait.
    pub fn partition(&mut self, a: Node, b: Node, until_us: u64) {
        let until = self.partitions.entry(pair(a, b)).or_default();
        *until = (*until).max(until_us);
    }

    /// Ends all partitions.
    pub fn heal(&mut self) {
        self.partitions.clear();
    }

    #[must_use]
    pub fn is_partitioned(&self, a: Node, b: Node) -> bool {
        self.partitions.get(&pair(a, b)).is_some_and(|until| *until > self.now_us)
    }

    /// Sends a datagram.
    pub fn send(&mut self, from: Node, to: Node, message: M) {
        if self.is_partitioned(from, to) {
            return;
        }
        let copies = 1 + u32::from(self.happens(self.conditions.duplication));
        for _ in 0..copies {
            if !self.happens(self.conditions.loss) {
                let at_us = self.now_us + self.delay();
                self.enqueue(Delivery { at_us, from, to, message: message.clone() }, None);
            }
        }
    }

    /// Sends on a stream: behind everything that was sent on `channel` before.
    pub fn send_ordered(&mut self, channel: Channel, from: Node, to: Node, message: M) {
        let begins = self.partitions.get(&pair(from, to)).copied().unwrap_or(0).max(self.now_us);
        let mut at_us = begins + self.delay();
        for _ in 0..MAX_LOSSES {
            if !self.happens(self.conditions.loss) {
                break;
            }
            at_us += RETRANSMISSION_US;
        }
        let last = self.arrivals.entry(channel).or_default();
        at_us = at_us.max(*last + 1);
        *last = at_us;
        self.enqueue(Delivery { at_us, from, to, message }, Some(channel));
    }

    /// Drops what is under way on a stream.
    pub fn close(&mut self, channel: Channel) {
        self.arrivals.remove(&channel);
        self.under_way.retain(|_, (_, on)| *on != Some(channel));
    }

    /// When the next message arrives.
    pub fn next_arrival(&mut self) -> Option<u64> {
        self.skip_dropped();
        self.queue.peek().map(|Reverse((at_us, _))| *at_us)
    }

    /// The next message that arrives by `until_us`, and the clock goes there; without one it goes to
    /// `until_us`.
    pub fn receive(&mut self, until_us: u64) -> Option<Delivery<M>> {
        if self.next_arrival().is_none_or(|at| at > until_us) {
            self.now_us = self.now_us.max(until_us);
            return None;
        }
        let Reverse((at_us, order)) = self.queue.pop()?;
        self.now_us = self.now_us.max(at_us);
        self.under_way.remove(&order).map(|(delivery, _)| delivery)
    }

    fn skip_dropped(&mut self) {
        while let Some(Reverse((_, order))) = self.queue.peek()
            && !self.under_way.contains_key(order)
        {
            self.queue.pop();
        }
    }

    fn enqueue(&mut self, delivery: Delivery<M>, channel: Option<Channel>) {
        assert!(self.under_way.len() < MAX_UNDER_WAY, "messages pile up");
        self.sent += 1;
        self.queue.push(Reverse((delivery.at_us, self.sent)));
        self.under_way.insert(self.sent, (delivery, channel));
    }

    fn delay(&mut self) -> u64 {
        self.rng.random_range(self.conditions.delay_us.clone())
    }

    fn happens(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.rng.random_bool(chance.min(1.0))
    }
}

fn pair(a: Node, b: Node) -> (Node, Node) {
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(net: &mut Net<u32>) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| net.receive(u64::MAX / 2)).map(|delivery| (delivery.at_us, delivery.message)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_streams_keep_their_order() {
        let run = |seed| {
            let conditions = Conditions { loss: 0.3, duplication: 0.1, delay_us: 1..=50_000 };
            let mut net = Net::new(seed, conditions);
            for message in 0..200 {
                if message < 100 {
                    net.send(1, 2, message);
                } else {
                    net.send_ordered(7, 1, 2, message);
                }
            }
            all(&mut net)
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
        let run = run(5);
        let (datagrams, stream): (Vec<u32>, Vec<u32>) = run.iter().map(|(_, message)| *message).partition(|m| *m < 100);
        assert!(stream.iter().copied().eq(100..200), "all of them, in order");
        assert!(datagrams.len() < 95 && !datagrams.is_sorted(), "lost and overtaken");
    }

    #[test]
    fn a_partition_loses_datagrams_and_holds_streams_up() {
        let mut net = Net::new(1, Conditions::default());
        net.partition(1, 2, 1_000_000);
        net.send(2, 1, 1);
        net.send_ordered(7, 1, 2, 2);
        net.send(1, 3, 3);
        let arrived = all(&mut net);
        assert_eq!(arrived.iter().map(|(_, message)| *message).collect::<Vec<_>>(), [3, 2]);
        assert!(arrived[1].0 > 1_000_000);
    }

    #[test]
    fn a_closed_stream_delivers_nothing_more() {
        let mut net = Net::new(1, Conditions::default());
        net.send_ordered(7, 1, 2, 1);
        net.send_ordered(8, 1, 2, 2);
        net.close(7);
        assert_eq!(all(&mut net).len(), 1);
    }
}
