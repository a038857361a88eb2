//! The language that Breeze's parts speak: wire messages, typed ids, the frame codec, shards and
//! lanes, bus subjects, signed documents and the named limits of all of them.
//!
//! No tokio and no I/O: everything here is a pure function or a plain value.

pub mod enroll;
pub mod frame;
pub mod id;
pub mod inventory;
pub mod limits;
pub mod shard;
pub mod subject;
pub mod time;
pub mod trust;

/// Messages generated from `proto/breeze/v1/*.proto`, where they are documented.
#[allow(unreachable_pub, missing_docs, clippy::wildcard_enum_match_arm, clippy::large_enum_variant)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/breeze.v1.rs"));
}

/// ALPN protocol name of the agent connection, on QUIC and on the TLS inside a WebSocket.
pub const ALPN: &[u8] = b"breeze/1";

/// The protocol version in [`v1::Hello`].
pub const PROTOCOL_VERSION: u32 = 1;
