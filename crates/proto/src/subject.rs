//! Names on the bus: durable streams, broadcasts and request subjects. All are built here, so that a
//! role's permissions on a real bus can be written from this one file.

use crate::{id::DeviceId, shard::LaneId};

/// Durable stream of one lane of a region: [`crate::v1::LaneBatch`]. Written by relays, read by the owner.
#[must_use]
pub fn lane_stream(region: &str, lane: LaneId) -> String {
    format!("lane.{region}.{lane}")
}

/// Durable stream of what relays of `region` took from devices of `home` while that could not be reached:
/// [`crate::v1::LaneBatch`] after the lane ([`crate::shard::ForeignLane`]). Collectors of `region` replay it.
#[must_use]
pub fn foreign_stream(region: &str, home: &str) -> String {
    format!("foreign.{region}.{home}")
}

/// Durable stream of device attributes that changed: [`crate::v1::Digest`]-independent full records
/// with versions, written by collectors and the control plane, read by every directory.
pub const DIRECTORY_STREAM: &str = "directory";

/// Request: [`crate::v1::HeldRequest`] to the owner of a lane.
#[must_use]
pub fn lane_held(region: &str, lane: LaneId) -> String {
    format!("collector.{region}.{lane}.held")
}

/// Request: [`crate::v1::PushRequest`] to the relay that holds a connection.
#[must_use]
pub fn relay_push(relay_id: &str) -> String {
    format!("relay.{relay_id}.push")
}

/// Request: [`crate::v1::ChallengeRequest`] to any control-plane node.
pub const CA_CHALLENGE: &str = "ca.challenge";
/// Request: [`crate::v1::RenewCertificate`], answered by [`crate::v1::RenewReply`].
pub const CA_RENEW: &str = "ca.renew";
/// Request: [`crate::v1::RelayCertificateRequest`] of that relay, answered by [`crate::v1::RelayCertificateReply`].
#[must_use]
pub fn ca_relay(relay_id: &str) -> String {
    format!("ca.relay.{relay_id}")
}

/// Request to a lane's owner to hand it to the collector that asks: [`crate::v1::YieldLane`].
#[must_use]
pub fn lane_yield(region: &str, lane: LaneId) -> String {
    format!("collector.{region}.{lane}.yield")
}

/// Request to a lane's owner for what it knows of the lane's devices: [`crate::v1::FollowLane`],
/// answered by a [`crate::v1::LanePage`].
#[must_use]
pub fn lane_follow(region: &str, lane: LaneId) -> String {
    format!("collector.{region}.{lane}.follow")
}

/// Broadcast: [`crate::v1::CollectorPresence`] of a collector of the region.
#[must_use]
pub fn collectors(region: &str) -> String {
    format!("collectors.{region}")
}

/// Request: [`crate::v1::DocumentsRequest`].
pub const AGENT_DOCUMENTS: &str = "agent.documents";
/// Request: [`crate::v1::RevocationsRequest`], answered by a [`crate::v1::SignedDocument`] over a whole
/// [`crate::v1::RevocationSet`] or a page of it.
pub const REVOCATIONS_SNAPSHOT: &str = "revocations.snapshot";
/// Broadcast: a [`crate::v1::SignedDocument`] over an update of the set.
pub const REVOCATIONS_UPDATE: &str = "revocations.update";
/// Broadcast: [`crate::v1::Watch`].
pub const WATCH: &str = "watch";

/// Broadcast: [`crate::v1::LiveSample`] of a watched device.
#[must_use]
pub fn live(device: DeviceId) -> String {
    format!("live.{device}")
}

/// Request to a node of the control plane, among them only: entries of an audit chain whose lease it holds.
#[must_use]
pub fn audit_append(node: &str) -> String {
    format!("audit.{node}.append")
}

/// Broadcast: [`crate::v1::Digest`].
#[must_use]
pub fn digest(region: &str) -> String {
    format!("digest.{region}")
}

/// Request: [`crate::v1::DigestRequest`], answered by a full [`crate::v1::Digest`] or a page of it.
#[must_use]
pub fn digest_full(region: &str) -> String {
    format!("collector.{region}.digest")
}

/// Request to one collector for its own devices, among collectors only: as [`digest_full`].
#[must_use]
pub fn digest_of(region: &str, collector_id: &str) -> String {
    format!("collector.{region}.{collector_id}.digest")
}

/// Broadcast: [`crate::v1::RoleStatus`].
#[must_use]
pub fn status(role: &str, id: &str) -> String {
    format!("status.{role}.{id}")
}
