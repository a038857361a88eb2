//! What the shell found out for a session: the registry's and the revocation set's verdicts, answers
//! of other roles, and what was stored.

use super::{Command, Commands, Session, State, close, cut, device_bytes};
use crate::{
    Now,
    acks::{Acks, Stored, Taken},
    limits,
    registry::is_standby,
};
use breeze_proto::v1::{
    Ack, CloseReason, Connected, ConnectionRole, DocumentsReply, DocumentsRequest, HeldReply, HeldRequest, Hello,
    RelayFrame, RenewChallenge, RenewReply, SignedDocument, Welcome, lane_entry, relay_frame, renew_reply,
};
use bytes::Bytes;
use std::{collections::VecDeque, time::Duration};

impl Session {
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
        self.expires_at_us = now.mono_us.saturating_add(limits::RENEWAL_TIME.as_micros() as u64);
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
            ("this installation connected again", Duration::ZERO)
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
        let mut close = close(CloseReason::Draining, "this relay is stopping", Duration::ZERO);
        close.retry_after_ms = retry_ms;
        self.close_with(close, "drained")
    }

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
}

fn renewal_unanswered() -> relay_frame::Body {
    let refused = renew_reply::Result::Refused("the control plane does not answer".to_owned());
    relay_frame::Body::RenewReply(RenewReply { result: Some(refused) })
}
