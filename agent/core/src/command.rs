//! What crosses between core and shell.

use breeze_proto::v1::{
    AgentFrame, HealthStatus, InventorySection, IssuedCertificate, NamedValue, Relay, Scalars, SignedDocument,
    SignedRoot,
};
use bytes::Bytes;

/// One attempt at a connection, and the connection if it succeeds. Never used twice in a process.
pub type LinkId = u64;

/// How frames travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransportKind {
    Quic,
    WebSocket,
}

impl TransportKind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
        }
    }
}

/// What the shell has to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Answer with `handle_connected` (transport and TLS stand) or `handle_disconnected`.
    Connect { link: LinkId, relay: Relay, transport: TransportKind },
    /// On the control stream.
    Send { link: LinkId, frame: AgentFrame },
    /// As `UploadChunk`s: over QUIC on a stream of its own, else between other frames.
    Upload { link: LinkId, transfer: Transfer },
    /// Flush what was sent, then close; its events are ignored from now on.
    Close { link: LinkId, reason: &'static str },
    /// The device's network changed: give the connection a new socket if it can migrate.
    Rebind { link: LinkId },
    /// Answer with `handle_reading`.
    Sample { details: bool },
    /// Look at hardware, network and software; answer with `handle_inventory_scanned`.
    ScanInventory,
    /// Answer with `handle_inventory_built`.
    BuildInventory(InventoryRequest),
    /// A new key and request, signed over the challenge; answer with `handle_renewal_proof`.
    MakeRenewal { challenge: Bytes },
    /// Check, keep durably and use from the next connection on; answer with `handle_certificate`.
    InstallCertificate(IssuedCertificate),
    /// Keep durably.
    SaveState(State),
}

/// Which document is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InventoryRequest {
    pub section: InventorySection,
    /// What the server holds; a delta against it if that can be made. `None`: the whole section.
    pub base: Option<[u8; 32]>,
    pub incarnation: u64,
    pub revision: u64,
}

/// One upload.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    pub id: [u8; 16],
    /// An encoded `InventoryDocument`; at most `MAX_UPLOAD_BYTES`.
    pub content: Bytes,
}

/// The device's figures at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub scalars: Scalars,
    pub status: HealthStatus,
    pub last_user: String,
    pub pending_reboot: bool,
    pub details: Vec<NamedValue>,
    pub custom: Vec<NamedValue>,
}

/// What the core wants kept beside the spool; changes rarely.
#[derive(Clone, PartialEq, prost::Message)]
pub struct State {
    /// Always present.
    #[prost(message, optional, tag = "1")]
    pub root: Option<SignedRoot>,
    /// Relay list and configurations.
    #[prost(message, repeated, tag = "2")]
    pub documents: Vec<SignedDocument>,
    /// The proof, while revoked.
    #[prost(message, optional, tag = "3")]
    pub revoked: Option<SignedDocument>,
}
