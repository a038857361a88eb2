//! Certificates: reading what matters of one, and deciding whom to talk to.
//!
//! A relay is believed if its chain ends at one of our certification authorities and its certificate
//! says `breeze:relay:<id>` for the relay that was meant; host names play no part. The web server
//! (enrolment, the outer TLS of a WebSocket) is believed for its host name, under our own authority or
//! the operating system's trust store.

use anyhow::{Context as _, ensure};
use rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use std::{sync::Arc, time::Duration};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// SHA-256 of a public key (SPKI).
pub type SpkiHash = [u8; 32];

/// How far behind a device's clock may be wrong for a certificate that is not valid by it.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(48 * 3600);

/// ring, with AES-128-GCM first: it is the cheapest for the relay, and the client's order decides.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups.sort_by_key(|group| group.name() != rustls::NamedGroup::X25519);
    Arc::new(provider)
}

/// What matters of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    pub spki_sha256: SpkiHash,
    /// The public key's bits: for P-256 the uncompressed point.
    pub public_key: Vec<u8>,
    pub common_name: String,
    pub uris: Vec<String>,
    pub not_before_s: u64,
    pub not_after_s: u64,
}

/// Reads a certificate.
///
/// # Errors
/// If it is not one.
pub fn read_certificate(der: &[u8]) -> anyhow::Result<CertificateFacts> {
    let certificate = parse(der)?;
    let uris = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| {
            extension
                .value
                .general_names
                .iter()
                .filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None })
                .collect()
        })
        .unwrap_or_default();
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok(CertificateFacts {
        spki_sha256: Sha256::digest(certificate.public_key().raw).into(),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        common_name: certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .unwrap_or_default()
            .to_owned(),
        uris,
        not_before_s: seconds(certificate.validity().not_before),
        not_after_s: seconds(certificate.validity().not_after),
    })
}

/// Checks that each certificate was signed by the next one.
///
/// # Errors
/// If one was not.
pub fn check_signatures(leaf: &[u8], chain: &[Vec<u8>]) -> anyhow::Result<()> {
    let mut subject = leaf;
    for issuer in chain {
        let issuer_certificate = parse(issuer)?;
        parse(subject)?
            .verify_signature(Some(issuer_certificate.public_key()))
            .context("a certificate of the chain was not signed by the next one")?;
        subject = issuer;
    }
    ensure!(!chain.is_empty(), "the chain is empty");
    Ok(())
}

fn parse(der: &[u8]) -> anyhow::Result<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).context("not an X.509 certificate")?;
    ensure!(rest.is_empty(), "there are bytes behind a certificate");
    Ok(certificate)
}

/// Our certification authorities: the keys that are named, and the certificates that are known.
#[derive(Debug, Clone)]
pub struct Authorities {
    pub spki_sha256: Vec<SpkiHash>,
    pub certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// As trust anchors: known certificates and presented ones, if their keys are named.
    fn anchors(&self, presented: &[CertificateDer<'_>]) -> RootCertStore {
        let mut anchors = RootCertStore::empty();
        let known = self.certificates.iter().map(|certificate| certificate.as_ref());
        for der in known.chain(presented.iter().map(|certificate| certificate.as_ref())) {
            let named = read_certificate(der).is_ok_and(|facts| self.spki_sha256.contains(&facts.spki_sha256));
            if named {
                // One that cannot be an anchor leaves fewer to match against.
                let _ = anchors.add(CertificateDer::from(der.to_vec()));
            }
        }
        anchors
    }
}

/// Believes relays.
#[derive(Debug)]
pub struct RelayVerifier {
    authorities: Authorities,
    /// `breeze:relay:<id>`.
    uri: String,
    /// Seconds since the epoch that have certainly passed.
    time_floor_s: u64,
    provider: Arc<CryptoProvider>,
}

impl RelayVerifier {
    #[must_use]
    pub fn new(authorities: Authorities, relay_id: &str, time_floor_s: u64) -> Self {
        Self { authorities, uri: format!("breeze:relay:{relay_id}"), time_floor_s, provider: provider() }
    }

    /// The device's clock may be wrong, and a device with a wrong clock must be heard all the more: it is
    /// never earlier than what is known to have passed, and a certificate may be out of its time by
    /// [`CLOCK_TOLERANCE`].
    fn time_for(&self, leaf: &CertificateFacts, now: UnixTime) -> UnixTime {
        let now = now.as_secs().max(self.time_floor_s);
        let tolerance = CLOCK_TOLERANCE.as_secs();
        let time = if now < leaf.not_before_s && now + tolerance >= leaf.not_before_s {
            leaf.not_before_s
        } else if now > leaf.not_after_s && now <= leaf.not_after_s.saturating_add(tolerance) {
            leaf.not_after_s
        } else {
            now
        };
        UnixTime::since_unix_epoch(Duration::from_secs(time))
    }
}

impl ServerCertVerifier for RelayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let facts =
            read_certificate(end_entity).map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.authorities.anchors(intermediates),
            intermediates,
            self.time_for(&facts, now),
            self.provider.signature_verification_algorithms.all,
        )?;
        if facts.uris.contains(&self.uri) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(TlsError::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Believes web servers.
#[derive(Debug)]
pub struct WebVerifier {
    authorities: Authorities,
    system: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl WebVerifier {
    /// With the operating system's trust store as it is now; an empty one leaves our own authority.
    #[must_use]
    pub fn new(authorities: Authorities) -> Self {
        let provider = provider();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let system = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok();
        Self { authorities, system, provider }
    }
}

impl ServerCertVerifier for WebVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let ours = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.authorities.anchors(intermediates),
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
        .and_then(|()| verify_server_name(&parsed, server_name));
        match (ours, &self.system) {
            (Ok(()), _) => Ok(ServerCertVerified::assertion()),
            (Err(_), Some(system)) => {
                system.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS to a web server, without a client certificate.
///
/// # Errors
/// If the provider does not fit, which is a fault of the program.
pub fn web_client(authorities: Authorities) -> anyhow::Result<rustls::ClientConfig> {
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(WebVerifier::new(authorities)))
        .with_no_client_auth())
}
