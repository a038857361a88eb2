//! Where the parts of a deployment are: all on this host, or each region and the global plane on a host of its
//! own, network namespaces around a router. The test itself, its questions and the agents are on the router: they
//! are the internet, which reaches every site. What is between two sites can be cut by nftables.
//!
//! Sites have loopback addresses, so that every part is configured as on one host, without TLS.

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    ffi::OsString,
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The router's address, towards every site.
const ROUTER: &str = "127.77.0.1";
const NETWORK: &str = "127.77.0.0/16";
/// Addresses of the loopback network are routed, forwarded and believed.
const SETTINGS: [&str; 5] = [
    "net.ipv4.conf.all.route_localnet=1",
    "net.ipv4.conf.default.route_localnet=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.ip_forward=1",
];

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The hub and the control plane.
    Global,
    /// A region's servers and roles; its place in the list.
    Region(usize),
}

/// Namespaces, gone when dropped.
#[derive(Debug)]
struct Spaces {
    router: String,
    /// The global plane's, then a region each.
    sites: Vec<String>,
    /// Where the thread that made them was.
    before: File,
}

/// All hosts of a deployment.
#[derive(Debug)]
pub struct Sites {
    spaces: Option<Spaces>,
}

impl Sites {
    /// Everything on this host, at 127.0.0.1.
    #[must_use]
    pub const fn together() -> Self {
        Self { spaces: None }
    }

    /// Why there can be no namespaces on this machine, if so.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let there = |program: &str| ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists());
        if !rustix::process::geteuid().is_root() {
            Some("network namespaces need root")
        } else if !there("ip") || !there("nft") || !there("sysctl") {
            Some("iproute2, nftables or procps is not installed")
        } else {
            None
        }
    }

    /// Hosts for the global plane and that many regions. Moves this thread, and what it starts from now on, to
    /// the router.
    ///
    /// # Errors
    /// If namespaces cannot be made.
    pub fn apart(regions: usize) -> anyhow::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("breeze{}-d{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let before = File::open("/proc/thread-self/ns/net")?;
        let mut spaces = Spaces { router: format!("{name}-r"), sites: Vec::new(), before };
        make_space(&spaces.router)?;
        for number in 0..=regions {
            let site = format!("{name}-{number}");
            make_space(&site)?;
            spaces.sites.push(site);
            spaces.connect(number)?;
        }
        let router = File::open(format!("/run/netns/{}", spaces.router)).context("namespace")?;
        move_into_link_name_space(router.as_fd(), Some(LinkNameSpaceType::Network)).context("setns")?;
        Ok(Self { spaces: Some(spaces) })
    }

    /// Whether sites are hosts of their own.
    #[must_use]
    pub const fn are_apart(&self) -> bool {
        self.spaces.is_some()
    }

    /// Where what runs at a site listens.
    #[must_use]
    pub fn address(&self, site: Site) -> IpAddr {
        IpAddr::V4(if self.are_apart() { address(number(site)) } else { Ipv4Addr::LOCALHOST })
    }

    /// Words before those of a program that is to run at a site.
    #[must_use]
    pub fn prefix(&self, site: Site) -> Vec<OsString> {
        let exec = |spaces: &Spaces| ["ip", "netns", "exec", &spaces.sites[number(site)]].map(OsString::from).to_vec();
        self.spaces.as_ref().map(exec).unwrap_or_default()
    }

    /// Drops, without a word to either end, what goes between a region and every other site.
    ///
    /// # Errors
    /// If sites are not apart, or nftables refuses.
    pub fn cut(&self, region: usize) -> anyhow::Result<()> {
        let address = self.address(Site::Region(region));
        self.nft(&format!(
            "add table ip cut{region}; \
             add chain ip cut{region} passing {{ type filter hook forward priority 0; }}; \
             add rule ip cut{region} passing ip saddr {address} drop; \
             add rule ip cut{region} passing ip daddr {address} drop"
        ))
    }

    /// Ends what [`Sites::cut`] did.
    ///
    /// # Errors
    /// If it was not cut.
    pub fn heal(&self, region: usize) -> anyhow::Result<()> {
        self.nft(&format!("delete table ip cut{region}"))
    }

    fn nft(&self, rules: &str) -> anyhow::Result<()> {
        let spaces = self.spaces.as_ref().context("the sites are one host")?;
        run(&["ip", "netns", "exec", &spaces.router, "nft", rules])
    }
}

impl Spaces {
    /// A cable between the router and a site.
    fn connect(&self, number: usize) -> anyhow::Result<()> {
        let (router, site) = (self.router.as_str(), self.sites[number].as_str());
        let (end, address) = (format!("site{number}"), address(number).to_string());
        let host = format!("{address}/32");
        run(&["ip", "link", "add", &end, "netns", router, "type", "veth", "peer", "name", "cable", "netns", site])?;
        run(&["ip", "-n", router, "addr", "add", &format!("{ROUTER}/32"), "scope", "global", "dev", &end])?;
        run(&["ip", "-n", router, "link", "set", &end, "up"])?;
        run(&["ip", "-n", router, "route", "add", &host, "dev", &end, "src", ROUTER])?;
        run(&["ip", "-n", site, "addr", "add", &host, "scope", "global", "dev", "cable"])?;
        run(&["ip", "-n", site, "link", "set", "cable", "up"])?;
        let way = ["via", ROUTER, "dev", "cable", "onlink", "src", &address];
        run(&[["ip", "-n", site, "route", "add", NETWORK].as_slice(), &way].concat())
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        let _elsewhere = move_into_link_name_space(self.before.as_fd(), Some(LinkNameSpaceType::Network));
        for space in self.sites.iter().chain([&self.router]) {
            let _already_gone = run(&["ip", "netns", "del", space]);
        }
    }
}

const fn number(site: Site) -> usize {
    match site {
        Site::Global => 0,
        Site::Region(region) => region + 1,
    }
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, 1, u8::try_from(number + 1).unwrap_or(u8::MAX))
}

fn make_space(name: &str) -> anyhow::Result<()> {
    run(&["ip", "netns", "add", name])?;
    run(&["ip", "-n", name, "link", "set", "lo", "up"])?;
    run(&[["ip", "netns", "exec", name, "sysctl", "-qw"].as_slice(), &SETTINGS].concat())?;
    // Or every address of the loopback network would be this host itself.
    run(&["ip", "-n", name, "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"])
}

fn run(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {words:?}"))?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
