//! Cassandra as the CQL server: one node, or a node each in several data centres.

mod cql;

use super::{START_PATIENCE, Tools, port::free_port, process::Process};
use anyhow::Context;
use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

/// Where a node is to be.
#[derive(Debug, Clone)]
pub struct Place {
    pub datacenter: String,
    /// One of its own: all nodes of a cluster use the same port between them.
    pub ip: IpAddr,
    /// What runs it in the network that has this address.
    pub prefix: Vec<OsString>,
}

/// A node with its own data. Data are best on tmpfs: what is tested is not the disk.
#[derive(Debug)]
pub struct Cassandra {
    /// To be stopped, killed and paused.
    pub process: Process,
    /// Where it answers CQL.
    pub address: SocketAddr,
    /// Its data centre.
    pub datacenter: String,
}

impl Cassandra {
    /// One node, waited for.
    ///
    /// # Errors
    /// If the tool is missing or the node does not come up.
    pub fn single(tools: &Tools, folder: &Path, datacenter: &str) -> anyhow::Result<Self> {
        let mut nodes = Self::datacenters(tools, folder, &[datacenter])?;
        nodes.pop().context("one data centre has one node")
    }

    /// A node in each data centre, on 127.0.0.1, 127.0.0.2 and so on; waited for until each sees the others.
    ///
    /// # Errors
    /// As [`Cassandra::single`].
    pub fn datacenters(tools: &Tools, folder: &Path, datacenters: &[&str]) -> anyhow::Result<Vec<Self>> {
        let place = |(number, datacenter): (u8, &&str)| Place {
            datacenter: (*datacenter).to_owned(),
            ip: IpAddr::V4(Ipv4Addr::new(127, 0, 0, number)),
            prefix: Vec::new(),
        };
        Self::places(tools, folder, &(1_u8..).zip(datacenters).map(place).collect::<Vec<_>>())
    }

    /// A node at each place; waited for until each sees the others.
    ///
    /// # Errors
    /// As [`Cassandra::single`].
    pub fn places(tools: &Tools, folder: &Path, places: &[Place]) -> anyhow::Result<Vec<Self>> {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let storage = free_port(localhost)?;
        let all = places.iter().map(|place| place.ip.to_string()).collect::<Vec<_>>().join(",");
        let mut nodes = Vec::new();
        for place in places {
            // An address of another network cannot be tried out here; a port is never given twice.
            let port = free_port(if place.prefix.is_empty() { place.ip } else { localhost })?;
            let address = SocketAddr::new(place.ip, port);
            let mut node = Self::node(tools, &folder.join(&place.datacenter), address, storage, place, &all)?;
            // One after the other: a node that starts first finds the others there.
            node.restart()?;
            nodes.push(node);
        }
        for node in &mut nodes {
            let address = node.address;
            let others = places.len() - 1;
            node.process.wait_until(START_PATIENCE, || cql::peers(address).is_ok_and(|peers| peers == others))?;
        }
        Ok(nodes)
    }

    /// One node that lets in who has a password: at first the user "cassandra" with the password "cassandra".
    ///
    /// # Errors
    /// As [`Cassandra::single`].
    pub fn with_passwords(tools: &Tools, folder: &Path, datacenter: &str) -> anyhow::Result<Self> {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (address, storage) = (SocketAddr::new(localhost, free_port(localhost)?), free_port(localhost)?);
        let place = Place { datacenter: datacenter.to_owned(), ip: localhost, prefix: Vec::new() };
        let mut node = Self::node(tools, &folder.join(datacenter), address, storage, &place, "127.0.0.1")?;
        node.process = node.process.with_env("CASSANDRA_AUTHENTICATOR", "PasswordAuthenticator");
        node.restart()?;
        Ok(node)
    }

    fn node(
        tools: &Tools,
        folder: &Path,
        address: SocketAddr,
        storage: u16,
        place: &Place,
        all: &str,
    ) -> anyhow::Result<Self> {
        let lib = tools.cassandra().context("Cassandra or Java is not installed: cargo xtask test installs them")?;
        fs::create_dir_all(folder)?;
        let words = [
            Tools::script("cassandra.sh").into_os_string(),
            "run".into(),
            lib.into(),
            folder.into(),
            address.ip().to_string().into(),
            address.port().to_string().into(),
            storage.to_string().into(),
            place.datacenter.clone().into(),
            all.into(),
        ];
        let name = format!("cassandra {}", place.datacenter);
        let process = Process::new(&name, words, &folder.join("cassandra.log")).with_prefix(place.prefix.clone());
        Ok(Self { process, address, datacenter: place.datacenter.clone() })
    }

    /// Starts again on the same data and ports, and waits until it answers.
    ///
    /// # Errors
    /// If it runs already or does not come up.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        let address = self.address;
        self.process.wait_until(START_PATIENCE, || cql::peers(address).is_ok())
    }
}

/// Executes a statement of the test's own whose answer does not matter, as the first user.
///
/// # Errors
/// If it fails, with what the node says.
pub fn execute(address: SocketAddr, statement: &str) -> anyhow::Result<()> {
    cql::execute(address, statement)
}
