//! Subscriptions: a task takes what arrives at once and keeps the newest, so that a slow reader costs
//! itself alone.

use super::connection::{AbortOnDrop, Connection, Link};
use crate::{BusError, Received, Subscription, hub::SubscriberQueue, name::Pattern};
use async_nats::Subscriber;
use async_trait::async_trait;
use futures_util::StreamExt as _;
use std::{fmt, sync::Arc};
use tokio::sync::watch;

pub(crate) struct NatsSubscription {
    queue: Arc<SubscriberQueue>,
    subject: String,
    _task: AbortOnDrop,
}

impl fmt::Debug for NatsSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSubscription").field("subject", &self.subject).finish_non_exhaustive()
    }
}

pub(crate) async fn subscribe(connection: &Connection, pattern: &Pattern) -> Result<NatsSubscription, BusError> {
    let subject = match pattern {
        Pattern::Exact(subject) => subject.clone(),
        Pattern::Below(prefix) => format!("{prefix}.>"),
    };
    let mut link = connection.link();
    link.mark_unchanged();
    let messages = connection
        .client()
        .subscribe(subject.clone())
        .await
        .map_err(|error| BusError::Unavailable(error.to_string()))?;
    connection.barrier().await?;
    let queue: Arc<SubscriberQueue> = Arc::default();
    let task = tokio::spawn(receive(messages, link, queue.clone()));
    Ok(NatsSubscription { queue, subject, _task: AbortOnDrop(task) })
}

async fn receive(mut messages: Subscriber, mut link: watch::Receiver<Link>, queue: Arc<SubscriberQueue>) {
    let mut number = link.borrow().number;
    loop {
        tokio::select! {
            biased;
            changed = link.changed() => {
                if changed.is_err() {
                    break;
                }
                let now = *link.borrow_and_update();
                if now.up && now.number != number {
                    number = now.number;
                    // Nobody knows what was said while there was no connection.
                    queue.miss();
                }
            }
            message = messages.next() => match message {
                Some(message) => queue.push(&message.subject, &message.payload),
                None => break,
            },
        }
    }
    queue.close();
}

#[async_trait]
impl Subscription for NatsSubscription {
    async fn next(&mut self) -> Option<Received> {
        self.queue.next().await
    }
}
