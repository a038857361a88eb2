//! What a relay hears from the bus: frames to push, and the revocation set.
//!
//! The set is checked by signature, kept on disk as it came (so that a relay that starts while nobody
//! answers still knows whom to refuse), followed by broadcasts, and asked for again on every gap and
//! from time to time, since a broadcast may be lost with nothing after it that shows the gap.

use crate::{
    keys::write_private,
    relay::{Relay, wall_us},
};
use breeze_bus::{BusError, Received, Request};
use breeze_proto::{
    frame,
    id::DeviceId,
    subject,
    trust::Role,
    v1::{PushReply, PushRequest, RevocationSet, RevocationsRequest, SignedDocument},
};
use breeze_relay_core::revocations::Applied;
use bytes::{Bytes, BytesMut};
use prost::Message;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often the whole set is asked for, before jitter.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
/// Between two tries while nobody answers.
const SNAPSHOT_RETRY: Duration = Duration::from_millis(500);
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages of one snapshot.
const MAX_PAGES: usize = 10_000;
/// Documents that are kept since the last snapshot, before one is asked for.
const MAX_KEPT_UPDATES: usize = 10_000;

/// Repeats until the bus takes it, which may be away just now; `None` after `stop`.
async fn until_open<T, F: Future<Output = Result<T, BusError>>>(
    stop: &CancellationToken,
    attempt: impl Fn() -> F,
) -> Option<T> {
    loop {
        match attempt().await {
            Ok(open) => return Some(open),
            Err(error) => tracing::warn!(%error, "the bus does not let the relay listen; it tries again"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(SNAPSHOT_RETRY.mul_f64(rand::random_range(0.75..1.25))) => {}
        }
    }
}

/// Delivers pushed frames until `stop`.
pub(crate) async fn serve_pushes(relay: Arc<Relay>, stop: CancellationToken) -> anyhow::Result<()> {
    let subject = subject::relay_push(&relay.id);
    let Some(mut service) = until_open(&stop, || relay.bus.serve(&subject)).await else { return Ok(()) };
    loop {
        let request = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            request = service.next() => request,
        };
        let Some(Request { payload, reply, .. }) = request else { return Ok(()) };
        let delivered = push(&relay, payload);
        metrics::counter!("breeze_relay_pushes_total", "delivered" => if delivered { "yes" } else { "no" })
            .increment(1);
        reply(Bytes::from(PushReply { delivered }.encode_to_vec()));
    }
}

fn push(relay: &Relay, payload: Bytes) -> bool {
    let Ok(request) = PushRequest::decode(payload) else { return false };
    let (Some(device), Some(frame)) = (DeviceId::from_slice(&request.device_id), request.frame) else { return false };
    relay.find(device, request.session_epoch).is_some_and(|mailbox| mailbox.push(frame))
}

/// Reads the set that was held when the relay last ran.
pub(crate) fn load_revocations(relay: &Relay) {
    let bytes = match std::fs::read(&relay.revocations_path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(%error, path = %relay.revocations_path.display(), "the last revocation set is not read");
            return;
        }
    };
    let mut buffer = BytesMut::from(&bytes[..]);
    while let Ok(Some(document)) = frame::take::<SignedDocument>(&mut buffer, breeze_bus::MAX_PAYLOAD_BYTES) {
        // Its delegation was in force when it came; that it has ended since brings nobody back.
        if apply(relay, &document, 0).is_none() {
            break;
        }
    }
    let revocations = relay.revocations.lock();
    tracing::info!(version = revocations.version(), devices = revocations.len(), "revocation set read");
}

/// Verifies and applies a document; `None` if it is not to be believed.
fn apply(relay: &Relay, document: &SignedDocument, now_unix_s: u64) -> Option<Applied> {
    let set: RevocationSet = match relay.root.load().open(Role::Revocations, document, now_unix_s) {
        Ok(set) => set,
        Err(error) => {
            metrics::counter!("breeze_relay_revocations_refused_total").increment(1);
            tracing::warn!(%error, "a revocation set is not believed");
            return None;
        }
    };
    let revocations = &mut *relay.revocations.lock();
    let applied = revocations.apply(set);
    if revocations.is_known() {
        relay.ready.cancel();
    }
    Some(applied)
}

