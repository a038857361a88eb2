//! A whole distributed Breeze on this machine: the servers, every role as a process of its own, and ways to
//! break them. Regions reach the hub through a [`Link`] each, which can be cut.

pub mod chaos;
pub mod faults;
mod files;
pub mod fleet;
mod link;
pub mod oracle;
mod role;
pub mod sites;
pub mod throttle;

pub use files::ROLES_LANES;
pub use link::Link;
pub use role::{Role, faketime};
pub use sites::{Site, Sites};

use crate::servers::{
    Cassandra, ClickHouse, Nats, Process, Tools, cassandra::Place, clickhouse, free_port, nats::Ports,
};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use throttle::Throttle;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Database of ClickHouse, and first part of the keyspaces' names.
pub const DATABASE: &str = "breeze";

/// What is built and how big.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder with the programs `breeze`, `breeze-agent` and `breeze-loadtest`.
    pub programs: PathBuf,
    /// Another `breeze` for the roles and what prepares them.
    pub breeze: Option<PathBuf>,
    /// The first is the home of the configuration.
    pub regions: Vec<String>,
    /// Of each region.
    pub collectors: usize,
    pub control_planes: usize,
    /// Of each region: 1, or 3 with three copies of each stream.
    pub nats_servers: usize,
    /// Each region and the global plane on a host of its own, see [`Sites::apart`].
    pub are_apart: bool,
    /// A data centre of CQL a region, else one for all.
    pub two_datacenters: bool,
    pub heartbeat_interval_s: u32,
    /// How long a lane stays with a collector that is gone.
    pub lease_ms: u64,
    /// Address of the first control-plane node's dashboard; port 0 takes a free one.
    pub listen: std::net::SocketAddr,
}

impl Options {
    /// Two regions with two collectors each, two control-plane nodes.
    #[must_use]
    pub fn new(programs: &Path) -> Self {
        Self {
            programs: programs.to_path_buf(),
            breeze: None,
            regions: vec!["eu".into(), "us".into()],
            collectors: 2,
            control_planes: 2,
            nats_servers: 1,
            are_apart: false,
            two_datacenters: true,
            heartbeat_interval_s: 1,
            lease_ms: 3_000,
            listen: (LOCALHOST, 0).into(),
        }
    }

    /// The program of the roles.
    #[must_use]
    pub fn breeze(&self) -> PathBuf {
        self.breeze.clone().unwrap_or_else(|| self.programs.join("breeze"))
    }
}

/// A region's servers and roles.
#[derive(Debug)]
pub struct Region {
    pub name: String,
    pub relay: Role,
    pub collectors: Vec<Role>,
    pub nats: Vec<Nats>,
    pub clickhouse: ClickHouse,
    /// To the hub, where all sites are one host.
    pub link: Option<Link>,
}

/// A running system. Everything is killed when it is dropped; the folder is the caller's.
#[derive(Debug)]
pub struct Deployment {
    pub folder: PathBuf,
    pub options: Options,
    /// Collectors that are held back: region and number.
    pub throttles: BTreeMap<(usize, usize), Throttle>,
    /// In the order in which they are dropped: roles before servers.
    pub control_planes: Vec<Role>,
    pub regions: Vec<Region>,
    pub hub: Nats,
    pub cassandra: Vec<Cassandra>,
    /// Written by the first control-plane node: `api`, `setup_url`, `enrollment_key`.
    pub ready_file: PathBuf,
    /// Where everything is; last, since namespaces go when nothing is in them any more.
    pub sites: Sites,
}

/// Addresses that are known before anything starts.
struct Plan {
    folder: PathBuf,
    options: Options,
    sites: Sites,
    hub: Ports,
    /// Of each region's NATS servers.
    regions: BTreeMap<String, Vec<Ports>>,
    /// Data centre and `host:port` of each region.
    cql: BTreeMap<String, (String, String)>,
    clickhouse: BTreeMap<String, String>,
    control_planes: Vec<String>,
    relays: BTreeMap<String, (String, String)>,
}

