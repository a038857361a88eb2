//! Who this device is: its key, its certificate, and the files that keep them.

use crate::{
    pki::{self, Authorities, CertificateFacts},
    state_dir::StateDir,
};
use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use breeze_agent_core::{Certificate, State};
use breeze_proto::{
    id::DeviceId,
    v1::{IssuedCertificate, RenewProof},
};
use bytes::Bytes;
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Where the device's key lies, as it is reported: in [`IDENTITY_FILE`], its owner's alone to read.
pub const KEY_PROTECTION: &str = "file";
const IDENTITY_FILE: &str = "identity.json";
const STATE_FILE: &str = "state.pb";
const FORMAT: u32 = 1;
/// First bytes of [`STATE_FILE`].
const STATE_MAGIC: &[u8] = b"BREEZE-AGENT-STATE-1\n";
/// Prefix of what a renewal signs.
const RENEW_PREFIX: &[u8] = b"breeze/v1/renew\0";
/// Prefix of what an inventory document signs.
const INVENTORY_PREFIX: &[u8] = b"breeze/v1/inventory\0";

/// The device's key pair, P-256. Never leaves the device and is never printed.
pub struct DeviceKey {
    pkcs8: Vec<u8>,
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKey(…)")
    }
}

impl DeviceKey {
    /// A new one.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate() -> anyhow::Result<Self> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key pair")?;
        Ok(Self { pkcs8: pair.serialize_der() })
    }

    /// From [`DeviceKey::secret_bytes`].
    ///
    /// # Errors
    /// If they are damaged.
    pub fn from_bytes(pkcs8: Vec<u8>) -> anyhow::Result<Self> {
        let key = Self { pkcs8 };
        key.signer()?;
        Ok(key)
    }

    /// PKCS#8, for a 0600 file.
    #[must_use]
    pub fn secret_bytes(&self) -> &[u8] {
        &self.pkcs8
    }

    fn pair(&self) -> anyhow::Result<KeyPair> {
        let der = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).context("the device key is damaged")
    }

    fn signer(&self) -> anyhow::Result<EcdsaKeyPair> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.pkcs8, &SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("the device key is damaged"))
    }

    /// PKCS#10, DER. Its subject is empty: the server names the device.
    ///
    /// # Errors
    /// If the key is damaged.
    pub fn request(&self) -> anyhow::Result<Vec<u8>> {
        let mut params = CertificateParams::new(Vec::new()).context("certificate request")?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.pair()?).context("cannot make a certificate request")?;
        Ok(request.der().to_vec())
    }

    /// ECDSA P-256 with SHA-256, ASN.1.
    ///
    /// # Errors
    /// If the key is damaged.
    pub fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let signature = self.signer()?.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| anyhow::anyhow!("signing failed"))?.as_ref().to_vec())
    }

    fn owns(&self, certificate: &CertificateFacts) -> anyhow::Result<bool> {
        Ok(self.pair()?.public_key_raw() == certificate.public_key)
    }
}

/// An enrolled device.
#[derive(Debug)]
pub struct DeviceIdentity {
    pub device: DeviceId,
    /// Where it enrolled.
    pub server: String,
    pub instance_nonce: [u8; 16],
    /// See [`crate::os::OperatingSystem::machine_fingerprint`].
    pub machine: [u8; 32],
    pub key: DeviceKey,
    pub certificate: Vec<u8>,
    /// The leaf's issuer first; the last is the certification authority.
    pub chain: Vec<Vec<u8>>,
}

/// As it is kept. Bytes are base64.
#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    device_id: DeviceId,
    server: String,
    instance_nonce: String,
    machine: String,
    key_pkcs8: String,
    certificate: String,
    chain: Vec<String>,
}

impl DeviceIdentity {
    /// The enrolled identity; `None` before enrolment.
    ///
    /// # Errors
    /// If the file is damaged or of a newer format.
    pub fn load(dir: &StateDir) -> anyhow::Result<Option<Self>> {
        let Some(bytes) = dir.read(IDENTITY_FILE)? else { return Ok(None) };
        let parse = || -> anyhow::Result<Self> {
            let file: IdentityFile = serde_json::from_slice(&bytes)?;
            ensure!(file.format == FORMAT, "it has format {}, this agent knows {FORMAT}", file.format);
            let array = |text: &str| STANDARD.decode(text).context("base64");
            Ok(Self {
                device: file.device_id,
                server: file.server,
                instance_nonce: array(&file.instance_nonce)?.try_into().ok().context("nonce of 16 bytes")?,
                machine: array(&file.machine)?.try_into().ok().context("fingerprint of 32 bytes")?,
                key: DeviceKey::from_bytes(array(&file.key_pkcs8)?)?,
                certificate: array(&file.certificate)?,
                chain: file.chain.iter().map(|der| array(der)).collect::<Result<_, _>>()?,
            })
        };
        parse().map(Some).with_context(|| format!("{} is damaged", dir.file(IDENTITY_FILE).display()))
    }

