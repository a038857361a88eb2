use super::*;
use crate::acks::Acks;
use breeze_proto::{
    limits::{MAX_HARDWARE_ENTRIES, MAX_HEARTBEATS_PER_BATCH, MAX_UPLOAD_BYTES},
    v1::{
        ConnectionRole, Heartbeat, HeartbeatBatch, InventoryDocument, Lane, NamedValue, RefusalReason, Scalars,
        UploadChunk, UploadKind, UploadResult,
    },
};
use proptest::prelude::*;
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

const NOW: Now = Now { mono_us: 1_000_000, wall_us: 1_800_000_000_000_000 };

fn later(us: u64) -> Now {
    Now { mono_us: NOW.mono_us + us, wall_us: NOW.wall_us + us }
}

fn session(renew_only: bool) -> Session {
    let peer = Peer {
        device: DeviceId::from_slice(&[1; 16]).expect("16 bytes"),
        certificate_expires_s: NOW.wall_us / 1_000_000 + 3_600,
        renew_only,
        transport: "quic",
        address: "192.0.2.1:4".to_owned(),
        watch_idle: true,
        relay_id: "r".into(),
    };
    Session::new(peer, Arc::default(), NOW)
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        instance_nonce: Bytes::from_static(&[2; 16]),
        session_counter: 1,
        role: ConnectionRole::Primary.into(),
        incarnation: 7,
        boot_id: Bytes::from_static(&[3; 16]),
        ..Default::default()
    }
}

fn heartbeat(seq: u64) -> Heartbeat {
    Heartbeat {
        lane: Lane::Live.into(),
        seq,
        wall_us: NOW.wall_us,
        scalars: Some(Scalars::default()),
        ..Default::default()
    }
}

fn batch(heartbeats: Vec<Heartbeat>) -> agent_frame::Body {
    agent_frame::Body::Heartbeats(HeartbeatBatch { sent_wall_us: NOW.wall_us, sent_mono_us: 5, heartbeats })
}

fn give(session: &mut Session, body: agent_frame::Body) -> Commands {
    session.handle_frame(AgentFrame { body: Some(body) }, 100, 0, NOW)
}

fn active() -> Session {
    let mut session = session(false);
    give(&mut session, agent_frame::Body::Hello(hello()));
    session.handle_registered(9, NOW);
    session.handle_stored(&mut acks([Stored::Nothing]));
    session
}

fn acks(stored: impl IntoIterator<Item = Stored>) -> Acks {
    let mut acks = Acks::default();
    stored.into_iter().for_each(|stored| acks.add(stored));
    acks
}

fn close_reason(commands: &Commands) -> Option<CloseReason> {
    commands.iter().find_map(|command| if let Command::Close(close) = command { Some(close.reason()) } else { None })
}

fn appended(commands: Commands) -> Vec<(LaneEntry, Stored)> {
    commands
        .into_iter()
        .filter_map(|command| if let Command::Append(entries) = command { Some(entries) } else { None })
        .flatten()
        .collect()
}

#[test]
fn hello_registers_then_welcomes_and_asks() {
    let mut session = session(false);
    let commands = give(&mut session, agent_frame::Body::Hello(hello()));
    let claim = Claim { device: session.peer.device, nonce: [2; 16], counter: 1, standby: false };
    assert_eq!(commands, [Command::Register(claim)]);
    let commands = session.handle_registered(9, NOW);
    assert!(matches!(
        &commands[..],
        [Command::Send(relay_frame::Body::Welcome(welcome)), Command::Append(entries), Command::AskDocuments(_)]
            if welcome.session_epoch == 9 && welcome.observed_address == "192.0.2.1:4" && entries[0].1 == Stored::Connected
    ));
    // What is held is asked behind everything that was written before.
    let commands = session.handle_stored(&mut acks([Stored::Connected]));
    assert!(
        matches!(&commands[..], [Command::AskHeld(request)] if request.session_epoch == 9 && request.relay_id == "r")
    );
    assert_eq!(session.handle_stored(&mut acks([Stored::Nothing])), []);
}

