//! One agent connection, from hello to close: `handle_*` takes what happened and returns commands.
//!
//! Order of a connection: hello, then (registered by the shell) a welcome, the region's `Held` and the
//! device's documents as they arrive, and from then on heartbeats, transfers, renewal and pings in any
//! order. Before each read the shell asks [`Session::reading`], which is how rate and unacknowledged
//! amount are bounded: nothing is dropped, the connection is not read on.

mod heartbeats;
mod uploads;

pub use uploads::UploadBudget;

use crate::{
    Now,
    acks::{Acks, Stored, Taken},
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
        Ack, AgentFrame, Close, CloseReason, Connected, ConnectionRole, Disconnected, DocumentsReply, DocumentsRequest,
        HeldReply, HeldRequest, Hello, LaneEntry, Ping, Pong, RelayFrame, RenewChallenge, RenewProof, RenewReply,
        SignedDocument, Welcome, agent_frame, lane_entry, relay_frame, renew_reply,
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

    // ---- what the shell found out ----

    /// The registry took it under `epoch`.
    pub fn handle_registered(&mut self, epoch: u64, now: Now) -> Commands {
        let Some(greeted) = self.greeted.as_mut().filter(|_| self.state == State::Registering) else {
            return Vec::new();
        };
        let Some(hello) = greeted.hello.take() else { return Vec::new() };
        let role = hello.role();
        self.state = State::Active { epoch, standby: is_standby(role) == Some(true) };
        let documents = DocumentsRequest {
            device_id: device_bytes(self.peer.device),
            config_version: hello.config_version,
            relay_list_version: hello.relay_list_version,
            root_version: hello.root_version,
        };
        let connected = self.connected(*hello);
        let entry = self.entry(epoch, now, lane_entry::Body::Connected(connected));
        vec![
            self.welcome(epoch, false, now),
            self.append(VecDeque::from([(entry, Stored::Connected)])),
            Command::AskDocuments(documents),
        ]
    }

    /// An expired certificate that is not revoked: nothing but renewal.
    pub fn handle_renewal_allowed(&mut self, now: Now) -> Commands {
        self.state = State::RenewOnly;
        vec![self.welcome(0, true, now)]
    }

    /// A connection with a higher counter is alive.
    pub fn handle_stale(&mut self) -> Commands {
        let mut commands = self.close(CloseReason::StaleSession, "a newer session is alive", "error");
        commands.push(Command::Count("stale_session", 1));
        commands
    }

    /// The device is revoked: told so with the notice that proves it.
    pub fn handle_revoked(&mut self, notice: Option<SignedDocument>) -> Commands {
        let mut close = close(CloseReason::Revoked, "this device was removed", limits::REVOKED_RETRY);
        close.proof = notice;
        self.close_with(close, "revoked")
    }

    /// Another connection speaks for the device now.
    pub fn handle_replaced(&mut self, by_other_installation: bool) -> Commands {
        let (text, retry) = if by_other_installation {
            ("another installation connected under this certificate", limits::CLONE_RETRY)
        } else {
            ("this installation connected again", std::time::Duration::ZERO)
        };
        self.close_with(close(CloseReason::Replaced, text, retry), "replaced")
    }

    /// What the lane's owner holds; `None` if nobody answered in time: it goes on without.
    pub fn handle_held(&mut self, reply: Option<HeldReply>) -> Commands {
        let Some(reply) = reply else { return vec![Command::Count("held_unanswered", 1)] };
        match reply.close() {
            CloseReason::Unspecified => {}
            reason @ (CloseReason::Revoked
            | CloseReason::Replaced
            | CloseReason::StaleSession
            | CloseReason::CloneSuspected
            | CloseReason::Draining
            | CloseReason::Protocol
            | CloseReason::UnsupportedVersion
            | CloseReason::Overloaded
            | CloseReason::UnknownDevice
            | CloseReason::CertificateExpired) => {
                let close = close(reason, "the region holds a newer session", limits::CLONE_RETRY);
                return self.close_with(close, "replaced");
            }
        }
        let mut held = reply.held.unwrap_or_default();
        held.answers_hello = true;
        self.send(relay_frame::Body::Held(held))
    }

    /// The documents that the device should have.
    pub fn handle_documents(&mut self, reply: DocumentsReply) -> Commands {
        if reply.unknown_device {
            let close = close(CloseReason::UnknownDevice, "this device is not known", limits::CLONE_RETRY);
            return self.close_with(close, "error");
        }
        let roots = reply.roots.into_iter().map(relay_frame::Body::Root);
        let documents = reply.documents.into_iter().map(relay_frame::Body::Document);
        roots.chain(documents).flat_map(|body| self.send(body)).collect()
    }

    /// A challenge; `None` if nobody answered.
    pub fn handle_challenge(&mut self, challenge: Option<Bytes>) -> Commands {
        self.renewing = false;
        match challenge {
            Some(challenge) => self.send(relay_frame::Body::RenewChallenge(RenewChallenge { challenge })),
            None => self.send(renewal_unanswered()),
        }
    }

    /// The CA's answer; `None` if nobody answered.
    pub fn handle_renewed(&mut self, reply: Option<RenewReply>) -> Commands {
        self.renewing = false;
        self.send(reply.map_or_else(renewal_unanswered, relay_frame::Body::RenewReply))
    }

    /// A frame that another role pushes to this device.
    pub fn handle_push(&mut self, frame: RelayFrame) -> Commands {
        match frame.body {
            Some(relay_frame::Body::Close(close)) => {
                let ended = if close.reason() == CloseReason::Revoked { "revoked" } else { "replaced" };
                self.close_with(close, ended)
            }
            Some(body) => self.send(body),
            None => vec![Command::Count("unknown_push", 1)],
        }
    }

    /// Entries of this connection that are in the region's durable stream now.
    pub fn handle_stored(&mut self, acks: &mut Acks) -> Commands {
        let Taken { entries, connected, ranges: stored, uploads } = acks.take();
        self.unacked = self.unacked.saturating_sub(entries);
        let mut commands = Vec::new();
        if connected {
            commands.extend(self.ask_held());
        }
        if !stored.is_empty() {
            commands.extend(self.send(relay_frame::Body::Ack(Ack { stored, refused: Vec::new() })));
        }
        for upload in uploads {
            commands.extend(self.send(relay_frame::Body::UploadAck(upload)));
        }
        commands
    }

    /// Entries of this connection will not be stored. It is not told which: it comes back and sends again.
    pub fn handle_lost(&mut self) -> Commands {
        let close = close(CloseReason::Overloaded, "could not be stored; come back", limits::ERROR_RETRY);
        self.close_with(close, "error")
    }

    /// The relay drains; `retry_ms` spreads the returns.
    pub fn handle_drain(&mut self, retry_ms: u32) -> Commands {
        let mut close = close(CloseReason::Draining, "this relay is stopping", std::time::Duration::ZERO);
        close.retry_after_ms = retry_ms;
        self.close_with(close, "drained")
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

    /// Asked once the session's first entry is stored: a lane keeps its order, so whatever an earlier
    /// session of the device left waiting here is in the stream by then, and the answer counts it.
    fn ask_held(&self) -> Option<Command> {
        let (epoch, standby) = self.registered()?;
        let greeted = self.greeted.as_ref()?;
        let role = if standby { ConnectionRole::Standby } else { ConnectionRole::Primary };
        Some(Command::AskHeld(HeldRequest {
            device_id: device_bytes(self.peer.device),
            instance_nonce: Bytes::copy_from_slice(&greeted.nonce),
            session_counter: greeted.counter,
            session_epoch: epoch,
            relay_id: self.peer.relay_id.to_string(),
            role: role.into(),
        }))
    }

    fn welcome(&self, session_epoch: u64, renew_only: bool, now: Now) -> Command {
        Command::Send(relay_frame::Body::Welcome(Welcome {
            session_epoch,
            server_wall_us: now.wall_us,
            observed_address: self.peer.address.clone(),
            relay_id: self.peer.relay_id.to_string(),
            renew_only,
        }))
    }

    fn connected(&self, hello: Hello) -> Connected {
        let mut host = hello.host.unwrap_or_default();
        for text in
            [&mut host.hostname, &mut host.os_type, &mut host.os_version, &mut host.os_build, &mut host.architecture]
        {
            cut(text);
        }
        let mut agent_version = hello.agent_version;
        cut(&mut agent_version);
        Connected {
            // Copied, or the whole frame stays in memory for as long as the entry does.
            instance_nonce: Bytes::copy_from_slice(&hello.instance_nonce),
            session_counter: hello.session_counter,
            role: hello.role,
            host: Some(host),
            agent_version,
            observed_address: self.peer.address.clone(),
            transport: self.peer.transport.to_owned(),
            certificate_expires_s: self.peer.certificate_expires_s,
            incarnation: hello.incarnation,
        }
    }

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

fn renewal_unanswered() -> relay_frame::Body {
    let refused = renew_reply::Result::Refused("the control plane does not answer".to_owned());
    relay_frame::Body::RenewReply(RenewReply { result: Some(refused) })
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