impl Deployment {
    /// Starts everything on `folder`, fresh or from before: servers, schema, roles; waits until all are ready.
    ///
    /// # Errors
    /// The first thing that did not come up, with its last words.
    pub fn start(tools: &Tools, folder: &Path, options: Options) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let sites = if options.are_apart { Sites::apart(options.regions.len())? } else { Sites::together() };
        let cassandra = start_cassandra(tools, &folder, &options, &sites)?;
        let mut clickhouse = BTreeMap::new();
        for (number, region) in options.regions.iter().enumerate() {
            let name = format!("clickhouse {region}");
            let folder = folder.join(format!("clickhouse-{region}"));
            let site = Site::Region(number);
            let at = Some((sites.address(site), sites.prefix(site)));
            let options = clickhouse::Options { at, ..clickhouse::Options::default() };
            clickhouse.insert(region.clone(), ClickHouse::start(tools, &folder, &name, &options)?);
        }
        let plan = Plan::new(&folder, options, sites, &cassandra, &clickhouse)?;
        let (hub, mut nats, mut links) = plan.start_nats(tools)?;
        plan.write_files()?;
        let first = plan.role_file("control-plane-1");
        plan.migrate()?;

        let ready_file = folder.join("ready.json");
        let mut control_planes = vec![plan.control_plane(1)?];
        control_planes[0].start()?;
        let instance_ca = plan.register(&first)?;
        for number in 2..=plan.options.control_planes {
            plan.carry_keys(number)?;
            let mut role = plan.control_plane(number)?;
            role.start()?;
            control_planes.push(role);
        }
        plan.write_relays(&instance_ca)?;
        let mut regions = Vec::new();
        for (number, name) in plan.options.regions.iter().enumerate() {
            let site = Site::Region(number);
            let mut region = Region {
                relay: plan.role(&format!("relay-{name}"), "relay", site)?,
                collectors: (1..=plan.options.collectors)
                    .map(|number| plan.role(&format!("collector-{name}-{number}"), "collector", site))
                    .collect::<anyhow::Result<_>>()?,
                nats: nats.remove(name).context("a region's NATS")?,
                clickhouse: clickhouse.remove(name).context("a region's ClickHouse")?,
                link: links.remove(name),
                name: name.clone(),
            };
            for role in region.collectors.iter_mut().chain([&mut region.relay]) {
                role.start()?;
            }
            regions.push(region);
        }
        let Plan { options, sites, .. } = plan;
        let throttles = BTreeMap::new();
        Ok(Self { folder, options, throttles, control_planes, regions, hub, cassandra, ready_file, sites })
    }

    /// What the first control-plane node wrote when it was ready.
    ///
    /// # Errors
    /// If the file is missing.
    pub fn ready(&self) -> anyhow::Result<Value> {
        let text = fs::read_to_string(&self.ready_file).with_context(|| self.ready_file.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A program of the workspace.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.options.programs.join(name)
    }

    /// Runs `breeze` with these words to its end; what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn breeze(&self, words: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<String> {
        run_breeze(&self.options, &self.folder, words, environment)
    }

    /// Makes or brings up to date what every engine holds; what was done, a line each.
    ///
    /// # Errors
    /// As [`Deployment::breeze`].
    pub fn migrate(&self) -> anyhow::Result<Vec<String>> {
        files::migrate(&self.options, &self.folder)
    }

    /// The region of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn region(&mut self, name: &str) -> anyhow::Result<&mut Region> {
        self.regions.iter_mut().find(|region| region.name == name).with_context(|| format!("no region {name}"))
    }

    /// Every process: what it is, its id, where its log is.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, Option<u32>, PathBuf)> {
        let mut all = vec![&self.hub.process];
        all.extend(self.cassandra.iter().map(|node| &node.process));
        all.extend(self.control_planes.iter().map(|role| &role.process));
        for region in &self.regions {
            all.extend(region.nats.iter().map(|server| &server.process));
            all.extend([&region.clickhouse.process, &region.relay.process]);
            all.extend(region.collectors.iter().map(|role| &role.process));
        }
        all.into_iter().map(|one| (one.name().to_owned(), one.pid(), one.log().to_path_buf())).collect()
    }

    /// Cuts a region from everything but its agents: the link to the hub, or the network between the sites.
    ///
    /// # Errors
    /// If there is no such region, or nftables refuses.
    pub fn cut(&self, region: usize) -> anyhow::Result<()> {
        match &self.regions.get(region).context("no such region")?.link {
            Some(link) => link.cut(),
            None => self.sites.cut(region)?,
        }
        Ok(())
    }

    /// Ends what [`Deployment::cut`] did.
    ///
    /// # Errors
    /// As there.
    pub fn heal(&self, region: usize) -> anyhow::Result<()> {
        match &self.regions.get(region).context("no such region")?.link {
            Some(link) => link.heal(),
            None => self.sites.heal(region)?,
        }
        Ok(())
    }

    /// Stops the roles in the order of the data's way, then the servers.
    ///
    /// # Errors
    /// If one had to be killed.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.throttles.clear();
        let mut wrong = Vec::new();
        let mut note = |result: anyhow::Result<Option<std::process::ExitStatus>>, name: &str| match result {
            Ok(status) if status.is_none_or(|status| status.success()) => {}
            Ok(status) => wrong.push(format!("{name}: {status:?}")),
            Err(error) => wrong.push(format!("{error:#}")),
        };
        for region in &mut self.regions {
            note(region.relay.process.stop(), &region.relay.name);
        }
        for region in &mut self.regions {
            region.collectors.iter_mut().for_each(|role| note(role.process.stop(), &role.name));
        }
        self.control_planes.iter_mut().for_each(|role| note(role.process.stop(), &role.name));
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    }
}