/// What a first frame comes to.
#[test]
fn bad_beginnings() {
    let bad = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        agent_frame::Body::Hello(hello)
    };
    for (body, expected) in [
        (bad(|hello| hello.protocol = 2), CloseReason::UnsupportedVersion),
        (bad(|hello| hello.instance_nonce = Bytes::from_static(b"short")), CloseReason::Protocol),
        (bad(|hello| hello.boot_id = Bytes::new()), CloseReason::Protocol),
        (bad(|hello| hello.role = 77), CloseReason::Protocol),
        (batch(vec![heartbeat(1)]), CloseReason::Protocol),
        (agent_frame::Body::Ping(Ping { token: 1 }), CloseReason::Protocol),
    ] {
        let commands = give(&mut session(false), body.clone());
        assert_eq!(close_reason(&commands), Some(expected), "{body:?}");
        assert!(commands.iter().any(|command| matches!(command, Command::Count(..))), "{body:?} is counted");
    }
    let mut active = active();
    assert_eq!(close_reason(&give(&mut active, agent_frame::Body::Hello(hello()))), Some(CloseReason::Protocol));
    assert_eq!(active.reading(NOW), Reading::Not);
}

#[test]
fn before_the_hello_only_small_frames_are_read() {
    let mut session = session(false);
    assert_eq!(session.frame_limit(), MAX_FIRST_FRAME_BYTES);
    let error = FrameError::TooLarge { len: 1 << 20, limit: session.frame_limit() };
    assert_eq!(close_reason(&session.handle_frame_error(&error)), Some(CloseReason::Protocol));
    assert_eq!(active().frame_limit(), MAX_FRAME_BYTES);
}

#[test]
fn heartbeats_are_resolved_stamped_and_acknowledged_when_stored() {
    let mut session = active();
    let mut first = heartbeat(1);
    first.last_user = "ä".repeat(MAX_TEXT_BYTES);
    let taken = appended(give(&mut session, batch(vec![first, heartbeat(2)])));
    assert_eq!((taken.len(), session.unacked()), (2, 2));
    let Some(lane_entry::Body::Heartbeat(stamped)) = &taken[0].0.body else { panic!("a heartbeat") };
    assert_eq!((stamped.incarnation, stamped.sample_us, taken[0].0.session_epoch), (7, NOW.wall_us - 5, 9));
    let inner = stamped.heartbeat.as_ref().expect("set");
    assert_eq!((inner.last_user.len(), inner.boot_id.len()), (MAX_TEXT_BYTES, 16));

    let commands = session.handle_stored(&mut acks(taken.into_iter().map(|(_, stored)| stored)));
    let Command::Send(relay_frame::Body::Ack(ack)) = &commands[0] else { panic!("an ack") };
    assert_eq!((ack.stored[0].first, ack.stored[0].last, ack.stored[0].incarnation), (1, 2, 7));
    assert_eq!(session.unacked(), 0);
}

#[test]
fn heartbeats_that_waited_together_are_stored_apart() {
    let mut session = active();
    let mut times = Vec::new();
    // A frame each, sent one after the other and read at once: none is older than its frame.
    for seq in 1..=5 {
        let mut heartbeat = heartbeat(seq);
        heartbeat.mono_us = seq * 10_000_000;
        let frame =
            HeartbeatBatch { sent_wall_us: 0, sent_mono_us: heartbeat.mono_us, heartbeats: vec![heartbeat.clone()] };
        for _sent_again in 0..2 {
            let taken = appended(give(&mut session, agent_frame::Body::Heartbeats(frame.clone())));
            let Some(lane_entry::Body::Heartbeat(stamped)) = &taken[0].0.body else { panic!("a heartbeat") };
            times.push(stamped.sample_us);
        }
    }
    let first: Vec<u64> = times.iter().step_by(2).copied().collect();
    assert_eq!(first, (0..5).map(|number| NOW.wall_us + number * 1_000).collect::<Vec<_>>());
}

#[test]
fn one_bad_heartbeat_is_refused_and_its_neighbours_are_taken() {
    type Change = fn(&mut Heartbeat);
    let cases: &[(Change, RefusalReason)] = &[
        (|h| h.scalars = None, RefusalReason::Malformed),
        (|h| h.lane = 9, RefusalReason::Malformed),
        (|h| h.boot_id = Bytes::from_static(b"x"), RefusalReason::Malformed),
        (|h| h.custom = vec![NamedValue { name: "<script>".into(), value: 1.0 }], RefusalReason::Malformed),
        (|h| h.custom = vec![NamedValue { name: "a".into(), value: 1.0 }; 65], RefusalReason::TooLarge),
        (|h| h.last_user = "x".repeat(40_000), RefusalReason::TooLarge),
        (
            |h| {
                h.boot_id = Bytes::from_static(&[8; 16]);
                h.wall_us = 1;
            },
            RefusalReason::TooOld,
        ),
    ];
    for (number, (change, reason)) in cases.iter().enumerate() {
        let mut bad = heartbeat(2);
        change(&mut bad);
        let commands = give(&mut active(), batch(vec![heartbeat(1), bad, heartbeat(3)]));
        let refused = commands.iter().find_map(|command| {
            if let Command::Send(relay_frame::Body::Ack(ack)) = command { ack.refused.first() } else { None }
        });
        let refused = refused.unwrap_or_else(|| panic!("case {number} is refused"));
        assert_eq!(refused.reason(), *reason, "case {number}");
        assert_eq!(refused.range.as_ref().map(|range| (range.first, range.last)), Some((2, 2)));
        assert_eq!(appended(commands).len(), 2, "case {number}");
    }
}

