//! Keys that outlive the process. Without them a restarted relay could not reset its agents' old
//! connections (they would wait for their idle timeout), would not know its own connection ids and
//! retry tokens, and every agent would pay for a full handshake at once.
//!
//! One 32-byte master key, from which the others derive, and the rotating ticket keys. Both are files
//! of mode 0600 in the relay's folder, replaced atomically.

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use ring::{aead, digest, hkdf, hmac};
use rustls::server::ProducesTickets;
use rustls_pki_types::CertificateDer;
use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

use crate::relay::wall_us;

const KEY_BYTES: usize = 32;
/// A ticket key encrypts for so long, and decrypts for twice that.
const TICKET_ROTATION: Duration = Duration::from_secs(12 * 3_600);
/// What a client is told; after it the ticket's key may be gone.
const TICKET_LIFETIME: Duration = TICKET_ROTATION;
/// How often the age of the ticket keys is looked at.
const ROTATION_CHECK: Duration = Duration::from_secs(600);

/// Keys of one relay.
pub(crate) struct Keys {
    master: hmac::Key,
    tickets: Arc<Tickets>,
    tickets_path: PathBuf,
}

impl Keys {
    /// Reads the keys from `folder`, or makes them.
    pub(crate) fn load(folder: &Path, client_ca: &[CertificateDer<'_>]) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("folder {}", folder.display()))?;
        let master_path = folder.join("transport.key");
        let master = match read(&master_path)? {
            Some(bytes) => {
                ensure!(bytes.len() == KEY_BYTES, "{} is not a key of 32 bytes", master_path.display());
                bytes
            }
            None => {
                let bytes = rand::random::<[u8; KEY_BYTES]>().to_vec();
                write_private(&master_path, &bytes)?;
                bytes
            }
        };
        let tickets_path = folder.join("tickets.key");
        let mut ca = digest::Context::new(&digest::SHA256);
        client_ca.iter().for_each(|certificate| ca.update(certificate));
        let tickets = Tickets { ca: ca.finish(), keys: ArcSwap::default() };
        let keys =
            Self { master: hmac::Key::new(hmac::HMAC_SHA256, &master), tickets: Arc::new(tickets), tickets_path };
        let stored = read(&keys.tickets_path)?.unwrap_or_default();
        let (records, _rest) = stored.as_chunks::<RECORD_BYTES>();
        keys.tickets.keys.store(Arc::new(records.iter().map(|record| keys.tickets.key(record)).collect()));
        if let Err(error) = keys.rotate_if_due() {
            // As below: with a key, if an old one, it works.
            if keys.tickets.keys.load().is_empty() {
                return Err(error);
            }
            tracing::warn!(error = format!("{error:#}"), "ticket keys are not rotated");
        }
        Ok(keys)
    }

    fn derive(&self, label: &str) -> [u8; KEY_BYTES] {
        let tag = hmac::sign(&self.master, label.as_bytes());
        let mut key = [0; KEY_BYTES];
        key.copy_from_slice(tag.as_ref());
        key
    }

    /// Signs stateless resets.
    pub(crate) fn reset_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.derive("breeze relay stateless reset"))
    }

    /// Encrypts retry tokens.
    pub(crate) fn token_key(&self) -> hkdf::Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&self.derive("breeze relay retry token"))
    }

    pub(crate) fn connection_ids(&self) -> ConnectionIds {
        ConnectionIds { key: hmac::Key::new(hmac::HMAC_SHA256, &self.derive("breeze relay connection id")) }
    }

    pub(crate) fn ticketer(&self) -> Arc<dyn ProducesTickets> {
        self.tickets.clone()
    }

    /// Makes new ticket keys in time until `stop`.
    pub(crate) async fn rotate(self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(ROTATION_CHECK) => {}
            }
            if let Err(error) = self.rotate_if_due() {
                // The old key goes on; a full disk must not stop a relay.
                tracing::warn!(error = format!("{error:#}"), "ticket keys are not rotated");
            }
        }
    }

    fn rotate_if_due(&self) -> anyhow::Result<()> {
        let now_s = wall_us() / 1_000_000;
        let age_s = |key: &TicketKey| now_s.saturating_sub(key.made_s);
        let held = self.tickets.keys.load_full();
        if held.first().is_some_and(|newest| age_s(newest) < TICKET_ROTATION.as_secs()) {
            return Ok(());
        }
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&now_s.to_be_bytes());
        record[8..].copy_from_slice(&rand::random::<[u8; KEY_BYTES]>());
        let mut keys = vec![self.tickets.key(&record)];
        // One before it still decrypts, as long as a ticket of it may live.
        keys.extend(held.iter().filter(|key| age_s(key) < 2 * TICKET_ROTATION.as_secs()).take(1).cloned());
        let records: Vec<u8> = keys.iter().flat_map(|key| key.record).collect();
        write_private(&self.tickets_path, &records)?;
        self.tickets.keys.store(Arc::new(keys));
        Ok(())
    }
}

/// Unix seconds when it was made, then the key.
const RECORD_BYTES: usize = 8 + KEY_BYTES;
const NAME_BYTES: usize = 16;

#[derive(Clone)]
struct TicketKey {
    record: [u8; RECORD_BYTES],
    made_s: u64,
    name: [u8; NAME_BYTES],
    key: Arc<aead::LessSafeKey>,
}