impl Plan {
    /// Runs `breeze` with these words to its end; what it printed.
    fn breeze(&self, words: &[&str]) -> anyhow::Result<String> {
        self.breeze_with(words, &[])
    }

    fn breeze_with(&self, words: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<String> {
        run_breeze(&self.options, &self.folder, words, environment)
    }

    fn role(&self, name: &str, subcommand: &str, site: Site) -> anyhow::Result<Role> {
        let health = fs::read_to_string(self.folder.join(format!("{name}.health")))?;
        let words = vec![
            self.options.breeze().into_os_string(),
            subcommand.into(),
            "--config".into(),
            self.role_file(name).into(),
        ];
        let process = Process::new(name, words, &self.folder.join(format!("{name}.log")));
        Ok(Role::new(name, process.with_prefix(self.sites.prefix(site)), &health))
    }
}

fn start_cassandra(tools: &Tools, folder: &Path, options: &Options, sites: &Sites) -> anyhow::Result<Vec<Cassandra>> {
    let folder = folder.join("cassandra");
    if !options.two_datacenters {
        ensure!(!options.are_apart, "regions on hosts of their own have data centres of their own");
        return Cassandra::datacenters(tools, &folder, &["dc1"]);
    }
    let place = |(number, region): (usize, &String)| {
        let site = Site::Region(number);
        let together = IpAddr::V4(Ipv4Addr::new(127, 0, 0, u8::try_from(number + 1).unwrap_or(u8::MAX)));
        let ip = if options.are_apart { sites.address(site) } else { together };
        Place { datacenter: region.clone(), ip, prefix: sites.prefix(site) }
    };
    Cassandra::places(tools, &folder, &options.regions.iter().enumerate().map(place).collect::<Vec<_>>())
}

fn run_breeze(
    options: &Options,
    folder: &Path,
    words: &[&str],
    environment: &[(&str, &str)],
) -> anyhow::Result<String> {
    let mut command = Command::new(options.breeze());
    command.args(words).envs(environment.iter().copied()).stdin(Stdio::null()).current_dir(folder);
    let output = command.output().with_context(|| format!("breeze {words:?}"))?;
    let (said, logged) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "breeze {words:?}: {said}{logged}");
    Ok(said.into_owned())
}

fn port() -> anyhow::Result<u16> {
    free_port(LOCALHOST)
}
