//! Bounds of the relay's own, beside those of the wire in [`breeze_proto::limits`].

use std::time::Duration;

/// How long an unfinished hello may take after the handshake.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames a second that one connection may send on average.
pub const FRAMES_PER_SECOND: u32 = 20;
/// Frames that may come at once: a full backlog's worth.
pub const FRAME_BURST: u32 = 200;
/// Bytes a second that one connection may send on average.
pub const BYTES_PER_SECOND: u32 = 256 * 1024;
/// Bytes that may come at once.
pub const BYTE_BURST: u32 = 2 * 1024 * 1024;
/// How long a transfer may stay incomplete.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of incomplete transfers of all connections together.
pub const MAX_UPLOAD_BYTES_TOTAL: usize = 64 * 1024 * 1024;
/// How long a connection outlives its certificate.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(300);
/// How long after its end a certificate may still ask for a new one.
pub const RENEWAL_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a connection that may only renew may last. Nothing displaces it, so that without an end
/// one device could hold any number of them.
pub const RENEWAL_TIME: Duration = Duration::from_secs(600);
/// Earliest return of an installation that another installation of the same device displaced.
pub const CLONE_RETRY: Duration = Duration::from_secs(60);
/// Earliest return after a revocation: once a day.
pub const REVOKED_RETRY: Duration = Duration::from_secs(24 * 3600);
/// Earliest return after an error that only a later moment can mend.
pub const ERROR_RETRY: Duration = Duration::from_secs(5);

/// Bytes of a lane that wait for their append, the one under way included.
pub const MAX_LANE_WAITING_BYTES: usize = 8 * 1024 * 1024;
/// Entries a second of one lane below which each is written at once.
pub const LOW_RATE: u32 = 20;
/// Entries that a batch aims at above that, within the gather window.
pub const TARGET_ENTRIES: u32 = 64;

/// How long a home that did not take a batch is left alone: at first, and at most.
pub const FIRST_HOME_PAUSE: Duration = Duration::from_secs(1);
pub const LAST_HOME_PAUSE: Duration = Duration::from_secs(30);
/// Bytes of a region's name.
pub const MAX_REGION_BYTES: usize = 64;

/// Devices of which the last handshakes are remembered.
pub const MAX_REMEMBERED_DEVICES: usize = 16 * 1024;
/// Source addresses of which unvalidated attempts are counted.
pub const MAX_REMEMBERED_ADDRESSES: usize = 16 * 1024;
/// Entries of the revocation set.
pub const MAX_REVOCATIONS: usize = 2_000_000;
