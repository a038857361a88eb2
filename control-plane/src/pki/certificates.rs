//! Certificates that servers of this process show. Those of our own authority are made anew long before
//! they expire, given ones are read again when their files change; nobody restarts for either.

use super::{CertificateAuthority, ca::SERVER_LIFETIME};
use crate::api::time::now_s;
use anyhow::Context as _;
use breeze_runtime::tls::{Identity, LiveIdentity};
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often age and files are looked at.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Age at which a certificate of ours is replaced: two more tries of this length fit before it expires.
pub const RENEW_AFTER: Duration = Duration::from_secs(SERVER_LIFETIME.as_secs() / 3);

/// All that are shown.
#[derive(Debug)]
pub struct Certificates {
    ca: Arc<dyn CertificateAuthority>,
    shown: Mutex<Vec<Shown>>,
}

#[derive(Debug)]
struct Shown {
    live: LiveIdentity,
    /// For the log and the metric.
    name: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Authority { names: Vec<String>, issued_s: u64 },
    Files { cert: PathBuf, key: PathBuf, stamps: [Stamp; 2] },
}

/// Tells versions of a file apart: when it was written, which one it is and how long.
type Stamp = (i64, i64, u64, u64);

impl Certificates {
    #[must_use]
    pub const fn new(ca: Arc<dyn CertificateAuthority>) -> Self {
        Self { ca, shown: Mutex::new(Vec::new()) }
    }

    /// A certificate of our authority, see [`CertificateAuthority::issue_server`].
    ///
    /// # Errors
    /// When a name is not one, or signing fails.
    pub fn issue(&self, uri: &str, names: &[String]) -> anyhow::Result<LiveIdentity> {
        let live = LiveIdentity::new(self.ca.issue_server(uri, names)?)?;
        let source = Source::Authority { names: names.to_vec(), issued_s: now_s() };
        self.shown.lock().push(Shown { live: live.clone(), name: uri.to_owned(), source });
        Ok(live)
    }

    /// A given one: PEM, the chain leaf first.
    ///
    /// # Errors
    /// When certificate or key cannot be read, or do not fit together.
    pub fn read(&self, cert: &Path, key: &Path) -> anyhow::Result<LiveIdentity> {
        // Stamped before it is read: what is written meanwhile is read again.
        let stamps = [stamp(cert)?, stamp(key)?];
        let live = LiveIdentity::new(read(cert, key)?).context("tls: certificate and key do not belong together")?;
        let source = Source::Files { cert: cert.to_owned(), key: key.to_owned(), stamps };
        self.shown.lock().push(Shown { live: live.clone(), name: cert.display().to_string(), source });
        Ok(live)
    }

    /// Looks at each once. What cannot be replaced now stays as it is until the next look.
    pub fn refresh(&self, now_s: u64) {
        for shown in &mut *self.shown.lock() {
            match shown.refresh(&*self.ca, now_s) {
                Ok(false) => {}
                Ok(true) => tracing::info!(certificate = shown.name, "a server certificate was replaced"),
                Err(error) => {
                    metrics::counter!("breeze_certificate_refresh_failures_total").increment(1);
                    let error = format!("{error:#}");
                    tracing::warn!(certificate = shown.name, error, "a server certificate cannot be replaced");
                }
            }
            if let Ok((_, leaf)) = x509_parser::parse_x509_certificate(&shown.live.certificate()) {
                let left_s = leaf.validity().not_after.timestamp() as f64 - now_s as f64;
                metrics::gauge!("breeze_certificate_expires_seconds", "certificate" => shown.name.clone()).set(left_s);
            }
        }
    }

    /// Looks at them again and again, until `stop`.
    ///
    /// # Errors
    /// Only when looking panics.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let this = Arc::clone(&self);
            tokio::task::spawn_blocking(move || this.refresh(now_s())).await?;
        }
    }
}

