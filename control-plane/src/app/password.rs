//! Passwords: argon2id, off the async threads, few at a time. An address that is not known costs
//! the same as one that is.

use crate::error::{ApiError, FieldError};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use breeze_store::model::people::normalise_email;
use std::{num::NonZeroUsize, sync::Arc, thread::available_parallelism};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Fewest characters.
pub const MIN_CHARS: usize = 12;
/// Most characters.
pub const MAX_CHARS: usize = 1_024;
/// Waiting for a turn to hash; more are told to come back.
const MAX_WAITING: usize = 64;
/// OWASP's first choice for argon2id: 19 MiB, two passes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// Hashes and verifies.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Verified against when there is no such account.
    nobody: Arc<str>,
}

impl Passwords {
    /// # Errors
    /// When the hash of nobody's password cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let at_once = available_parallelism().map_or(1, NonZeroUsize::get).div_ceil(2);
        let nobody = hash_now(&crate::keyring::new_secret())?;
        Ok(Self {
            turns: Arc::new(Semaphore::new(at_once)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            nobody: nobody.into(),
        })
    }

    /// PHC string of a password.
    ///
    /// # Errors
    /// `unavailable` when too many wait.
    pub async fn hash(&self, password: Zeroizing<String>) -> Result<String, ApiError> {
        self.in_turn(move || hash_now(&password)).await?.map_err(ApiError::internal)
    }

    /// Whether the password is that of the hash; `None` (no such account) takes as long and is never.
    ///
    /// # Errors
    /// `unavailable` when too many wait.
    pub async fn verify(&self, password: Zeroizing<String>, hash: Option<String>) -> Result<bool, ApiError> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.to_string());
        let same = self
            .in_turn(move || {
                PasswordHash::new(&hash).is_ok_and(|parsed| {
                    argon2().is_ok_and(|it| it.verify_password(password.as_bytes(), &parsed).is_ok())
                })
            })
            .await?;
        Ok(same && known)
    }

    /// The turn is the work's, not the caller's: who goes away while a hash is being made must not let
    /// the next one in beside it.
    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let busy = || {
            metrics::counter!("breeze_password_hashes_refused_total").increment(1);
            ApiError::unavailable("Too many people sign in at once. Try again in a moment.")
        };
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| busy())?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| busy())?;
        let work = move || {
            let _held = (waiting, turn);
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
    }
}

fn argon2() -> argon2::Result<Argon2<'static>> {
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(MEMORY_KIB, PASSES, 1, None)?))
}

fn hash_now(password: &str) -> anyhow::Result<String> {
    let hash = argon2()
        .map_err(|error| anyhow::anyhow!("argon2: {error}"))?
        .hash_password(password.as_bytes())
        .map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    Ok(hash.to_string())
}

/// What is wrong with a new password, if anything.
#[must_use]
pub fn check_new(password: &str, email: &str, name: &str) -> Option<FieldError> {
    let chars = password.chars().count();
    let lower = password.to_lowercase();
    let local = normalise_email(email).split('@').next().unwrap_or_default().to_owned();
    let distinct = lower.chars().collect::<std::collections::BTreeSet<_>>().len();
    let message = if chars < MIN_CHARS {
        format!("must have at least {MIN_CHARS} characters")
    } else if chars > MAX_CHARS {
        format!("must have at most {MAX_CHARS} characters")
    } else if distinct < 5 {
        "is too uniform: use at least five different characters".to_owned()
    } else if lower == normalise_email(email)
        || (!local.is_empty() && lower.replace(&local, "").chars().count() < MIN_CHARS / 2)
        || (!name.trim().is_empty() && lower.replace(&name.trim().to_lowercase(), "").chars().count() < MIN_CHARS / 2)
    {
        "must not be your name or e-mail address".to_owned()
    } else {
        return None;
    };
    Some(FieldError { field: "password".into(), message })
}

/// What is wrong with an e-mail address, if anything. Deliverability is not judged.
#[must_use]
pub fn check_email(email: &str) -> Option<FieldError> {
    let email = email.trim();
    let well_formed = email.len() <= 254
        && email.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && local.len() <= 64 && !domain.is_empty() && !domain.contains('@')
        })
        && !email.chars().any(|c| c.is_whitespace() || c.is_control());
    (!well_formed).then(|| FieldError { field: "email".into(), message: "is not an e-mail address".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_passwords_are_refused() {
        let refused = |password: &str| check_new(password, "jane.doe@example.com", "Jane Doe").is_some();
        for bad in
            ["", "short", "elevenchars", "aaaaaaaaaaaaaaaa", "jane.doe@example.com", "Jane.Doe1234", "jane doejane doe"]
        {
            assert!(refused(bad), "{bad}");
        }
        assert!(refused(&"ab1!c".repeat(300)));
        for good in ["correct horse battery", "twelve-chars!", "пароль-подлиннее"] {
            assert!(!refused(good), "{good}");
        }
    }

    #[test]
    fn addresses_are_checked_for_form_only() {
        for bad in ["", "@", "a@", "@b", "a b@c", "a@b@c", "a\n@b"] {
            assert!(check_email(bad).is_some(), "{bad}");
        }
        assert!(check_email(" a+b@example.com ").is_none());
    }

    #[tokio::test]
    async fn only_the_right_password_verifies() {
        let passwords = Passwords::new().expect("works");
        let hash = passwords.hash("correct horse".to_owned().into()).await.expect("hashes");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify("correct horse".to_owned().into(), Some(hash.clone())).await.expect("verifies"));
        assert!(!passwords.verify("wrong horse".to_owned().into(), Some(hash)).await.expect("verifies"));
        assert!(!passwords.verify("correct horse".to_owned().into(), None).await.expect("verifies"));
    }

    #[tokio::test]
    async fn who_goes_away_keeps_the_turn_until_the_work_is_done() {
        let passwords = Passwords::new().expect("works");
        let turns = passwords.turns.available_permits();
        let (started, starts) = tokio::sync::oneshot::channel();
        let (finish, finishes) = std::sync::mpsc::channel::<()>();
        let asking = passwords.clone();
        let request = tokio::spawn(async move {
            let work = move || {
                let _sent = started.send(());
                let _dropped = finishes.recv();
            };
            asking.in_turn(work).await
        });
        starts.await.expect("starts");
        request.abort();
        assert!(request.await.expect_err("was dropped").is_cancelled());
        assert_eq!(passwords.turns.available_permits(), turns - 1);
        assert_eq!(passwords.waiting.available_permits(), MAX_WAITING - 1);
        drop(finish);
        let all = u32::try_from(turns).expect("few");
        let back = tokio::time::timeout(std::time::Duration::from_secs(10), passwords.turns.acquire_many(all)).await;
        assert!(back.is_ok(), "the turn comes back with the end of the work");
    }
}
