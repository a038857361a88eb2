//! Certificates of an authority of the test's own, good and bad, and a server that speaks TLS before one
//! that does not, whose certificate can be changed while it runs.

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub pem: String,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now, and for years.
    Good,
    /// Until 2024-02-03.
    Expired,
}

/// A certificate chain and its key, PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub chain_pem: String,
    pub key_pem: String,
}

impl Authority {
    /// # Errors
    /// If no key can be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A server's, for these host names and addresses.
    ///
    /// # Errors
    /// If a name is not one.
    pub fn issue(&self, names: &[&str], validity: Validity) -> anyhow::Result<Issued> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.not_before = date_time_ymd(2020, 2, 3);
        params.not_after = match validity {
            Validity::Good => date_time_ymd(2095, 2, 3),
            Validity::Expired => date_time_ymd(2024, 2, 3),
        };
        let key = KeyPair::generate()?;
        let own = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { chain_pem: own.pem(), key_pem: key.serialize_pem() })
    }
}

impl Issued {
    /// Writes both, in place of what was there.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, chain: &Path, key: &Path) -> anyhow::Result<()> {
        fs::write(chain, &self.chain_pem).with_context(|| chain.display().to_string())?;
        fs::write(key, &self.key_pem).with_context(|| key.display().to_string())
    }

    fn config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let chain = CertificateDer::pem_slice_iter(self.chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| anyhow::anyhow!("{error}"))?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes());
        let key = key.map_err(|error| anyhow::anyhow!("{error}"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}

/// TLS before a server that speaks none. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    shown: Arc<Mutex<Arc<ServerConfig>>>,
    /// Its number changes when open connections are to end.
    cut: watch::Sender<u64>,
    runtime: Option<Runtime>,
}

impl Front {
    /// Listens on a free port of loopback, before `server` (`host:port`).
    ///
    /// # Errors
    /// If it cannot listen, or the certificate is none.
    pub fn start(server: &str, issued: &Issued) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // Not by the runtime: the caller may be in one of its own.
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shown = Arc::new(Mutex::new(issued.config()?));
        let (cut, ends) = watch::channel(0);
        let (config, server) = (Arc::clone(&shown), server.to_owned());
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((client, _)) = listener.accept().await {
                let config = Arc::clone(&config.lock().unwrap_or_else(PoisonError::into_inner));
                let (server, mut ends) = (server.clone(), ends.clone());
                ends.mark_unchanged();
                tokio::spawn(async move {
                    let passing = async {
                        let Ok(mut client) = TlsAcceptor::from(config).accept(client).await else { return };
                        let Ok(mut server) = TcpStream::connect(server).await else { return };
                        let _closed = copy_bidirectional(&mut client, &mut server).await;
                    };
                    tokio::select! {
                        () = passing => {}
                        _ = ends.changed() => {}
                    }
                });
            }
        });
        Ok(Self { address, shown, cut, runtime: Some(runtime) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows another certificate from now on, and ends all connections.
    ///
    /// # Errors
    /// If it is none.
    pub fn show(&self, issued: &Issued) -> anyhow::Result<()> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = issued.config()?;
        self.cut.send_modify(|number| *number += 1);
        Ok(())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
