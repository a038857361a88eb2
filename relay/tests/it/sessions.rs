//! What a connected agent sees.

use crate::{
    client::{self, Agent, client_config, heartbeats, hello, now_us},
    world::World,
};
use breeze_proto::{
    ALPN,
    id::DeviceId,
    limits::MAX_FIRST_FRAME_BYTES,
    v1::{
        CloseReason, ConnectionRole, InventoryDocument, Ping, RenewBegin, RenewProof, UploadChunk, UploadKind,
        UploadResult, agent_frame, lane_entry, relay_frame, renew_reply,
    },
};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Transport {
    Quic,
    WebSocket,
}

async fn connect(world: &World, device: DeviceId, transport: Transport) -> Agent {
    let config = client_config(world, Some(world.pki.device(device)), ALPN);
    match transport {
        Transport::Quic => client::quic(&config, world.quic).await.expect("connected"),
        Transport::WebSocket => client::websocket(world, &config, "/agent").await.expect("connected"),
    }
}

async fn the_usual_way(transport: Transport) {
    let world = World::start().await;
    let device = DeviceId::generate();
    let mut agent = connect(&world, device, transport).await;
    let before = now_us();
    let welcome = agent.greet(1, 1).await;
    assert!(welcome.session_epoch >= before && welcome.server_wall_us >= before && !welcome.renew_only);
    assert!(welcome.observed_address.starts_with("127.0.0.1:"), "{}", welcome.observed_address);

    let (mut held, mut document) = (None, None);
    while held.is_none() || document.is_none() {
        let frame = agent.receive().await.expect("the connection lives");
        if let relay_frame::Body::Held(frame) = frame {
            held = Some(frame);
        } else if let relay_frame::Body::Document(frame) = frame {
            document = Some(frame);
        }
    }
    assert!(held.is_some_and(|held| held.answers_hello && held.lanes[0].next_seq == 5));

    agent.send(heartbeats(5..=14)).await;
    assert_eq!(agent.until_stored(10).await, (5..=14).collect::<Vec<_>>());
    let connected = world.until_entry(device, |body| matches!(body, lane_entry::Body::Connected(_))).await;
    let Some(lane_entry::Body::Connected(body)) = connected.body else { panic!("just matched") };
    let name = if transport == Transport::Quic { "quic" } else { "websocket" };
    assert_eq!((body.transport.as_str(), connected.session_epoch), (name, welcome.session_epoch));
    let stamped = world.until_entry(device, |body| matches!(body, lane_entry::Body::Heartbeat(_))).await;
    let Some(lane_entry::Body::Heartbeat(stamped)) = stamped.body else { panic!("just matched") };
    assert_eq!(stamped.incarnation, 7);
    assert!(stamped.sample_us.abs_diff(now_us()) < 30_000_000);

    agent.send(agent_frame::Body::Ping(Ping { token: 4 })).await;
    let token =
        agent.until(|frame| if let relay_frame::Body::Pong(pong) = frame { Some(pong.token) } else { None }).await;
    assert_eq!(token, 4);

    let content = InventoryDocument { revision: 3, hash: vec![1; 5_000].into(), ..Default::default() }.encode_to_vec();
    let piece = |(number, data): (usize, &[u8])| UploadChunk {
        transfer_id: Bytes::from_static(&[6; 16]),
        kind: UploadKind::Inventory.into(),
        total_len: content.len() as u64,
        sha256: Bytes::copy_from_slice(&Sha256::digest(&content)),
        offset: number as u64 * 2_000,
        data: Bytes::copy_from_slice(data),
    };
    agent.upload(content.chunks(2_000).enumerate().map(piece).collect()).await;
    let result =
        agent.until(|frame| if let relay_frame::Body::UploadAck(ack) = frame { Some(ack.result()) } else { None });
    assert_eq!(result.await, UploadResult::Stored);
    world.until_entry(device, |body| matches!(body, lane_entry::Body::Inventory(d) if d.revision == 3)).await;

    agent.send(agent_frame::Body::RenewBegin(RenewBegin {})).await;
    let challenge = agent
        .until(|frame| if let relay_frame::Body::RenewChallenge(reply) = frame { Some(reply.challenge) } else { None })
        .await;
    agent.send(agent_frame::Body::RenewProof(RenewProof { challenge, ..Default::default() })).await;
    let reply = agent.until(|frame| if let relay_frame::Body::RenewReply(reply) = frame { reply.result } else { None });
    assert_eq!(reply.await, renew_reply::Result::Refused("not today".into()));

    assert!(world.push(device, 0, relay_frame::Body::Ping(Ping { token: 8 })).await);
    agent.until(|frame| matches!(frame, relay_frame::Body::Ping(Ping { token: 8 })).then_some(())).await;
    assert!(!world.push(device, 12, relay_frame::Body::Ping(Ping { token: 8 })).await, "another session's");
    assert!(!world.push(DeviceId::generate(), 0, relay_frame::Body::Ping(Ping { token: 8 })).await, "nobody");

    agent.send(agent_frame::Body::Goodbye(Default::default())).await;
    assert_eq!(world.until_disconnected(device).await, "goodbye");
    assert!(!world.push(device, 0, relay_frame::Body::Ping(Ping { token: 8 })).await, "it is gone");
}

