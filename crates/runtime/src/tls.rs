//! TLS as every role uses it: ring, and ciphers in our order.

pub mod peer;

use arc_swap::ArcSwap;
use rustls::{
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{fmt, sync::Arc};

/// ring with AES-128-GCM first: 10 % cheaper than the default order, and a client's order decides.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    // Stable sorts: what is not named here keeps ring's order.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups.sort_by_key(|group| group.name() != rustls::NamedGroup::X25519);
    Arc::new(provider)
}

/// Makes [`provider`] the process's default. Calling it again is harmless.
pub fn install_provider() {
    let _already_installed = CryptoProvider::install_default((*provider()).clone());
}

/// A certificate chain, leaf first, and its key. The key is not printed.
pub struct Identity {
    pub chain_der: Vec<CertificateDer<'static>>,
    pub key_der: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain_der: self.chain_der.clone(), key_der: self.key_der.clone_key() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain_der.len()).finish_non_exhaustive()
    }
}

/// The certificate and key that servers show, replaceable while they run: handshakes that begin after
/// [`LiveIdentity::replace`] see the new ones, open connections go on. Cheap to clone; clones are the
/// same. Give it to a configuration by `with_cert_resolver(Arc::new(live))`.
#[derive(Clone)]
pub struct LiveIdentity(Arc<ArcSwap<CertifiedKey>>);

impl LiveIdentity {
    /// # Errors
    /// When the key is of no kind that is known, or not the certificate's.
    pub fn new(identity: Identity) -> Result<Self, rustls::Error> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(certified(identity)?))))
    }

    /// Shows another from now on. After an error the old one stays.
    ///
    /// # Errors
    /// As [`LiveIdentity::new`].
    pub fn replace(&self, identity: Identity) -> Result<(), rustls::Error> {
        self.0.store(Arc::new(certified(identity)?));
        Ok(())
    }

    /// The certificate that is shown now, DER, without its chain.
    ///
    /// # Panics
    /// Never: what has no certificate is refused when it is given.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.load().cert.first().cloned().expect("checked when it was given")
    }
}

fn certified(identity: Identity) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(identity.chain_der, identity.key_der, &provider())
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveIdentity").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Identity {
            chain_der: vec![made.cert.der().clone()],
            key_der: PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()),
        }
    }

    #[test]
    fn what_does_not_fit_together_does_not_replace_what_is_shown() {
        let (first, second) = (identity("first"), identity("second"));
        let live = LiveIdentity::new(first.clone()).expect("fits");
        let clone = live.clone();
        let mixed = Identity { chain_der: second.chain_der.clone(), key_der: first.key_der.clone_key() };
        live.replace(mixed).expect_err("another's key");
        live.replace(Identity { chain_der: vec![], key_der: first.key_der.clone_key() }).expect_err("no certificate");
        assert_eq!(clone.certificate(), first.chain_der[0]);
        live.replace(second.clone()).expect("fits");
        assert_eq!(clone.certificate(), second.chain_der[0]);
    }

    #[test]
    fn aes_128_comes_first() {
        assert_eq!(provider().cipher_suites[0].suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}