/// Keeps the set current until `stop`.
pub(crate) async fn follow_revocations(relay: Arc<Relay>, stop: CancellationToken) -> anyhow::Result<()> {
    let Some(mut updates) = until_open(&stop, || relay.bus.subscribe(subject::REVOCATIONS_UPDATE)).await else {
        return Ok(());
    };
    let mut follower = Follower { kept: BytesMut::new(), updates: 0, relay };
    let mut ask_at = tokio::time::Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            received = updates.next() => match received {
                None => return Ok(()),
                Some(Received::Lagged(_)) => ask_at = tokio::time::Instant::now(),
                Some(Received::Message { payload, .. }) => {
                    if !follower.handle_update(payload).await {
                        ask_at = tokio::time::Instant::now();
                    }
                }
            },
            () = tokio::time::sleep_until(ask_at) => {
                let wait = if follower.ask_snapshot().await { SNAPSHOT_EVERY } else { SNAPSHOT_RETRY };
                ask_at = tokio::time::Instant::now() + wait.mul_f64(rand::random_range(0.75..1.25));
            }
        }
    }
}

struct Follower {
    relay: Arc<Relay>,
    /// What is on disk: the last snapshot's pages and the updates since, as frames.
    kept: BytesMut,
    updates: usize,
}

impl Follower {
    /// False if a snapshot is wanted.
    async fn handle_update(&mut self, payload: Bytes) -> bool {
        let Ok(document) = SignedDocument::decode(payload) else { return true };
        match apply(&self.relay, &document, wall_us() / 1_000_000) {
            None | Some(Applied::Old | Applied::Invalid) => true,
            Some(Applied::Gap | Applied::More(_)) => false,
            Some(Applied::Added(devices)) => {
                self.relay.close_revoked(&devices);
                tracing::info!(devices = devices.len(), "revoked");
                self.updates += 1;
                // Nothing is kept before the first snapshot of this run: the file then holds an older one.
                let whole = !self.kept.is_empty() && self.updates <= MAX_KEPT_UPDATES;
                if whole {
                    self.keep(&document);
                    self.persist().await;
                }
                whole
            }
        }
    }

    /// False if nobody answered with a set to be believed.
    async fn ask_snapshot(&mut self) -> bool {
        let mut after = Bytes::new();
        let mut pages = Vec::new();
        while pages.len() < MAX_PAGES {
            let have_version = if self.kept.is_empty() { 0 } else { self.relay.revocations.lock().version() };
            let request = RevocationsRequest { after: after.clone(), have_version };
            let answer = match self.request(&request).await {
                Ok(answer) if answer.is_empty() => return self.relay.revocations.lock().is_known(),
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(%error, "no revocation snapshot");
                    return false;
                }
            };
            let Ok(document) = SignedDocument::decode(answer) else { return false };
            match apply(&self.relay, &document, wall_us() / 1_000_000) {
                Some(Applied::Added(devices)) => {
                    pages.push(document);
                    self.relay.close_revoked(&devices);
                    self.replace(&pages).await;
                    return true;
                }
                Some(Applied::More(next)) => {
                    pages.push(document);
                    after = next.into();
                }
                Some(Applied::Old) => return true,
                None | Some(Applied::Gap | Applied::Invalid) => return false,
            }
        }
        false
    }

    async fn request(&self, request: &RevocationsRequest) -> Result<Bytes, BusError> {
        let payload = Bytes::from(request.encode_to_vec());
        self.relay.bus.request(subject::REVOCATIONS_SNAPSHOT, payload, SNAPSHOT_TIMEOUT).await
    }

    async fn replace(&mut self, pages: &[SignedDocument]) {
        let before = std::mem::take(&mut self.kept);
        self.updates = 0;
        pages.iter().for_each(|page| self.keep(page));
        if self.kept != before {
            self.persist().await;
        }
    }

    fn keep(&mut self, document: &SignedDocument) {
        // It came over the bus, whose payloads are below this.
        let _fits = frame::encode(document, breeze_bus::MAX_PAYLOAD_BYTES, &mut self.kept);
    }

    /// Not on a thread that serves connections: the set may be long, and it is synced.
    async fn persist(&self) {
        let (path, kept) = (self.relay.revocations_path.clone(), self.kept.clone());
        let written = tokio::task::spawn_blocking(move || write_private(&path, &kept)).await;
        if let Err(error) = written.map_err(anyhow::Error::from).flatten() {
            metrics::counter!("breeze_relay_revocations_not_kept_total").increment(1);
            tracing::warn!(error = format!("{error:#}"), "the revocation set is not kept on disk");
        }
    }
}
