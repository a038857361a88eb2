//! Who a client certificate names, and whether it may come in: in full, only to renew, or not.
//!
//! The chain is verified by rustls's own verifier; here is what it does not know. An expired
//! certificate is verified as of its own last second, so that its owner can ask for a new one within
//! [`limits::RENEWAL_LIMIT`]. A resumed session skips every verifier: that is why the standing is
//! derived again from the peer's certificate after each handshake, and revocation looked up with it.

use breeze_proto::id::DeviceId;
use breeze_relay_core::limits;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::{sync::Arc, time::Duration};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// What a device certificate's names start with.
const DEVICE_PREFIX: &str = "breeze:device:";

/// A device certificate, as far as it concerns the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceCertificate {
    pub(crate) device: DeviceId,
    pub(crate) not_before_s: i64,
    pub(crate) not_after_s: i64,
}

/// What a certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Valid,
    RenewOnly,
    /// Not yet valid, or ended longer ago than it may renew.
    Refused,
}

/// Why a certificate is not a device's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotADevice {
    #[error("it does not parse")]
    Malformed,
    #[error("it does not name exactly one device")]
    Name,
}

impl DeviceCertificate {
    /// Reads the device from the URI name `breeze:device:<uuid>`, or from a common name of that form
    /// where there is no such URI.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, NotADevice> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotADevice::Malformed)?;
        let mut names: Vec<&str> = Vec::new();
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() {
                names.extend(alternative.general_names.iter().filter_map(|name| {
                    if let GeneralName::URI(uri) = name { uri.strip_prefix(DEVICE_PREFIX) } else { None }
                }));
            }
        }
        if names.is_empty() {
            let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            names.extend(common.filter_map(|name| name.strip_prefix(DEVICE_PREFIX)));
        }
        let [name] = names[..] else { return Err(NotADevice::Name) };
        let device = name.parse().map_err(|_| NotADevice::Name)?;
        let validity = certificate.validity();
        Ok(Self { device, not_before_s: validity.not_before.timestamp(), not_after_s: validity.not_after.timestamp() })
    }

    pub(crate) fn standing(&self, now_s: i64) -> Standing {
        let ended_s = now_s.saturating_sub(self.not_after_s);
        if now_s < self.not_before_s || ended_s > limits::RENEWAL_LIMIT.as_secs() as i64 {
            Standing::Refused
        } else if ended_s > 0 {
            Standing::RenewOnly
        } else {
            Standing::Valid
        }
    }
}

/// Verifies device certificates, expired ones included.
#[derive(Debug)]
pub(crate) struct DeviceVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl DeviceVerifier {
    /// `inner` verifies the chain.
    pub(crate) fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Self { inner }
    }
}

impl ClientCertVerifier for DeviceVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Each hint costs bytes in every handshake, and an agent has one certificate.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let certificate = DeviceCertificate::parse(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        let at = match certificate.standing(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)) {
            Standing::Valid => now,
            Standing::RenewOnly => {
                UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(certificate.not_after_s).unwrap_or(0)))
            }
            Standing::Refused => return Err(Error::InvalidCertificate(CertificateError::Expired)),
        };
        self.inner.verify_client_cert(end_entity, intermediates, at)
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

    #[test]
    fn standing_by_time() {
        let certificate = DeviceCertificate { device: DeviceId::generate(), not_before_s: 1_000, not_after_s: 2_000 };
        let year = limits::RENEWAL_LIMIT.as_secs() as i64;
        for (now, expected) in [
            (999, Standing::Refused),
            (1_000, Standing::Valid),
            (2_000, Standing::Valid),
            (2_001, Standing::RenewOnly),
            (2_000 + year, Standing::RenewOnly),
            (2_001 + year, Standing::Refused),
        ] {
            assert_eq!(certificate.standing(now), expected, "{now}");
        }
    }

    #[test]
    fn names() {
        let parse = |common: Option<&str>, uris: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            if let Some(common) = common {
                params.distinguished_name.push(rcgen::DnType::CommonName, common);
            }
            params.subject_alt_names =
                uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().expect("ASCII"))).collect();
            let key = rcgen::KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            DeviceCertificate::parse(certificate.der()).map(|certificate| certificate.device.to_string())
        };
        let (a, b) = ("018f3f3e-7a1c-7000-8000-000000000001", "018f3f3e-7a1c-7000-8000-000000000002");
        let uri = |id: &str| format!("breeze:device:{id}");
        assert_eq!(parse(None, &[&uri(a)]), Ok(a.to_owned()));
        assert_eq!(parse(Some(&uri(b)), &[&uri(a)]), Ok(a.to_owned()));
        assert_eq!(parse(Some(&uri(b)), &[]), Ok(b.to_owned()));
        assert_eq!(parse(Some(b), &[]), Err(NotADevice::Name));
        assert_eq!(parse(None, &[&uri(a), &uri(b)]), Err(NotADevice::Name));
        assert_eq!(parse(None, &["breeze:relay:x"]), Err(NotADevice::Name));
        assert_eq!(DeviceCertificate::parse(&CertificateDer::from(vec![1, 2])), Err(NotADevice::Malformed));
    }
}
