//! Requests and services. Servers of one subject form a queue group, so one of them gets a request;
//! one that cannot take it says so, and nobody needs to wait for a deadline to learn it.
//!
//! Where an answer goes is the asker's word, and the server lets us send it there whatever we may publish
//! otherwise. So answers go to inboxes alone, and none is empty or JSON, as an order to JetStream would be:
//! each begins with a byte that says what it is.

use super::connection::Connection;
use crate::{BusError, Request, Service, hub::MAX_WAITING_REQUESTS};
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The queue group of all services.
const GROUP: &str = "breeze";
/// Before every subject that an answer may go to.
const INBOX: &str = "_INBOX.";
/// First byte of what is sent back: an answer follows.
const ANSWER: u8 = 1;
/// First byte, and only one: too many requests are waiting.
const OVERLOADED: u8 = 2;
/// First byte, and only one: the server is going, and another one may answer.
const GONE: u8 = 3;
/// How often a request goes to another server after [`GONE`].
const MAX_TURNS: usize = 8;
/// Answers that wait to be handed to the connection; more are dropped, and their askers time out.
const MAX_OUTGOING_REPLIES: usize = 4096;

pub(crate) async fn request(
    connection: &Connection,
    subject: &str,
    payload: Bytes,
    within: Duration,
) -> Result<Bytes, BusError> {
    let deadline = Instant::now() + within;
    let timed_out = || BusError::Timeout { subject: subject.to_owned(), timeout: within };
    for _ in 0..MAX_TURNS {
        let asking = async {
            let mut expected = connection.ask(subject, None, payload.clone()).await?;
            expected.next().await
        };
        let mut answer = timeout_at(deadline, asking).await.map_err(|_| timed_out())??;
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(BusError::NoResponder(subject.to_owned()));
        }
        match answer.payload.first() {
            Some(&ANSWER) => return Ok(answer.payload.split_off(1)),
            Some(&GONE) => {}
            Some(&OVERLOADED) => return Err(BusError::Overloaded(subject.to_owned())),
            Some(_) | None => return Err(BusError::Corrupt(format!("{subject}: an answer that is not understood"))),
        }
    }
    Err(BusError::NoResponder(subject.to_owned()))
}

/// Requests of one subject that this process answers.
pub(crate) struct NatsService {
    subject: String,
    requests: mpsc::Receiver<Message>,
    replies: mpsc::Sender<Reply>,
    _stop: DropGuard,
}

struct Reply {
    to: Subject,
    payload: Bytes,
}

impl fmt::Debug for NatsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsService").field("subject", &self.subject).finish_non_exhaustive()
    }
}

pub(crate) async fn serve(connection: &Arc<Connection>, subject: &str) -> Result<NatsService, BusError> {
    let client = connection.client().clone();
    let messages = client
        .queue_subscribe(subject.to_owned(), GROUP.to_owned())
        .await
        .map_err(|error| BusError::Unavailable(error.to_string()))?;
    connection.barrier().await?;
    let (waiting, requests) = mpsc::channel(MAX_WAITING_REQUESTS);
    let (replies, outgoing) = mpsc::channel(MAX_OUTGOING_REPLIES);
    let stop = CancellationToken::new();
    // It ends by itself, after it has turned away what still came.
    tokio::spawn(receive(client.clone(), messages, waiting, stop.clone()));
    tokio::spawn(send_replies(client, outgoing));
    Ok(NatsService { subject: subject.to_owned(), requests, replies, _stop: stop.drop_guard() })
}

async fn receive(client: Client, mut messages: Subscriber, waiting: mpsc::Sender<Message>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            message = messages.next() => {
                let Some(message) = message else { return };
                if !wants_answer(&message) {
                    continue;
                }
                match waiting.try_send(message) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(message)) => {
                        metrics::counter!("breeze_bus_requests_overloaded_total").increment(1);
                        refuse(&client, &message, OVERLOADED).await;
                    }
                    Err(mpsc::error::TrySendError::Closed(message)) => refuse(&client, &message, GONE).await,
                }
            }
        }
    }
    // What reached us before the server knew.
    let _gone = messages.unsubscribe().await;
    while let Some(message) = messages.next().await {
        if wants_answer(&message) {
            refuse(&client, &message, GONE).await;
        }
    }
}

/// Whether a message is a request that may be answered. One without a subject to reply to is none; one
/// that names another subject than an inbox would have us publish there.
fn wants_answer(message: &Message) -> bool {
    let Some(reply) = &message.reply else { return false };
    let inbox = reply.starts_with(INBOX);
    if !inbox {
        metrics::counter!("breeze_bus_foreign_replies_total").increment(1);
        tracing::warn!(bus.subject = %message.subject, bus.reply = %reply, "a request wants its answer elsewhere than in an inbox; it is dropped");
    }
    inbox
}

async fn refuse(client: &Client, message: &Message, why: u8) {
    let Some(reply) = &message.reply else { return };
    // Without a connection the asker learns it by its deadline.
    let _lost = client.publish(reply.clone(), Bytes::copy_from_slice(&[why])).await;
}

async fn send_replies(client: Client, mut outgoing: mpsc::Receiver<Reply>) {
    while let Some(Reply { to, payload }) = outgoing.recv().await {
        let mut answer = BytesMut::with_capacity(1 + payload.len());
        answer.put_u8(ANSWER);
        answer.extend_from_slice(&payload);
        if client.publish(to, answer.freeze()).await.is_err() {
            metrics::counter!("breeze_bus_replies_dropped_total").increment(1);
        }
    }
}

#[async_trait]
impl Service for NatsService {
    async fn next(&mut self) -> Option<Request> {
        loop {
            let message = self.requests.recv().await?;
            // Only requests that may be answered come here.
            let Some(to) = message.reply else { continue };
            let replies = self.replies.clone();
            let reply = Box::new(move |payload: Bytes| {
                if replies.try_send(Reply { to, payload }).is_err() {
                    metrics::counter!("breeze_bus_replies_dropped_total").increment(1);
                }
            });
            return Some(Request { subject: self.subject.clone(), payload: message.payload, reply });
        }
    }
}
