//! Real nats-servers on free ports of loopback, in folders of their own, killed with their handle.

use breeze_bus::nats::{NatsBus, NatsConfig};
use std::{
    io::Read as _,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The program: in `$BREEZE_TEST_TOOLS/bin`, or where `cargo xtask` puts it. `None`, and said so, if it is missing.
pub(crate) fn program() -> Option<PathBuf> {
    let tools = std::env::var_os("BREEZE_TEST_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"), PathBuf::from);
    let program = tools.join("bin/nats-server");
    if program.exists() {
        return Some(program);
    }
    eprintln!("skipped: there is no {} (set BREEZE_TEST_TOOLS)", program.display());
    None
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("bound").port())
}

/// A server; `None` while it is stopped.
pub(crate) struct Server {
    program: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts one with this configuration, which says to listen on `port`.
    pub(crate) fn start(program: &Path, dir: &Path, config: &str, port: u16) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        std::fs::write(dir.join("nats.conf"), config).expect("writes");
        let mut server = Self { program: program.to_owned(), dir: dir.to_owned(), port, child: None };
        server.restart();
        server
    }

    /// One alone, with JetStream that syncs always, and no users.
    pub(crate) fn single(program: &Path, dir: &Path, domain: &str) -> Self {
        let [port] = free_ports();
        let store = dir.join("js");
        let domain = if domain.is_empty() { String::new() } else { format!("domain: {domain}") };
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nmax_payload: 1114112\njetstream {{ store_dir: {store:?}, sync_interval: always, {domain} }}\n"
        );
        Self::start(program, dir, &config, port)
    }

    pub(crate) fn restart(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).expect("a log");
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.dir.join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("starts");
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !answers(self.port) {
            if let Some(status) = self.child.as_mut().expect("started").try_wait().expect("waits") {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                panic!("nats-server ended with {status}: {log}");
            }
            assert!(Instant::now() < deadline, "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kills");
            child.wait().expect("ends");
        }
    }

    pub(crate) fn config(&self, domain: &str, name: &str) -> NatsConfig {
        config(&[self.port], domain, name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server speaks first.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut hello = [0; 4];
    stream.read_exact(&mut hello).is_ok() && &hello == b"INFO"
}

pub(crate) fn config(ports: &[u16], domain: &str, name: &str) -> NatsConfig {
    NatsConfig {
        servers: ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect(),
        domain: domain.to_owned(),
        region: domain.to_owned(),
        nkey_seed: None,
        ca_file: None,
        client_name: name.to_owned(),
    }
}

/// Tries until it succeeds: JetStream answers a moment after its server listens.
pub(crate) async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    mut attempt: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "still: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn connect(config: &NatsConfig) -> NatsBus {
    eventually(|| NatsBus::connect(config.clone())).await
}
