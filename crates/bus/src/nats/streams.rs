//! Durable streams on JetStream. Nothing is kept on the server for a reader: a read is a batched direct
//! get from the reader's cursor. A reader that waits listens to what the server republishes of every
//! stored entry; that is a hint alone, and a lost one costs [`POLL`] at most.

use super::{
    connection::{AbortOnDrop, Connection},
    place::{Place, STORED_PREFIX},
    wire::{self, DirectGet, PubAck, PurgeRequest, Purged, StreamInfo},
};
use crate::{BusError, Entry, Extent, Position};
use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};

/// How long an append may take until the server has it on disk, on all replicas.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long JetStream may take to answer anything else, and between two entries of a read.
const API_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a hint may be missing before a waiting reader looks for itself.
const POLL: Duration = Duration::from_millis(500);
/// Between the first two looks for an entry that is known to be stored but not yet on the replica that
/// answers; doubled each time up to the last.
const BEHIND: Duration = Duration::from_millis(5);
const BEHIND_LAST: Duration = Duration::from_millis(100);
/// How long such an entry is looked for when a read would otherwise be empty.
const BEHIND_LIMIT: Duration = Duration::from_secs(2);
/// KiB of appends under way at a time; further ones wait.
const WINDOW_KIB: usize = 32 * 1024;
/// Entries of one read. With the next it keeps what one read makes the server queue well below its
/// `max_pending` (64 MiB), beyond which it would cut the connection off as too slow.
const MAX_READ_ENTRIES: usize = 1024;
/// Bytes of one read, whatever was asked for.
const MAX_READ_BYTES: usize = 4 * 1024 * 1024;
/// Status behind the last entry of a batch.
const END_OF_BATCH: u16 = 204;
/// Bytes of a payload's SHA-256 in its id.
const MESSAGE_HASH_BYTES: usize = 16;
/// Streams that one process reads or writes.
const MAX_STREAMS: usize = 4096;

pub(crate) struct Streams {
    connection: Arc<Connection>,
    domain: String,
    window: Semaphore,
    known: Mutex<HashMap<String, Arc<Known>>>,
}

/// What this process knows of a stream.
#[derive(Default)]
struct Known {
    /// The newest position that it has heard of; of a stream that was made anew, too high until the
    /// next look at its extent.
    last: AtomicU64,
    /// `last` has risen.
    stored: Notify,
    /// Hears what the server republishes, from the first read that waits.
    listener: tokio::sync::Mutex<Option<AbortOnDrop>>,
}

impl Known {
    fn hear(&self, position: Position) {
        if self.last.fetch_max(position, SeqCst) < position {
            self.stored.notify_waiters();
        }
    }

    /// What the stream's leader said, asked when `last` was `before`. It may be less than what was
    /// heard: then the stream was made anew. What was heard since the question counts.
    fn learn(&self, before: Position, last: Position) {
        if last >= before {
            self.hear(last);
        } else {
            let _heard_since = self.last.compare_exchange(before, last, SeqCst, SeqCst);
        }
    }
}

impl Streams {
    pub(crate) fn new(connection: Arc<Connection>, domain: String) -> Self {
        Self { connection, domain, window: Semaphore::new(WINDOW_KIB), known: Mutex::default() }
    }

    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    fn known(&self, stream: &str) -> Result<Arc<Known>, BusError> {
        let mut known = self.known.lock();
        if let Some(found) = known.get(stream) {
            return Ok(found.clone());
        }
        if known.len() >= MAX_STREAMS {
            return Err(BusError::Invalid(format!("this process already uses {MAX_STREAMS} streams")));
        }
        Ok(known.entry(stream.to_owned()).or_default().clone())
    }

