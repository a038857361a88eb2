//! NATS servers with JetStream: alone, three as a cluster, or a hub with a leaf node a region.

use super::{START_PATIENCE, Tools, http, port::free_port, process::Process};
use anyhow::Context;
use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The ports of a server, chosen before it starts: others are told them in their configuration.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Where clients connect.
    pub client: u16,
    /// Where the others of its cluster connect.
    pub cluster: u16,
    /// Where leaf nodes connect.
    pub leaf: u16,
    /// Where it answers about its health, over HTTP.
    pub monitor: u16,
}

impl Ports {
    /// Four free ones.
    ///
    /// # Errors
    /// If there are none.
    pub fn choose() -> anyhow::Result<Self> {
        let port = || free_port(LOCALHOST);
        Ok(Self { client: port()?, cluster: port()?, leaf: port()?, monitor: port()? })
    }
}

/// PEM files of a server.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificate chain, for `localhost` and 127.0.0.1.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that signed it.
    pub authority: PathBuf,
}

/// What a generated configuration says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// JetStream domain.
    pub domain: Option<String>,
    /// Clients connect over TLS.
    pub tls: Option<Tls>,
    /// Name of the cluster, and the cluster ports of all its servers.
    pub cluster: Option<(String, Vec<u16>)>,
    /// Whether leaf nodes may connect.
    pub is_hub: bool,
    /// Addresses of the hub's leaf ports (`nats-leaf://127.0.0.1:port`) that this leaf node connects to.
    pub hub: Vec<String>,
    /// More lines of configuration: users and permissions.
    pub more: String,
}

/// A server with its own data.
#[derive(Debug)]
pub struct Nats {
    /// To be stopped, killed and paused.
    pub process: Process,
    /// Where it listens.
    pub ports: Ports,
    /// Its configuration and data.
    pub folder: PathBuf,
    /// Where it is reached.
    pub host: IpAddr,
    has_tls: bool,
}

impl Nats {
    /// One server with JetStream.
    ///
    /// # Errors
    /// If the tool is missing or the server does not come up.
    pub fn single(tools: &Tools, folder: &Path, name: &str, options: &Options) -> anyhow::Result<Self> {
        let ports = Ports::choose()?;
        let mut server = Self::with_config(tools, folder, name, ports, &config(name, ports, options))?;
        server.has_tls = options.tls.is_some();
        server.restart()?;
        Ok(server)
    }

    /// Three servers with JetStream that replicate, in folders of their own below `folder`.
    ///
    /// # Errors
    /// As [`Nats::single`].
    pub fn cluster(tools: &Tools, folder: &Path, name: &str, options: &Options) -> anyhow::Result<Vec<Self>> {
        let ports = [Ports::choose()?, Ports::choose()?, Ports::choose()?];
        let routes = ports.iter().map(|ports| ports.cluster).collect();
        let options = Options { cluster: Some((name.to_owned(), routes)), ..options.clone() };
        let mut servers = Vec::new();
        for (number, ports) in ports.into_iter().enumerate() {
            let name = format!("{name}-{}", number + 1);
            let text = config(&name, ports, &options);
            let mut server = Self::with_config(tools, &folder.join(&name), &name, ports, &text)?;
            server.has_tls = options.tls.is_some();
            server.process.start()?;
            servers.push(server);
        }
        for server in &mut servers {
            server.wait()?;
        }
        Ok(servers)
    }

    /// A hub (domain "global") and a leaf node a region, each region's domain being its name.
    ///
    /// # Errors
    /// As [`Nats::single`].
    pub fn hub_and_leaves(tools: &Tools, folder: &Path, regions: &[&str]) -> anyhow::Result<(Self, Vec<Self>)> {
        let options = Options { domain: Some("global".into()), is_hub: true, ..Options::default() };
        let hub = Self::single(tools, &folder.join("hub"), "hub", &options)?;
        let mut leaves = Vec::new();
        for region in regions {
            let remote = format!("nats-leaf://127.0.0.1:{}", hub.ports.leaf);
            let options = Options { domain: Some((*region).into()), hub: vec![remote], ..Options::default() };
            leaves.push(Self::single(tools, &folder.join(region), region, &options)?);
        }
        Ok((hub, leaves))
    }

