//! Frames: a body length as four bytes, big endian, then that many bytes of one protobuf message.
//!
//! The decoder is incremental and bounded: a length above the limit is an error before anything is
//! reserved for it, and after an error the connection has to be closed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Bytes before each body.
pub const PREFIX_BYTES: usize = 4;

/// Why a byte stream cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced body is above the limit.
    #[error("frame of {len} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Announced length in bytes.
        len: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The body is not the expected message.
    #[error("frame is not a valid message: {0}")]
    Malformed(String),
}

/// Appends `message` as one frame.
///
/// # Errors
/// [`FrameError::TooLarge`] if it is above `limit`; `out` is unchanged then.
pub fn encode<M: Message>(message: &M, limit: usize, out: &mut BytesMut) -> Result<(), FrameError> {
    let len = message.encoded_len();
    if len > limit {
        return Err(FrameError::TooLarge { len, limit });
    }
    out.reserve(PREFIX_BYTES + len);
    out.put_u32(len as u32);
    message.encode(out).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// Takes the next frame's body off the front of `buffer`; `None` until it is complete.
///
/// # Errors
/// [`FrameError::TooLarge`] as soon as the prefix announces more than `limit`.
pub fn take_body(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*prefix) as usize;
    if len > limit {
        return Err(FrameError::TooLarge { len, limit });
    }
    if buffer.len() < PREFIX_BYTES + len {
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// Takes and decodes the next frame; `None` until it is complete.
///
/// # Errors
/// As [`take_body`], and [`FrameError::Malformed`] for a body that does not decode.
pub fn take<M: Message + Default>(buffer: &mut BytesMut, limit: usize) -> Result<Option<M>, FrameError> {
    take_body(buffer, limit)?
        .map(|body| M::decode(body).map_err(|error| FrameError::Malformed(error.to_string())))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::MAX_FRAME_BYTES, v1};
    use proptest::prelude::*;

    fn ping(token: u64) -> v1::AgentFrame {
        v1::AgentFrame { body: Some(v1::agent_frame::Body::Ping(v1::Ping { token })) }
    }

    proptest! {
        #[test]
        fn any_split_of_the_stream_gives_the_same_frames(tokens in prop::collection::vec(any::<u64>(), 0..20), step in 1usize..40) {
            let mut stream = BytesMut::new();
            for token in &tokens {
                encode(&ping(*token), MAX_FRAME_BYTES, &mut stream).expect("small");
            }
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for piece in stream.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = take::<v1::AgentFrame>(&mut buffer, MAX_FRAME_BYTES).expect("valid") {
                    seen.push(frame);
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(seen, tokens.into_iter().map(ping).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = take::<v1::AgentFrame>(&mut buffer, 512) {}
        }
    }

    #[test]
    fn an_oversized_length_is_refused_from_the_prefix_alone() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(take_body(&mut buffer, 1024), Err(FrameError::TooLarge { limit: 1024, .. })));
    }

    #[test]
    fn an_oversized_message_leaves_the_output_alone() {
        let mut out = BytesMut::new();
        assert!(encode(&ping(u64::MAX), 3, &mut out).is_err());
        assert!(out.is_empty());
    }
}
