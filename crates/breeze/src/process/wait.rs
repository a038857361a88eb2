//! Waiting for what a role stands on. Who cannot be reached is waited for as long as it takes; who
//! refuses us is asked some more times, since another may just be setting it up, and then it is an end.

use anyhow::bail;
use breeze_bus::BusError;
use breeze_runtime::{ops::Component, shutdown::Shutdown};
use breeze_store::{metrics::MetricsError, state::StateError};
use std::time::Duration;

/// Refusals in a row until it is given up.
const MAX_REFUSALS: u32 = 6;
/// Pause after the first failure; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(8);

/// Why it is not there.
#[derive(Debug)]
pub(super) enum Absence {
    /// It does not answer, or not yet.
    Away(String),
    /// It answers, and nothing will change unless a person changes it.
    Refused(String),
}

impl From<BusError> for Absence {
    fn from(error: BusError) -> Self {
        let text = error.to_string();
        match error {
            BusError::Invalid(_) | BusError::Corrupt(_) => Self::Refused(text),
            // One kind for all that stands between us and the servers; only the words tell this one apart.
            BusError::Unavailable(why) if why.contains("credentials") => Self::Refused(text),
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
            StateError::Invalid(_)
            | StateError::Corrupt(_)
            | StateError::Schema(_)
            | StateError::Refused(_)
            | StateError::Settings(_) => Self::Refused(text),
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
            MetricsError::Invalid(_) | MetricsError::Corrupt(_) | MetricsError::Overlap(_) => Self::Refused(text),
            MetricsError::Unavailable(why) if STRANGERS.iter().any(|code| why.contains(code)) => Self::Refused(text),
            MetricsError::Unavailable(_) | MetricsError::Full { .. } => Self::Away(text),
        }
    }
}

/// Tries until it is there; `None` when the process is to stop. `component` says meanwhile what is missing.
///
/// # Errors
/// When it has refused [`MAX_REFUSALS`] times in a row.
pub(super) async fn until_there<T>(
    component: &Component,
    shutdown: &Shutdown,
    mut attempt: impl AsyncFnMut() -> Result<T, Absence>,
) -> anyhow::Result<Option<T>> {
    let (mut pause, mut refusals) = (FIRST_PAUSE, 0);
    loop {
        let Some(tried) = shutdown.token().run_until_cancelled(attempt()).await else { return Ok(None) };
        let why = match tried {
            Ok(there) => {
                component.ready();
                return Ok(Some(there));
            }
            Err(Absence::Away(why)) => {
                refusals = 0;
                why
            }
            Err(Absence::Refused(why)) => {
                refusals += 1;
                if refusals >= MAX_REFUSALS {
                    bail!("{why} (asked {refusals} times)");
                }
                why
            }
        };
        component.failing(format!("{why}; trying again"));
        if shutdown.token().run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
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
    async fn the_absent_is_waited_for_and_the_refused_is_not_for_long() {
        let away = || Err(Absence::Away("connection refused".into()));
        let refused = || Err(Absence::Refused("wrong password".into()));
        let mut answers: Vec<_> = (0..100).map(|_| away()).collect();
        answers.push(Ok(7));
        let (result, ops) = run(answers).await;
        assert_eq!(result.expect("there"), Some(7));
        assert!(ops.readiness(false).ready);

        let (result, ops) = run((0..MAX_REFUSALS).map(|_| refused()).collect()).await;
        let error = result.expect_err("given up").to_string();
        assert!(error.contains("wrong password"), "{error}");
        assert!(ops.readiness(false).components[0].message.contains("wrong password"));

        // Not in a row: whoever restarts may answer anything for a while.
        let answers = (0..20).map(|n| if n % 5 == 4 { away() } else { refused() }).chain([Ok(1)]).collect();
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
