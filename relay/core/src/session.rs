//! One agent connection, from hello to close: `handle_*` takes what happened and returns commands.
//!
//! Order of a connection: hello, then (registered by the shell) a welcome, the region's `Held` and the
//! device's documents as they arrive, and from then on heartbeats, transfers, renewal and pings in any
//! order. Before each read the shell asks [`Session::reading`], which is how rate and unacknowledged
//! amount are bounded: nothing is dropped, the connection is not read on.

mod answers;
mod heartbeats;
mod uploads;

pub use uploads::UploadBudget;

use crate::{
    Now,
    acks::Stored,
    bucket::TokenBucket,
    limits,
    registry::{Claim, is_standby},
};
use breeze_proto::{
    PROTOCOL_VERSION,
    frame::FrameError,
    id::DeviceId,
    limits::{
        IDLE_TIMEOUT, MAX_CSR_BYTES, MAX_FIRST_FRAME_BYTES, MAX_FRAME_BYTES, MAX_TEXT_BYTES, MAX_UNACKED_HEARTBEATS,
    },
    v1::{
        AgentFrame, Close, CloseReason, Disconnected, DocumentsRequest, HeldRequest, Hello, LaneEntry, Ping, Pong,
        RenewProof, agent_frame, lane_entry, relay_frame,
    },
};
use bytes::Bytes;
use std::{collections::VecDeque, sync::Arc};
use uploads::Uploads;

/// Entries for the lane's batcher, each with what it is to this connection.
pub type Entries = VecDeque<(LaneEntry, Stored)>;

/// What the shell knows of a connection from its handshake.
#[derive(Debug, Clone)]
pub struct Peer {
    /// From the verified client certificate.
    pub device: DeviceId,
    pub certificate_expires_s: u64,
    /// The certificate has expired within the renewal limit.
    pub renew_only: bool,
    /// "quic" or "websocket".
    pub transport: &'static str,
    /// "ip:port".
    pub address: String,
    /// Whether silence must be noticed here; QUIC notices it by itself.
    pub watch_idle: bool,
    pub relay_id: Arc<str>,
}

/// What the shell is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Send(relay_frame::Body),
    /// Ask the registry and the revocation set; answer with [`Session::handle_registered`],
    /// [`Session::handle_stale`] or [`Session::handle_revoked`].
    Register(Claim),
    /// The certificate has expired: ask the revocation set alone.
    CheckRenewal,
    /// Hand to the lane's batcher; each that was stored comes back in [`Session::handle_stored`].
    Append(Entries),
    /// Ask the lane's owner; the answer goes to [`Session::handle_held`].
    AskHeld(HeldRequest),
    /// Ask the control plane; the answer goes to [`Session::handle_documents`].
    AskDocuments(DocumentsRequest),
    /// Ask the CA; the answer goes to [`Session::handle_challenge`].
    AskChallenge,
    /// Ask the CA; the answer goes to [`Session::handle_renewed`].
    AskRenewal(Box<RenewProof>),
    /// Send this, let it arrive, and end the connection.
    Close(Box<Close>),
    /// End the connection.
    End,
    /// Count under `breeze_relay_refused_total`, by reason.
    Count(&'static str, u64),
}

/// Commands of one step; most steps have one or two.
pub type Commands = Vec<Command>;

/// Whether the connection may be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Now,
    /// Not before this monotonic time: it sent faster than it may.
    At(u64),
    /// Not before something was acknowledged, or never again.
    Not,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitingHello,
    /// The shell decides.
    Registering,
    RenewOnly,
    Active {
        epoch: u64,
        standby: bool,
    },
    Closing,
}

/// What of the hello is still needed after it.
#[derive(Debug)]
struct Greeted {
    nonce: [u8; 16],
    counter: u64,
    incarnation: u64,
    boot_id: Bytes,
    home_region: String,
    /// Until the shell has decided.
    hello: Option<Box<Hello>>,
}

/// State of one connection.
#[derive(Debug)]
pub struct Session {
    peer: Peer,
    state: State,
    greeted: Option<Greeted>,
    /// Why it ended, for the `Disconnected` entry.
    ended: &'static str,
    frames: TokenBucket,
    bytes: TokenBucket,
    unacked: u32,
    /// Of the newest heartbeat of this boot: when the device took it, and the time that it was given.
    newest: (u64, u64),
    uploads: Uploads,
    renewing: bool,
    hello_by_us: u64,
    expires_at_us: u64,
    heard_us: u64,
}

