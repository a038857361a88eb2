//! What JetStream answers, as far as it is needed here, and what its errors are to a caller of the bus.

use super::place::Place;
use crate::{BusError, Extent, MAX_PAYLOAD_BYTES, Position};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// An error of JetStream's interface.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) err_code: u32,
    #[serde(default)]
    pub(crate) description: String,
}

/// Codes of JetStream's `errors.json`.
const STORAGE_RESOURCES_EXCEEDED: u32 = 10047;
const INSUFFICIENT_RESOURCES: u32 = 10023;
const ACCOUNT_RESOURCES_EXCEEDED: u32 = 10002;
const STREAM_MESSAGE_EXCEEDS_MAXIMUM: u32 = 10054;
const STREAM_STORE_FAILED: u32 = 10077;
const STREAM_NOT_FOUND: u32 = 10059;

impl ApiError {
    pub(crate) fn into_bus_error(self, place: &Place) -> BusError {
        let full = |reason: String| BusError::Full { stream: place.subject.clone(), reason };
        match self.err_code {
            STORAGE_RESOURCES_EXCEEDED | INSUFFICIENT_RESOURCES | ACCOUNT_RESOURCES_EXCEEDED => full(self.description),
            // Its own limit, or the disk's; other causes of the same code are no statement about room.
            STREAM_STORE_FAILED if says_full(&self.description) => full(self.description),
            STREAM_MESSAGE_EXCEEDS_MAXIMUM => {
                BusError::TooLarge { len: MAX_PAYLOAD_BYTES + 1, limit: MAX_PAYLOAD_BYTES }
            }
            STREAM_NOT_FOUND => missing(place),
            code => BusError::Unavailable(format!("{}: {} (JetStream error {code})", place.shown(), self.description)),
        }
    }
}

fn says_full(description: &str) -> bool {
    let description = description.to_ascii_lowercase();
    ["maximum", "no space", "insufficient", "resource"].iter().any(|word| description.contains(word))
}

/// The stream is not there.
pub(crate) fn missing(place: &Place) -> BusError {
    BusError::Unavailable(format!("{} does not exist: `breeze migrate` makes it", place.shown()))
}

/// Nobody listens to a subject of the stream or of its domain.
pub(crate) fn no_responder(place: &Place) -> BusError {
    BusError::Unavailable(format!(
        "nobody answers for {}: it does not exist, JetStream is not ready, or the link to it is cut",
        place.shown()
    ))
}

/// Answer to a publication.
#[derive(Debug, Deserialize)]
pub(crate) struct PubAck {
    #[serde(default)]
    pub(crate) error: Option<ApiError>,
    #[serde(default)]
    pub(crate) stream: String,
    #[serde(default)]
    pub(crate) seq: Position,
}

/// Answer to STREAM.INFO, STREAM.CREATE and STREAM.UPDATE.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamInfo {
    #[serde(default)]
    pub(crate) error: Option<ApiError>,
    #[serde(default)]
    pub(crate) config: StreamConfig,
    /// RFC 3339.
    #[serde(default)]
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) state: StreamState,
    #[serde(default)]
    pub(crate) cluster: Option<ClusterInfo>,
}

impl StreamInfo {
    pub(crate) fn extent(&self) -> Extent {
        let StreamState { messages, bytes, first_seq, last_seq } = self.state;
        let first = if messages == 0 { last_seq + 1 } else { first_seq };
        Extent { first, last: last_seq, bytes, identity: self.identity() }
    }

    /// When it was made, in nanoseconds: the same for all its replicas, whoever leads. As a number, since
    /// servers may write one moment in several ways.
    fn identity(&self) -> u64 {
        let made = self.created.parse::<jiff::Timestamp>().ok();
        made.and_then(|made| u64::try_from(made.as_nanosecond()).ok()).unwrap_or(0)
    }
}

/// Who keeps a stream, as its leader sees it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ClusterInfo {
    #[serde(default)]
    pub(crate) replicas: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Peer {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) current: bool,
    #[serde(default)]
    pub(crate) offline: bool,
    #[serde(default)]
    pub(crate) lag: u64,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct StreamState {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
}

/// Configuration of a stream: what Breeze sets. What it does not know is kept as the server has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamConfig {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) subjects: Vec<String>,
    #[serde(default)]
    pub(crate) storage: String,
    #[serde(default)]
    pub(crate) retention: String,
    #[serde(default)]
    pub(crate) discard: String,
    #[serde(default)]
    pub(crate) max_bytes: i64,
    #[serde(default)]
    pub(crate) max_msg_size: i64,
    #[serde(default)]
    pub(crate) num_replicas: u32,
    /// In nanoseconds.
    #[serde(default)]
    pub(crate) duplicate_window: u64,
    #[serde(default)]
    pub(crate) allow_direct: bool,
    #[serde(default)]
    pub(crate) deny_delete: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) republish: Option<Republish>,
    #[serde(default)]
    pub(crate) metadata: HashMap<String, String>,
    #[serde(flatten)]
    pub(crate) others: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Republish {
    pub(crate) src: String,
    pub(crate) dest: String,
    #[serde(default)]
    pub(crate) headers_only: bool,
}

/// Answer to STREAM.PURGE.
#[derive(Debug, Deserialize)]
pub(crate) struct Purged {
    #[serde(default)]
    pub(crate) error: Option<ApiError>,
}

#[derive(Debug, Serialize)]
pub(crate) struct PurgeRequest {
    pub(crate) seq: Position,
}

/// A batched direct get (ADR-31 of NATS): from a sequence on, or from the first one behind it.
#[derive(Debug, Serialize)]
pub(crate) struct DirectGet {
    pub(crate) seq: Position,
    pub(crate) batch: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_bytes: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// created -> identity
    #[test]
    fn one_moment_is_one_identity_however_it_is_written() {
        for (created, identity) in [
            ("2026-11-24T21:03:26.000000001Z", 1_795_554_206_000_000_001),
            ("2026-11-24T22:03:26.000000001+01:00", 1_795_554_206_000_000_001),
            ("0001-01-01T00:00:00Z", 0),
            ("", 0),
        ] {
            let info: StreamInfo =
                serde_json::from_value(serde_json::json!({ "created": created })).expect("an answer");
            assert_eq!(info.extent().identity, identity, "{created}");
        }
    }

    /// code, description -> whether it says that there is no room
    #[test]
    fn only_a_lack_of_room_is_full() {
        let place = Place::of("lane.eu.0", "eu").expect("a place");
        for (err_code, description, full) in [
            (10077, "maximum bytes exceeded", true),
            (10077, "write /data/x.blk: no space left on device", true),
            (10077, "stream store is closed", false),
            (10047, "insufficient storage resources available", true),
            (10008, "JetStream system temporarily unavailable", false),
        ] {
            let error = ApiError { err_code, description: description.to_owned() }.into_bus_error(&place);
            assert_eq!(matches!(error, BusError::Full { .. }), full, "{error:?}");
            assert_eq!(error.is_definite(), full);
        }
    }
}
