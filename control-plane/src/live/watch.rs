//! Who looks at which device. While somebody does, collectors are told to publish its samples, and
//! the device is told to send one each second. Both are asked for again every [`RENEW`] and end by
//! themselves after [`LASTING`], so that nothing needs to be undone when a browser or this node dies.

use super::outgoing::Outgoing;
use breeze_proto::id::DeviceId;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// How often a watch is renewed.
pub const RENEW: Duration = Duration::from_secs(10);
/// How long one lasts.
pub const LASTING: Duration = Duration::from_secs(30);
/// Heartbeat interval of a watched device.
pub const FAST_INTERVAL: Duration = Duration::from_secs(1);
/// Devices that one connection watches at a time.
pub const MAX_WATCHED_PER_CONNECTION: usize = 50;
/// Devices that are watched through this node at a time.
pub const MAX_WATCHED: usize = 5_000;

#[derive(Debug, Default)]
struct Watched {
    watchers: HashMap<u64, Arc<Outgoing>>,
    /// Time of the newest sample that was passed on, in microseconds.
    last_us: u64,
}

/// The devices that are watched through this node.
#[derive(Debug, Default)]
pub struct Watchers {
    devices: Mutex<HashMap<DeviceId, Watched>>,
    added: Notify,
    next_connection: AtomicU64,
}

/// One connection's watches; they end with it.
#[derive(Debug)]
pub struct Watcher {
    watchers: Arc<Watchers>,
    connection: u64,
    queue: Arc<Outgoing>,
    devices: HashSet<DeviceId>,
}

impl Watchers {
    /// For a connection with this queue.
    #[must_use]
    pub fn connection(self: &Arc<Self>, queue: Arc<Outgoing>) -> Watcher {
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        Watcher { watchers: Arc::clone(self), connection, queue, devices: HashSet::new() }
    }

    /// Every watched device.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceId> {
        self.devices.lock().keys().copied().collect()
    }

    /// Waits until a device is watched that was not before.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// Notes a sample taken at `at_us`. If somebody watches the device and it is newer than the last:
    /// the time since that, in microseconds; 0 for the first.
    #[must_use]
    pub fn advance(&self, device: DeviceId, at_us: u64) -> Option<u64> {
        let mut devices = self.devices.lock();
        let watched = devices.get_mut(&device)?;
        let since = match watched.last_us {
            0 => 0,
            last => at_us.checked_sub(last).filter(|since| *since > 0)?,
        };
        watched.last_us = at_us;
        Some(since)
    }

    /// Queues a sample for all who watch the device.
    pub fn dispatch(&self, device: DeviceId, topic: &str, text: &Arc<str>) {
        if let Some(watched) = self.devices.lock().get(&device) {
            for queue in watched.watchers.values() {
                queue.sample(topic, Arc::clone(text));
            }
        }
    }
}

impl Watcher {
    /// Watches; an error says why not.
    ///
    /// # Errors
    /// In words for the client, when it or this node watches too many.
    pub fn watch(&mut self, device: DeviceId) -> Result<(), &'static str> {
        if self.devices.contains(&device) {
            return Ok(());
        }
        if self.devices.len() >= MAX_WATCHED_PER_CONNECTION {
            return Err("This connection watches as many devices as it may; unsubscribe from one first.");
        }
        let mut devices = self.watchers.devices.lock();
        if devices.len() >= MAX_WATCHED && !devices.contains_key(&device) {
            metrics::counter!("breeze_ws_watches_refused_total").increment(1);
            return Err("Too many devices are watched at the moment; try again later.");
        }
        let watched = devices.entry(device).or_default();
        let new = watched.watchers.is_empty();
        watched.watchers.insert(self.connection, Arc::clone(&self.queue));
        drop(devices);
        self.devices.insert(device);
        if new {
            self.watchers.added.notify_one();
        }
        Ok(())
    }

    /// Watches no longer.
    pub fn unwatch(&mut self, device: DeviceId) {
        if self.devices.remove(&device) {
            let mut devices = self.watchers.devices.lock();
            if let Some(watched) = devices.get_mut(&device) {
                watched.watchers.remove(&self.connection);
                if watched.watchers.is_empty() {
                    devices.remove(&device);
                }
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        for device in std::mem::take(&mut self.devices) {
            self.devices.insert(device);
            self.unwatch(device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_ends_with_its_last_watcher() {
        let watchers = Arc::new(Watchers::default());
        let device = DeviceId::generate();
        let mut one = watchers.connection(Arc::default());
        let mut two = watchers.connection(Arc::default());
        one.watch(device).expect("room");
        one.watch(device).expect("again is harmless");
        two.watch(device).expect("room");
        assert_eq!(watchers.devices(), [device]);
        one.unwatch(device);
        assert_eq!(watchers.devices(), [device]);
        drop(two);
        assert!(watchers.devices().is_empty());
        assert_eq!(watchers.advance(device, 5), None);
    }

    #[test]
    fn samples_advance_and_a_connection_is_limited() {
        let watchers = Arc::new(Watchers::default());
        let mut one = watchers.connection(Arc::default());
        let device = DeviceId::generate();
        one.watch(device).expect("room");
        assert_eq!(watchers.advance(device, 1_000_000), Some(0));
        assert_eq!(watchers.advance(device, 2_500_000), Some(1_500_000));
        assert_eq!(watchers.advance(device, 2_000_000), None, "late");
        for _ in 1..MAX_WATCHED_PER_CONNECTION {
            one.watch(DeviceId::generate()).expect("room");
        }
        assert!(one.watch(DeviceId::generate()).is_err());
    }
}
