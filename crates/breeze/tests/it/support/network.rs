//! Two hosts and a cable: network namespaces joined by a veth pair. The test itself, the server that it
//! starts and its client live in the server's; the agent in its own.

use super::process::{is_root, run};
use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    os::fd::AsFd,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

pub(crate) const SERVER: &str = "10.77.0.1";
pub(crate) const AGENT: &str = "10.77.0.2";

/// The two namespaces; gone when dropped.
#[derive(Debug)]
pub(crate) struct Network {
    server: String,
    agent: String,
}

impl Network {
    /// Why there can be none on this machine, if so.
    pub(crate) fn missing() -> Option<&'static str> {
        let there = |program: &str| ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists());
        if !is_root() {
            Some("network namespaces need root")
        } else if !there("ip") || !there("nft") {
            Some("iproute2 or nftables is not installed")
        } else {
            None
        }
    }

    /// Makes both, and moves this thread (and whatever it starts) into the server's.
    pub(crate) fn enter() -> anyhow::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("breeze{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let network = Self { server: format!("{name}-s"), agent: format!("{name}-a") };
        let (server, agent) = (network.server.as_str(), network.agent.as_str());
        run(&["ip", "netns", "add", server])?;
        run(&["ip", "netns", "add", agent])?;
        run(&["ip", "link", "add", "cable", "netns", server, "type", "veth", "peer", "name", "cable", "netns", agent])?;
        for (space, address) in [(server, SERVER), (agent, AGENT)] {
            run(&["ip", "-n", space, "link", "set", "lo", "up"])?;
            run(&["ip", "-n", space, "addr", "add", &format!("{address}/24"), "dev", "cable"])?;
            run(&["ip", "-n", space, "link", "set", "cable", "up"])?;
        }
        let space = File::open(format!("/run/netns/{server}")).context("namespace")?;
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).context("setns")?;
        Ok(network)
    }

    /// Words that run a program on the agent's host.
    pub(crate) fn on_agent(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.agent].map(str::to_owned).to_vec()
    }

    /// Drops what reaches the server's host and matches, such as "meta l4proto udp", without a word.
    pub(crate) fn block(&self, what: &str) -> anyhow::Result<()> {
        let rules = format!(
            "add table inet breeze; \
             add chain inet breeze arriving {{ type filter hook input priority 0; }}; \
             add rule inet breeze arriving iifname \"cable\" {what} drop"
        );
        run(&["ip", "netns", "exec", &self.server, "nft", &rules])
    }

    /// Lets everything through again.
    pub(crate) fn unblock(&self) -> anyhow::Result<()> {
        run(&["ip", "netns", "exec", &self.server, "nft", "delete table inet breeze"])
    }

    /// Gives the agent's host another address instead of its own.
    pub(crate) fn change_address(&self, from: &str, to: &str) -> anyhow::Result<()> {
        run(&["ip", "-n", &self.agent, "addr", "del", &format!("{from}/24"), "dev", "cable"])?;
        run(&["ip", "-n", &self.agent, "addr", "add", &format!("{to}/24"), "dev", "cable"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in [&self.agent, &self.server] {
            let _already_gone = run(&["ip", "netns", "del", space]);
        }
    }
}
