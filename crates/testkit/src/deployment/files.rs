//! The files of a deployment: configuration of each role, and of the NATS servers by `breeze bus-config`.

use super::{Cassandra, ClickHouse, DATABASE, Link, Options, Plan, Role, Site, Sites, port};
use crate::servers::{Nats, Tools, nats::Ports};
use anyhow::Context;
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// Lanes of each region.
pub const ROLES_LANES: u16 = 4;
/// Enough to hold a test's messages while nobody reads them.
const STREAM_MIB: u64 = 128;
const PASSPHRASE: &str = "a passphrase of the tests";

type Started = (Nats, BTreeMap<String, Vec<Nats>>, BTreeMap<String, Link>);

impl Plan {
    pub(super) fn new(
        folder: &Path,
        options: Options,
        sites: Sites,
        cassandra: &[Cassandra],
        clickhouse: &BTreeMap<String, ClickHouse>,
    ) -> anyhow::Result<Self> {
        let mut cql = BTreeMap::new();
        for (number, region) in options.regions.iter().enumerate() {
            let node = cassandra.get(number).or(cassandra.first()).context("a node of Cassandra")?;
            cql.insert(region.clone(), (node.datacenter.clone(), node.address.to_string()));
        }
        let address = |site| anyhow::Ok(format!("{}:{}", sites.address(site), port()?));
        let control_planes = (0..options.control_planes).map(|_| address(Site::Global));
        let mut control_planes = control_planes.collect::<anyhow::Result<Vec<_>>>()?;
        if options.listen.port() != 0 {
            control_planes[0] = options.listen.to_string();
        }
        let mut regions = BTreeMap::new();
        let mut relays = BTreeMap::new();
        for (number, region) in options.regions.iter().enumerate() {
            let ports = (0..options.nats_servers).map(|_| Ports::choose()).collect::<anyhow::Result<Vec<_>>>()?;
            regions.insert(region.clone(), ports);
            let site = Site::Region(number);
            relays.insert(region.clone(), (address(site)?, address(site)?));
        }
        let clickhouse = clickhouse.iter().map(|(region, server)| (region.clone(), server.url())).collect();
        let folder = folder.to_path_buf();
        let hub = Ports::choose()?;
        Ok(Self { folder, options, sites, hub, regions, cql, clickhouse, control_planes, relays })
    }

    /// Where a region is.
    fn site(&self, region: &str) -> Site {
        let place = self.options.regions.iter().position(|name| name == region);
        place.map_or(Site::Global, Site::Region)
    }

    fn server_name(&self, region: &str, number: usize) -> String {
        if self.options.nats_servers == 1 { format!("nats-{region}") } else { format!("nats-{region}-{}", number + 1) }
    }

    pub(super) fn role_file(&self, name: &str) -> String {
        role_file(&self.folder, name)
    }

    /// Configuration and seeds by `breeze bus-config`, then the hub and the regions behind their links.
    pub(super) fn start_nats(&self, tools: &Tools) -> anyhow::Result<Started> {
        let node = |section: &str, name: &str, site: Site, ports: &Ports| {
            let host = self.sites.address(site);
            format!(
                "[[{section}]]\nname = \"{name}\"\nhost = \"{host}\"\nclient_port = {}\ncluster_port = {}\n\
                 leaf_port = {}\nstore_dir = \"{}\"\n",
                ports.client,
                ports.cluster,
                ports.leaf,
                self.folder.join("nats").join(name).join("data").display(),
            )
        };
        let mut topology = node("hub", "nats-hub", Site::Global, &self.hub);
        for (region, ports) in &self.regions {
            let collectors: Vec<String> =
                (1..=self.options.collectors).map(|number| format!("{region}-{number}")).collect();
            let _infallible = write!(
                topology,
                "[[regions]]\nname = \"{region}\"\nrelays = [\"{region}-1\"]\ncollectors = {collectors:?}\n",
            );
            for (number, ports) in ports.iter().enumerate() {
                topology += &node("regions.servers", &self.server_name(region, number), self.site(region), ports);
            }
        }
        let file = self.folder.join("bus.toml");
        fs::write(&file, topology)?;
        let bus = self.folder.join("bus");
        self.breeze(&["bus-config", "--topology", &file.display().to_string(), "--out", &bus.display().to_string()])?;

        let mut hub = self.nats(tools, &bus, "nats-hub", (Site::Global, self.hub), None)?;
        hub.restart()?;
        let (mut regions, mut links) = (BTreeMap::new(), BTreeMap::new());
        for (name, ports) in &self.regions {
            // Between hosts of their own the network itself is cut.
            if !self.sites.are_apart() {
                links.insert(name.clone(), Link::to((super::LOCALHOST, self.hub.leaf).into())?);
            }
            let mut servers = Vec::new();
            for (number, ports) in ports.iter().enumerate() {
                let place = (self.site(name), *ports);
                let mut server = self.nats(tools, &bus, &self.server_name(name, number), place, links.get(name))?;
                server.process.start()?;
                servers.push(server);
            }
            // A server of three is well when it has found the others.
            servers.iter_mut().try_for_each(Nats::wait)?;
            regions.insert(name.clone(), servers);
        }
        Ok((hub, regions, links))
    }

