//! Who is let in, and who is told what.

use crate::{
    client::{self, client_config, heartbeats, hello},
    pki::{DAY, Pki},
    world::World,
};
use breeze_proto::{
    ALPN,
    id::DeviceId,
    v1::{CloseReason, RenewBegin, agent_frame, lane_entry, relay_frame},
};
use breeze_relay::Limits;
use std::time::SystemTime;

#[tokio::test]
async fn strangers_are_refused_in_the_handshake() {
    let world = World::start().await;
    let device = DeviceId::generate();
    let now = SystemTime::now();
    let cases = [
        ("another CA", Some(Pki::new().device(device))),
        ("no certificate", None),
        ("a server's certificate", Some(world.pki.server())),
        ("expired long ago", Some(world.pki.device_between(device, now - 500 * DAY, now - 400 * DAY))),
        ("not yet valid", Some(world.pki.device_between(device, now + DAY, now + 2 * DAY))),
    ];
    for (case, identity) in cases {
        let config = client_config(&world, identity, ALPN);
        // TLS 1.3 refuses a client after the client believes to be connected.
        if let Ok(mut agent) = client::quic(&config, world.quic).await {
            agent.send(agent_frame::Body::Hello(hello(1, 1))).await;
            assert_eq!(agent.receive().await, None, "{case}");
        }
        if let Ok(mut agent) = client::websocket(&world, &config, "/agent").await {
            agent.send(agent_frame::Body::Hello(hello(1, 1))).await;
            assert_eq!(agent.receive().await, None, "{case}");
        }
    }
    let valid = client_config(&world, Some(world.pki.device(device)), b"h3");
    assert!(client::quic(&valid, world.quic).await.is_err(), "another protocol");
    let valid = client_config(&world, Some(world.pki.device(device)), ALPN);
    assert!(client::websocket(&world, &valid, "/elsewhere").await.is_err(), "another path");
    assert!(world.entries().await.is_empty());
}

#[tokio::test]
async fn an_expired_certificate_may_only_renew() {
    let world = World::start().await;
    let (device, now) = (DeviceId::generate(), SystemTime::now());
    let identity = world.pki.device_between(device, now - 90 * DAY, now - 30 * DAY);
    let config = client_config(&world, Some(identity), ALPN);
    for transport in ["quic", "websocket"] {
        let mut agent = match transport {
            "quic" => client::quic(&config, world.quic).await.expect("connected"),
            _ => client::websocket(&world, &config, "/agent").await.expect("connected"),
        };
        assert!(agent.greet(1, 1).await.renew_only, "{transport}");
        agent.send(heartbeats(1..=1)).await;
        agent.send(agent_frame::Body::RenewBegin(RenewBegin {})).await;
        assert!(matches!(agent.receive().await, Some(relay_frame::Body::RenewChallenge(_))), "{transport}");
    }
    assert!(world.entries().await.is_empty(), "it is not there");

    world.revoke(2, device).await;
    // The broadcast is on its way: whoever comes before it is let in, whoever comes after it is not.
    let reason = loop {
        let mut agent = client::quic(&config, world.quic).await.expect("connected");
        agent.send(agent_frame::Body::Hello(hello(1, 1))).await;
        if let Some(relay_frame::Body::Close(close)) = agent.receive().await {
            break close.reason();
        }
    };
    assert_eq!(reason, CloseReason::Revoked, "an expired certificate must be unrevoked to renew");
}

#[tokio::test]
async fn a_revoked_device_is_told_so_with_proof_while_connected_at_the_handshake_and_at_resumption() {
    let mut world = World::start().await;
    let device = DeviceId::generate();
    let config = client_config(&world, Some(world.pki.device(device)), ALPN);
    let mut connected = client::quic(&config, world.quic).await.expect("connected");
    connected.greet(1, 1).await;
    let mut other = client::websocket(&world, &config, "/agent").await.expect("connected");
    other.greet(1, 2).await;
    assert_eq!(connected.until_close_reason().await, CloseReason::Replaced);

    world.revoke(2, device).await;
    let close = other.until_close().await;
    assert_eq!(close.reason(), CloseReason::Revoked);
    let proof = close.proof.expect("a proof");
    let notice = world.pki.root().verify(breeze_proto::trust::Role::Revocations, &proof, 1).cloned();
    assert!(notice.is_ok(), "signed by the key that is delegated for it");
    let is_end =
        |body: &lane_entry::Body| matches!(body, lane_entry::Body::Disconnected(end) if end.reason == "revoked");
    world.until_entry(device, is_end).await;

    let mut resumed = client::websocket(&world, &config, "/agent").await.expect("connected");
    assert!(resumed.resumed, "the ticket of the connection before is used");
    resumed.send(agent_frame::Body::Hello(hello(1, 3))).await;
    let close = resumed.until_close().await;
    assert_eq!((close.reason(), close.proof.is_some()), (CloseReason::Revoked, true));

    // A restarted relay knows the ticket, and from its disk the set, though nobody answers it.
    *world.snapshot.lock().expect("not poisoned") = world.pki.revocation_set(1, 0, &[]);
    world.restart().await;
    for (case, config) in [("resumed", config), ("full", client_config(&world, Some(world.pki.device(device)), ALPN))] {
        let mut agent = client::websocket(&world, &config, "/agent").await.expect("connected");
        assert_eq!(agent.resumed, case == "resumed");
        agent.send(agent_frame::Body::Hello(hello(1, 4))).await;
        assert_eq!(agent.until_close_reason().await, CloseReason::Revoked, "{case}");
    }
}

