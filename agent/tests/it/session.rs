//! Connections as they are on a network: QUIC, WebSocket, proxies, restarts.

use crate::{
    agent::{Agent, command, output, text},
    authority::Authority,
    peer::{Peer, relay, verify},
};
use breeze_proto::{
    id::DeviceId,
    v1::{Close, CloseReason, Lane, relay_frame::Body as Answer},
};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

const LIFE: Duration = Duration::from_secs(3600);

struct Setup {
    peer: Arc<Peer>,
    agent: Agent,
}

/// An enrolled agent, and the relay that its list names.
async fn setup(quic: Option<SocketAddr>, websocket: bool, life: Duration) -> Setup {
    let authority = Arc::new(Authority::new());
    let device = DeviceId::generate();
    let peer = Peer::new(authority.clone(), device);
    let quic = quic.unwrap_or_else(|| peer.serve_quic());
    let wss = if websocket { Some(peer.serve_websocket().await) } else { None };
    let documents = vec![authority.relays(1, relay(Some(quic), wss)), authority.config(1, 1000)];
    let agent = Agent::enrolled(&authority, device, documents, life).await;
    Setup { peer, agent }
}

/// A UDP port that swallows everything.
async fn black_hole() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

#[tokio::test]
async fn it_reports_over_quic_and_says_goodbye() {
    let Setup { peer, mut agent } = setup(None, true, LIFE).await;
    agent.start(&[]);
    peer.until("three heartbeats", |seen| seen.live().len() >= 3).await;
    peer.until("all sections of the inventory", |seen| {
        seen.documents.iter().map(|document| document.section).collect::<BTreeSet<_>>().len() == 3
    })
    .await;
    agent.until("an empty spool", |status| status.spooled == 0 && status.acknowledged >= 3).await;
    let status = agent.status();
    assert_eq!((status.state.as_str(), status.transport.as_deref()), ("connected", Some("quic")));
    assert!(status.certificate_expires_s > 0 && status.last_ack_s > 0);

    let mut metric = command(agent.state.path());
    metric.args(["metric", "queue.length", "-7.5"]);
    let metric = output(metric).await;
    assert!(metric.status.success(), "{}", text(&metric.stderr));
    peer.until("the custom metric", |seen| {
        seen.live().iter().any(|heartbeat| heartbeat.custom.iter().any(|v| v.name == "queue.length" && v.value == -7.5))
    })
    .await;
    let mut second = command(agent.state.path());
    second.arg("run");
    assert!(text(&output(second).await.stderr).contains("another breeze-agent uses"));

    agent.stop().await;
    peer.until("a goodbye", |seen| seen.goodbyes == 1).await;
    let seen = peer.seen();
    let (hello, transport) = &seen.hellos[0];
    assert_eq!(*transport, "quic");
    assert_eq!(hello.host.as_ref().expect("host").os_type, "linux");
    let live = seen.live();
    let scalars = live[0].scalars.expect("scalars");
    assert!(scalars.ram_used_mib > 0 && scalars.process_count > 1 && scalars.uptime_s > 0, "{scalars:?}");
    assert!(live[0].details.iter().any(|value| value.name.starts_with("cpu.0")), "the first has the details");
    assert!(seen.heartbeats.keys().map(|key| key.2).eq(1..=live.len() as u64), "numbers are dense");
    assert!(seen.documents.iter().all(|document| !document.device_signature.is_empty()));
}

#[tokio::test]
async fn where_udp_is_blocked_it_uses_a_websocket_through_the_proxy() {
    let (_socket, hole) = black_hole().await;
    let Setup { peer, mut agent } = setup(Some(hole), true, LIFE).await;
    let proxy = proxy("Basic dXNlcjpwQHNz").await;
    agent.start(&["--proxy", &format!("http://user:p%40ss@{proxy}")]);
    peer.until("heartbeats", |seen| seen.live().len() >= 2).await;
    peer.until("inventory between them", |seen| seen.documents.len() >= 3).await;
    assert!(peer.seen().hellos.iter().all(|(_, transport)| *transport == "websocket"));
    agent.until("the transport in the status", |status| status.transport.as_deref() == Some("websocket")).await;
    agent.stop().await;
    peer.until("a goodbye", |seen| seen.goodbyes == 1).await;
}

