//! Lanes that change hands over a real nats-server. Skipped, and said so, where there is none.
#![expect(clippy::print_stdout, reason = "the pauses are figures to look at")]

use crate::{handover::join_and_leave, world::*};
use breeze_bus::nats::{NatsBus, NatsConfig, Streams, migrate};
use breeze_runtime::shutdown::Shutdown;
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

/// Ended with its handle.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(dir: &Path) -> Option<Server> {
    let tools = std::env::var_os("BREEZE_TEST_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"), PathBuf::from);
    let program = tools.join("bin/nats-server");
    if !program.exists() {
        println!("skipped: there is no {} (set BREEZE_TEST_TOOLS)", program.display());
        return None;
    }
    let port = TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a port").port();
    let store = dir.join("js");
    let config = format!(
        "listen: \"127.0.0.1:{port}\"\nmax_payload: 1114112\njetstream {{ store_dir: {store:?}, sync_interval: always }}\n"
    );
    let file = dir.join("nats.conf");
    std::fs::write(&file, config).expect("writes");
    let child = Command::new(program).arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Some(Server { child: child.expect("starts"), port })
}

fn config(server: &Server, name: &str) -> NatsConfig {
    NatsConfig {
        servers: vec![format!("nats://127.0.0.1:{}", server.port)],
        domain: String::new(),
        region: "local".to_owned(),
        nkey_seed: None,
        ca_file: None,
        client_name: name.to_owned(),
    }
}

async fn connect(server: &Server, name: &str) -> Arc<NatsBus> {
    let bus = until("the server", || async { NatsBus::connect(config(server, name)).await.ok() }).await;
    Arc::new(bus)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_change_hands_over_nats_without_a_gap() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(server) = start(dir.path()) else { return };
    let streams =
        Streams { lanes: 4, regions: vec!["local".to_owned()], replicas: 1, max_stream_bytes: 64 * 1024 * 1024 };
    until("the streams", || async {
        let migrated = migrate(&config(&server, "migrate"), &streams).await;
        migrated.is_ok().then_some(())
    })
    .await;
    let world = World::default();
    world.metrics.check_records(&world.state);
    let bus = connect(&server, "test").await;
    let collectors = async |config: breeze_collector::Config| {
        let shutdown = Shutdown::new();
        let bus = connect(&server, &format!("collector-{}", config.id)).await;
        let (state, metrics) = (world.state.clone(), world.metrics.clone());
        let history = Arc::new(breeze_store::history::EmbeddedHistory::new(state.clone()));
        let handle =
            breeze_collector::start(config, bus, state, metrics, history, shutdown.clone()).await.expect("starts");
        Running { handle, shutdown }
    };
    let (usual, joining, leaving, sent) = join_and_leave(bus, collectors).await;
    println!("NATS: {usual:?} between two samples usually, {joining:?} when one joined, {leaving:?} when one left");
    assert!(joining < Duration::from_secs(2) && leaving < Duration::from_secs(2), "{joining:?}, {leaving:?}");
    let rows = world.metrics.rows();
    assert!(rows.values().all(|many| *many == 1), "once");
    assert!(rows.len() as u64 >= 4 * sent, "{} rows of {sent}", rows.len());
}