#[tokio::test]
async fn a_device_that_returns_without_end_is_turned_away_and_an_unproven_address_proves_itself() {
    let limits =
        Limits { per_device_per_minute: 3, per_address_burst: 1, per_address_per_second: 1, ..Limits::default() };
    let world = World::start_with(limits).await;
    let config = client_config(&world, Some(world.pki.device(DeviceId::generate())), ALPN);
    // All but the first are asked to prove their address, which costs them a round trip and no more.
    let mut welcomed = 0;
    for counter in 1..=6 {
        let mut agent = client::quic(&config, world.quic).await.expect("the address is proven");
        agent.send(agent_frame::Body::Hello(hello(1, counter))).await;
        welcomed += usize::from(matches!(agent.receive().await, Some(relay_frame::Body::Welcome(_))));
    }
    assert_eq!(welcomed, 3);
    world.until_status(|gauge| gauge("handshakes_retried") >= 1.0 && gauge("handshakes_turned_away") == 3.0).await;
    let other = client_config(&world, Some(world.pki.device(DeviceId::generate())), ALPN);
    client::quic(&other, world.quic).await.expect("connected").greet(1, 1).await;
}

#[tokio::test]
async fn silent_connections_are_bounded_and_make_room_when_they_go() {
    let world = World::start_with(Limits { half_open: 4, ..Limits::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(tokio::net::TcpStream::connect(world.wss).await.expect("connected"));
    }
    world.until_status(|gauge| gauge("handshakes_half_open") == 4.0).await;
    let config = client_config(&world, Some(world.pki.device(DeviceId::generate())), ALPN);
    assert!(client::websocket(&world, &config, "/agent").await.is_err(), "no more than four");
    // An unproven address under pressure is asked to prove itself, and then there is no room either.
    assert!(client::quic(&config, world.quic).await.is_err());
    silent.clear();
    world.until_status(|gauge| gauge("handshakes_half_open") == 0.0).await;
    client::quic(&config, world.quic).await.expect("connected").greet(1, 1).await;
    client::websocket(&world, &config, "/agent").await.expect("connected").greet(1, 2).await;
}

/// The relay's certificate is renewed while it runs.
#[tokio::test]
async fn a_new_server_certificate_is_shown_to_who_comes_next_and_disturbs_nobody() {
    let world = World::start().await;
    let device = || world.pki.device(DeviceId::generate());
    let first = world.pki.shown.certificate();
    let (early, early_ws) = (client_config(&world, Some(device()), ALPN), client_config(&world, Some(device()), ALPN));
    let mut agents = [
        client::quic(&early, world.quic).await.expect("connected"),
        client::websocket(&world, &early_ws, "/agent").await.expect("connected"),
    ];
    for agent in &mut agents {
        agent.greet(1, 1).await;
        assert_eq!(agent.shown.as_ref(), Some(&first));
    }
    world.pki.shown.replace(world.pki.server()).expect("a certificate and its key");
    let second = world.pki.shown.certificate();
    assert_ne!(first, second);
    let late = client_config(&world, Some(device()), ALPN);
    let quic = client::quic(&late, world.quic).await.expect("connected");
    assert_eq!(quic.shown, Some(second.clone()));
    let late = client_config(&world, Some(device()), ALPN);
    let websocket = client::websocket(&world, &late, "/agent").await.expect("connected");
    assert_eq!(websocket.shown, Some(second));
    for mut agent in agents {
        agent.send(heartbeats(1..=2)).await;
        agent.until_stored(2).await;
    }
}