impl Session {
    #[must_use]
    pub fn new(peer: Peer, uploads: Arc<UploadBudget>, now: Now) -> Self {
        let end_us = peer.certificate_expires_s.saturating_mul(1_000_000);
        let left_us = end_us.saturating_add(limits::EXPIRY_GRACE.as_micros() as u64).saturating_sub(now.wall_us);
        Self {
            state: State::AwaitingHello,
            greeted: None,
            ended: "error",
            frames: TokenBucket::new(limits::FRAMES_PER_SECOND, limits::FRAME_BURST, now.mono_us),
            bytes: TokenBucket::new(limits::BYTES_PER_SECOND, limits::BYTE_BURST, now.mono_us),
            unacked: 0,
            newest: (0, 0),
            uploads: Uploads::new(uploads),
            renewing: false,
            hello_by_us: now.mono_us + limits::HELLO_TIMEOUT.as_micros() as u64,
            expires_at_us: if peer.renew_only { u64::MAX } else { now.mono_us.saturating_add(left_us) },
            heard_us: now.mono_us,
            peer,
        }
    }

    // ---- getters ----

    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Largest frame body that may come next, in bytes.
    #[must_use]
    pub fn frame_limit(&self) -> usize {
        match self.state {
            State::AwaitingHello | State::Registering | State::RenewOnly => MAX_FIRST_FRAME_BYTES,
            State::Active { .. } | State::Closing => MAX_FRAME_BYTES,
        }
    }

    /// Epoch and whether standby, once it is registered.
    #[must_use]
    pub fn registered(&self) -> Option<(u64, bool)> {
        match self.state {
            State::Active { epoch, standby } => Some((epoch, standby)),
            State::AwaitingHello | State::Registering | State::RenewOnly | State::Closing => None,
        }
    }

    /// Where the device says that it belongs; empty: nowhere, or before the hello.
    #[must_use]
    pub fn home_region(&self) -> &str {
        self.greeted.as_ref().map_or("", |greeted| &greeted.home_region)
    }

    /// Entries handed over and not yet stored.
    #[must_use]
    pub fn unacked(&self) -> u32 {
        self.unacked
    }

    /// Whether to read on.
    pub fn reading(&mut self, now: Now) -> Reading {
        if self.state == State::Closing || self.unacked as usize >= MAX_UNACKED_HEARTBEATS {
            return Reading::Not;
        }
        match self.frames.debt_us(now.mono_us).max(self.bytes.debt_us(now.mono_us)) {
            0 => Reading::Now,
            wait => Reading::At(now.mono_us + wait),
        }
    }