#[test]
fn what_may_be_mended_is_mended() {
    let mut odd = heartbeat(1);
    odd.scalars = Some(Scalars { cpu_permille: 1_003, ..Default::default() });
    odd.details = vec![
        NamedValue { name: "cpu.0.percent".into(), value: f64::NAN },
        NamedValue { name: "disk./home.percent".into(), value: 5.0 },
    ];
    let taken = appended(give(&mut active(), batch(vec![odd])));
    let Some(lane_entry::Body::Heartbeat(stamped)) = &taken[0].0.body else { panic!("a heartbeat") };
    let inner = stamped.heartbeat.as_ref().expect("set");
    assert_eq!(inner.scalars.as_ref().map(|scalars| scalars.cpu_permille), Some(1_000));
    assert_eq!(inner.details.len(), 1);
}

#[test]
fn reading_stops_at_the_limits_and_resumes() {
    let mut session = active();
    let heartbeats = |from: u64| (from..from + MAX_HEARTBEATS_PER_BATCH as u64).map(heartbeat).collect::<Vec<_>>();
    let mut all = Vec::new();
    for round in 0..4 {
        all.extend(appended(give(&mut session, batch(heartbeats(1 + round * 64)))));
    }
    assert_eq!(session.reading(NOW), Reading::Not, "256 are not acknowledged");
    session.handle_stored(&mut acks(all.into_iter().map(|(_, stored)| stored)));
    assert_eq!(session.reading(NOW), Reading::Now);

    for _ in 0..300 {
        give(&mut session, agent_frame::Body::Ping(Ping { token: 1 }));
    }
    let Reading::At(at) = session.reading(NOW) else { panic!("it sent too fast") };
    assert_eq!(session.reading(later(at - NOW.mono_us)), Reading::Now);
    let too_many = (1..=65).map(heartbeat).collect();
    assert_eq!(close_reason(&give(&mut session, batch(too_many))), Some(CloseReason::Protocol));
}

#[test]
fn an_expired_certificate_may_renew_and_nothing_else() {
    let mut session = session(true);
    assert_eq!(give(&mut session, agent_frame::Body::Hello(hello())), [Command::CheckRenewal]);
    let commands = session.handle_renewal_allowed(NOW);
    assert!(matches!(&commands[..], [Command::Send(relay_frame::Body::Welcome(welcome))] if welcome.renew_only));
    assert_eq!(give(&mut session, batch(vec![heartbeat(1)])), [Command::Count("renew_only", 1)]);
    assert_eq!(session.registered(), None);
    let begin = || agent_frame::Body::RenewBegin(breeze_proto::v1::RenewBegin {});
    assert_eq!(give(&mut session, begin()), [Command::AskChallenge]);
    assert_eq!(give(&mut session, begin()), [Command::Count("renewal_in_progress", 1)]);
    session.handle_challenge(Some(Bytes::from_static(b"c")));
    let proof = RenewProof { csr_der: Bytes::from_static(b"csr"), ..Default::default() };
    assert_eq!(
        give(&mut session, agent_frame::Body::RenewProof(proof.clone())),
        [Command::AskRenewal(Box::new(proof))]
    );
    // Nothing displaces it, so it ends by itself.
    let end = later(limits::RENEWAL_TIME.as_micros() as u64);
    session.handle_frame(AgentFrame::default(), 1, 0, Now { mono_us: end.mono_us - 1, ..end });
    assert_eq!(session.poll_timeout(), end.mono_us);
    assert_eq!(close_reason(&session.handle_timeout(end)), Some(CloseReason::CertificateExpired));
}

