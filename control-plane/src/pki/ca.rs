//! The certification authority: P-256, one level. It certifies device ids, relays and this server.

use crate::{api::time::now_s, keyring::KeyFolder, pki::csr::ProvenKey};
use anyhow::Context as _;
use breeze_proto::{enroll::ROOT_ENDORSEMENT_PREFIX, id::DeviceId};
use breeze_runtime::tls::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use sha2::{Digest, Sha256};
use std::{net::IpAddr, time::Duration};

/// Lifetime of the authority's own certificate.
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Lifetime of certificates of relays and of this server; made anew at every start and while they run.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Certificates are valid from this long before they are made, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(48 * 3600);

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub der: Vec<u8>,
    pub expires_unix_s: u64,
}

/// What certifies. One implementation keeps its key in a file; another may ask a process or a
/// hardware module.
pub trait CertificateAuthority: Send + Sync + std::fmt::Debug {
    /// Its certificate, DER.
    fn certificate_der(&self) -> &[u8];

    /// Its certificate, PEM.
    fn certificate_pem(&self) -> &str;

    /// SHA-256 over its public key (SPKI): what enrolment keys pin.
    fn spki_sha256(&self) -> [u8; 32];

    /// A client certificate that names the device id and nothing else: CN and
    /// `URI:breeze:device:<id>`.
    ///
    /// # Errors
    /// When signing fails.
    fn issue_device(&self, device: DeviceId, key: &ProvenKey, lifetime: Duration) -> anyhow::Result<Issued>;

    /// A certificate and a new key for a server. `uri` names what it is (`breeze:relay:<id>`),
    /// `names` are host names and IP addresses.
    ///
    /// # Errors
    /// When a name is not one, or signing fails.
    fn issue_server(&self, uri: &str, names: &[String]) -> anyhow::Result<Identity>;

    /// As [`CertificateAuthority::issue_server`], for a key that the server made and keeps itself.
    ///
    /// # Errors
    /// As there.
    fn certify_server(
        &self,
        uri: &str,
        names: &[String],
        key: &ProvenKey,
        lifetime: Duration,
    ) -> anyhow::Result<Issued>;

    /// Endorses a root document, see [`ROOT_ENDORSEMENT_PREFIX`].
    ///
    /// # Errors
    /// When signing fails.
    fn endorse(&self, root_payload: &[u8]) -> anyhow::Result<Vec<u8>>;
}

/// The key lies in a file.
pub struct LocalCa {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    pem: String,
    spki_sha256: [u8; 32],
}

impl std::fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCa").finish_non_exhaustive()
    }
}

impl LocalCa {
    /// Loads the authority, made at the first start.
    ///
    /// # Errors
    /// When its files cannot be read or written, or do not fit together.
    pub fn open(folder: &KeyFolder) -> anyhow::Result<Self> {
        let key =
            folder.load_or_make("ca.key", || Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_der()))?;
        let key_der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
        let key = KeyPair::from_der_and_sign_algo(&key_der, &PKCS_ECDSA_P256_SHA256)
            .context("keys/ca.key is not a P-256 key")?;
        let der = folder.load_or_make("ca.der", || {
            let mut params = params("Breeze CA", CA_LIFETIME);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.distinguished_name.push(DnType::OrganizationName, hex::encode(rand::random::<[u8; 4]>()));
            Ok(params.self_signed(&key)?.der().to_vec())
        })?;
        let certificate = CertificateDer::from(der.to_vec());
        let spki_sha256 = Sha256::digest(key.subject_public_key_info()).into();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).context("keys/ca.der is no certificate")?;
        let same: [u8; 32] = Sha256::digest(parsed.public_key().raw).into();
        anyhow::ensure!(same == spki_sha256, "keys/ca.der and keys/ca.key do not belong together");
        let issuer = Issuer::from_ca_cert_der(&certificate, key).context("keys/ca.der cannot issue")?;
        let pem = pem_of(&der);
        Ok(Self { issuer, der: der.to_vec(), pem, spki_sha256 })
    }
}

impl CertificateAuthority for LocalCa {
    fn certificate_der(&self) -> &[u8] {
        &self.der
    }

    fn certificate_pem(&self) -> &str {
        &self.pem
    }

    fn spki_sha256(&self) -> [u8; 32] {
        self.spki_sha256
    }