    /// Nothing was read up to now although there may have been something: a silence that is our own does
    /// not count.
    pub fn handle_not_reading(&mut self, now: Now) {
        self.heard_us = now.mono_us;
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> u64 {
        let hello = if self.state == State::AwaitingHello { self.hello_by_us } else { u64::MAX };
        let idle = if self.peer.watch_idle { self.idle_at_us() } else { u64::MAX };
        hello.min(self.expires_at_us).min(idle).min(self.uploads.expires_at_us())
    }

    fn idle_at_us(&self) -> u64 {
        self.heard_us.saturating_add(IDLE_TIMEOUT.as_micros() as u64)
    }

    // ---- what the agent sent ----

    /// A frame of `len` bytes from the control stream. `round_trip_us` of the path, 0 if unknown.
    pub fn handle_frame(&mut self, frame: AgentFrame, len: usize, round_trip_us: u32, now: Now) -> Commands {
        self.pay(len, now);
        let Some(body) = frame.body else { return vec![Command::Count("unknown_frame", 1)] };
        match (self.state, body) {
            (State::Closing, _) => Vec::new(),
            (State::AwaitingHello, agent_frame::Body::Hello(hello)) => self.handle_hello(hello),
            (State::AwaitingHello | State::Registering, _) => self.protocol("out_of_order", "expected a hello"),
            (_, agent_frame::Body::Hello(_)) => self.protocol("out_of_order", "a second hello"),
            (_, agent_frame::Body::Ping(Ping { token })) => {
                vec![Command::Send(relay_frame::Body::Pong(Pong { token, server_wall_us: now.wall_us }))]
            }
            (_, agent_frame::Body::Pong(_)) => Vec::new(),
            (_, agent_frame::Body::Goodbye(_)) => self.end("goodbye"),
            (_, agent_frame::Body::RenewBegin(_)) => self.handle_renew_begin(),
            (_, agent_frame::Body::RenewProof(proof)) => self.handle_renew_proof(proof),
            // What an agent had in flight when its certificate ended is no fault; it is not answered.
            (State::RenewOnly, agent_frame::Body::Heartbeats(_) | agent_frame::Body::Upload(_)) => {
                vec![Command::Count("renew_only", 1)]
            }
            (State::Active { standby: true, .. }, agent_frame::Body::Heartbeats(_)) => {
                self.protocol("standby_heartbeat", "a standby connection sends no heartbeats")
            }
            (State::Active { epoch, .. }, agent_frame::Body::Heartbeats(batch)) => {
                self.handle_heartbeats(batch, epoch, round_trip_us, now)
            }
            (State::Active { epoch, .. }, agent_frame::Body::Upload(chunk)) => self.handle_upload(chunk, epoch, now),
        }
    }

    /// A frame from a stream that only carries transfers.
    pub fn handle_bulk_frame(&mut self, frame: AgentFrame, len: usize, now: Now) -> Commands {
        let only_bulk = matches!(frame.body, None | Some(agent_frame::Body::Upload(_)));
        if only_bulk { self.handle_frame(frame, len, 0, now) } else { self.protocol("out_of_order", "not a transfer") }
    }

    /// The byte stream cannot be read on.
    pub fn handle_frame_error(&mut self, error: &FrameError) -> Commands {
        match error {
            FrameError::TooLarge { len, limit } => {
                self.protocol("oversized", &format!("a frame of {len} bytes exceeds {limit}"))
            }
            FrameError::Malformed(_) => self.protocol("malformed", "a frame does not decode"),
        }
    }

    fn pay(&mut self, len: usize, now: Now) {
        self.heard_us = now.mono_us;
        self.frames.spend(1, now.mono_us);
        self.bytes.spend(u32::try_from(len).unwrap_or(u32::MAX), now.mono_us);
    }

    fn handle_hello(&mut self, hello: Hello) -> Commands {
        if hello.protocol != PROTOCOL_VERSION {
            let text = format!("protocol {} is not spoken here", hello.protocol);
            let mut commands = self.close(CloseReason::UnsupportedVersion, &text, "error");
            commands.push(Command::Count("unsupported_version", 1));
            return commands;
        }
        let nonce: Option<[u8; 16]> = hello.instance_nonce.as_ref().try_into().ok();
        let (Some(nonce), Some(standby), 16) = (nonce, is_standby(hello.role()), hello.boot_id.len()) else {
            return self.protocol("malformed", "the hello is incomplete");
        };
        self.greeted = Some(Greeted {
            nonce,
            counter: hello.session_counter,
            incarnation: hello.incarnation,
            boot_id: Bytes::copy_from_slice(&hello.boot_id),
            // One that is too long is no region of ours.
            home_region: Some(&hello.home_region)
                .filter(|home| home.len() <= limits::MAX_REGION_BYTES)
                .cloned()
                .unwrap_or_default(),
            hello: (!self.peer.renew_only).then(|| Box::new(hello)),
        });
        self.state = State::Registering;
        if self.peer.renew_only {
            return vec![Command::CheckRenewal];
        }
        let counter = self.greeted.as_ref().map_or(0, |greeted| greeted.counter);
        vec![Command::Register(Claim { device: self.peer.device, nonce, counter, standby })]
    }

    fn handle_renew_begin(&mut self) -> Commands {
        // One renewal at a time: each costs the control plane a signature.
        if std::mem::replace(&mut self.renewing, true) {
            return vec![Command::Count("renewal_in_progress", 1)];
        }
        vec![Command::AskChallenge]
    }

    fn handle_renew_proof(&mut self, proof: RenewProof) -> Commands {
        if proof.csr_der.len() > MAX_CSR_BYTES || proof.challenge.len() > 256 || proof.signature.len() > 256 {
            return self.protocol("oversized", "the renewal is too large");
        }
        if std::mem::replace(&mut self.renewing, true) {
            return vec![Command::Count("renewal_in_progress", 1)];
        }
        vec![Command::AskRenewal(Box::new(proof))]
    }

    /// Something that [`Self::poll_timeout`] announced is due.
    pub fn handle_timeout(&mut self, now: Now) -> Commands {
        if self.state == State::Closing {
            return Vec::new();
        }
        if self.state == State::AwaitingHello && now.mono_us >= self.hello_by_us {
            let mut commands = self.end("timeout");
            commands.push(Command::Count("hello_timeout", 1));
            return commands;
        }
        if now.mono_us >= self.expires_at_us {
            return self.close(CloseReason::CertificateExpired, "the certificate has expired", "error");
        }
        if self.peer.watch_idle && now.mono_us >= self.idle_at_us() {
            return self.end("timeout");
        }
        self.handle_upload_timeout(now)
    }

    /// The connection is over, for `lost` if nobody here decided so. The last entry of a session.
    pub fn handle_disconnected(&mut self, epoch: u64, lost: Option<&'static str>, now: Now) -> LaneEntry {
        let greeted = self.greeted.as_ref();
        let disconnected = Disconnected {
            instance_nonce: greeted.map(|greeted| Bytes::copy_from_slice(&greeted.nonce)).unwrap_or_default(),
            session_counter: greeted.map_or(0, |greeted| greeted.counter),
            reason: lost.filter(|_| self.state != State::Closing).unwrap_or(self.ended).to_owned(),
        };
        self.state = State::Closing;
        self.entry(epoch, now, lane_entry::Body::Disconnected(disconnected))
    }

    // ---- building ----

    fn entry(&self, session_epoch: u64, now: Now, body: lane_entry::Body) -> LaneEntry {
        LaneEntry {
            device_id: device_bytes(self.peer.device),
            session_epoch,
            received_us: now.wall_us,
            body: Some(body),
        }
    }

    fn append(&mut self, entries: Entries) -> Command {
        self.unacked = self.unacked.saturating_add(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        Command::Append(entries)
    }

    fn send(&self, body: relay_frame::Body) -> Commands {
        if self.state == State::Closing { Vec::new() } else { vec![Command::Send(body)] }
    }

    fn protocol(&mut self, counted: &'static str, text: &str) -> Commands {
        let mut commands = self.close(CloseReason::Protocol, text, "error");
        commands.push(Command::Count(counted, 1));
        commands
    }

    fn close(&mut self, reason: CloseReason, text: &str, ended: &'static str) -> Commands {
        let retry = match reason {
            CloseReason::CertificateExpired => std::time::Duration::ZERO,
            CloseReason::Unspecified
            | CloseReason::Revoked
            | CloseReason::Replaced
            | CloseReason::StaleSession
            | CloseReason::CloneSuspected
            | CloseReason::Draining
            | CloseReason::Protocol
            | CloseReason::UnsupportedVersion
            | CloseReason::Overloaded
            | CloseReason::UnknownDevice => limits::ERROR_RETRY,
        };
        self.close_with(close(reason, text, retry), ended)
    }

    fn close_with(&mut self, close: Close, ended: &'static str) -> Commands {
        if self.state == State::Closing {
            return Vec::new();
        }
        self.end_as(ended);
        vec![Command::Close(Box::new(close))]
    }

    fn end(&mut self, ended: &'static str) -> Commands {
        self.end_as(ended);
        vec![Command::End]
    }

    fn end_as(&mut self, ended: &'static str) {
        self.state = State::Closing;
        self.ended = ended;
        self.uploads.clear();
    }
}

fn close(reason: CloseReason, text: &str, retry: std::time::Duration) -> Close {
    Close {
        reason: reason.into(),
        text: text.to_owned(),
        retry_after_ms: u32::try_from(retry.as_millis()).unwrap_or(u32::MAX),
        proof: None,
    }
}

fn device_bytes(device: DeviceId) -> Bytes {
    Bytes::copy_from_slice(&device.to_bytes())
}

/// Cuts a text to [`MAX_TEXT_BYTES`], on a character's boundary.
fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
}

#[cfg(test)]
mod tests;
