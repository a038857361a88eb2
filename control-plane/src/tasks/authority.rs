//! Answers on the bus: what relays ask on behalf of agents.

use crate::{pki::authority::Authority, tasks::answering::answer_each};
use breeze_bus::{Bus, Service};
use breeze_proto::{
    subject,
    v1::{ChallengeRequest, DocumentsRequest, RenewCertificate, RevocationsRequest},
};
use bytes::Bytes;
use prost::Message;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often documents are looked at for a new period.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3600);

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub enum Question {
    Challenge,
    Renew,
    Documents,
    Revocations,
}

impl Question {
    pub const ALL: [Self; 4] = [Self::Challenge, Self::Renew, Self::Documents, Self::Revocations];

    #[must_use]
    pub const fn subject(self) -> &'static str {
        match self {
            Self::Challenge => subject::CA_CHALLENGE,
            Self::Renew => subject::CA_RENEW,
            Self::Documents => subject::AGENT_DOCUMENTS,
            Self::Revocations => subject::REVOCATIONS_SNAPSHOT,
        }
    }

    async fn answer(self, authority: &Authority, payload: Bytes) -> anyhow::Result<Bytes> {
        Ok(match self {
            Self::Challenge => encode(&authority.challenge(&ChallengeRequest::decode(payload)?)),
            Self::Renew => encode(&authority.renew(&RenewCertificate::decode(payload)?).await),
            Self::Documents => encode(&authority.documents_for(&DocumentsRequest::decode(payload)?).await?),
            Self::Revocations => authority.revocations(&RevocationsRequest::decode(payload)?).await?,
        })
    }
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Answers one kind of question until `stop`. An unanswered one leaves the asker to its deadline.
///
/// # Errors
/// When the bus closes.
pub async fn answer(
    question: Question,
    service: Box<dyn Service>,
    authority: Arc<Authority>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    answer_each(service, stop, |payload| {
        let authority = Arc::clone(&authority);
        async move {
            let answered = question.answer(&authority, payload).await;
            answered
                .inspect_err(|error| {
                    metrics::counter!("breeze_authority_failures_total").increment(1);
                    tracing::warn!(subject = question.subject(), error = %error, "cannot answer");
                })
                .ok()
        }
    })
    .await
}

/// Begins to answer every kind of question; each service is to be driven by [`answer`].
///
/// # Errors
/// When the bus refuses.
pub async fn open(bus: &Arc<dyn Bus>) -> anyhow::Result<Vec<(Question, Box<dyn Service>)>> {
    let mut services = Vec::new();
    for question in Question::ALL {
        services.push((question, bus.serve(question.subject()).await?));
    }
    Ok(services)
}

/// Signs documents anew when their period is over, until `stop`.
pub async fn refresh(authority: Arc<Authority>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(REFRESH_INTERVAL);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = authority.refresh().await {
            tracing::warn!(error = format!("{error:#}"), "documents for agents cannot be signed anew");
        }
    }
}
