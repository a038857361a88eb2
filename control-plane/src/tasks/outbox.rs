//! Handlers of the outbox's topics.

use async_trait::async_trait;
use breeze_bus::Bus;
use breeze_proto::{
    subject,
    v1::{DirectoryChange, DirectorySource},
};
use breeze_store::{
    model::{
        audit::{self, AuditLog},
        device, enrollment, index, instance, people, session, tenancy,
    },
    state::{
        CommitTable, State,
        outbox::{Deliver, Delivery, DeliveryError, Outbox},
    },
};
use bytes::Bytes;
use prost::Message as _;
use std::sync::Arc;

/// Tables whose commits have an outbox of ours.
pub const TABLES: [CommitTable; 8] = [
    instance::INSTANCE,
    tenancy::ORGANIZATIONS,
    tenancy::SITES,
    people::USERS,
    session::SESSIONS,
    enrollment::KEYS,
    device::DEVICES,
    audit::HEADS,
];

/// Lists.
#[derive(Debug)]
struct Index(Arc<dyn State>);

#[async_trait]
impl Deliver for Index {
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        Ok(index::apply(&*self.0, delivery.position.version, &delivery.payload).await?)
    }
}

/// The first tenant and user.
#[derive(Debug)]
struct Setup(Arc<dyn State>);

#[async_trait]
impl Deliver for Setup {
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        Ok(instance::carry_out(&*self.0, &delivery.payload).await?)
    }
}

/// A device's record goes to every directory.
#[derive(Debug)]
struct Directory(Arc<dyn Bus>);

#[async_trait]
impl Deliver for Directory {
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        let version = delivery.position.version;
        let change = DirectoryChange {
            device_id: delivery.partition.clone(),
            source: DirectorySource::Config.into(),
            version,
            record: delivery.payload.clone(),
        };
        let id = format!("config/{}/{version}", hex::encode(&delivery.partition));
        self.0
            .append(subject::DIRECTORY_STREAM, &id, Bytes::from(change.encode_to_vec()))
            .await
            .map(|_| ())
            .map_err(|error| DeliveryError(error.to_string()))
    }
}

/// The outbox with all handlers.
pub fn assemble(
    state: &Arc<dyn State>,
    bus: &Arc<dyn Bus>,
    audit_log: &Arc<AuditLog>,
    revocations: Arc<dyn Deliver>,
) -> Outbox {
    Outbox::new(Arc::clone(state), &TABLES)
        .on(index::TOPIC, Arc::new(Index(Arc::clone(state))))
        .on(instance::SETUP_TOPIC, Arc::new(Setup(Arc::clone(state))))
        .on(device::DIRECTORY_TOPIC, Arc::new(Directory(Arc::clone(bus))))
        .on(device::REVOKE_TOPIC, revocations)
        .on(audit::TOPIC, Arc::<AuditLog>::clone(audit_log))
}
