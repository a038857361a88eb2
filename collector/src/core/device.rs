//! One device as its lane's owner knows it, and what a heartbeat or a hello changes in it.

use super::{
    bounds,
    budget::{Budget, Subject},
    custom::CustomNames,
    presence::{Presence, Session, SessionKey},
    received::Received,
};
use breeze_proto::{
    id::DeviceId,
    shard::Shard,
    v1::{self, DeviceFacts, DeviceLatest},
};
use std::net::SocketAddr;

/// What has changed and where it still has to go.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dirty {
    pub(super) received: bool,
    pub(super) latest: bool,
    /// First and last position of the entries that changed them.
    pub(super) facts: Option<(u64, u64)>,
    pub(super) digest: bool,
    /// `latest` must not wait: presence or health changed.
    pub(super) urgent: bool,
    /// Is among those whose presence the history is to be told of.
    pub(super) untold: bool,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) shard: Shard,
    pub(super) received: Received,
    pub(super) presence: Presence,
    pub(super) latest: DeviceLatest,
    pub(super) facts: DeviceFacts,
    pub(super) dirty: Dirty,
    /// Values of samples that are older than this are not the newest.
    pub(super) sample_us: u64,
    /// Of the newest live sample since this core was made; 0: none.
    pub(super) live_us: u64,
    /// Seen between live samples: rises at once, falls slowly.
    pub(super) interval_us: u64,
    /// When `latest` was last handed to the store.
    pub(super) merged_us: u64,
    /// The wheel's tick at which its timer fires; 0: none.
    pub(super) armed_tick: u64,
    /// By [`Subject`].
    pub(super) budgets: [Budget; Subject::ALL.len()],
    /// Of a device that sends custom metrics.
    pub(super) custom: Option<Box<CustomNames>>,
}

impl Device {
    pub(super) fn new(id: DeviceId, region: &str) -> Self {
        Self {
            id,
            shard: Shard::of(id),
            received: Received::default(),
            presence: Presence::default(),
            latest: DeviceLatest::default(),
            facts: DeviceFacts { region: region.to_owned(), ..DeviceFacts::default() },
            dirty: Dirty::default(),
            sample_us: 0,
            live_us: 0,
            interval_us: 0,
            merged_us: 0,
            armed_tick: 0,
            budgets: Default::default(),
            custom: None,
        }
    }

    /// Whether anything is known of it but its received heartbeats. Those stay for a while when a device
    /// moves to another region.
    pub(super) fn is_known(&self) -> bool {
        self.latest.last_seen_us != 0
    }

    pub(super) fn is_online(&self) -> bool {
        self.latest.presence == v1::Presence::Online as i32
    }

    /// How long silence may last.
    pub(super) fn period_us(&self, floor_us: u64) -> u64 {
        (self.interval_us * 5 / 2).max(floor_us)
    }

    /// Marks it online or offline; whether that changed.
    pub(super) fn set_presence(&mut self, presence: v1::Presence, at_us: u64) -> bool {
        if self.latest.presence == presence as i32 {
            return false;
        }
        self.latest.presence = presence.into();
        self.latest.presence_since_us = at_us;
        self.dirty.urgent = true;
        true
    }

    /// Takes a heartbeat's values over, if they are the newest. Whether they were.
    pub(super) fn take_sample(&mut self, stamped: &v1::StampedHeartbeat, heartbeat: &mut v1::Heartbeat) -> bool {
        let sample_us = stamped.sample_us;
        if sample_us <= self.sample_us {
            return false;
        }
        if heartbeat.lane() == v1::Lane::Live {
            if self.live_us > 0 {
                let seen = sample_us.saturating_sub(self.live_us).min(3_600_000_000);
                self.interval_us = seen.max(self.interval_us - self.interval_us / 8);
            }
            self.live_us = sample_us;
            self.sample_us = sample_us;
        }
        let latest = &mut self.latest;
        latest.scalars = heartbeat.scalars;
        latest.clock_offset_us = stamped.offset_us;
        latest.round_trip_us = stamped.round_trip_us;
        latest.thinned = heartbeat.thinned;
        let user = if heartbeat.last_user == latest.last_user {
            None
        } else {
            Some(bounds::text(std::mem::take(&mut heartbeat.last_user))).filter(|user| *user != latest.last_user)
        };
        let health = v1::HealthStatus::try_from(heartbeat.status).unwrap_or_default() as i32;
        if latest.status != health || latest.pending_reboot != heartbeat.pending_reboot || user.is_some() {
            latest.status = health;
            latest.pending_reboot = heartbeat.pending_reboot;
            if let Some(user) = user {
                latest.last_user = user;
            }
            self.dirty.urgent = true;
        }
        true
    }

    /// Takes a hello's facts over; whether anything changed.
    pub(super) fn take_hello(&mut self, relay_id: &str, key: SessionKey, hello: v1::Connected, at_us: u64) -> bool {
        let before = self.facts.clone();
        let since_us = match &before.connection {
            Some(known) if known.session_epoch == key.epoch && known.relay_id == relay_id => known.since_us,
            Some(_) | None => at_us,
        };
        let address = bounds::text(hello.observed_address);
        self.facts.host = hello.host.map(bounds::host);
        self.facts.agent_version = bounds::text(hello.agent_version);
        self.facts.public_ip = match address.parse::<SocketAddr>() {
            Ok(address) => address.ip().to_canonical().to_string(),
            Err(_) => String::new(),
        };
        self.facts.connection = Some(v1::ConnectionFacts {
            relay_id: relay_id.to_owned(),
            transport: bounds::text(hello.transport),
            address,
            since_us,
            session_epoch: key.epoch,
            certificate_expires_s: hello.certificate_expires_s,
            instance_nonce: hello.instance_nonce,
            session_counter: hello.session_counter,
        });
        self.facts != before
    }

    /// After a restart: the connection that was alive when the rows were written, if it may still be.
    pub(super) fn restore_session(&mut self, relay: impl FnOnce(&str) -> u16, now_us: u64) {
        if !self.is_online() {
            return;
        }
        let Some(connection) = &self.facts.connection else { return };
        let nonce = connection.instance_nonce.as_ref().try_into().ok();
        let session = Session {
            key: SessionKey { relay: relay(&connection.relay_id), epoch: connection.session_epoch },
            installation: nonce.map(|nonce| (nonce, connection.session_counter)),
            is_standby: false,
        };
        self.presence.handle_connected(session, now_us);
    }
}

/// The row of the metrics store.
pub(super) fn scalar_row(scalars: Option<v1::Scalars>) -> [u64; breeze_store::metrics::SCALARS] {
    let s = scalars.unwrap_or_default();
    [
        s.cpu_permille.into(),
        s.ram_permille.into(),
        s.ram_used_mib.into(),
        s.swap_used_mib.into(),
        s.disk_permille.into(),
        s.disk_used_mib.into(),
        s.net_in_bytes,
        s.net_out_bytes,
        s.load1_centi.into(),
        s.process_count.into(),
        s.uptime_s,
        s.flags.into(),
    ]
}