    /// Not started yet, with a configuration of the caller's, which must listen on `ports`; `monitor` is
    /// asked whether it is up, and JetStream with it.
    ///
    /// # Errors
    /// If the tool is missing or the folder cannot be written.
    pub fn with_config(tools: &Tools, folder: &Path, name: &str, ports: Ports, text: &str) -> anyhow::Result<Self> {
        let program = tools.nats_server().context("nats-server is not installed: cargo xtask test installs it")?;
        fs::create_dir_all(folder)?;
        let file = folder.join("nats.conf");
        // Paths in a configuration are relative to where the server runs: the data's is said in full.
        let store = folder.join("data");
        fs::write(&file, text.replace("{store}", &store.display().to_string()))?;
        let words = [program.into_os_string(), "-c".into(), file.into()];
        let process = Process::new(name, words, &folder.join("nats.log"));
        Ok(Self { process, ports, folder: folder.to_path_buf(), host: LOCALHOST, has_tls: false })
    }

    /// Reached at another address, in another network: what runs it there stands before its words.
    #[must_use]
    pub fn at(mut self, host: IpAddr, prefix: Vec<OsString>) -> Self {
        self.host = host;
        self.process = self.process.with_prefix(prefix);
        self
    }

    /// Starts again on the same data and ports, and waits until it and its JetStream are well.
    ///
    /// # Errors
    /// If it runs already or does not come up.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        self.wait()
    }

    /// Waits until it and its JetStream are well.
    ///
    /// # Errors
    /// If they do not get so.
    pub fn wait(&mut self) -> anyhow::Result<()> {
        let address = format!("{}:{}", self.host, self.ports.monitor);
        self.process.wait_until(START_PATIENCE, || {
            http::request(&address, "GET", "/healthz", b"").is_ok_and(|(status, _)| status == 200)
        })
    }

    /// Reads its configuration and certificates anew; open connections go on.
    pub fn reload(&self) {
        self.process.signal(rustix::process::Signal::HUP);
    }

    /// Deletes its data: a disk that was lost. Only while it does not run.
    ///
    /// # Errors
    /// If the folder cannot be deleted.
    pub fn lose_data(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.process.is_running(), "{} runs", self.process.name());
        Ok(fs::remove_dir_all(self.folder.join("data"))?)
    }

    /// As a client wants it.
    #[must_use]
    pub fn url(&self) -> String {
        if self.has_tls {
            format!("tls://localhost:{}", self.ports.client)
        } else {
            format!("nats://{}:{}", self.host, self.ports.client)
        }
    }
}

/// A configuration that is durable: every message is synchronised to the disk before it is acknowledged.
#[must_use]
pub fn config(name: &str, ports: Ports, options: &Options) -> String {
    let mut text = format!(
        "server_name: \"{name}\"\nlisten: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\n\
         max_payload: 8388608\nmax_pending: 67108864\n",
        ports.client, ports.monitor
    );
    let domain = options.domain.as_ref().map(|domain| format!("  domain: \"{domain}\"\n")).unwrap_or_default();
    let _infallible = write!(
        text,
        "jetstream {{\n  store_dir: \"{{store}}\"\n  sync_interval: always\n  max_file_store: 4294967296\n\
         \x20 max_memory_store: 67108864\n{domain}}}\n"
    );
    if let Some(Tls { chain, key, authority }) = &options.tls {
        let _infallible = write!(
            text,
            "tls {{\n  cert_file: \"{}\"\n  key_file: \"{}\"\n  ca_file: \"{}\"\n}}\n",
            chain.display(),
            key.display(),
            authority.display()
        );
    }
    if let Some((cluster, routes)) = &options.cluster {
        let routes: Vec<String> = routes.iter().map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).collect();
        let _infallible = write!(
            text,
            "cluster {{\n  name: \"{cluster}\"\n  listen: \"127.0.0.1:{}\"\n  routes: [{}]\n}}\n",
            ports.cluster,
            routes.join(", ")
        );
    }
    if options.is_hub {
        let _infallible = write!(text, "leafnodes {{\n  listen: \"127.0.0.1:{}\"\n}}\n", ports.leaf);
    } else if !options.hub.is_empty() {
        let remotes: Vec<String> = options.hub.iter().map(|url| format!("\"{url}\"")).collect();
        let _infallible =
            write!(text, "leafnodes {{\n  reconnect: 1\n  remotes: [ {{ urls: [{}] }} ]\n}}\n", remotes.join(", "));
    }
    text.push_str(&options.more);
    text
}