    pub(crate) async fn append(&self, stream: &str, id: &str, payload: Bytes) -> Result<Position, BusError> {
        if id.len() > 256 || id.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(BusError::Invalid("an entry's id is at most 256 printable bytes".to_owned()));
        }
        let place = Place::of(stream, &self.domain)?;
        let known = self.known(stream)?;
        let kib = u32::try_from(payload.len() / 1024 + 1).unwrap_or(u32::MAX);
        let _room = self.window.acquire_many(kib).await.map_err(|_| crate::hub::closed())?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", place.name.as_str());
        if !id.is_empty() {
            headers.insert("Nats-Msg-Id", message_id(id, &payload));
        }
        let mut expected = self.connection.ask(&place.subject, Some(headers), payload).await?;
        let answer = match timeout(APPEND_TIMEOUT, expected.next()).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(BusError::Unavailable(format!(
                    "{} did not confirm an entry within {APPEND_TIMEOUT:?}",
                    place.shown()
                )));
            }
        };
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(wire::no_responder(&place));
        }
        let ack: PubAck = parse(&answer, &place)?;
        if let Some(error) = ack.error {
            return Err(error.into_bus_error(&place));
        }
        if ack.stream != place.name || ack.seq == 0 {
            return Err(BusError::Corrupt(format!("{}: confirmed by {:?} at {}", place.shown(), ack.stream, ack.seq)));
        }
        known.hear(ack.seq);
        Ok(ack.seq)
    }

    pub(crate) async fn read(
        &self,
        stream: &str,
        from: Position,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        let place = Place::of(stream, &self.domain)?;
        let known = self.known(stream)?;
        let from = from.max(1);
        let began = Instant::now();
        if !wait.is_zero() {
            self.listen(&place, &known).await?;
        }
        let mut nothing_through = from - 1;
        let mut behind = BEHIND;
        loop {
            let stored = known.stored.notified();
            tokio::pin!(stored);
            stored.as_mut().enable();
            let entries = self.get(&place, from, max_bytes).await?;
            if let Some(last) = entries.last() {
                known.hear(last.position);
                return Ok(entries);
            }
            if known.last.load(SeqCst) > nothing_through {
                // All of it was trimmed, or the stream was made anew and has not come so far, or the replica
                // that answered is behind.
                let extent = self.extent(stream).await?;
                if extent.first > extent.last || extent.last < from {
                    nothing_through = nothing_through.max(extent.last);
                } else if began.elapsed() < wait.max(BEHIND_LIMIT) {
                    tokio::time::sleep(behind).await;
                    behind = (behind * 2).min(BEHIND_LAST);
                    continue;
                }
            }
            let left = wait.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(Vec::new());
            }
            let _poll = timeout(left.min(POLL), stored).await;
        }
    }

    /// One batched direct get: what is there now, up to the first gap. Positions that are missing at the
    /// beginning are passed over, so the next read goes on behind the gap, and the reader sees it.
    async fn get(&self, place: &Place, from: Position, max_bytes: usize) -> Result<Vec<Entry>, BusError> {
        // Headers count for the server, so it may send less; the first entry it sends whatever its size.
        let max_bytes = max_bytes.min(MAX_READ_BYTES);
        let request = DirectGet { seq: from, batch: MAX_READ_ENTRIES, max_bytes: Some(max_bytes.max(1)) };
        let subject = format!("{}.DIRECT.GET.{}", place.api, place.name);
        let mut expected = self.connection.ask(&subject, None, encode(&request)?).await?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        loop {
            let message = match timeout(API_TIMEOUT, expected.next()).await {
                Ok(message) => message?,
                Err(_) => return Err(BusError::Unavailable(format!("{} does not answer a read", place.shown()))),
            };
            match message.status {
                None | Some(StatusCode::OK) => {}
                Some(StatusCode::NOT_FOUND) => return Ok(entries),
                Some(status) if status.as_u16() == END_OF_BATCH => return Ok(entries),
                Some(StatusCode::NO_RESPONDERS) => return Err(wire::no_responder(place)),
                Some(status) => {
                    let said = message.description.unwrap_or_default();
                    return Err(BusError::Unavailable(format!("{}: {status} {said}", place.shown())));
                }
            }
            let sequence = message.headers.as_ref().and_then(|headers| headers.get("Nats-Sequence"));
            let position = sequence.and_then(|value| value.as_str().parse::<Position>().ok());
            let Some(position) = position else {
                return Err(BusError::Corrupt(format!("{}: an entry without position", place.shown())));
            };
            let next = entries.last().map_or(from, |last: &Entry| last.position + 1);
            if position < next {
                return Err(BusError::Corrupt(format!("{}: position {position} follows {}", place.shown(), next - 1)));
            }
            if position > next && !entries.is_empty() {
                metrics::counter!("breeze_bus_gaps_total").increment(1);
                return Ok(entries);
            }
            bytes += message.payload.len();
            if !entries.is_empty() && bytes > max_bytes {
                return Ok(entries);
            }
            entries.push(Entry { position, payload: message.payload });
        }
    }

    /// Makes sure that this process hears of what the stream stores.
    async fn listen(&self, place: &Place, known: &Arc<Known>) -> Result<(), BusError> {
        let mut listener = known.listener.lock().await;
        if listener.as_ref().is_some_and(|task| !task.0.is_finished()) {
            return Ok(());
        }
        let subject = format!("{STORED_PREFIX}.{}", place.subject);
        let client = self.connection.client();
        let mut messages = client.subscribe(subject).await.map_err(|error| BusError::Unavailable(error.to_string()))?;
        let known = known.clone();
        *listener = Some(AbortOnDrop(tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let sequence = message.headers.as_ref().and_then(|headers| headers.get("Nats-Sequence"));
                if let Some(position) = sequence.and_then(|value| value.as_str().parse().ok()) {
                    known.hear(position);
                }
            }
        })));
        Ok(())
    }

    pub(crate) async fn trim(&self, stream: &str, before: Position) -> Result<(), BusError> {
        let place = Place::of(stream, &self.domain)?;
        if before <= 1 {
            return Ok(());
        }
        // JetStream would move the end of the stream, too, so nobody may trim beyond what there is. What was
        // read or appended does not tell it: the stream may have been made anew since. Asking costs less than
        // the purge, which it often saves.
        let extent = self.extent(stream).await?;
        let request = PurgeRequest { seq: before.min(extent.last + 1) };
        if request.seq <= extent.first {
            return Ok(());
        }
        let purged: Purged = self.api(&place, "STREAM.PURGE", encode(&request)?).await?;
        purged.error.map_or(Ok(()), |error| Err(error.into_bus_error(&place)))
    }

    pub(crate) async fn extent(&self, stream: &str) -> Result<Extent, BusError> {
        let place = Place::of(stream, &self.domain)?;
        let known = self.known(stream)?;
        let before = known.last.load(SeqCst);
        let extent = self.info(&place).await?.extent();
        known.learn(before, extent.last);
        Ok(extent)
    }

    pub(crate) async fn info(&self, place: &Place) -> Result<StreamInfo, BusError> {
        let info: StreamInfo = self.api(place, "STREAM.INFO", Bytes::new()).await?;
        match info.error {
            Some(error) => Err(error.into_bus_error(place)),
            None => Ok(info),
        }
    }

    async fn api<T: DeserializeOwned>(&self, place: &Place, verb: &str, payload: Bytes) -> Result<T, BusError> {
        api(&self.connection, place, verb, payload).await
    }
}