    fn nats(
        &self,
        tools: &Tools,
        bus: &Path,
        name: &str,
        (site, ports): (Site, Ports),
        link: Option<&Link>,
    ) -> anyhow::Result<Nats> {
        let host = self.sites.address(site);
        let mut text = fs::read_to_string(bus.join(format!("{name}.conf"))).with_context(|| format!("{name}.conf"))?;
        if let Some(link) = link {
            let hub = format!("127.0.0.1:{}", self.hub.leaf);
            anyhow::ensure!(text.contains(&hub), "{name}.conf does not name the hub");
            text = text.replace(&hub, &link.address().to_string());
        }
        let _infallible = write!(text, "\nhttp: \"{host}:{}\"\n", ports.monitor);
        let server = Nats::with_config(tools, &self.folder.join("nats").join(name), name, ports, &text)?;
        Ok(server.at(host, self.sites.prefix(site)))
    }

    /// Files of control planes and collectors; the relays' need the authority's fingerprint.
    pub(super) fn write_files(&self) -> anyhow::Result<()> {
        for number in 1..=self.options.control_planes {
            let home = &self.options.regions[0];
            let mut text = self.head(&format!("control-plane-{number}"), home, Site::Global)?;
            text += &self.bus(Site::Global, &[self.hub], "global", "control-plane");
            text += &self.state(home)?;
            for (region, url) in &self.clickhouse {
                let _infallible =
                    write!(text, "[metrics.regions.{region}]\nurl = \"{url}\"\ndatabase = \"{DATABASE}\"\n");
            }
            let _infallible = write!(
                text,
                "[control_plane]\nid = \"{number}\"\nlisten = \"{}\"\ntls = \"none\"\ndata = \"control-plane-{number}\"\n\
                 regions = {:?}\ndefault_region = \"{home}\"\nheartbeat_interval_s = {}\n",
                self.control_planes[number - 1],
                self.options.regions,
                self.options.heartbeat_interval_s,
            );
            fs::write(self.role_file(&format!("control-plane-{number}")), text)?;
        }
        for (region, ports) in &self.regions {
            for number in 1..=self.options.collectors {
                let name = format!("collector-{region}-{number}");
                let mut text = self.head(&name, region, self.site(region))?;
                text += &self.bus(self.site(region), ports, region, &name);
                text += &self.state(region)?;
                let _infallible = write!(
                    text,
                    "[metrics]\nurl = \"{}\"\ndatabase = \"{DATABASE}\"\n\
                     [collector]\nid = \"{region}-{number}\"\nregions = {:?}\nlanes = {ROLES_LANES}\nlease_ms = {}\n",
                    self.clickhouse[region], self.options.regions, self.options.lease_ms,
                );
                fs::write(self.role_file(&name), text)?;
            }
        }
        Ok(())
    }

    pub(super) fn write_relays(&self, instance_ca: &str) -> anyhow::Result<()> {
        for (region, ports) in &self.regions {
            let name = format!("relay-{region}");
            let mut text = self.head(&name, region, self.site(region))?;
            text += &self.bus(self.site(region), ports, region, &format!("relay-{region}-1"));
            let (quic, wss) = &self.relays[region];
            let _infallible = write!(
                text,
                "[relay]\nid = \"{region}-1\"\ninstance_ca = \"{instance_ca}\"\nregions = {:?}\nlanes = {ROLES_LANES}\n\
                 quic_listen = \"{quic}\"\nwss_listen = \"{wss}\"\ndata = \"{name}\"\ndrain_ms = 1000\n",
                self.options.regions,
            );
            fs::write(self.role_file(&name), text)?;
        }
        Ok(())
    }