    fn issue_device(&self, device: DeviceId, key: &ProvenKey, lifetime: Duration) -> anyhow::Result<Issued> {
        let mut params = params(&device.to_string(), lifetime);
        params.subject_alt_names = vec![SanType::URI(format!("breeze:device:{device}").try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let public = SubjectPublicKeyInfo::from_der(&key.spki).context("cannot read the public key")?;
        let certificate = params.signed_by(&public, &self.issuer).context("cannot sign a device certificate")?;
        Ok(Issued { der: certificate.der().to_vec(), expires_unix_s: now_s() + lifetime.as_secs() })
    }

    fn issue_server(&self, uri: &str, names: &[String]) -> anyhow::Result<Identity> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = server_params(uri, names, SERVER_LIFETIME)?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a server certificate")?;
        Ok(Identity {
            chain_der: vec![certificate.der().clone(), CertificateDer::from(self.der.clone())],
            key_der: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }

    fn certify_server(
        &self,
        uri: &str,
        names: &[String],
        key: &ProvenKey,
        lifetime: Duration,
    ) -> anyhow::Result<Issued> {
        let public = SubjectPublicKeyInfo::from_der(&key.spki).context("cannot read the public key")?;
        let params = server_params(uri, names, lifetime)?;
        let certificate = params.signed_by(&public, &self.issuer).context("cannot sign a server certificate")?;
        Ok(Issued { der: certificate.der().to_vec(), expires_unix_s: now_s() + lifetime.as_secs() })
    }

    fn endorse(&self, root_payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        let bytes = [ROOT_ENDORSEMENT_PREFIX, root_payload].concat();
        self.issuer.key().sign(&bytes).context("cannot endorse the root document")
    }
}

fn server_params(uri: &str, names: &[String], lifetime: Duration) -> anyhow::Result<CertificateParams> {
    let mut params = params(uri, lifetime);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().context("not a name for a URI")?)];
    for name in names {
        params.subject_alt_names.push(match ServerName::try_from(name.as_str()) {
            Ok(ServerName::IpAddress(address)) => SanType::IpAddress(IpAddr::from(address)),
            Ok(ServerName::DnsName(host)) => SanType::DnsName(host.as_ref().try_into()?),
            Ok(_) | Err(_) => anyhow::bail!("{name:?} is neither a host name nor an address"),
        });
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn params(common_name: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now_s()) - BACKDATE;
    params.not_after = epoch + Duration::from_secs(now_s()) + lifetime;
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f; // positive
    serial[0] |= 0x40; // and never empty or with leading zeros
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    params
}

fn pem_of(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::csr;

    fn device_key() -> ProvenKey {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
        csr::check(CertificateParams::default().serialize_request(&key).expect("request").der()).expect("good")
    }

    #[test]
    fn a_device_certificate_names_the_device_id_only() {
        let data = tempfile::tempdir().expect("folder");
        let folder = KeyFolder::open(data.path()).expect("opens");
        let ca = LocalCa::open(&folder).expect("made");
        assert_eq!(LocalCa::open(&folder).expect("loaded").spki_sha256(), ca.spki_sha256());

        let device = DeviceId::generate();
        let issued = ca.issue_device(device, &device_key(), Duration::from_secs(3600)).expect("issues");
        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.der).expect("parses");
        assert_eq!(certificate.subject().to_string(), format!("CN={device}"));
        let names = certificate.subject_alternative_name().expect("valid").expect("there");
        let names: Vec<_> = names.value.general_names.iter().map(ToString::to_string).collect();
        assert_eq!(names, [format!("URI({})", format_args!("breeze:device:{device}"))]);
        let usage = certificate.extended_key_usage().expect("valid").expect("there").value;
        assert!(usage.client_auth && !usage.server_auth);
        let (_, root) = x509_parser::parse_x509_certificate(ca.certificate_der()).expect("parses");
        certificate.verify_signature(Some(root.public_key())).expect("signed by the authority");
        assert!(root.is_ca() && !certificate.is_ca());
        assert_eq!(certificate.validity().not_after.timestamp() as u64, issued.expires_unix_s);
    }

    #[test]
    fn a_server_certificate_is_accepted_by_a_client_that_pins_the_authority() {
        let data = tempfile::tempdir().expect("folder");
        let ca = LocalCa::open(&KeyFolder::open(data.path()).expect("opens")).expect("made");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let identity = ca.issue_server("breeze:relay:local-1", &names).expect("issues");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(ca.certificate_der().to_vec())).expect("root");
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), breeze_runtime::tls::provider())
                .build()
                .expect("verifier");
        for name in ["localhost", "127.0.0.1", "::1"] {
            use rustls::client::danger::ServerCertVerifier as _;
            verifier
                .verify_server_cert(
                    &identity.chain_der[0],
                    &identity.chain_der[1..],
                    &name.try_into().expect("name"),
                    &[],
                    rustls_pki_types::UnixTime::now(),
                )
                .expect(name);
        }
        assert!(ca.issue_server("breeze:relay:x", &["not a host".to_owned()]).is_err());
    }
}
