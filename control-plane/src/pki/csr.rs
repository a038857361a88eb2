//! Certificate requests of devices: bounded, P-256, signed by their own key. Nothing else of a
//! request is used; what a certificate says is decided here, not by who asks.

use breeze_proto::limits::MAX_CSR_BYTES;
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY},
    prelude::FromDer as _,
};

/// Bytes of an uncompressed P-256 point.
const POINT_BYTES: usize = 65;

/// A public key that signed its own request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenKey {
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

impl ProvenKey {
    /// SHA-256 over the SPKI, hex.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        crate::keyring::sha256_hex(&self.spki)
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("is larger than {MAX_CSR_BYTES} bytes")]
    TooLarge,
    #[error("is not a DER certificate request (PKCS#10)")]
    Malformed,
    #[error("must ask for a P-256 key")]
    KeyType,
    #[error("is not signed by the key that it asks for")]
    Signature,
}

/// Checks a request.
///
/// # Errors
/// [`CsrError`] says what is wrong with it.
pub fn check(der: &[u8]) -> Result<ProvenKey, CsrError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLarge);
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let is_p256 = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve == OID_EC_P256)
        && key.subject_public_key.data.len() == POINT_BYTES;
    if !is_p256 {
        return Err(CsrError::KeyType);
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(ProvenKey { spki: key.raw.to_vec() })
}

/// The point in a P-256 SPKI: its last 65 bytes.
#[must_use]
pub fn point_of(spki: &[u8]) -> Option<&[u8]> {
    spki.len().checked_sub(POINT_BYTES).map(|at| &spki[at..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).expect("key");
        CertificateParams::default().serialize_request(&key).expect("request").der().to_vec()
    }

    #[test]
    fn only_p256_keys_that_signed_their_request_pass() {
        let good = request(&PKCS_ECDSA_P256_SHA256);
        let key = check(&good).expect("passes");
        assert_eq!(point_of(&key.spki).map(|point| point[0]), Some(4));
        assert_eq!(check(&request(&PKCS_ECDSA_P384_SHA384)), Err(CsrError::KeyType));
        assert_eq!(check(&request(&PKCS_ED25519)), Err(CsrError::KeyType));

        let mut altered = good.clone();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert!(matches!(check(&altered), Err(CsrError::Signature | CsrError::Malformed)));
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(check(&longer), Err(CsrError::Malformed));
        assert_eq!(check(&vec![0x30; MAX_CSR_BYTES + 1]), Err(CsrError::TooLarge));
        // Another key's signature over it.
        let other = request(&PKCS_ECDSA_P256_SHA256);
        let mixed = [&good[..good.len() - 70], &other[other.len() - 70..]].concat();
        assert!(check(&mixed).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = check(&bytes);
        }

        #[test]
        fn altered_requests_never_pass_with_another_key(at in 0usize..200, bit in 0u8..8) {
            let good = request(&PKCS_ECDSA_P256_SHA256);
            let key = check(&good).expect("passes");
            let mut altered = good;
            let at = at % altered.len();
            altered[at] ^= 1 << bit;
            if let Ok(other) = check(&altered) {
                prop_assert_eq!(other, key);
            }
        }
    }
}
