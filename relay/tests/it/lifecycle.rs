//! Start, restart and end of a relay.

use crate::{
    client::{self, client_config, heartbeats},
    pki::Pki,
    world::{PATIENCE, World, config, start_relay},
};
use breeze_bus::MemoryBus;
use breeze_proto::{
    ALPN,
    id::DeviceId,
    v1::{CloseReason, lane_entry},
};
use breeze_relay::Limits;
use breeze_runtime::shutdown::Shutdown;
use std::sync::Arc;

#[tokio::test]
async fn draining_tells_everyone_and_stores_what_was_taken() {
    let mut world = World::start().await;
    let mut agents = Vec::new();
    for number in 0..6 {
        let device = DeviceId::generate();
        let config = client_config(&world, Some(world.pki.device(device)), ALPN);
        let mut agent = match number % 2 {
            0 => client::quic(&config, world.quic).await.expect("connected"),
            _ => client::websocket(&world, &config, "/agent").await.expect("connected"),
        };
        agent.greet(1, 1).await;
        agent.send(heartbeats(1..=2)).await;
        agent.until_stored(2).await;
        agents.push((device, agent));
    }
    let (_, told) = tokio::join!(world.stop(), async {
        let mut told = Vec::new();
        for (_, agent) in &mut agents {
            told.push(agent.until_close().await);
        }
        told
    });
    assert!(told.iter().all(|close| close.reason() == CloseReason::Draining && close.retry_after_ms < 5_000));
    for (device, _) in &agents {
        assert_eq!(world.until_disconnected(*device).await, "drained");
    }
    let beats = world.entries().await.into_iter().filter(|e| matches!(e.body, Some(lane_entry::Body::Heartbeat(_))));
    assert_eq!(beats.count(), 12);
    assert!(tokio::net::TcpStream::connect(world.wss).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn nobody_is_let_in_before_the_revocation_set_is_known() {
    breeze_runtime::tls::install_provider();
    let world = World::start().await;
    let lonely = Arc::new(MemoryBus::new());
    let folder = tempfile::tempdir().expect("a folder");
    let shutdown = Shutdown::new();
    let relay = start_relay(&world.pki, lonely.clone(), config(folder.path(), Limits::default()), &shutdown).await;
    let config = client_config(&world, Some(world.pki.device(DeviceId::generate())), ALPN);
    assert!(client::quic(&config, relay.quic_addr).await.is_err());
    shutdown.begin();
    relay.join().await.expect("a clean end");
}

#[tokio::test]
async fn the_status_says_how_many_are_connected() {
    let world = World::start().await;
    let config = client_config(&world, Some(world.pki.device(DeviceId::generate())), ALPN);
    let mut agent = client::quic(&config, world.quic).await.expect("connected");
    agent.greet(1, 1).await;
    world.until_status(|gauge| gauge("devices") == 1.0 && gauge("connections_quic") == 1.0).await;
}

/// A relay that died without a word resets its agents' connections when it is back: they need not
/// wait for their idle timeout.
#[test]
fn a_restarted_relay_resets_the_connections_of_the_one_that_died() {
    breeze_runtime::tls::install_provider();
    let agents = tokio::runtime::Runtime::new().expect("a runtime");
    let first = tokio::runtime::Runtime::new().expect("a runtime");
    let world = first.block_on(World::start());
    let device = DeviceId::generate();
    let mut agent = agents.block_on(async {
        let config = client_config(&world, Some(world.pki.device(device)), ALPN);
        let mut agent = client::quic(&config, world.quic).await.expect("connected");
        agent.greet(1, 1).await;
        agent
    });
    // Dropped with everything in it: no close is sent.
    first.shutdown_timeout(PATIENCE);

    let pki: &Pki = &world.pki;
    let again = breeze_relay::Config { quic_listen: world.quic, ..config(world.folder.path(), Limits::default()) };
    agents.block_on(async {
        let shutdown = Shutdown::new();
        let relay = start_relay(pki, Arc::new(MemoryBus::new()), again, &shutdown).await;
        agent.send(heartbeats(1..=1)).await;
        let closed = tokio::time::timeout(PATIENCE, agent.quic.as_ref().expect("QUIC").closed()).await;
        assert!(matches!(closed, Ok(quinn::ConnectionError::Reset)), "{closed:?}");
        shutdown.begin();
        relay.join().await.expect("a clean end");
    });
}