/// Encrypts TLS session tickets; the newest key first. A ticket carries the client's certificate, whose
/// authority it vouches for: other authorities make other keys, and so end every ticket.
struct Tickets {
    ca: digest::Digest,
    keys: ArcSwap<Vec<TicketKey>>,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Tickets {
    fn key(&self, record: &[u8; RECORD_BYTES]) -> TicketKey {
        let (made, secret) = record.split_at(8);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |label: &[u8]| hmac::sign(&secret, &[label, self.ca.as_ref()].concat());
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&derive(b"breeze ticket name\0").as_ref()[..NAME_BYTES]);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, derive(b"breeze ticket key\0").as_ref())
            .expect("a SHA-256 tag is a key of AES-256");
        let made_s = made.iter().fold(0, |seconds, byte| seconds << 8 | u64::from(*byte));
        TicketKey { record: *record, made_s, name, key: Arc::new(aead::LessSafeKey::new(key)) }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME.as_secs() as u32
    }

    /// Key name, nonce, ciphertext, tag; the name is authenticated too.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let TicketKey { name, key, .. } = keys.first()?;
        let nonce = rand::random::<[u8; aead::NONCE_LEN]>();
        let mut out = [name.as_slice(), &nonce, plain].concat();
        let tag = key
            .seal_in_place_separate_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(name),
                &mut out[NAME_BYTES + aead::NONCE_LEN..],
            )
            .ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(out)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(aead::NONCE_LEN)?;
        let keys = self.keys.load();
        // The name is public: it may be compared like any text.
        let TicketKey { name, key, .. } = keys.iter().find(|key| key.name == name)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = key.open_in_place(nonce, aead::Aad::from(name), &mut sealed).ok()?;
        let len = plain.len();
        sealed.truncate(len);
        Some(sealed)
    }
}

const NONCE_BYTES: usize = 4;
const CID_BYTES: usize = 8;

/// Connection ids of eight bytes: four random ones and four of their MAC. After a restart the relay
/// still knows its own, and resets what it holds no state for.
#[derive(Clone)]
pub(crate) struct ConnectionIds {
    key: hmac::Key,
}

impl ConnectionIds {
    fn mac(&self, nonce: &[u8]) -> [u8; CID_BYTES - NONCE_BYTES] {
        let tag = hmac::sign(&self.key, nonce);
        let mut mac = [0; CID_BYTES - NONCE_BYTES];
        mac.copy_from_slice(&tag.as_ref()[..CID_BYTES - NONCE_BYTES]);
        mac
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce = rand::random::<[u8; NONCE_BYTES]>();
        ConnectionId::new(&[nonce, self.mac(&nonce)].concat())
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let (nonce, mac) = cid.split_at_checked(NONCE_BYTES).ok_or(InvalidCid)?;
        // A guess costs its sender a packet and wins a reset: nothing secret is compared.
        if self.mac(nonce) == mac { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Replaces a file, mode 0600, durable when this returns.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    write().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca(byte: u8) -> [CertificateDer<'static>; 1] {
        [CertificateDer::from(vec![byte])]
    }

    #[test]
    fn a_ticket_survives_a_restart_and_not_another_ca() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Keys::load(folder.path(), &ca(1)).expect("keys");
        let ticket = first.ticketer().encrypt(b"session").expect("a ticket");
        let again = Keys::load(folder.path(), &ca(1)).expect("keys");
        assert_eq!(again.ticketer().decrypt(&ticket).as_deref(), Some(b"session".as_slice()));
        let other = Keys::load(folder.path(), &ca(2)).expect("keys");
        assert_eq!(other.ticketer().decrypt(&ticket), None);
        for len in 0..ticket.len() {
            assert_eq!(again.ticketer().decrypt(&ticket[..len]), None, "{len}");
        }
        let mut altered = ticket;
        *altered.last_mut().expect("not empty") ^= 1;
        assert_eq!(again.ticketer().decrypt(&altered), None);
    }

    #[test]
    fn the_key_before_the_newest_still_decrypts() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = Keys::load(folder.path(), &ca(1)).expect("keys");
        let ticket = keys.ticketer().encrypt(b"session").expect("a ticket");
        let age = |keys: &Keys, by: Duration| {
            let mut held = keys.tickets.keys.load_full().to_vec();
            held.iter_mut().for_each(|key| key.made_s -= by.as_secs());
            keys.tickets.keys.store(Arc::new(held));
            keys.rotate_if_due().expect("rotated");
        };
        age(&keys, TICKET_ROTATION);
        assert!(keys.ticketer().decrypt(&ticket).is_some());
        assert_eq!(keys.tickets.keys.load().len(), 2);
        age(&keys, TICKET_ROTATION);
        assert!(keys.ticketer().decrypt(&ticket).is_none());
    }

    #[test]
    fn connection_ids_are_known_after_a_restart_and_others_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let cid = Keys::load(folder.path(), &ca(1)).expect("keys").connection_ids().generate_cid();
        let again = Keys::load(folder.path(), &ca(1)).expect("keys").connection_ids();
        assert!(again.validate(&cid).is_ok());
        assert!(again.validate(&ConnectionId::new(&[0; 8])).is_err());
        assert!(again.validate(&ConnectionId::new(&[0; 3])).is_err());
        let elsewhere = tempfile::tempdir().expect("a folder");
        let other = Keys::load(elsewhere.path(), &ca(1)).expect("keys").connection_ids();
        assert!(other.validate(&cid).is_err());
    }
}