/// A proxy that wants these credentials.
async fn proxy(credentials: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.expect("a request"));
                }
                let head = String::from_utf8(head).expect("text");
                assert!(head.contains(&format!("Proxy-Authorization: {credentials}\r\n")), "{head}");
                let target = head.split(' ').nth(1).expect("a target").to_owned();
                let mut server = TcpStream::connect(target).await.expect("connects");
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.expect("answers");
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn killed_with_a_full_spool_it_loses_nothing_and_repeats_nothing() {
    let Setup { peer, mut agent } = setup(None, false, LIFE).await;
    agent.start(&[]);
    peer.until("a first heartbeat", |seen| !seen.live().is_empty()).await;
    peer.set_up(false);
    agent.until("heartbeats in the spool", |status| status.spooled >= 3).await;
    agent.kill();
    // Again while nobody listens, and killed once more.
    agent.start(&[]);
    agent.until("more of them", |status| status.running && status.spooled >= 5).await;
    agent.kill();
    peer.set_up(true);
    agent.start(&[]);
    peer.until("the backlog", |seen| {
        seen.heartbeats.keys().filter(|(_, lane, _)| *lane == Lane::Backlog as i32).count() >= 5
    })
    .await;
    agent.until("an empty spool", |status| status.spooled == 0).await;
    agent.stop().await;
    let seen = peer.seen();
    let taken: BTreeSet<_> = seen.heartbeats.values().map(|(beat, _)| (beat.boot_id.clone(), beat.mono_us)).collect();
    assert_eq!(taken.len(), seen.heartbeats.len(), "no heartbeat has two numbers");
    assert_eq!(seen.conflicts, BTreeSet::new(), "no number was used for two heartbeats");
    let incarnations: BTreeSet<_> = seen.heartbeats.keys().map(|(incarnation, ..)| *incarnation).collect();
    assert_eq!(incarnations.len(), 1, "its numbers were current all along");
    for lane in [Lane::Live as i32, Lane::Backlog as i32] {
        let numbers: Vec<u64> = seen.heartbeats.keys().filter(|key| key.1 == lane).map(|key| key.2).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "lane {lane} has holes: {numbers:?}");
    }
}

#[tokio::test]
async fn a_state_restored_from_an_older_copy_begins_a_new_incarnation() {
    let Setup { peer, mut agent } = setup(None, false, LIFE).await;
    let copy = tempfile::TempDir::new().expect("a folder");
    agent.start(&[]);
    peer.until("two", |seen| seen.live().len() >= 2).await;
    // The copy holds some that the relay has, and that are numbered but not acknowledged.
    peer.manners.lock().expect("no panic before").silent = true;
    let before = peer.seen().live().len();
    peer.until("one without an answer", |seen| seen.live().len() > before).await;
    agent.stop().await;
    copy_folder(agent.state.path(), copy.path());
    peer.manners.lock().expect("no panic before").silent = false;
    agent.start(&[]);
    let before = peer.seen().live().len();
    peer.until("more", |seen| seen.live().len() >= before + 3).await;
    agent.stop().await;
    copy_folder(copy.path(), agent.state.path());
    let old = peer.seen().hellos[0].0.incarnation;
    agent.start(&[]);
    peer.until("two of a new incarnation", |seen| {
        seen.heartbeats.keys().filter(|(incarnation, ..)| *incarnation != old).count() >= 2
    })
    .await;
    let seen = peer.seen();
    let taken: BTreeSet<_> = seen.heartbeats.values().map(|(beat, _)| beat.mono_us).collect();
    assert_eq!(taken.len(), seen.heartbeats.len(), "no heartbeat has two numbers");
    assert_eq!(seen.conflicts, BTreeSet::new(), "no number was used for two heartbeats");
    // What was not acknowledged comes again, by the start and by the copy, and is known by its number.
    assert!(seen.heartbeats.values().any(|(_, times)| *times >= 3), "the unacknowledged came again");
    let incarnations: BTreeSet<_> = seen.heartbeats.keys().map(|(incarnation, ..)| *incarnation).collect();
    assert_eq!(incarnations.len(), 2);
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for name in ["identity.json", "state.pb", "spool"] {
        let target = to.join(name);
        if from.join(name).is_dir() {
            let _absent = std::fs::remove_dir_all(&target);
            std::fs::create_dir_all(&target).expect("makes");
            for entry in std::fs::read_dir(from.join(name)).expect("reads") {
                let entry = entry.expect("entry");
                std::fs::copy(entry.path(), target.join(entry.file_name())).expect("copies");
            }
        } else {
            std::fs::copy(from.join(name), target).expect("copies");
        }
    }
}

