//! Which connection speaks for a device: at most one primary and one standby.
//!
//! The same installation (instance nonce) with a higher session counter replaces its older connection:
//! that is a reconnection, or the faster of two racing transports. Not higher: it is the loser of that
//! race, or a replay. Another installation under the same certificate takes over as well, and the one
//! it displaced is told to wait; whether two of them alternate is judged where presence is kept.

use breeze_proto::{id::DeviceId, v1::ConnectionRole};
use std::collections::HashMap;

/// What a hello claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub device: DeviceId,
    pub nonce: [u8; 16],
    pub counter: u64,
    pub standby: bool,
}

/// The answer to a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Registered<C> {
    /// It speaks for the device, under this epoch.
    Yes { epoch: u64, replaced: Option<Replaced<C>> },
    /// Its counter is not above that of the connection that is alive.
    Stale,
}

/// The connection that had to go.
#[derive(Debug, PartialEq, Eq)]
pub struct Replaced<C> {
    pub connection: C,
    /// Displaced by another installation rather than by itself.
    pub by_other_installation: bool,
}

#[derive(Debug)]
struct Entry<C> {
    connection: C,
    nonce: [u8; 16],
    counter: u64,
    epoch: u64,
}

/// Connections by device; `C` is the shell's handle of one.
#[derive(Debug)]
pub struct Registry<C> {
    devices: HashMap<(DeviceId, bool), Entry<C>>,
    last_epoch: u64,
}

impl<C> Default for Registry<C> {
    fn default() -> Self {
        Self { devices: HashMap::new(), last_epoch: 0 }
    }
}

impl<C: Clone> Registry<C> {
    /// Decides on a claim. Epochs rise strictly, also across restarts as long as the wall clock does.
    pub fn register(&mut self, claim: Claim, connection: C, now_wall_us: u64) -> Registered<C> {
        let key = (claim.device, claim.standby);
        if let Some(held) = self.devices.get(&key)
            && held.nonce == claim.nonce
            && held.counter >= claim.counter
        {
            return Registered::Stale;
        }
        self.last_epoch = now_wall_us.max(self.last_epoch + 1);
        let epoch = self.last_epoch;
        let entry = Entry { connection, nonce: claim.nonce, counter: claim.counter, epoch };
        let replaced = self
            .devices
            .insert(key, entry)
            .map(|old| Replaced { connection: old.connection, by_other_installation: old.nonce != claim.nonce });
        Registered::Yes { epoch, replaced }
    }

    /// Lets go of a connection, if it is still the one that was registered under `epoch`.
    pub fn remove(&mut self, device: DeviceId, standby: bool, epoch: u64) {
        let key = (device, standby);
        if self.devices.get(&key).is_some_and(|entry| entry.epoch == epoch) {
            self.devices.remove(&key);
        }
    }

    /// The connection of that epoch; with 0 the primary.
    #[must_use]
    pub fn find(&self, device: DeviceId, epoch: u64) -> Option<C> {
        let entry = |standby| self.devices.get(&(device, standby));
        let wanted = if epoch == 0 {
            entry(false)
        } else {
            [false, true].into_iter().filter_map(entry).find(|entry| entry.epoch == epoch)
        };
        wanted.map(|entry| entry.connection.clone())
    }

    /// Every connection of a device.
    #[must_use]
    pub fn of_device(&self, device: DeviceId) -> Vec<C> {
        [false, true]
            .into_iter()
            .filter_map(|standby| self.devices.get(&(device, standby)))
            .map(|entry| entry.connection.clone())
            .collect()
    }

    /// Every connection.
    #[must_use]
    pub fn all(&self) -> Vec<C> {
        self.devices.values().map(|entry| entry.connection.clone()).collect()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// Whether a hello's role is standby; `None` for a role that this version does not know.
#[must_use]
pub fn is_standby(role: ConnectionRole) -> Option<bool> {
    match role {
        ConnectionRole::Unspecified => None,
        ConnectionRole::Primary => Some(false),
        ConnectionRole::Standby => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(device: u8, nonce: u8, counter: u64, standby: bool) -> Claim {
        Claim { device: DeviceId::from_slice(&[device; 16]).expect("16 bytes"), nonce: [nonce; 16], counter, standby }
    }

    /// (nonce, counter, standby) in order, and what comes of each: `=n` registered and replaced n,
    /// `!n` as that by another installation, `+` registered, `-` stale.
    #[test]
    fn claims_in_order() {
        type Claims = &'static [(u8, u64, bool)];
        let cases: &[(Claims, &str)] = &[
            (&[(1, 1, false), (1, 2, false)], "+ =0"),
            (&[(1, 2, false), (1, 1, false)], "+ -"),
            (&[(1, 2, false), (1, 2, false)], "+ -"),
            (&[(1, 2, false), (2, 1, false), (1, 3, false)], "+ !0 !1"),
            (&[(1, 1, false), (1, 1, true), (1, 2, true)], "+ + =1"),
        ];
        for (claims, expected) in cases {
            let mut registry = Registry::default();
            let seen: Vec<String> = claims
                .iter()
                .enumerate()
                .map(|(number, (nonce, counter, standby))| {
                    match registry.register(claim(1, *nonce, *counter, *standby), number, 1_000) {
                        Registered::Stale => "-".to_owned(),
                        Registered::Yes { replaced: None, .. } => "+".to_owned(),
                        Registered::Yes { replaced: Some(replaced), .. } => {
                            let mark = if replaced.by_other_installation { '!' } else { '=' };
                            format!("{mark}{}", replaced.connection)
                        }
                    }
                })
                .collect();
            assert_eq!(seen.join(" "), *expected, "{claims:?}");
        }
    }

    #[test]
    fn the_end_of_a_replaced_connection_leaves_its_successor() {
        let mut registry = Registry::default();
        let Registered::Yes { epoch: first, .. } = registry.register(claim(1, 1, 1, false), 'a', 5) else {
            panic!("the first is admitted")
        };
        registry.register(claim(1, 1, 2, false), 'b', 5);
        let device = claim(1, 1, 1, false).device;
        registry.remove(device, false, first);
        assert_eq!(registry.find(device, 0), Some('b'));
        assert_eq!(registry.find(device, first), None);
    }

    proptest! {
        #[test]
        fn epochs_rise_strictly_whatever_the_clock_does(walls in prop::collection::vec(0u64..100, 1..50)) {
            let mut registry = Registry::default();
            let mut last = 0;
            for (counter, wall) in walls.into_iter().enumerate() {
                match registry.register(claim(1, 1, counter as u64 + 1, false), (), wall) {
                    Registered::Yes { epoch, .. } => {
                        prop_assert!(epoch > last && epoch >= wall);
                        last = epoch;
                    }
                    Registered::Stale => prop_assert!(false, "the counter rose"),
                }
            }
            prop_assert_eq!(registry.len(), 1);
        }
    }
}
