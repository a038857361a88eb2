//! Addresses of the listeners: port 0 takes a free port at the first start and keeps it, so that
//! agents that were told of it find it again after a restart.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

/// The three listeners of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Dashboard and API, TCP.
    pub(super) dashboard: SocketAddr,
    /// Agents over QUIC, UDP.
    pub(super) quic: SocketAddr,
    /// Agents over WebSocket, TCP.
    pub(super) wss: SocketAddr,
}

/// Ports that were taken for port 0.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptPorts {
    dashboard: Option<u16>,
    quic: Option<u16>,
    wss: Option<u16>,
}

impl KeptPorts {
    fn path(data: &Path) -> PathBuf {
        data.join("ports.json")
    }

    pub(super) fn load(data: &Path) -> anyhow::Result<Self> {
        let path = Self::path(data);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is not valid", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Replaces port 0 by the port kept for it, where that is still free.
    pub(super) fn apply(&self, mut asked: Addresses) -> Addresses {
        let tcp_is_free = |addr: SocketAddr| TcpListener::bind(addr).is_ok();
        let udp_is_free = |addr: SocketAddr| UdpSocket::bind(addr).is_ok();
        reuse(&mut asked.dashboard, self.dashboard, tcp_is_free);
        reuse(&mut asked.quic, self.quic, udp_is_free);
        reuse(&mut asked.wss, self.wss, tcp_is_free);
        asked
    }

    /// Keeps what was bound for each port that was asked for as 0.
    pub(super) fn save(data: &Path, asked: Addresses, bound: Addresses) -> anyhow::Result<()> {
        let kept = |asked: SocketAddr, bound: SocketAddr| (asked.port() == 0).then_some(bound.port());
        let ports = Self {
            dashboard: kept(asked.dashboard, bound.dashboard),
            quic: kept(asked.quic, bound.quic),
            wss: kept(asked.wss, bound.wss),
        };
        if ports == Self::load(data).unwrap_or_default() {
            return Ok(());
        }
        super::files::write_private(&Self::path(data), &serde_json::to_vec_pretty(&ports)?)
    }
}

fn reuse(asked: &mut SocketAddr, kept: Option<u16>, is_free: impl Fn(SocketAddr) -> bool) {
    let Some(port) = kept.filter(|_| asked.port() == 0) else { return };
    let candidate = SocketAddr::new(asked.ip(), port);
    if is_free(candidate) {
        *asked = candidate;
    } else {
        tracing::warn!(port, "the port of the last start is taken: agents will need the new relay list");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(dashboard: u16, quic: u16, wss: u16) -> Addresses {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Addresses { dashboard: at(dashboard), quic: at(quic), wss: at(wss) }
    }

    #[test]
    fn a_port_taken_for_zero_is_kept_and_a_chosen_one_is_not() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let asked = addresses(0, 0, 8422);
        KeptPorts::save(data.path(), asked, addresses(8420, free, 8422)).expect("written");
        let kept = KeptPorts::load(data.path()).expect("readable");
        let applied = kept.apply(addresses(9000, 0, 0));
        assert_eq!(applied, addresses(9000, free, 0));
    }

    #[test]
    fn a_kept_port_that_is_taken_is_not_used() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        KeptPorts::save(data.path(), addresses(0, 0, 0), addresses(1, port, 2)).expect("written");
        let applied = KeptPorts::load(data.path()).expect("readable").apply(addresses(9000, 0, 9001));
        assert_eq!(applied.quic.port(), 0);
    }
}