impl Shown {
    /// Whether it was replaced.
    fn refresh(&mut self, ca: &dyn CertificateAuthority, now_s: u64) -> anyhow::Result<bool> {
        match &mut self.source {
            Source::Authority { names, issued_s } => {
                // One from the future was made while the clock was wrong.
                let age_s = now_s.checked_sub(*issued_s);
                if age_s.is_some_and(|age_s| age_s < RENEW_AFTER.as_secs()) {
                    return Ok(false);
                }
                self.live.replace(ca.issue_server(&self.name, names)?)?;
                *issued_s = now_s;
            }
            Source::Files { cert, key, stamps } => {
                let found = [stamp(cert)?, stamp(key)?];
                if found == *stamps {
                    return Ok(false);
                }
                // Half replaced, they do not fit; the stamps stay, and the next look tries again.
                self.live.replace(read(cert, key)?).context("certificate and key do not belong together")?;
                *stamps = found;
            }
        }
        Ok(true)
    }
}

fn stamp(path: &Path) -> anyhow::Result<Stamp> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.size()))
}

fn read(cert: &Path, key: &Path) -> anyhow::Result<Identity> {
    let chain_der = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("tls.files.cert: cannot read {}", cert.display()))?;
    let key_der =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("tls.files.key: cannot read {}", key.display()))?;
    Ok(Identity { chain_der, key_der })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keyring::KeyFolder, pki::LocalCa};

    fn certificates(data: &Path) -> Certificates {
        let ca = LocalCa::open(&KeyFolder::open(data).expect("opens")).expect("made");
        Certificates::new(Arc::new(ca))
    }

    #[test]
    fn ours_are_replaced_long_before_they_expire() {
        let data = tempfile::tempdir().expect("folder");
        let certificates = certificates(data.path());
        let live = certificates.issue("breeze:relay:local-1", &["localhost".to_owned()]).expect("issues");
        let first = live.certificate();
        let (_, leaf) = x509_parser::parse_x509_certificate(&first).expect("parses");
        let days = (leaf.validity().not_after.timestamp() - i64::try_from(now_s()).expect("now")) / (24 * 3600);
        assert!((89..=90).contains(&days), "{days}");
        let day = 24 * 3600;
        certificates.refresh(now_s() + 29 * day);
        assert_eq!(live.certificate(), first);
        certificates.refresh(now_s() + 31 * day);
        let second = live.certificate();
        assert_ne!(second, first);
        certificates.refresh(now_s() + 32 * day);
        assert_eq!(live.certificate(), second);
        certificates.refresh(now_s());
        assert_ne!(live.certificate(), second, "it came from the future");
    }

    #[test]
    fn given_ones_are_read_again_when_both_files_have_changed() {
        let data = tempfile::tempdir().expect("folder");
        let certificates = certificates(data.path());
        let (cert, key) = (data.path().join("cert.pem"), data.path().join("key.pem"));
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (first, second) = (made(), made());
        certificates.read(&cert, &key).expect_err("there are none");
        fs::write(&cert, first.cert.pem()).expect("written");
        fs::write(&key, first.signing_key.serialize_pem()).expect("written");
        let live = certificates.read(&cert, &key).expect("reads");
        assert_eq!(live.certificate(), *first.cert.der());
        // As those who renew do: another file under the same name.
        fs::write(data.path().join("new.pem"), second.cert.pem()).expect("written");
        fs::rename(data.path().join("new.pem"), &cert).expect("renamed");
        certificates.refresh(now_s());
        assert_eq!(live.certificate(), *first.cert.der(), "half of it");
        fs::write(&key, second.signing_key.serialize_pem()).expect("written");
        certificates.refresh(now_s());
        assert_eq!(live.certificate(), *second.cert.der());
        fs::remove_file(&cert).expect("removed");
        certificates.refresh(now_s());
        assert_eq!(live.certificate(), *second.cert.der(), "what is shown stays");
    }
}
