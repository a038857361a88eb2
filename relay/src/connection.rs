//! One connection: a single task around [`Session`], whichever transport carries it.
//!
//! A turn of the loop first works off what has arrived, then waits for, in this order: the end of the
//! relay, the mailbox (acknowledgements, pushes, verdicts), room to write, answers of other roles, room
//! in the lane, transfers, more bytes, a deadline. Nothing is read while the lane or the peer does not
//! keep up.

mod questions;

use crate::{
    lanes::Lane,
    link::{Lost, Reader, Writer, lost_quic, next_chunk},
    mailbox::{Mailbox, Verdict},
    relay::Relay,
};
use breeze_proto::{
    frame,
    limits::{MAX_CHUNK_BYTES, MAX_FRAME_BYTES},
    v1::{AgentFrame, CloseReason, DocumentsReply, HeldReply, RelayFrame, RenewReply, relay_frame},
};
use breeze_relay_core::{
    acks::Stored,
    registry::Claim,
    session::{Command, Commands, Entries, Peer, Reading, Session},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use quinn::RecvStream;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// Bytes that wait to be sent, above which nothing more is taken on.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;
/// Frames worked off in one turn.
const FRAMES_PER_TURN: usize = 16;
/// Largest frame on a transfer stream: one chunk and its envelope.
const MAX_BULK_FRAME_BYTES: usize = MAX_CHUNK_BYTES + 1024;
/// Transfer streams read at a time.
const MAX_BULK_STREAMS: usize = 4;
/// How long the last entries of a connection wait for room in their lane.
const LAST_ENTRIES: Duration = Duration::from_secs(10);

/// Streams of a connection whose handshake is over.
pub(crate) struct Streams {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) quic: Option<quinn::Connection>,
}

/// What finished beside the loop.
enum Done {
    Held(Option<HeldReply>),
    Documents(Option<DocumentsReply>),
    Challenge(Option<Bytes>),
    Renewed(Option<RenewReply>),
    Bulk(Box<BulkStream>, Result<bool, Lost>),
}

struct BulkStream {
    stream: RecvStream,
    buffer: BytesMut,
}

struct Connection {
    relay: Arc<Relay>,
    lane: Arc<Lane>,
    mailbox: Arc<Mailbox>,
    session: Session,
    input: BytesMut,
    output: BytesMut,
    flush: bool,
    /// Entries that the lane has not taken yet.
    pending: Entries,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    bulk_streams: usize,
    /// Epoch and whether standby, from registration to the end.
    registered: Option<(u64, bool)>,
    /// Set when the loop is to end: the close code.
    ending: Option<u32>,
    draining: bool,
}

/// Runs a connection to its end.
pub(crate) async fn run(relay: Arc<Relay>, peer: Peer, streams: Streams) {
    let Streams { mut reader, mut writer, quic } = streams;
    let count = relay.stats.connections(peer.transport);
    count.fetch_add(1, Relaxed);
    let mut connection = Connection {
        lane: relay.lane_of(peer.device, "").clone(),
        mailbox: Arc::default(),
        session: Session::new(peer, relay.uploads.clone(), relay.now()),
        input: BytesMut::new(),
        output: BytesMut::new(),
        flush: false,
        pending: Entries::new(),
        jobs: FuturesUnordered::new(),
        bulk_streams: 0,
        registered: None,
        ending: None,
        draining: false,
        relay,
    };
    loop {
        connection.work(quic.as_ref());
        if let Some(code) = connection.ending {
            let output = std::mem::take(&mut connection.output);
            // Its end is on record while the last word still travels.
            tokio::join!(writer.finish(output, quic.as_ref(), code), connection.finish(None));
            return;
        }
        if let Err(lost) = connection.turn(&mut reader, &mut writer, quic.as_ref()).await {
            return connection.finish(Some(lost)).await;
        }
    }
}