#[tokio::test]
async fn the_usual_way_over_quic() {
    the_usual_way(Transport::Quic).await;
}

#[tokio::test]
async fn the_usual_way_over_a_websocket() {
    the_usual_way(Transport::WebSocket).await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_stored() {
    let world = World::start().await;
    let device = DeviceId::generate();
    let mut agent = connect(&world, device, Transport::Quic).await;
    agent.greet(1, 1).await;
    world.until_entry(device, |body| matches!(body, lane_entry::Body::Connected(_))).await;
    world.bus.set_unavailable(true);
    agent.send(heartbeats(1..=3)).await;
    agent.send(agent_frame::Body::Ping(Ping { token: 1 })).await;
    // The pong was sent after the heartbeats were taken; no acknowledgement comes before it.
    let pong = agent.until(|frame| {
        assert!(!matches!(frame, relay_frame::Body::Ack(_)), "acknowledged what is not stored");
        matches!(frame, relay_frame::Body::Pong(_)).then_some(())
    });
    pong.await;
    world.bus.set_unavailable(false);
    assert_eq!(agent.until_stored(3).await, [1, 2, 3]);
    let stored = world.entries().await;
    let beats = stored.iter().filter(|entry| matches!(entry.body, Some(lane_entry::Body::Heartbeat(_)))).count();
    assert_eq!(beats, 3);
}

#[tokio::test]
async fn faults_get_a_defined_answer() {
    let world = World::start().await;
    let oversized = (MAX_FIRST_FRAME_BYTES as u32 + 1).to_be_bytes().to_vec();
    let malformed = [3u32.to_be_bytes().as_slice(), &[0xff; 3]].concat();
    for (bytes, case) in [(oversized, "oversized"), (malformed, "malformed")] {
        let mut agent = connect(&world, DeviceId::generate(), Transport::Quic).await;
        agent.send_bytes(&bytes).await;
        assert_eq!(agent.until_close_reason().await, CloseReason::Protocol, "{case}");
        let closed = agent.quic.expect("QUIC").closed().await;
        assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{case}: {closed}");
    }
    // On a stream of transfers, where the bytes that are refused stay in its buffer.
    let mut agent = connect(&world, DeviceId::generate(), Transport::Quic).await;
    agent.greet(1, 1).await;
    let mut stream = agent.quic.as_ref().expect("QUIC").open_uni().await.expect("a stream");
    stream.write_all(&u32::MAX.to_be_bytes()).await.expect("sent");
    assert_eq!(agent.until_close_reason().await, CloseReason::Protocol);
    let mut agent = connect(&world, DeviceId::generate(), Transport::Quic).await;
    let mut future = hello(1, 1);
    future.protocol = 99;
    agent.send(agent_frame::Body::Hello(future)).await;
    assert_eq!(agent.until_close_reason().await, CloseReason::UnsupportedVersion);
    // A body from the future inside a known version is skipped.
    let mut agent = connect(&world, DeviceId::generate(), Transport::Quic).await;
    agent.greet(1, 1).await;
    agent.send_bytes(&[0, 0, 0, 3, 0xfa, 0x7f, 0]).await;
    agent.send(heartbeats(1..=1)).await;
    assert_eq!(agent.until_stored(1).await, [1]);
}

#[tokio::test]
async fn one_installation_has_one_session() {
    let world = World::start().await;
    let device = DeviceId::generate();
    let mut first = connect(&world, device, Transport::Quic).await;
    let old = first.greet(1, 5).await;
    // The other transport of the race, with the higher counter.
    let mut second = connect(&world, device, Transport::WebSocket).await;
    let new = second.greet(1, 6).await;
    assert!(new.session_epoch > old.session_epoch);
    assert_eq!(first.until_close_reason().await, CloseReason::Replaced);
    assert_eq!(world.until_disconnected(device).await, "replaced");

    let mut replayed = connect(&world, device, Transport::Quic).await;
    replayed.send(agent_frame::Body::Hello(hello(1, 6))).await;
    assert_eq!(replayed.until_close_reason().await, CloseReason::StaleSession);

    // A standby stands beside the primary.
    let mut standby = connect(&world, device, Transport::Quic).await;
    let mut beside = hello(1, 7);
    beside.role = ConnectionRole::Standby.into();
    standby.send(agent_frame::Body::Hello(beside)).await;
    standby.until(|frame| matches!(frame, relay_frame::Body::Welcome(_)).then_some(())).await;
    second.send(heartbeats(1..=1)).await;
    assert_eq!(second.until_stored(1).await, [1], "the primary lives on");
    standby.send(heartbeats(2..=2)).await;
    assert_eq!(standby.until_close_reason().await, CloseReason::Protocol);
}

/// A full backlog, more than may be unacknowledged at once, while the stream is full for a while.
#[tokio::test]
async fn a_full_stream_holds_everyone_back_and_loses_nothing() {
    let world = World::start().await;
    let device = DeviceId::generate();
    let mut agent = connect(&world, device, Transport::Quic).await;
    agent.greet(1, 1).await;
    world.until_entry(device, |body| matches!(body, lane_entry::Body::Connected(_))).await;
    world.bus.limit_streams(1);
    for batch in 0..16u64 {
        agent.send(heartbeats(batch * 64 + 1..=batch * 64 + 64)).await;
    }
    world.until_status(|gauge| gauge("lanes_stuck") == 1.0).await;
    // Who is not acknowledged can still be reached.
    assert!(world.push(device, 0, relay_frame::Body::Ping(Ping { token: 2 })).await);
    let ping = agent.until(|frame| {
        assert!(!matches!(frame, relay_frame::Body::Ack(_)), "acknowledged what is not stored");
        matches!(frame, relay_frame::Body::Ping(_)).then_some(())
    });
    ping.await;
    world.bus.limit_streams(u64::MAX);
    assert_eq!(agent.until_stored(1_024).await, (1..=1_024).collect::<Vec<_>>());
    let stored: Vec<u64> = world
        .entries()
        .await
        .into_iter()
        .filter_map(
            |entry| if let Some(lane_entry::Body::Heartbeat(beat)) = entry.body { beat.heartbeat } else { None },
        )
        .map(|heartbeat| heartbeat.seq)
        .collect();
    assert_eq!(stored, (1..=1_024).collect::<Vec<_>>(), "once each and in order");
}
