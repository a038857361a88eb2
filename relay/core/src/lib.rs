//! What a relay decides, without sockets, clocks or tasks: `(input, now) -> commands`.
//!
//! - [`session`]: one agent connection, from hello to close.
//! - [`homes`]: whether another region's lanes are worth a try.
//! - [`registry`]: which connection speaks for a device.
//! - [`batcher`]: gathers entries of a lane into batches and maps what was stored back to connections.
//! - [`acks`]: what of a connection was stored, merged into ranges.
//! - [`admission`]: which handshakes are worth their price.
//! - [`revocations`]: the signed, versioned set of devices that may not come in.
//!
//! Nothing here knows QUIC, WebSocket, TLS or the bus.

pub mod acks;
pub mod admission;
pub mod batcher;
pub mod bucket;
pub mod homes;
pub mod limits;
pub mod registry;
pub mod revocations;
pub mod session;

/// Both clocks of the relay at one moment, given by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Microseconds of a clock that never steps, from any start.
    pub mono_us: u64,
    /// Microseconds since the Unix epoch.
    pub wall_us: u64,
}
