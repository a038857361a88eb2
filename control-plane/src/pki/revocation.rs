//! The revocation set: a decommissioned device is added and every relay told, within the delivery
//! of the commit that decommissioned it.

use crate::{api::time::now_s, pki::Signer};
use async_trait::async_trait;
use breeze_bus::Bus;
use breeze_proto::{
    id::DeviceId,
    subject,
    trust::Role,
    v1::{Revocation, RevocationNotice, RevocationSet, RevocationsRequest, SignedDocument},
};
use breeze_store::{
    model::trust,
    state::{
        State,
        outbox::{Deliver, Delivery, DeliveryError},
    },
};
use bytes::Bytes;
use prost::Message as _;
use std::sync::Arc;

/// Revocations of one page of a snapshot; some 250 bytes each.
pub const PAGE: usize = 1_000;

/// Keeps, signs and announces the set.
#[derive(Debug)]
pub struct Revocations {
    pub(crate) state: Arc<dyn State>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) signer: Arc<dyn Signer>,
}

impl Revocations {
    /// Adds a device and tells the relays. Again is harmless: the same update goes out again.
    ///
    /// # Errors
    /// When the store or bus refuses.
    pub async fn revoke(&self, device: DeviceId, reason: &str) -> anyhow::Result<()> {
        let notice = RevocationNotice {
            device_id: Bytes::copy_from_slice(&device.to_bytes()),
            revoked_unix_s: now_s(),
            reason: reason.to_owned(),
        };
        let notice = self.signer.sign(Role::Revocations, notice.encode_to_vec().into())?;
        let added = trust::revoke(&*self.state, device, notice.encode_to_vec().into()).await?;
        let update = RevocationSet {
            version: added.version,
            base_version: added.version - 1,
            added: vec![Revocation { device_id: Bytes::copy_from_slice(&device.to_bytes()), notice: Some(notice) }],
            ..RevocationSet::default()
        };
        // A set that begins has no base: its first version is a snapshot with one device in it.
        let document = self.signer.sign(Role::Revocations, update.encode_to_vec().into())?;
        self.bus.publish(subject::REVOCATIONS_UPDATE, document.encode_to_vec().into()).await?;
        metrics::counter!("breeze_revocations_total").increment(u64::from(added.new));
        Ok(())
    }

    /// Answers a request for a snapshot: a page of it, or nothing when there is nothing newer.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn snapshot(&self, request: &RevocationsRequest) -> anyhow::Result<Bytes> {
        let after = DeviceId::from_slice(&request.after);
        // Read before the rows: a device that is added in between is in the page and in the update.
        let version = trust::revocations_version(&*self.state).await?;
        if after.is_none() && version > 0 && request.have_version == version {
            return Ok(Bytes::new());
        }
        let page = trust::revocations(&*self.state, after, PAGE).await?;
        let added = page
            .revocations
            .into_iter()
            .map(|(device, notice)| Revocation {
                device_id: Bytes::copy_from_slice(&device.to_bytes()),
                notice: SignedDocument::decode(notice).ok(),
            })
            .collect();
        let set = RevocationSet {
            version,
            added,
            after: request.after.clone(),
            next: page.next.map(|next| Bytes::copy_from_slice(&next.to_bytes())).unwrap_or_default(),
            ..RevocationSet::default()
        };
        let document = self.signer.sign(Role::Revocations, set.encode_to_vec().into())?;
        Ok(document.encode_to_vec().into())
    }
}

#[async_trait]
impl Deliver for Revocations {
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        let (device, reason) = delivery.payload.split_at_checked(16).unwrap_or((&[], &[]));
        let device = DeviceId::from_slice(device).ok_or_else(|| DeliveryError("not a device id".into()))?;
        let reason = String::from_utf8_lossy(reason);
        self.revoke(device, &reason).await.map_err(|error| DeliveryError(format!("{error:#}")))
    }
}
