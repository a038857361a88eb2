//! Waiting for what a role stands on. Who cannot be reached, or does not let us in, is waited for as long
//! as it takes: a person mends that, and nothing here has to be started again then. What does not fit this
//! program (a schema, a setting) is asked for some more times, since another may just be making it, and
//! then it is an end.

use anyhow::bail;
use breeze_bus::BusError;
use breeze_runtime::{ops::Component, shutdown::Shutdown};
use breeze_store::{metrics::MetricsError, state::StateError};
use std::time::Duration;

/// Times in a row that something may not fit until it is given up.
const MAX_MISFITS: u32 = 6;
/// Pause after the first failure; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after what does not fit.
const LAST_MISFIT_PAUSE: Duration = Duration::from_secs(2);

/// Why it is not there.
#[derive(Debug)]
pub(crate) enum Absence {
    /// It does not answer, or not yet.
    Away(String),
    /// It answers and does not let us in, or what would prove us to it cannot be read.
    Refused(String),
    /// It is not what this program can work with, and will not be unless something else is started.
    Unfit(String),
}

impl Absence {
    /// A secret or an authority that the configuration names and that cannot be read.
    pub(crate) fn unreadable(error: &anyhow::Error) -> Self {
        Self::Refused(format!("{error:#}"))
    }

    /// The same, with more words.
    pub(super) fn with(self, more: &str) -> Self {
        self.said(|why| why + more)
    }

    /// The same, with the engine and its address where they are not named.
    pub(super) fn at(self, engine: &str, address: &str) -> Self {
        self.said(|why| match (why.contains(engine), why.contains(address)) {
            (true, true) => why,
            (false, true) => format!("{engine}: {why}"),
            (_, false) => format!("{engine} at {address}: {why}"),
        })
    }

    fn said(self, said: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Away(why) => Self::Away(said(why)),
            Self::Refused(why) => Self::Refused(said(why)),
            Self::Unfit(why) => Self::Unfit(said(why)),
        }
    }

    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Away(why) | Self::Refused(why) | Self::Unfit(why) => why,
        }
    }
}

impl From<BusError> for Absence {
    fn from(error: BusError) -> Self {
        let text = error.to_string();
        match error {
            BusError::Invalid(_) | BusError::Corrupt(_) => Self::Unfit(text),
            // One kind for all that stands between us and the servers; only the words tell these apart.
            BusError::Unavailable(why) if why.contains("credentials") => Self::Refused(text),
            BusError::Unavailable(why) if why.contains("`breeze migrate`") => Self::Unfit(text),
            BusError::Unavailable(_)
            | BusError::Full { .. }
            | BusError::TooLarge { .. }
            | BusError::NoResponder(_)
            | BusError::Timeout { .. }
            | BusError::Overloaded(_) => Self::Away(text),
        }
    }
}

impl From<StateError> for Absence {
    fn from(error: StateError) -> Self {
        let text = error.to_string();
        match error {
            StateError::Invalid(_) | StateError::Corrupt(_) | StateError::Schema(_) | StateError::Settings(_) => {
                Self::Unfit(text)
            }
            StateError::Refused(_) => Self::Refused(text),
            StateError::Full { .. } | StateError::Unavailable(_) => Self::Away(text),
        }
    }
}

impl From<MetricsError> for Absence {
    fn from(error: MetricsError) -> Self {
        /// ClickHouse's codes of unknown users and wrong passwords.
        const STRANGERS: [&str; 4] = ["Code: 516", "Code: 192", "Code: 193", "Code: 194"];
        let text = error.to_string();
        match error {
            MetricsError::Invalid(_) | MetricsError::Corrupt(_) | MetricsError::Overlap(_) => Self::Unfit(text),
            MetricsError::Unavailable(why) if STRANGERS.iter().any(|code| why.contains(code)) => Self::Refused(text),
            MetricsError::Unavailable(_) | MetricsError::Full { .. } => Self::Away(text),
        }
    }
}

/// Tries until it is there; `None` when the process is to stop. `component` says meanwhile what is missing.
///
/// # Errors
/// When it did not fit [`MAX_MISFITS`] times in a row.
pub(super) async fn until_there<T>(
    component: &Component,
    shutdown: &Shutdown,
    mut attempt: impl AsyncFnMut() -> Result<T, Absence>,
) -> anyhow::Result<Option<T>> {
    let (mut pause, mut misfits) = (FIRST_PAUSE, 0);
    loop {
        let Some(tried) = shutdown.token().run_until_cancelled(attempt()).await else { return Ok(None) };
        let absence = match tried {
            Ok(there) => {
                component.ready();
                return Ok(Some(there));
            }
            Err(absence) => absence,
        };
        let mut longest = LAST_PAUSE;
        match &absence {
            Absence::Away(_) | Absence::Refused(_) => misfits = 0,
            Absence::Unfit(why) => {
                misfits += 1;
                longest = LAST_MISFIT_PAUSE;
                if misfits >= MAX_MISFITS {
                    bail!("{why} (looked {misfits} times)");
                }
            }
        }
        component.failing(format!("{}; trying again", absence.why()));
        if shutdown.token().run_until_cancelled(tokio::time::sleep(pause.min(longest))).await.is_none() {
            return Ok(None);
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_runtime::ops::OpsState;

    async fn run(answers: Vec<Result<u8, Absence>>) -> (anyhow::Result<Option<u8>>, OpsState) {
        let ops = OpsState::new("test");
        let mut answers = answers.into_iter();
        let result = until_there(&ops.component("bus"), &Shutdown::new(), async || {
            answers.next().unwrap_or_else(|| Err(Absence::Away("nothing more".into())))
        })
        .await;
        (result, ops)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_away_or_refuses_is_waited_for_and_what_does_not_fit_is_not_for_long() {
        let away = || Err(Absence::Away("connection refused".into()));
        let refused = || Err(Absence::Refused("wrong password".into()));
        let unfit = || Err(Absence::Unfit("schema version 9".into()));
        let mut answers: Vec<_> = (0..100).map(|n| if n % 2 == 0 { away() } else { refused() }).collect();
        answers.push(Ok(7));
        let (result, ops) = run(answers).await;
        assert_eq!(result.expect("there"), Some(7));
        assert!(ops.readiness(false).ready);

        let (result, ops) = run((0..MAX_MISFITS).map(|_| unfit()).collect()).await;
        let error = result.expect_err("given up").to_string();
        assert!(error.contains("schema version 9"), "{error}");
        assert!(ops.readiness(false).components[0].message.contains("schema version 9"));

        // Not in a row: whoever restarts may answer anything for a while.
        let answers = (0..20).map(|n| if n % 5 == 4 { away() } else { unfit() }).chain([Ok(1)]).collect();
        assert_eq!(run(answers).await.0.expect("there"), Some(1));
    }

    #[tokio::test]
    async fn who_waits_can_be_stopped() {
        let (ops, shutdown) = (OpsState::new("test"), Shutdown::new());
        shutdown.begin();
        let result = until_there::<()>(&ops.component("bus"), &shutdown, async || std::future::pending().await).await;
        assert_eq!(result.expect("no error"), None);
    }
}
