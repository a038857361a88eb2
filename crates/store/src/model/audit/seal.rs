//! An entry in its place: number, time and MAC. The MAC is over the bytes of the entry as they are stored,
//! so that nothing hangs on how they would be written again.

use super::{Chain, Entry, hex};
use crate::model::{error::ModelError, record};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Sha256;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub sequence: u64,
    /// When it was put in its place; never less than its predecessor's.
    pub sealed_ms: u64,
    /// Over the chain, the MAC before, number, time and entry; hex.
    pub mac: String,
    pub entry: Entry,
    /// The entry as the MAC is over it.
    raw: Bytes,
}

#[derive(Deserialize)]
struct Stored<'a> {
    sequence: u64,
    sealed_ms: u64,
    mac: String,
    #[serde(borrow)]
    entry: &'a RawValue,
}

fn borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ModelError> {
    serde_json::from_slice(bytes).map_err(|error| ModelError::Corrupt(error.to_string()))
}

/// The key of the MACs.
#[derive(Clone)]
pub(super) struct Key(pub(super) [u8; 32]);

impl Key {
    /// Hex of the MAC over `parts`, each with its length, for one purpose.
    pub(super) fn mac(&self, purpose: &str, parts: &[&[u8]]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length is a key");
        mac.update(b"breeze/v2/audit/");
        for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        hex(&mac.finalize().into_bytes())
    }
}

impl Sealed {
    pub(super) fn new(key: &Key, chain: Chain, before: &str, sequence: u64, sealed_ms: u64, entry: Entry) -> Self {
        let raw = entry.encode();
        let mac = mac(key, chain, before, sequence, sealed_ms, &raw);
        Self { sequence, sealed_ms, mac, entry, raw }
    }

    /// Whether it is the successor of the entry with the MAC `before`, belongs to the chain, and is as it
    /// was sealed.
    pub(super) fn holds(&self, key: &Key, chain: Chain, before: &str) -> bool {
        self.entry.chain() == chain && self.mac == mac(key, chain, before, self.sequence, self.sealed_ms, &self.raw)
    }

    /// As a row, and as a line of an archive.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self { sequence, sealed_ms, mac, entry: _, raw } = self;
        let head = format!(r#"{{"sequence":{sequence},"sealed_ms":{sealed_ms},"mac":"{mac}","entry":"#);
        [head.as_bytes(), raw, b"}"].concat().into()
    }

    /// What [`Sealed::encode`] wrote.
    ///
    /// # Errors
    /// [`ModelError::Corrupt`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ModelError> {
        let Stored { sequence, sealed_ms, mac, entry } = borrowed(bytes)?;
        let raw = Bytes::copy_from_slice(entry.get().as_bytes());
        Ok(Self { sequence, sealed_ms, mac, entry: record::decode(&raw)?, raw })
    }
}

fn mac(key: &Key, chain: Chain, before: &str, sequence: u64, sealed_ms: u64, raw: &[u8]) -> String {
    let (sequence, sealed_ms) = (sequence.to_be_bytes(), sealed_ms.to_be_bytes());
    key.mac("entry", &[chain.to_string().as_bytes(), before.as_bytes(), &sequence, &sealed_ms, raw])
}

/// A batch as a chain's head holds it: the newest entries whole, and the MAC of the one before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) before: String,
    /// Not empty.
    pub(super) entries: Vec<Sealed>,
}

#[derive(Deserialize)]
struct StoredBatch<'a> {
    before: String,
    #[serde(borrow)]
    entries: Vec<&'a RawValue>,
}

impl Batch {
    pub(super) fn last(&self) -> &Sealed {
        self.entries.last().expect("a batch is not empty")
    }

    pub(super) fn holds(&self, key: &Key, chain: Chain) -> bool {
        let mut before = self.before.as_str();
        let mut sequence = self.entries.first().map_or(0, |first| first.sequence);
        self.entries.iter().all(|sealed| {
            let holds = sealed.sequence == sequence && sealed.holds(key, chain, before);
            before = &sealed.mac;
            sequence += 1;
            holds
        })
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = format!(r#"{{"before":"{}","entries":["#, self.before).into_bytes();
        for (n, sealed) in self.entries.iter().enumerate() {
            if n > 0 {
                bytes.push(b',');
            }
            bytes.extend_from_slice(&sealed.encode());
        }
        bytes.extend_from_slice(b"]}");
        bytes.into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ModelError> {
        let StoredBatch { before, entries } = borrowed(bytes)?;
        let entries =
            entries.into_iter().map(|raw| Sealed::decode(raw.get().as_bytes())).collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() {
            return Err(ModelError::Corrupt("the head of an audit chain is empty".into()));
        }
        Ok(Self { before, entries })
    }
}