    /// Where it answers about its health is kept beside its file.
    fn head(&self, name: &str, region: &str, site: Site) -> anyhow::Result<String> {
        let health = format!("{}:{}", self.sites.address(site), port()?);
        fs::write(self.folder.join(format!("{name}.health")), &health)?;
        Ok(format!("region = \"{region}\"\n[http]\nlisten = \"{health}\"\n"))
    }

    fn bus(&self, site: Site, ports: &[Ports], domain: &str, user: &str) -> String {
        let host = self.sites.address(site);
        let servers: Vec<String> = ports.iter().map(|ports| format!("nats://{host}:{}", ports.client)).collect();
        format!(
            "[bus]\nservers = {servers:?}\ndomain = \"{domain}\"\nnkey_file = \"bus/{user}.nk\"\n\
             max_stream_mib = {STREAM_MIB}\nreplicas = {}\n",
            ports.len()
        )
    }

    fn state(&self, region: &str) -> anyhow::Result<String> {
        let (datacenter, address) = self.cql.get(region).context("a region's CQL")?;
        let home = &self.cql[&self.options.regions[0]].0;
        let mut copies: Vec<String> = self.cql.values().map(|(datacenter, _)| format!("{datacenter} = 1")).collect();
        copies.sort();
        copies.dedup();
        Ok(format!(
            "[state]\ncontact_points = [\"{address}\"]\ndatacenter = \"{datacenter}\"\nconfig_datacenter = \"{home}\"\n\
             keyspace_prefix = \"{DATABASE}\"\nreplication = {{ {} }}\n",
            copies.join(", ")
        ))
    }

    pub(super) fn migrate(&self) -> anyhow::Result<()> {
        migrate(&self.options, &self.folder).map(drop)
    }

    /// The control-plane node of that number.
    pub(super) fn control_plane(&self, number: usize) -> anyhow::Result<Role> {
        let name = format!("control-plane-{number}");
        let mut role = self.role(&name, "control-plane", Site::Global)?;
        if number == 1 {
            role.process = role.process.with_words(["--ready-file".into(), self.folder.join("ready.json")]);
        }
        Ok(role)
    }

    /// Registers all relays; the fingerprint of the instance's authority.
    pub(super) fn register(&self, control_plane: &str) -> anyhow::Result<String> {
        for (region, (quic, wss)) in &self.relays {
            let id = format!("{region}-1");
            let words = ["admin", "add-relay", "--config", control_plane, "--id", &id, "--region", region];
            self.breeze(&[words.as_slice(), &["--quic", quic, "--wss", wss]].concat())?;
        }
        Ok(self.breeze(&["admin", "instance-ca", "--config", control_plane])?.trim().to_owned())
    }

    /// Carries the instance's keys from the first node to another, encrypted.
    pub(super) fn carry_keys(&self, number: usize) -> anyhow::Result<()> {
        let file = self.folder.join("keys.sealed");
        let data = |number: usize| self.folder.join(format!("control-plane-{number}")).display().to_string();
        let passphrase = [("BREEZE_KEYS_PASSPHRASE", PASSPHRASE)];
        if Path::new(&data(number)).join("keys").exists() {
            return Ok(());
        }
        if !file.exists() {
            let words = ["keys", "export", "--data", &data(1), "--to", &file.display().to_string()];
            self.breeze_with(&words, &passphrase)?;
        }
        let words = ["keys", "import", "--from", &file.display().to_string(), "--data", &data(number)];
        self.breeze_with(&words, &passphrase)?;
        Ok(())
    }
}

fn role_file(folder: &Path, name: &str) -> String {
    folder.join(format!("{name}.toml")).display().to_string()
}

/// Makes what every engine holds, as the user that may; what was done.
pub(super) fn migrate(options: &Options, folder: &Path) -> anyhow::Result<Vec<String>> {
    let seed = folder.join("bus/migrate.nk").display().to_string();
    let all = ["migrate", "--bus-nkey", &seed, "--config"];
    let mut said =
        super::run_breeze(options, folder, &[all.as_slice(), &[&role_file(folder, "control-plane-1")]].concat(), &[])?;
    for region in &options.regions {
        let collector = role_file(folder, &format!("collector-{region}-1"));
        said += &super::run_breeze(options, folder, &[all.as_slice(), &[&collector, "--only", "bus"]].concat(), &[])?;
    }
    Ok(said.lines().map(str::to_owned).collect())
}
