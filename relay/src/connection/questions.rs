//! What a connection asks other roles: bounded in number and time, and repeated while nobody answers,
//! since after a start or a mass return the others may be busy or not up yet.

use super::Done;
use crate::{lanes::Lane, relay::Relay};
use breeze_proto::{
    id::DeviceId,
    limits::HELD_WAIT,
    subject,
    v1::{
        ChallengeReply, ChallengeRequest, DocumentsReply, DocumentsRequest, HeldReply, HeldRequest, RenewCertificate,
        RenewProof, RenewReply,
    },
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message;
use std::{sync::Arc, time::Duration};

/// One try.
const TRY: Duration = Duration::from_secs(3);
/// Between two tries, before jitter.
const PAUSE: Duration = Duration::from_millis(300);
/// All tries for documents: an agent works with those that it has.
const DOCUMENTS_WAIT: Duration = Duration::from_secs(30);
/// All tries for a renewal: the agent asks again.
const RENEWAL_WAIT: Duration = Duration::from_secs(15);

pub(super) fn held(relay: &Arc<Relay>, lane: &Arc<Lane>, request: &HeldRequest) -> BoxFuture<'static, Done> {
    let (relay, lane, payload) = (relay.clone(), lane.clone(), encode(request));
    let device = DeviceId::from_slice(&request.device_id);
    Box::pin(async move {
        let subject = lane.held_subject(device);
        let mut reply = ask::<HeldReply>(&relay, &subject, payload.clone(), HELD_WAIT).await;
        lane.handle_lanes(reply.as_ref().map_or(0, |reply| reply.lanes));
        // Asked before it was known how many lanes the home has: that owner does not know the device.
        let right = lane.held_subject(device);
        if reply.is_some() && right != subject {
            reply = ask::<HeldReply>(&relay, &right, payload, HELD_WAIT).await;
        }
        Done::Held(reply)
    })
}

pub(super) fn documents(relay: &Arc<Relay>, request: &DocumentsRequest) -> BoxFuture<'static, Done> {
    let (relay, payload) = (relay.clone(), encode(request));
    Box::pin(async move {
        Done::Documents(ask::<DocumentsReply>(&relay, subject::AGENT_DOCUMENTS, payload, DOCUMENTS_WAIT).await)
    })
}

pub(super) fn challenge(relay: &Arc<Relay>, device: DeviceId) -> BoxFuture<'static, Done> {
    let relay = relay.clone();
    let payload = encode(&ChallengeRequest { device_id: Bytes::copy_from_slice(&device.to_bytes()) });
    Box::pin(async move {
        let reply = ask::<ChallengeReply>(&relay, subject::CA_CHALLENGE, payload, RENEWAL_WAIT).await;
        Done::Challenge(reply.map(|reply| reply.challenge).filter(|challenge| !challenge.is_empty()))
    })
}

pub(super) fn renewal(relay: &Arc<Relay>, device: DeviceId, proof: RenewProof) -> BoxFuture<'static, Done> {
    let relay = relay.clone();
    let device_id = Bytes::copy_from_slice(&device.to_bytes());
    let payload = encode(&RenewCertificate { device_id, proof: Some(proof) });
    Box::pin(async move { Done::Renewed(ask::<RenewReply>(&relay, subject::CA_RENEW, payload, RENEWAL_WAIT).await) })
}

fn encode(message: &impl Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

/// Asks until there is an answer or `wait` is over.
async fn ask<M: Message + Default>(relay: &Relay, subject: &str, payload: Bytes, wait: Duration) -> Option<M> {
    let tries = async {
        loop {
            let answer = {
                let _permit = relay.questions.acquire().await.ok()?;
                relay.bus.request(subject, payload.clone(), TRY).await
            };
            match answer {
                Ok(answer) => match M::decode(answer) {
                    Ok(message) => return Some(message),
                    Err(error) => {
                        tracing::warn!(subject, %error, "an answer does not decode");
                        return None;
                    }
                },
                Err(error) => tracing::debug!(subject, %error, "no answer"),
            }
            metrics::counter!("breeze_relay_questions_failed_total", "subject" => subject.to_owned()).increment(1);
            tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    };
    tokio::time::timeout(wait, tries).await.ok().flatten()
}
