//! Every bound on what crosses a wire, in one place. A peer that exceeds one gets a defined answer
//! and is counted; nothing is allocated from a length that was not checked against these first.

use std::time::Duration;

/// Largest frame body, either direction, in bytes.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// Largest frame that is read before the hello was accepted.
pub const MAX_FIRST_FRAME_BYTES: usize = 8 * 1024;
/// Data bytes in one [`crate::v1::UploadChunk`].
pub const MAX_CHUNK_BYTES: usize = 32 * 1024;
/// One whole upload. Below the smallest message limit of a bus (1 MiB) with room for the envelope.
pub const MAX_UPLOAD_BYTES: usize = 768 * 1024;
/// Uploads of one connection that may be incomplete at a time.
pub const MAX_OPEN_UPLOADS: usize = 2;
/// Heartbeats in one frame.
pub const MAX_HEARTBEATS_PER_BATCH: usize = 64;
/// Encoded size of one heartbeat.
pub const MAX_HEARTBEAT_BYTES: usize = 32 * 1024;
/// Detail series in one heartbeat.
pub const MAX_DETAIL_VALUES: usize = 512;
/// Custom metrics of one device in one heartbeat.
pub const MAX_CUSTOM_VALUES: usize = 64;
/// Bytes of a metric's name; `[A-Za-z0-9_.:/%-]` only.
pub const MAX_METRIC_NAME_BYTES: usize = 96;
/// Bytes of a host name, user name or version string that an agent sends; longer ones are cut.
pub const MAX_TEXT_BYTES: usize = 256;
/// Software entries in one document.
pub const MAX_SOFTWARE_ENTRIES: usize = 20_000;
/// Disks, interfaces and addresses in one document.
pub const MAX_HARDWARE_ENTRIES: usize = 512;
/// Sent and not yet acknowledged heartbeats of one connection.
pub const MAX_UNACKED_HEARTBEATS: usize = 256;
/// Encoded size of one [`crate::v1::LaneBatch`].
pub const MAX_LANE_BATCH_BYTES: usize = 900 * 1024;
/// Certificate request, in bytes of DER.
pub const MAX_CSR_BYTES: usize = 4 * 1024;

/// The longest that a relay gathers heartbeats before it writes a lane's batch.
pub const MAX_GATHER_WINDOW: Duration = Duration::from_millis(250);
/// How long a starting agent waits for [`crate::v1::Held`] before it begins a new incarnation.
pub const HELD_WAIT: Duration = Duration::from_secs(10);
/// A sample from further ahead than this is clamped to the time of its arrival.
pub const MAX_FUTURE: Duration = Duration::from_secs(5 * 60);
/// A sample older than this is refused: it could not be kept.
pub const MAX_SAMPLE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The plan's heartbeat period.
pub const DEFAULT_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);
/// The shortest period that a server may ask for.
pub const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The longest.
pub const MAX_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3600);
/// Per-core, per-disk and per-interface series.
pub const DEFAULT_DETAIL_INTERVAL: Duration = Duration::from_secs(300);
/// QUIC keep-alive by the agent. Just above half of the plan's heartbeat period: one between two
/// heartbeats keeps a NAT's binding, a second one would cost a tenth of what an idle agent sends.
pub const KEEP_ALIVE: Duration = Duration::from_secs(31);
/// Silence after which a connection is dead.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a role tells its state on `status.*`.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(2);
