//! Renewal of device certificates over the connection: a challenge that needs no memory, and a proof
//! by the key that the device is known by. Relays pass both on and can make neither.

use crate::{
    api::time::{now_ms, now_s},
    keyring::mac,
    pki::{CertificateAuthority, csr},
};
use breeze_proto::{
    id::DeviceId,
    v1::{IssuedCertificate, RenewProof, RenewReply, renew_reply::Result as Reply},
};
use breeze_store::{
    model::{
        Scope,
        audit::{ActorType, Entry, Intent},
        device::{self, DeviceConfig, Standing},
        error::ModelError,
        trust,
    },
    state::State,
};
use bytes::Bytes;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use subtle::ConstantTimeEq as _;

/// How long a challenge may be answered.
pub const CHALLENGE_LIFETIME: Duration = Duration::from_secs(300);
/// An expired certificate may renew this long; later the device must be enrolled again. Relays refuse
/// such a certificate already.
pub const EXPIRED_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);
/// What the proof's signature begins with.
pub const PROOF_PREFIX: &[u8] = b"breeze/v1/renew\0";
const NONCE_BYTES: usize = 16;
const EXPIRY_BYTES: usize = 8;

/// Answers challenges and renewals.
#[derive(Debug)]
pub struct Renewals {
    pub(crate) state: Arc<dyn State>,
    pub(crate) ca: Arc<dyn CertificateAuthority>,
    pub(crate) key: [u8; 32],
    pub(crate) lifetime: Duration,
}

impl Renewals {
    /// A challenge for the device: expiry, nonce, and a MAC over both and the device.
    #[must_use]
    pub fn challenge(&self, device: DeviceId) -> Bytes {
        let mut challenge = (now_s() + CHALLENGE_LIFETIME.as_secs()).to_be_bytes().to_vec();
        challenge.extend_from_slice(&rand::random::<[u8; NONCE_BYTES]>());
        let mac = self.mac(device, &challenge);
        challenge.extend_from_slice(&mac);
        challenge.into()
    }

    fn mac(&self, device: DeviceId, head: &[u8]) -> [u8; 32] {
        mac(&self.key, &[b"breeze/v1/renewal-challenge", &device.to_bytes(), head])
    }

    fn is_ours(&self, device: DeviceId, challenge: &[u8]) -> bool {
        let Some((head, tag)) = challenge.split_at_checked(EXPIRY_BYTES + NONCE_BYTES) else { return false };
        let expiry = head.first_chunk::<EXPIRY_BYTES>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        bool::from(self.mac(device, head).as_slice().ct_eq(tag)) && now_s() < expiry
    }

    /// A new certificate, or why not.
    pub async fn renew(&self, device: DeviceId, proof: &RenewProof) -> RenewReply {
        let result = match self.try_renew(device, proof).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::error!(device.id = %device, error = %error, "renewal failed inside");
                Reply::Refused("The server cannot renew at the moment; try again later.".into())
            }
        };
        let outcome = match &result {
            Reply::Issued(_) => "issued",
            Reply::Refused(_) => "refused",
        };
        metrics::counter!("breeze_certificate_renewals_total", "outcome" => outcome).increment(1);
        RenewReply { result: Some(result) }
    }

    async fn try_renew(&self, id: DeviceId, proof: &RenewProof) -> anyhow::Result<Reply> {
        let refused = |text: &str| Ok(Reply::Refused(text.to_owned()));
        if !self.is_ours(id, &proof.challenge) {
            return refused("The challenge is not for this device or has expired; begin again.");
        }
        let seen = match device::find(&*self.state, &Scope::system("renewal"), id).await {
            Ok(seen) => seen,
            Err(ModelError::NotFound(_)) => return refused("The device is not known here; enrol it again."),
            Err(error) => return Err(error.into()),
        };
        let record = seen.config();
        if record.standing != Standing::Active || trust::is_revoked(&*self.state, id).await? {
            return refused("The device is not active any more.");
        }
        let key = match csr::check(&proof.csr_der) {
            Ok(key) => key,
            Err(error) => return refused(&format!("The certificate request {error}.")),
        };
        let signed = [PROOF_PREFIX, &proof.challenge, &Sha256::digest(&proof.csr_der)].concat();
        let proven = record.keys.iter().find(|known| {
            hex::decode(known).ok().is_some_and(|spki| {
                csr::point_of(&spki).is_some_and(|point| {
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&signed, &proof.signature).is_ok()
                })
            })
        });
        let Some(proven) = proven else {
            return refused("The proof was not made with the device's current key.");
        };
        let grace = u64::try_from(EXPIRED_GRACE.as_millis()).unwrap_or(u64::MAX);
        if now_ms() > record.certificate_expires_ms.saturating_add(grace) {
            return refused("The certificate expired more than a year ago; enrol the device again.");
        }
        let issued = self.ca.issue_device(id, &key, self.lifetime)?;
        let public_key = hex::encode(&key.spki);
        let expires_ms = issued.expires_unix_s * 1_000;
        let intent = renewal_of(record, expires_ms);
        device::record_certificate(&*self.state, id, &public_key, proven, expires_ms, Some(&intent), now_ms()).await?;
        Ok(Reply::Issued(IssuedCertificate {
            certificate_der: issued.der.into(),
            chain_der: vec![Bytes::copy_from_slice(self.ca.certificate_der())],
        }))
    }
}

/// The device itself renews; which relay passed it on does not matter.
fn renewal_of(device: &DeviceConfig, expires_ms: u64) -> Intent {
    Intent::new(Entry {
        partner_id: Some(device.partner_id),
        org_id: Some(device.org_id),
        actor_type: ActorType::Agent,
        actor_id: Some(device.id.to_string()),
        resource_type: Some("device".into()),
        resource_id: Some(device.id.to_string()),
        resource_name: Some(device.enrolled.hostname.clone()),
        details: serde_json::json!({ "expires_ms": expires_ms }),
        ..Entry::by_system("device.certificate.renew", now_ms())
    })
}
