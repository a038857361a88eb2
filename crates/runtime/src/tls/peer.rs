//! What is wrong with the certificate that a server shows, in words for an operator.
//!
//! The engines' clients say "invalid peer certificate" at best. Here the server is asked once more, by a
//! handshake that sends nothing and always ends, and its certificate is looked at: whose it is, until
//! when, and why it is not accepted.

use super::provider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _, time::ASN1Time};

/// How long the whole look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest first line of a server that speaks before TLS begins, in bytes.
const MAX_GREETING_BYTES: u64 = 64 * 1024;
/// Names of a certificate that are told.
const MAX_NAMES: usize = 4;

/// Whom to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// As the certificate must name it.
    pub host: String,
    pub port: u16,
    /// It sends a line in the clear before TLS begins, as NATS does.
    pub speaks_first: bool,
    /// PEM of the authorities that are trusted; the system's where it is `None`.
    pub ca_file: Option<PathBuf>,
}

impl Peer {
    /// Why its certificate is not accepted; `None` when it is, and when no certificate was seen.
    pub async fn certificate_trouble(&self) -> Option<String> {
        timeout(PATIENCE, self.look()).await.ok().flatten()
    }

    async fn look(&self) -> Option<String> {
        let roots = roots(self.ca_file.as_deref())?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok()?;
        let witness = Arc::new(Witness { inner, seen: Mutex::default() });
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().ok()?;
        let config = config.dangerous().with_custom_certificate_verifier(witness.clone()).with_no_client_auth();
        let mut stream = TcpStream::connect((self.host.trim_matches(['[', ']']), self.port)).await.ok()?;
        if self.speaks_first {
            skip_line(&mut stream).await?;
        }
        let name = ServerName::try_from(self.host.trim_matches(['[', ']']).to_owned()).ok()?;
        // It never succeeds: the witness has seen what there is to see.
        let _ended = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.describe(&seen.certificate, &seen.error)
    }

    fn describe(&self, certificate: &[u8], error: &Error) -> Option<String> {
        let Error::InvalidCertificate(error) = error else { return None };
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return Some("its certificate does not parse".to_owned());
        };
        let validity = parsed.validity();
        let (from, until) = (date(validity.not_before), date(validity.not_after));
        #[expect(clippy::wildcard_enum_match_arm, reason = "another crate's, which grows; the rest has rustls' words")]
        let why = match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                let ago = ASN1Time::now().timestamp().saturating_sub(validity.not_after.timestamp());
                format!("it ended {until}, {} ago", span(ago))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("it begins {from}; compare this machine's clock")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("it does not name {}", self.host)
            }
            // The latter where another authority has the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match &self.ca_file {
                Some(file) => format!("its authority is not in {}", file.display()),
                None => "its authority is not one that this system trusts; name its file as ca_file".to_owned(),
            },
            other => format!("{other:?}"),
        };
        Some(format!(
            "the certificate that it shows (of {}, by {}, until {until}) is not accepted: {why}",
            names(&parsed),
            parsed.issuer(),
        ))
    }
}

/// The line that comes before TLS, and no byte more.
async fn skip_line(stream: &mut TcpStream) -> Option<()> {
    use tokio::io::AsyncReadExt as _;
    // One byte at a time, so that nothing of the handshake is taken.
    let mut reader = BufReader::with_capacity(1, stream.take(MAX_GREETING_BYTES));
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await.ok().filter(|read| *read > 0).map(drop)
}

fn roots(file: Option<&Path>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            for certificate in CertificateDer::pem_file_iter(file).ok()? {
                roots.add(certificate.ok()?).ok()?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Some(roots).filter(|roots| !roots.is_empty())
}

fn names(certificate: &X509Certificate<'_>) -> String {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<String> =
        names.iter().flat_map(|names| &names.value.general_names).take(MAX_NAMES).map(name).collect();
    if names.is_empty() { certificate.subject().to_string() } else { names.join(", ") }
}

fn name(of: &GeneralName<'_>) -> String {
    if let GeneralName::DNSName(name) = of {
        return (*name).to_owned();
    }
    let address = if let GeneralName::IPAddress(bytes) = of { *bytes } else { &[] };
    let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from));
    address.map_or_else(|_| of.to_string(), |address| address.to_string())
}

/// "2026-11-01 13:05 UTC".
fn date(time: ASN1Time) -> String {
    let time = time.to_datetime();
    format!(
        "{}-{:02}-{:02} {:02}:{:02} UTC",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute()
    )
}

/// A length of time in its largest unit.
fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What was seen of a certificate that was not accepted.
#[derive(Debug)]
struct Seen {
    certificate: Vec<u8>,
    error: Error,
}

/// Accepts what the usual verifier accepts, and remembers what it does not.
#[derive(Debug)]
struct Witness {
    inner: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<Seen>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.inspect_err(|error| {
            let seen = Seen { certificate: end_entity.to_vec(), error: error.clone() };
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    /// A server that shows what the parameters make, and the authority's file.
    async fn server(params: CertificateParams, greeting: &'static [u8]) -> (Peer, tempfile::TempDir) {
        let mut own = CertificateParams::new(Vec::new()).expect("valid");
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        own.distinguished_name.push(rcgen::DnType::CommonName, "Test authority");
        let ca_key = KeyPair::generate().expect("a key");
        let ca = own.self_signed(&ca_key).expect("signs");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &Issuer::new(own, ca_key)).expect("signs");
        let folder = tempfile::tempdir().expect("a folder");
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, ca.pem()).expect("written");
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("fits");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            while let Ok((mut stream, _)) = listener.accept().await {
                let _gone = stream.write_all(greeting).await;
                let _refused = acceptor.accept(stream).await;
            }
        });
        let speaks_first = !greeting.is_empty();
        (Peer { host: "localhost".to_owned(), port, speaks_first, ca_file: Some(ca_file) }, folder)
    }

    fn params(name: &str, years: std::ops::Range<i32>) -> CertificateParams {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("valid");
        params.not_before = date_time_ymd(years.start, 2, 3);
        params.not_after = date_time_ymd(years.end, 2, 3);
        params
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_with_owner_and_end() {
        for (name, years, greeting, words) in [
            ("localhost", 2020..2024, b"".as_slice(), "it ended 2024-02-03 00:00 UTC"),
            ("localhost", 2020..2024, b"INFO {}\r\n", "days ago"),
            ("localhost", 2090..2095, b"", "begins 2090-02-03"),
            ("elsewhere.example", 2020..2095, b"", "does not name localhost"),
        ] {
            let (peer, _folder) = server(params(name, years.clone()), greeting).await;
            let told = peer.certificate_trouble().await.expect(words);
            assert!(told.contains(words) && told.contains("Test authority"), "{words}: {told}");
            assert!(told.contains(name) && told.contains(&format!("until {}-02-03", years.end)), "{told}");
        }
    }

    #[tokio::test]
    async fn a_stranger_s_signature_is_told_and_a_good_one_is_not() {
        let (peer, _folder) = server(params("localhost", 2020..2095), b"").await;
        assert_eq!(peer.certificate_trouble().await, None);
        let (_, others) = server(params("localhost", 2020..2095), b"").await;
        let peer = Peer { ca_file: Some(others.path().join("ca.pem")), ..peer };
        assert!(peer.certificate_trouble().await.expect("strange").contains("authority is not in"));
        let nobody = Peer { port: 1, ..peer };
        assert_eq!(nobody.certificate_trouble().await, None, "nobody there, no certificate");
    }
}
