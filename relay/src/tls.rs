//! TLS of the three places where it ends here: QUIC, the WebSocket's outside, and its inside.

use crate::{
    RelayIdentity,
    identity::{DeviceCertificate, DeviceVerifier, Standing},
    relay::{Relay, wall_us},
};
use anyhow::Context;
use breeze_proto::ALPN;
use breeze_relay_core::session::Peer;
use breeze_runtime::tls::provider;
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier},
};
use rustls_pki_types::CertificateDer;
use std::{net::SocketAddr, sync::Arc};

/// Configurations of one relay.
pub(crate) struct Tls {
    /// With client certificates, over QUIC and inside the WebSocket.
    pub(crate) agents: Arc<ServerConfig>,
    /// Without, around the WebSocket: a proxy may open it.
    pub(crate) outer: Arc<ServerConfig>,
}

impl Tls {
    pub(crate) fn new(identity: &RelayIdentity, ticketer: Arc<dyn ProducesTickets>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in &identity.client_ca {
            roots.add(certificate.clone()).context("certification authority of devices")?;
        }
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .context("certification authorities of devices")?;
        let builder =
            || ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]);
        let certificate = || Arc::new(identity.server.clone());
        let mut agents = builder()?
            .with_client_cert_verifier(Arc::new(DeviceVerifier::new(chain)))
            .with_cert_resolver(certificate());
        agents.alpn_protocols = vec![ALPN.to_vec()];
        agents.ticketer = ticketer;
        agents.session_storage = Arc::new(NoServerSessionStorage {});
        agents.send_tls13_tickets = 1;
        // 0-RTT could be replayed.
        agents.max_early_data_size = 0;
        let mut outer = builder()?.with_no_client_auth().with_cert_resolver(certificate());
        outer.alpn_protocols = vec![b"http/1.1".to_vec()];
        outer.session_storage = Arc::new(NoServerSessionStorage {});
        outer.send_tls13_tickets = 0;
        Ok(Self { agents: Arc::new(agents), outer: Arc::new(outer) })
    }
}

/// Why a peer whose handshake went through is turned away all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// No certificate, not a device's, or no longer good for anything.
    Certificate,
    /// It comes too often.
    TooOften,
}

/// Who is at the other end, after any handshake, a resumed one included. Who is turned away is counted.
pub(crate) fn peer(
    relay: &Relay,
    certificates: Option<&[CertificateDer<'_>]>,
    address: SocketAddr,
    transport: &'static str,
) -> Result<Peer, TurnedAway> {
    let judged = judge(relay, certificates, address, transport);
    if let Err(turned_away) = &judged {
        relay.stats.count_handshake(match turned_away {
            TurnedAway::Certificate => "certificate",
            TurnedAway::TooOften => "device_too_often",
        });
    }
    judged
}

fn judge(
    relay: &Relay,
    certificates: Option<&[CertificateDer<'_>]>,
    address: SocketAddr,
    transport: &'static str,
) -> Result<Peer, TurnedAway> {
    let certificate = certificates
        .and_then(|chain| chain.first())
        .and_then(|leaf| DeviceCertificate::parse(leaf).ok())
        .ok_or(TurnedAway::Certificate)?;
    let now_s = i64::try_from(wall_us() / 1_000_000).unwrap_or(i64::MAX);
    let standing = certificate.standing(now_s);
    if standing == Standing::Refused {
        return Err(TurnedAway::Certificate);
    }
    if !relay.admit_identity(certificate.device) {
        return Err(TurnedAway::TooOften);
    }
    Ok(Peer {
        device: certificate.device,
        certificate_expires_s: u64::try_from(certificate.not_after_s).unwrap_or(0),
        renew_only: standing == Standing::RenewOnly,
        transport,
        address: SocketAddr::new(address.ip().to_canonical(), address.port()).to_string(),
        watch_idle: transport != "quic",
        relay_id: relay.id.clone(),
    })
}
