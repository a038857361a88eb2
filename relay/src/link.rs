//! The byte streams of a connection, whichever transport carries them.

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt};
use std::{io, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::server::TlsStream;

use crate::websocket::WsStream;

/// TLS of the agent inside a WebSocket.
pub(crate) type Inner = TlsStream<WsStream>;

/// Bytes taken from a stream at once.
const READ_BYTES: usize = 16 * 1024;
/// How long a last frame may take to arrive.
const LAST_WORD: Duration = Duration::from_secs(3);

/// Why a connection ended, as its `Disconnected` entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost(pub(crate) &'static str);

/// Where frames come from.
pub(crate) enum Reader {
    Quic(RecvStream),
    Inner(ReadHalf<Inner>),
}

impl Reader {
    /// Appends what has arrived to `buffer`. Loses nothing when dropped.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> Result<(), Lost> {
        match self {
            Self::Quic(stream) => match next_chunk(stream).await? {
                Some(bytes) => buffer.extend_from_slice(&bytes),
                None => return Err(Lost("error")),
            },
            Self::Inner(stream) => {
                buffer.reserve(2_048);
                if stream.read_buf(buffer).await.map_err(|error| lost_io(&error))? == 0 {
                    return Err(Lost("error"));
                }
            }
        }
        Ok(())
    }
}

/// The next bytes of a QUIC stream without a buffer of their own; `None` at its end.
pub(crate) async fn next_chunk(stream: &mut RecvStream) -> Result<Option<Bytes>, Lost> {
    match stream.read_chunk(READ_BYTES, true).await {
        Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
        Err(ReadError::ConnectionLost(error)) => Err(lost_quic(&error)),
        Err(
            ReadError::Reset(_) | ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected,
        ) => Err(Lost("error")),
    }
}

pub(crate) fn lost_quic(error: &ConnectionError) -> Lost {
    Lost(if matches!(error, ConnectionError::TimedOut) { "timeout" } else { "error" })
}

fn lost_io(error: &io::Error) -> Lost {
    Lost(if error.kind() == io::ErrorKind::TimedOut { "timeout" } else { "error" })
}

/// Where frames go.
pub(crate) enum Writer {
    Quic(SendStream),
    Inner(WriteHalf<Inner>),
}

impl Writer {
    /// Sends from the front of `buffer`; with an empty one, flushes. Loses nothing when dropped.
    pub(crate) async fn write(&mut self, buffer: &mut BytesMut) -> Result<(), Lost> {
        match self {
            Self::Quic(stream) => stream.write_buf(buffer).await.map_err(|_| Lost("error"))?,
            Self::Inner(stream) if buffer.is_empty() => {
                stream.flush().await.map_err(|error| lost_io(&error))?;
                0
            }
            Self::Inner(stream) => stream.write_buf(buffer).await.map_err(|error| lost_io(&error))?,
        };
        Ok(())
    }

    /// Whether written bytes still need [`Self::write`] with an empty buffer.
    pub(crate) fn needs_flush(&self) -> bool {
        matches!(self, Self::Inner(_))
    }

    /// Sends what is left, lets it arrive, and closes; bounded in time.
    pub(crate) async fn finish(mut self, mut buffer: BytesMut, quic: Option<&Connection>, code: u32) {
        let _in_time = tokio::time::timeout(LAST_WORD, async {
            while !buffer.is_empty() {
                self.write(&mut buffer).await?;
            }
            match &mut self {
                Self::Quic(stream) => {
                    // Closing at once would overtake the frame: wait until the peer has it.
                    if stream.finish().is_ok() {
                        let _acknowledged = stream.stopped().await;
                    }
                }
                Self::Inner(stream) => stream.shutdown().await.map_err(|error| lost_io(&error))?,
            }
            Ok::<(), Lost>(())
        })
        .await;
        if let Some(connection) = quic {
            connection.close(VarInt::from_u32(code), b"");
        }
    }
}
