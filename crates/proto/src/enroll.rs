//! Enrolment: the HTTP messages of `POST /api/v1/agents/enroll`, and the enrolment key's text.
//!
//! A key reads `brz1_<key id>_<secret>_<CA hash>`: the id as 32 hex digits, the secret as 43
//! characters of unpadded URL-safe base64 (32 bytes; here carried as text and never decoded), the
//! SHA-256 of the CA's public key (SPKI) as 64 hex digits. With that hash the first contact is
//! already pinned: the answer's CA certificate must have that key, and that key must have endorsed
//! the root document. The secret is never printed by `Debug`.

use crate::id::{DeviceId, EnrollmentKeyId};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// Prefix of the endorsed bytes: the CA signs (ECDSA P-256, SHA-256, ASN.1) this plus the root payload.
pub const ROOT_ENDORSEMENT_PREFIX: &[u8] = b"breeze/v1/root-endorsement\0";

/// A parsed enrolment key.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollmentKey {
    pub id: EnrollmentKeyId,
    pub secret: String,
    pub ca_spki_sha256: [u8; 32],
}

/// The text is not an enrolment key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an enrolment key: expected brz1_<id>_<secret>_<CA hash>, as the dashboard shows it under \"Add a device\""
)]
pub struct ParseKeyError;

impl FromStr for EnrollmentKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        // The secret's alphabet has '_' in it: id and hash are cut from the two ends.
        let rest = text.trim().strip_prefix("brz1_").ok_or(ParseKeyError)?;
        let (id, rest) = rest.split_once('_').ok_or(ParseKeyError)?;
        let (secret, hash) = rest.rsplit_once('_').ok_or(ParseKeyError)?;
        let well_formed = id.len() == 32
            && secret.len() == 43
            && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !well_formed {
            return Err(ParseKeyError);
        }
        let mut ca_spki_sha256 = [0; 32];
        hex::decode_to_slice(hash, &mut ca_spki_sha256).map_err(|_| ParseKeyError)?;
        let id = Uuid::try_parse(id).map_err(|_| ParseKeyError)?;
        Ok(Self { id: EnrollmentKeyId::from_uuid(id), secret: secret.to_owned(), ca_spki_sha256 })
    }
}

impl EnrollmentKey {
    /// The text form. Secret: for the one who asked for it, never for a log.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("brz1_{}_{}_{}", self.id.uuid().simple(), self.secret, hex::encode(self.ca_spki_sha256))
    }
}

impl fmt::Debug for EnrollmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollmentKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a device asks with. Sending the same request again (same CSR) gives the same device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    pub key_id: EnrollmentKeyId,
    pub secret: String,
    /// PKCS#10, DER, base64. P-256; its subject is ignored.
    pub csr: String,
    pub hostname: String,
    pub os_type: String,
    pub os_version: String,
    pub os_build: String,
    pub architecture: String,
    pub agent_version: String,
    /// Shown to people who approve devices and merge re-imaged ones; may be empty.
    #[serde(default)]
    pub serial_number: String,
}

/// What a device gets. Bytes are base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum EnrollResponse {
    /// A person must approve first; ask again with the same request after that many seconds.
    Pending { device_id: DeviceId, retry_after_s: u32 },
    /// Enrolled.
    Enrolled {
        device_id: DeviceId,
        /// DER.
        certificate: String,
        /// DER, leaf's issuer first; the last is the CA whose key is pinned.
        chain: Vec<String>,
        /// [`crate::v1::SignedRoot`].
        root: String,
        /// The CA's signature, see [`ROOT_ENDORSEMENT_PREFIX`].
        root_endorsement: String,
        /// [`crate::v1::SignedDocument`]s of roles "relays" and "config".
        documents: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EnrollmentKey {
        EnrollmentKey {
            id: EnrollmentKeyId::generate(),
            secret: "a_b-c".repeat(9)[..43].to_owned(),
            ca_spki_sha256: [0xab; 32],
        }
    }

    #[test]
    fn a_key_survives_its_text_also_with_separators_in_the_secret() {
        let key = key();
        assert_eq!(key.reveal().parse(), Ok(key.clone()));
        assert_eq!(format!(" {}\n", key.reveal()).parse(), Ok(key));
    }

    #[test]
    fn bad_keys_are_refused_and_debug_keeps_the_secret() {
        let key = key();
        let text = key.reveal();
        for bad in ["", "brz1_", "brz1_a_b_c", &text[..text.len() - 1], &text.replace("brz1", "brz2")] {
            assert_eq!(bad.parse::<EnrollmentKey>(), Err(ParseKeyError), "{bad}");
        }
        assert!(!format!("{key:?}").contains(&key.secret));
    }
}
