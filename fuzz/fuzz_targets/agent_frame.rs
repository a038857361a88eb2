//! What a relay does with any bytes of an agent: splits frames, decodes them and feeds the session,
//! which is answered as the registry, the lane and the control plane would.
#![no_main]

use breeze_proto::{
    frame,
    id::DeviceId,
    limits::MAX_UNACKED_HEARTBEATS,
    v1::{AgentFrame, DocumentsReply, Held, HeldReply, RenewReply},
};
use breeze_relay_core::{
    Now,
    acks::Acks,
    session::{Command, Commands, Peer, Reading, Session},
};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use std::{collections::VecDeque, sync::Arc};

const START: Now = Now { mono_us: 1_000_000, wall_us: 1_800_000_000_000_000 };
/// Microseconds between two frames.
const STEP_US: u64 = 20_000;

fuzz_target!(|bytes: &[u8]| {
    // The first byte chooses what the handshake said; the rest is the stream.
    let Some((kind, stream)) = bytes.split_first() else { return };
    let peer = Peer {
        device: DeviceId::from_slice(&[7; 16]).expect("16 bytes"),
        certificate_expires_s: START.wall_us / 1_000_000 + 3_600,
        renew_only: kind & 1 == 1,
        transport: "quic",
        address: "192.0.2.1:4".to_owned(),
        watch_idle: kind & 2 == 2,
        relay_id: "r".into(),
    };
    let mut session = Session::new(peer, Arc::default(), START);
    let mut now = START;
    let mut buffer = BytesMut::from(stream);
    let mut epoch = 0;
    loop {
        let before = buffer.len();
        let commands = match frame::take::<AgentFrame>(&mut buffer, session.frame_limit()) {
            Ok(None) => break,
            Ok(Some(frame)) if kind & 4 == 4 => session.handle_bulk_frame(frame, before - buffer.len(), now),
            Ok(Some(frame)) => session.handle_frame(frame, before - buffer.len(), 30_000, now),
            Err(error) => session.handle_frame_error(&error),
        };
        if answer(&mut session, commands, &mut epoch, now) {
            break;
        }
        now = Now { mono_us: now.mono_us + STEP_US, wall_us: now.wall_us + STEP_US };
        if session.poll_timeout() <= now.mono_us {
            let commands = session.handle_timeout(now);
            answer(&mut session, commands, &mut epoch, now);
        }
        match session.reading(now) {
            Reading::Now => {}
            Reading::At(at_us) => {
                assert!(at_us > now.mono_us, "a wait that is over is none");
                now = Now { mono_us: at_us, wall_us: now.wall_us + (at_us - now.mono_us) };
            }
            Reading::Not => break,
        }
    }
    session.handle_disconnected(epoch, Some("lost"), now);
});

/// Does what the shell does; whether the connection is over.
fn answer(session: &mut Session, commands: Commands, epoch: &mut u64, now: Now) -> bool {
    let mut todo = VecDeque::from(commands);
    while let Some(command) = todo.pop_front() {
        let more = match command {
            Command::Register(_) => {
                *epoch += 1;
                session.handle_registered(*epoch, now)
            }
            Command::Append(entries) => {
                assert!(session.unacked() as usize <= MAX_UNACKED_HEARTBEATS + entries.len());
                let mut acks = Acks::default();
                entries.into_iter().for_each(|(_, stored)| acks.add(stored));
                session.handle_stored(&mut acks)
            }
            Command::AskHeld(_) => session.handle_held(Some(HeldReply { held: Some(Held::default()), close: 0 })),
            Command::AskDocuments(_) => session.handle_documents(DocumentsReply::default()),
            Command::AskChallenge => session.handle_challenge(Some(Bytes::from_static(&[5; 32]))),
            Command::AskRenewal(_) => session.handle_renewed(Some(RenewReply::default())),
            Command::CheckRenewal => session.handle_renewal_allowed(now),
            Command::Send(_) | Command::Count(..) => Commands::new(),
            Command::Close(_) | Command::End => return true,
        };
        todo.extend(more);
    }
    false
}