/// What the server recognises a repeated entry by. Ids can be guessed, and whoever may write to a stream could
/// use one first; with the payload's hash in it, an entry that the server has already is this very one.
fn message_id(id: &str, payload: &[u8]) -> String {
    use std::fmt::Write as _;
    let hash = Sha256::digest(payload);
    let mut text = format!("{id}:");
    for byte in &hash[..MESSAGE_HASH_BYTES] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Asks JetStream's interface for something of a stream.
pub(crate) async fn api<T: DeserializeOwned>(
    connection: &Connection,
    place: &Place,
    verb: &str,
    payload: Bytes,
) -> Result<T, BusError> {
    let subject = format!("{}.{verb}.{}", place.api, place.name);
    let mut expected = connection.ask(&subject, None, payload).await?;
    match timeout(API_TIMEOUT, expected.next()).await {
        Ok(Ok(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => Err(wire::no_responder(place)),
        Ok(Ok(message)) => parse(&message, place),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(BusError::Unavailable(format!("{} does not answer {verb}", place.shown()))),
    }
}

pub(crate) fn encode(request: &impl Serialize) -> Result<Bytes, BusError> {
    serde_json::to_vec(request).map(Bytes::from).map_err(|error| BusError::Invalid(error.to_string()))
}

fn parse<T: DeserializeOwned>(message: &Message, place: &Place) -> Result<T, BusError> {
    serde_json::from_slice(&message.payload)
        .map_err(|error| BusError::Corrupt(format!("{}: an answer that is not understood: {error}", place.shown())))
}
