//! What a connection costs in memory. `cargo test -p breeze-relay --test it -- --ignored --nocapture memory`:
//! the agents are another process, so that only the relay's side counts.

use crate::{
    client::{self, hello},
    world::World,
};
use breeze_proto::{ALPN, id::DeviceId, v1::agent_frame};
use breeze_relay::Limits;
use breeze_runtime::tls::{Identity, provider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{io::Write, net::SocketAddr, path::Path, process::Stdio, sync::Arc};

const CONNECTIONS: usize = 2_000;
const ADDRESS: &str = "BREEZE_TEST_AGENTS_OF";
const FOLDER: &str = "BREEZE_TEST_AGENTS_FOLDER";

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") * 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; takes some seconds and a second process"]
async fn memory_of_idle_connections() {
    let limits = Limits { handshakes_per_second: 5_000, handshake_burst: 5_000, ..Limits::default() };
    let world = World::start_with(limits).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ca"), world.pki.ca()).expect("written");
    for number in 0..CONNECTIONS {
        let identity = world.pki.device(DeviceId::generate());
        std::fs::write(folder.path().join(format!("{number}.crt")), &identity.chain_der[0]).expect("written");
        std::fs::write(folder.path().join(format!("{number}.key")), identity.key_der.secret_der()).expect("written");
    }
    let before = resident_bytes();
    let mut agents = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "measure::agents_of_another_process", "--nocapture"])
        .env(ADDRESS, world.quic.to_string())
        .env(FOLDER, folder.path())
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let connected = async {
        while world.entries().await.len() < CONNECTIONS {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), connected).await.expect("all connect");
    let each = (resident_bytes() - before) as f64 / CONNECTIONS as f64;
    writeln!(std::io::stderr(), "{CONNECTIONS} idle connections: {:.1} KiB each", each / 1024.0).expect("stderr");
    assert!(each < 64.0 * 1024.0, "{each} bytes a connection");
    drop(agents.stdin.take());
    agents.wait().await.expect("ended");
}

/// Not a test: the agents of the one above, until its standard input ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the measurement"]
async fn agents_of_another_process() {
    let (Ok(address), Ok(folder)) = (std::env::var(ADDRESS), std::env::var(FOLDER)) else { return };
    let address: SocketAddr = address.parse().expect("an address");
    let folder = Path::new(&folder);
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let mut agents = Vec::new();
    for number in 0..CONNECTIONS {
        let read = |name: String| std::fs::read(folder.join(name)).expect("readable");
        let identity = Identity {
            chain_der: vec![CertificateDer::from(read(format!("{number}.crt")))],
            key_der: PrivateKeyDer::Pkcs8(read(format!("{number}.key")).into()),
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(read("ca".to_owned()))).expect("our CA");
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(identity.chain_der, identity.key_der)
            .expect("a key");
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        let mut agent = client::quic_from(&endpoint, &Arc::new(config), address).await.expect("connected");
        agent.send(agent_frame::Body::Hello(hello(1, 1))).await;
        agents.push(agent);
    }
    let mut line = String::new();
    tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line)).await.expect("read").expect("read");
}