#[test]
fn deadlines_are_announced_and_kept() {
    let mut silent = session(false);
    let at = silent.poll_timeout();
    assert_eq!(silent.handle_timeout(later(at - NOW.mono_us - 1)), []);
    assert!(silent.handle_timeout(later(at - NOW.mono_us)).contains(&Command::End), "no hello");

    let mut idle = active();
    let at = idle.poll_timeout();
    assert_eq!(idle.handle_timeout(later(at - NOW.mono_us)), [Command::End]);
    let entry = idle.handle_disconnected(9, None, NOW);
    assert!(matches!(entry.body, Some(lane_entry::Body::Disconnected(end)) if end.reason == "timeout"));

    // A lane that is stuck keeps the relay from reading: that is not the agent's silence.
    let mut unheard = active();
    let at = unheard.poll_timeout();
    unheard.handle_not_reading(later(at - NOW.mono_us));
    assert_eq!(unheard.handle_timeout(later(at - NOW.mono_us)), []);
    assert!(unheard.poll_timeout() > at);

    let mut expiring = active();
    let end = later(3_600_000_000 + limits::EXPIRY_GRACE.as_micros() as u64);
    expiring.handle_frame(AgentFrame::default(), 1, 0, Now { mono_us: end.mono_us - 1, ..end });
    assert_eq!(expiring.poll_timeout(), end.mono_us);
    assert_eq!(close_reason(&expiring.handle_timeout(end)), Some(CloseReason::CertificateExpired));
}

fn chunks(content: &[u8], id: u8) -> Vec<UploadChunk> {
    let first = UploadChunk {
        transfer_id: Bytes::copy_from_slice(&[id; 16]),
        kind: UploadKind::Inventory.into(),
        total_len: content.len() as u64,
        sha256: Bytes::copy_from_slice(&Sha256::digest(content)),
        ..Default::default()
    };
    let piece = |(number, data): (usize, &[u8])| UploadChunk {
        offset: number as u64 * 20,
        data: Bytes::copy_from_slice(data),
        ..if number == 0 {
            first.clone()
        } else {
            UploadChunk { transfer_id: first.transfer_id.clone(), ..Default::default() }
        }
    };
    content.chunks(20).enumerate().map(piece).collect()
}

#[test]
fn an_announced_length_takes_nothing_from_others() {
    let budget = Arc::new(UploadBudget::new(60));
    let mut sessions = [0, 1].map(|_| Uploads::new(budget.clone()));
    for (number, uploads) in sessions.iter_mut().enumerate() {
        let first = chunks(&[number as u8; 60], 1).swap_remove(0);
        assert_eq!(uploads.refusal(&first, NOW), None, "20 bytes of 60");
    }
    assert_eq!(budget.free(), 20);
    let second = chunks(&[0; 60], 1).swap_remove(1);
    assert_eq!(sessions[0].refusal(&second, NOW), None);
    let second = chunks(&[1; 60], 1).swap_remove(1);
    assert_eq!(sessions[1].refusal(&second, NOW), Some(UploadResult::TryLater), "there is no room left");
    assert_eq!(budget.free(), 20, "it holds nothing any more");
    drop(sessions);
    assert_eq!(budget.free(), 60);
}

fn document() -> Vec<u8> {
    InventoryDocument { revision: 4, hash: Bytes::from_static(&[5; 32]), ..Default::default() }.encode_to_vec()
}

fn upload_result(commands: &Commands) -> Option<UploadResult> {
    commands.iter().find_map(|command| {
        if let Command::Send(relay_frame::Body::UploadAck(ack)) = command { Some(ack.result()) } else { None }
    })
}

#[test]
fn a_transfer_is_appended_whole_and_acknowledged_when_stored() {
    let mut session = active();
    let mut taken = Vec::new();
    for chunk in chunks(&document(), 1) {
        taken.extend(appended(give(&mut session, agent_frame::Body::Upload(chunk))));
    }
    assert!(matches!(&taken[0].0.body, Some(lane_entry::Body::Inventory(document)) if document.revision == 4));
    let commands = session.handle_stored(&mut acks(taken.into_iter().map(|(_, stored)| stored)));
    assert_eq!(upload_result(&commands), Some(UploadResult::Stored));
    assert_eq!(session.uploads_budget_free(), limits::MAX_UPLOAD_BYTES_TOTAL);
}

