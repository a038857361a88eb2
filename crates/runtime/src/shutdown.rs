//! One way to stop: a signal (or a fatal error) cancels one token; everything drains by it.

use tokio_util::sync::CancellationToken;

/// Asked of every task at once. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when draining begins.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Begins draining.
    pub fn begin(&self) {
        self.token.cancel();
    }

    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves when draining has begun.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Begins draining on SIGINT or SIGTERM; resolves then, or when draining began otherwise.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub async fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let name = tokio::select! {
            () = self.token.cancelled() => return Ok(()),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        self.begin();
        Ok(())
    }
}