impl Connection {
    /// Works off what has arrived; waits for nothing.
    fn work(&mut self, quic: Option<&quinn::Connection>) {
        for _ in 0..FRAMES_PER_TURN {
            let now = self.relay.now();
            let may = self.ending.is_none() && self.pending.is_empty() && self.output.len() < MAX_OUTPUT_BYTES;
            if !may || self.session.reading(now) != Reading::Now {
                break;
            }
            let before = self.input.len();
            let commands = match frame::take::<AgentFrame>(&mut self.input, self.session.frame_limit()) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    self.relay.stats.count_frame();
                    let round_trip = quic.map_or(0, |quic| u32::try_from(quic.rtt().as_micros()).unwrap_or(u32::MAX));
                    self.session.handle_frame(frame, before - self.input.len(), round_trip, now)
                }
                Err(error) => self.session.handle_frame_error(&error),
            };
            self.execute(commands);
            self.lane.offer(&mut self.pending, &self.mailbox, &self.relay);
        }
        if self.input.is_empty() {
            // An idle connection holds no buffer.
            self.input = BytesMut::new();
        }
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// Waits for one thing and takes it.
    async fn turn(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
        quic: Option<&quinn::Connection>,
    ) -> Result<(), Lost> {
        let relay = self.relay.clone();
        let now = relay.now();
        let writable = self.output.len() < MAX_OUTPUT_BYTES;
        let reading = if writable && self.pending.is_empty() { self.session.reading(now) } else { Reading::Not };
        // A whole frame that waits is worked off in the next turn, before more is read.
        let more = reading == Reading::Now && self.has_frame();
        let resume = if let Reading::At(at) = reading { at } else { u64::MAX };
        let deadline = self.session.poll_timeout().min(resume);
        let had_output = !self.output.is_empty();
        let registered = self.registered.is_some();
        tokio::select! {
            biased;
            () = relay.abandon.cancelled() => return Err(Lost("drained")),
            () = relay.drain.cancelled(), if !self.draining => {
                self.draining = true;
                let spread = relay.limits.drain_spread_ms;
                let retry = if spread == 0 { 0 } else { rand::random_range(0..spread) };
                let commands = self.session.handle_drain(retry);
                self.execute(commands);
            }
            () = self.mailbox.arrived(), if writable => self.take_mail(),
            written = writer.write(&mut self.output), if self.flush || had_output => {
                written?;
                self.flush = had_output && writer.needs_flush();
            }
            Some(done) = self.jobs.next(), if writable && !self.jobs.is_empty() => self.take_done(done),
            () = self.lane.offer_when_room(&mut self.pending, &self.mailbox, &relay), if !self.pending.is_empty() => {}
            stream = accept_bulk(quic), if registered && self.bulk_streams < MAX_BULK_STREAMS => {
                self.bulk_streams += 1;
                self.read_bulk(Box::new(BulkStream { stream: stream?, buffer: BytesMut::new() }));
            }
            read = reader.read(&mut self.input), if reading == Reading::Now && !more => read?,
            lost = closed(quic), if reading != Reading::Now => return Err(lost),
            () = tokio::task::yield_now(), if more => {}
            () = tokio::time::sleep_until(relay.instant(deadline)) => {
                if reading == Reading::Not {
                    self.session.handle_not_reading(relay.now());
                }
                let commands = self.session.handle_timeout(relay.now());
                self.execute(commands);
            }
        }
        if reading == Reading::Not {
            self.session.handle_not_reading(relay.now());
        }
        Ok(())
    }

    fn has_frame(&self) -> bool {
        let Some(prefix) = self.input.first_chunk::<{ frame::PREFIX_BYTES }>() else { return false };
        let len = u32::from_be_bytes(*prefix) as usize;
        // One that is too long is a frame too: an error to be found.
        len > self.session.frame_limit() || self.input.len() >= frame::PREFIX_BYTES + len
    }

    fn take_mail(&mut self) {
        let mut mail = self.mailbox.take();
        if !mail.acks.is_empty() {
            let commands = self.session.handle_stored(&mut mail.acks);
            self.execute(commands);
        }
        for push in mail.pushes {
            let commands = self.session.handle_push(push);
            self.execute(commands);
        }
        let commands = match mail.verdict {
            None => return,
            Some(Verdict::Replaced { by_other_installation }) => self.session.handle_replaced(by_other_installation),
            Some(Verdict::Revoked(notice)) => self.session.handle_revoked(notice.map(|notice| *notice)),
            Some(Verdict::Lost) => self.session.handle_lost(),
        };
        self.execute(commands);
    }

    fn take_done(&mut self, done: Done) {
        let commands = match done {
            Done::Held(reply) => self.session.handle_held(reply),
            Done::Documents(Some(reply)) => self.session.handle_documents(reply),
            Done::Documents(None) => vec![Command::Count("documents_unanswered", 1)],
            Done::Challenge(challenge) => self.session.handle_challenge(challenge),
            Done::Renewed(reply) => self.session.handle_renewed(reply),
            Done::Bulk(bulk, Ok(true)) => return self.take_bulk(bulk),
            Done::Bulk(_, Ok(false) | Err(_)) => {
                self.bulk_streams -= 1;
                return;
            }
        };
        self.execute(commands);
    }

    /// Works off a transfer stream's frames, then reads on unless the lane does not keep up.
    fn take_bulk(&mut self, mut bulk: Box<BulkStream>) {
        while self.ending.is_none() {
            let before = bulk.buffer.len();
            let commands = match frame::take::<AgentFrame>(&mut bulk.buffer, MAX_BULK_FRAME_BYTES) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    self.relay.stats.count_frame();
                    self.session.handle_bulk_frame(frame, before - bulk.buffer.len(), self.relay.now())
                }
                // It ends the connection: what is refused stays in the buffer, to be refused for ever.
                Err(error) => self.session.handle_frame_error(&error),
            };
            self.execute(commands);
        }
        self.lane.offer(&mut self.pending, &self.mailbox, &self.relay);
        self.read_bulk(bulk);
    }

    fn read_bulk(&mut self, mut bulk: Box<BulkStream>) {
        let relay = self.relay.clone();
        // What was read is paid for before more is.
        let wait = match self.session.reading(relay.now()) {
            Reading::Now if self.pending.is_empty() => None,
            Reading::At(at) => Some(at),
            Reading::Now | Reading::Not => Some(relay.now().mono_us + 100_000),
        };
        self.jobs.push(Box::pin(async move {
            if let Some(at) = wait {
                tokio::time::sleep_until(relay.instant(at)).await;
            }
            let read = next_chunk(&mut bulk.stream).await.map(|bytes| match bytes {
                Some(bytes) => {
                    bulk.buffer.extend_from_slice(&bytes);
                    true
                }
                None => false,
            });
            Done::Bulk(bulk, read)
        }));
    }

    fn execute(&mut self, commands: Commands) {
        for command in commands {
            match command {
                Command::Send(body) => self.send(body),
                Command::Register(claim) => self.register(claim),
                Command::CheckRenewal => {
                    let commands = match self.relay.revocation(self.session.peer().device) {
                        Some(notice) => self.session.handle_revoked(notice),
                        None => self.session.handle_renewal_allowed(self.relay.now()),
                    };
                    self.execute(commands);
                }
                Command::Append(entries) => self.pending.extend(entries),
                Command::AskHeld(request) => self.jobs.push(questions::held(&self.relay, &self.lane, &request)),
                Command::AskDocuments(request) => self.jobs.push(questions::documents(&self.relay, &request)),
                Command::AskChallenge => {
                    let device = self.session.peer().device;
                    self.jobs.push(questions::challenge(&self.relay, device));
                }
                Command::AskRenewal(proof) => {
                    let device = self.session.peer().device;
                    self.jobs.push(questions::renewal(&self.relay, device, *proof));
                }
                Command::Close(close) => {
                    metrics::counter!("breeze_relay_closes_total", "reason" => close.reason().as_str_name())
                        .increment(1);
                    self.ending.get_or_insert(close.reason.unsigned_abs());
                    self.send(relay_frame::Body::Close(*close));
                }
                Command::End => {
                    self.ending.get_or_insert(CloseReason::Unspecified as u32);
                }
                Command::Count(reason, count) => self.relay.stats.count_refused(reason, count),
            }
        }
    }

    fn send(&mut self, body: relay_frame::Body) {
        let frame = RelayFrame { body: Some(body) };
        if let Err(error) = frame::encode(&frame, MAX_FRAME_BYTES, &mut self.output) {
            tracing::debug!(device.id = %self.session.peer().device, %error, "a frame for the agent is not sent");
            self.relay.stats.count_refused("push_oversized", 1);
        }
    }

    /// Says which lane takes what the connection sends, registers first and asks for revocations then: one that comes in between finds the connection.
    fn register(&mut self, claim: Claim) {
        self.lane = self.relay.lane_of(claim.device, self.session.home_region()).clone();
        let commands = match self.relay.register(claim, self.mailbox.clone()) {
            None => self.session.handle_stale(),
            Some(epoch) => match self.relay.revocation(claim.device) {
                Some(notice) => {
                    self.relay.unregister(claim.device, claim.standby, epoch);
                    self.session.handle_revoked(notice)
                }
                None => {
                    self.registered = Some((epoch, claim.standby));
                    self.session.handle_registered(epoch, self.relay.now())
                }
            },
        };
        self.execute(commands);
    }

    /// The last entries of the connection, and its end in the registry.
    async fn finish(mut self, lost: Option<Lost>) {
        self.relay.stats.connections(self.session.peer().transport).fetch_sub(1, Relaxed);
        let Some((epoch, standby)) = self.registered else { return };
        self.relay.unregister(self.session.peer().device, standby, epoch);
        let last = self.session.handle_disconnected(epoch, lost.map(|lost| lost.0), self.relay.now());
        self.pending.push_back((last, Stored::Nothing));
        let _in_time = tokio::time::timeout(LAST_ENTRIES, async {
            while !self.pending.is_empty() {
                self.lane.offer_when_room(&mut self.pending, &self.mailbox, &self.relay).await;
            }
        })
        .await;
        if !self.pending.is_empty() {
            // Presence then ends by its timer, and the agent sends again what was not acknowledged.
            self.relay.stats.count_refused("end_not_stored", 1);
        }
    }
}

async fn accept_bulk(quic: Option<&quinn::Connection>) -> Result<RecvStream, Lost> {
    match quic {
        Some(quic) => quic.accept_uni().await.map_err(|error| lost_quic(&error)),
        None => std::future::pending().await,
    }
}

async fn closed(quic: Option<&quinn::Connection>) -> Lost {
    match quic {
        Some(quic) => lost_quic(&quic.closed().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Every idle connection holds one of these.
    #[test]
    fn a_connection_is_small() {
        let (task, state) = (future_bytes(run), size_of::<Connection>());
        assert!(task <= 3_072 && state <= 640, "task {task}, state {state}, session {}", size_of::<Session>());
    }
}