    /// Keeps it durably.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, dir: &StateDir) -> anyhow::Result<()> {
        let file = IdentityFile {
            format: FORMAT,
            device_id: self.device,
            server: self.server.clone(),
            instance_nonce: STANDARD.encode(self.instance_nonce),
            machine: STANDARD.encode(self.machine),
            key_pkcs8: STANDARD.encode(&self.key.pkcs8),
            certificate: STANDARD.encode(&self.certificate),
            chain: self.chain.iter().map(|der| STANDARD.encode(der)).collect(),
        };
        dir.write(IDENTITY_FILE, &serde_json::to_vec_pretty(&file)?)
    }

    /// The certificate's validity.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn validity(&self) -> anyhow::Result<Certificate> {
        let facts = pki::read_certificate(&self.certificate)?;
        Ok(Certificate { not_before_s: facts.not_before_s, not_after_s: facts.not_after_s })
    }

    /// Authorities for relays: what the root document names, and the certificates that came with ours.
    #[must_use]
    pub fn authorities(&self, root: &breeze_proto::trust::Root) -> Authorities {
        Authorities {
            spki_sha256: root
                .document()
                .ca_spki_sha256
                .iter()
                .filter_map(|hash| hash.as_ref().try_into().ok())
                .collect(),
            certificates: self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect(),
        }
    }

    /// For the client's side of TLS.
    #[must_use]
    pub fn client_auth(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        // The authority itself is known to the relay.
        let issuers = self.chain.iter().take(self.chain.len().saturating_sub(1));
        let chain = std::iter::once(&self.certificate).chain(issuers).map(|der| CertificateDer::from(der.clone()));
        (chain.collect(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.pkcs8.clone())))
    }

    /// A new key with its request, signed by the current key over the challenge.
    ///
    /// # Errors
    /// If keys cannot be made.
    pub fn renewal(&self, challenge: Bytes) -> anyhow::Result<(DeviceKey, RenewProof)> {
        let key = DeviceKey::generate()?;
        let csr_der = key.request()?;
        let mut signed = RENEW_PREFIX.to_vec();
        signed.extend_from_slice(&challenge);
        signed.extend_from_slice(&Sha256::digest(&csr_der));
        let signature = self.key.sign(&signed)?;
        Ok((key, RenewProof { challenge, csr_der: csr_der.into(), signature: signature.into() }))
    }

    /// Checks a renewed certificate for `key` and takes both.
    ///
    /// # Errors
    /// If it is not for this device and key, or not under an authority that `root` names.
    pub fn install(
        &mut self,
        issued: &IssuedCertificate,
        key: DeviceKey,
        root: &breeze_proto::trust::Root,
    ) -> anyhow::Result<()> {
        let chain: Vec<Vec<u8>> = issued.chain_der.iter().map(|der| der.to_vec()).collect();
        let chain = if chain.is_empty() { self.chain.clone() } else { chain };
        let authority = check_device_certificate(&issued.certificate_der, &chain, self.device, &key)?;
        ensure!(root.names_ca(&authority), "the certificate is under an authority that the root does not name");
        self.certificate = issued.certificate_der.to_vec();
        self.chain = chain;
        self.key = key;
        Ok(())
    }

    /// The device's signature over an inventory document.
    ///
    /// # Errors
    /// If the key is damaged.
    pub fn sign_inventory(&self, section: i32, revision: u64, hash: &[u8; 32]) -> anyhow::Result<Vec<u8>> {
        let mut message = INVENTORY_PREFIX.to_vec();
        message.extend_from_slice(&self.device.to_bytes());
        message.extend_from_slice(&section.to_be_bytes());
        message.extend_from_slice(&revision.to_be_bytes());
        message.extend_from_slice(hash);
        self.key.sign(&message)
    }
}

/// Checks that a certificate names `device`, is for `key`, and that its chain holds; the hash of the
/// last certificate's key is returned, to be compared with what is pinned.
///
/// # Errors
/// Says which of them does not hold.
pub fn check_device_certificate(
    certificate: &[u8],
    chain: &[Vec<u8>],
    device: DeviceId,
    key: &DeviceKey,
) -> anyhow::Result<pki::SpkiHash> {
    let facts = pki::read_certificate(certificate)?;
    ensure!(key.owns(&facts)?, "the certificate is for another key");
    ensure!(facts.common_name == device.to_string(), "the certificate's subject is not this device");
    let uri = format!("breeze:device:{device}");
    ensure!(facts.uris == [uri], "the certificate does not name this device, and only it");
    pki::check_signatures(certificate, chain)?;
    let Some(authority) = chain.last() else { bail!("the chain is empty") };
    Ok(pki::read_certificate(authority)?.spki_sha256)
}

/// What the core keeps; `None` before enrolment.
///
/// # Errors
/// If the file is damaged or of another format.
pub fn load_state(dir: &StateDir) -> anyhow::Result<Option<State>> {
    let Some(bytes) = dir.read(STATE_FILE)? else { return Ok(None) };
    let path = dir.file(STATE_FILE);
    let Some(body) = bytes.strip_prefix(STATE_MAGIC) else {
        bail!("{} is damaged or of a newer format", path.display());
    };
    State::decode(body).map(Some).with_context(|| format!("{} is damaged", path.display()))
}

/// Keeps it durably.
///
/// # Errors
/// If the file cannot be written.
pub fn save_state(dir: &StateDir, state: &State) -> anyhow::Result<()> {
    let mut bytes = STATE_MAGIC.to_vec();
    state.encode(&mut bytes).context("a state document does not encode")?;
    dir.write(STATE_FILE, &bytes)
}

/// Removes everything that makes this machine a device.
///
/// # Errors
/// If a file cannot be removed.
pub fn erase(dir: &StateDir) -> anyhow::Result<()> {
    dir.remove(IDENTITY_FILE)?;
    dir.remove(STATE_FILE)
}