#[test]
fn an_inventory_of_more_entries_than_may_be_stored_is_refused() {
    let disks = vec![breeze_proto::v1::Disk::default(); MAX_HARDWARE_ENTRIES + 1];
    let hardware = breeze_proto::v1::Hardware { disks, ..Default::default() };
    let content = breeze_proto::v1::inventory_document::Content::Hardware(hardware);
    let content = InventoryDocument { content: Some(content), ..Default::default() }.encode_to_vec();
    let mut session = active();
    let answers = chunks(&content, 1).into_iter().map(|chunk| give(&mut session, agent_frame::Body::Upload(chunk)));
    assert_eq!(answers.last().and_then(|commands| upload_result(&commands)), Some(UploadResult::TooLarge));
}

#[test]
fn bad_transfers_are_answered_once_and_hold_nothing() {
    type Change = fn(&mut Vec<UploadChunk>);
    let cases: &[(Change, UploadResult)] = &[
        (|c| c[0].sha256 = Bytes::from_static(&[0; 32]), UploadResult::Malformed),
        (|c| c[0].total_len = MAX_UPLOAD_BYTES as u64 + 1, UploadResult::TooLarge),
        (|c| c[1].offset += 1, UploadResult::Malformed),
        (|c| c[1].data = Bytes::from_static(&[0; 30_000]), UploadResult::Malformed),
        (|c| c[0].kind = 0, UploadResult::Malformed),
        (|c| c[0].transfer_id = Bytes::from_static(b"x"), UploadResult::Malformed),
    ];
    for (number, (change, expected)) in cases.iter().enumerate() {
        let mut session = active();
        let mut sent = chunks(&document(), 1);
        change(&mut sent);
        let results: Vec<_> = sent
            .into_iter()
            .filter_map(|chunk| upload_result(&give(&mut session, agent_frame::Body::Upload(chunk))))
            .collect();
        assert_eq!(results, [*expected], "case {number}");
        assert_eq!(session.uploads_budget_free(), limits::MAX_UPLOAD_BYTES_TOTAL, "case {number}");
    }
}

#[test]
fn open_transfers_are_bounded_in_number_and_in_time() {
    let mut session = active();
    for id in 1..=2 {
        let first = chunks(&document(), id).remove(0);
        assert_eq!(give(&mut session, agent_frame::Body::Upload(first)), []);
    }
    let third = chunks(&document(), 3).remove(0);
    let commands = give(&mut session, agent_frame::Body::Upload(third));
    assert_eq!(upload_result(&commands), Some(UploadResult::TryLater));
    let end = later(limits::UPLOAD_TIMEOUT.as_micros() as u64);
    session.heard_us = end.mono_us;
    let commands = session.handle_timeout(end);
    assert_eq!(upload_result(&commands), Some(UploadResult::TryLater));
    assert_eq!(session.uploads_budget_free(), limits::MAX_UPLOAD_BYTES_TOTAL);
}

impl Session {
    fn uploads_budget_free(&self) -> usize {
        self.uploads.free()
    }
}

proptest! {
    /// Whatever comes, it never panics, is told of each heartbeat at most as often as it sent it, and
    /// of none before it was stored.
    #[test]
    fn arbitrary_frames(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..60), greeted in any::<bool>()) {
        let mut session = if greeted { active() } else { session(false) };
        for bytes in frames {
            if let Ok(frame) = AgentFrame::decode(Bytes::from(bytes)) {
                session.handle_frame(frame, 80, 0, NOW);
            }
            let _ = session.poll_timeout();
        }
    }

    #[test]
    fn acknowledged_is_what_was_stored(steps in prop::collection::vec((1u64..20, 0usize..5, any::<bool>()), 0..60)) {
        let mut session = active();
        let (mut waiting, mut stored, mut told) = (VecDeque::new(), BTreeSet::new(), Vec::new());
        for (first, count, finish) in steps {
            let heartbeats = (first..first + count as u64).map(heartbeat).collect();
            waiting.extend(appended(give(&mut session, batch(heartbeats))));
            if finish {
                let mut acks = Acks::default();
                for (_, item) in waiting.drain(..waiting.len() / 2) {
                    if let Stored::Heartbeat { seq, .. } = item { stored.insert(seq); }
                    acks.add(item);
                }
                for command in session.handle_stored(&mut acks) {
                    if let Command::Send(relay_frame::Body::Ack(ack)) = command {
                        told.extend(ack.stored.into_iter().flat_map(|range| range.first..=range.last));
                    }
                }
            }
            prop_assert_eq!(session.unacked() as usize, waiting.len());
            prop_assert!(told.iter().all(|seq| stored.contains(seq)));
        }
        prop_assert!(stored.iter().all(|seq| told.contains(seq)));
    }
}