#[tokio::test]
async fn a_certificate_past_half_its_life_is_renewed_without_a_gap() {
    // Its life began a second ago and lasts one more.
    let Setup { peer, mut agent } = setup(None, false, Duration::from_secs(8)).await;
    let before = agent.status().certificate_expires_s;
    agent.start(&[]);
    peer.until("a renewal", |seen| seen.renewals == 1).await;
    peer.until("a connection with the new certificate", |seen| seen.hellos.len() == 2).await;
    let count = peer.seen().live().len();
    peer.until("heartbeats over it", |seen| seen.live().len() >= count + 2).await;
    agent.until("the new expiry", |status| status.certificate_expires_s > before + 600).await;
    agent.stop().await;
    let seen = peer.seen();
    assert!(seen.hellos[1].0.session_counter > seen.hellos[0].0.session_counter);
    assert!(seen.live().windows(2).all(|pair| pair[1].mono_us - pair[0].mono_us < 5_000_000), "no gap");
    let identity =
        breeze_agent::identity::DeviceIdentity::load(&breeze_agent::state_dir::StateDir::unlocked(agent.state.path()))
            .expect("sound")
            .expect("enrolled");
    let signature = identity.key.sign(b"message").expect("signs");
    assert!(verify(&identity.certificate, b"message", &signature), "key and certificate belong together");
}

#[tokio::test]
async fn a_relay_whose_clock_is_years_ahead_does_not_lose_the_agent() {
    const TEN_YEARS_US: u64 = 10 * 365 * 86_400 * 1_000_000;
    let Setup { peer, mut agent } = setup(None, false, LIFE).await;
    peer.manners.lock().expect("no panic before").clock_ahead_us = TEN_YEARS_US;
    agent.start(&[]);
    peer.until("a heartbeat", |seen| !seen.live().is_empty()).await;
    agent.stop().await;
    // Relays' certificates are not judged by that relay's word, neither now nor after a start.
    peer.manners.lock().expect("no panic before").clock_ahead_us = 0;
    let hellos = peer.seen().hellos.len();
    let beats = peer.seen().live().len();
    agent.start(&[]);
    peer.until("it to come back", |seen| seen.hellos.len() > hellos && seen.live().len() > beats).await;
    agent.stop().await;
    let key = peer.seen().hellos[0].0.host.as_ref().expect("host").key_protection.clone();
    assert_eq!(key, "file", "where the key lies is told");
}

#[tokio::test]
async fn only_a_proven_revocation_stops_it() {
    let Setup { peer, mut agent } = setup(None, false, LIFE).await;
    agent.start(&[]);
    peer.until("a heartbeat", |seen| !seen.live().is_empty()).await;
    let close = |proof| Close { reason: CloseReason::Revoked.into(), proof, ..Close::default() };
    let forged = Authority::new().revocation(DeviceId::generate());
    peer.push(Answer::Close(close(Some(forged))));
    agent.until("the claim in the status", |status| status.trouble.contains("does not prove")).await;
    assert_eq!(agent.status().revoked, None);
    agent.stop().await;

    let proof = peer.authority.revocation(peer.device);
    peer.manners.lock().expect("no panic").close = Some(close(Some(proof)));
    agent.start(&[]);
    agent.until("revoked", |status| status.state == "revoked").await;
    assert_eq!(agent.status().revoked.as_deref(), Some("sold"));
    agent.stop().await;
    let before = peer.seen().hellos.len();
    agent.start(&[]);
    agent.until("still revoked after a restart", |status| status.running && status.state == "revoked").await;
    agent.stop().await;
    assert_eq!(peer.seen().hellos.len(), before, "and it does not ask at once");
}
