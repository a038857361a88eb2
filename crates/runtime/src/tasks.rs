//! Owner of a role's tasks: nothing is spawned and forgotten, an error or a panic stops the role.

use crate::shutdown::Shutdown;
use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use std::{collections::HashMap, future::Future, time::Duration};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, timeout_at},
};

/// Named tasks of one role. When one fails, draining begins and the error is kept for [`Tasks::finish`].
#[derive(Debug)]
pub struct Tasks {
    owner: &'static str,
    shutdown: Shutdown,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    set: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
}

impl Tasks {
    #[must_use]
    pub fn new(owner: &'static str, shutdown: Shutdown) -> Self {
        Self { owner, shutdown, running: Mutex::default() }
    }

    /// Runs a task until it ends. It must end soon after the shutdown token is cancelled.
    pub fn spawn<F>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let name = name.into();
        let on_failure = StopOnFailure { shutdown: self.shutdown.clone(), armed: true };
        let running = &mut *self.running.lock();
        let handle = running.set.spawn(async move {
            let mut on_failure = on_failure;
            let result = task.await;
            on_failure.armed = result.is_err();
            result
        });
        running.names.insert(handle.id(), name);
    }

    /// Waits for every task: as long as it takes until draining begins, then for `deadline`; what
    /// still runs is aborted and named.
    ///
    /// # Errors
    /// The first task's failure, if one failed.
    pub async fn finish(self, deadline: Duration) -> anyhow::Result<()> {
        let Running { mut set, mut names } = self.running.into_inner();
        let mut first_failure = None;
        let mut until: Option<Instant> = None;
        loop {
            let joined = match until {
                Some(until) => match timeout_at(until, set.join_next_with_id()).await {
                    Ok(joined) => joined,
                    Err(_elapsed) => {
                        let late: Vec<_> = names.values().map(String::as_str).collect();
                        tracing::warn!(role = self.owner, tasks = ?late, "aborting tasks that did not stop in time");
                        set.shutdown().await;
                        break;
                    }
                },
                None => tokio::select! {
                    () = self.shutdown.begun() => {
                        until = Some(Instant::now() + deadline);
                        continue;
                    }
                    joined = set.join_next_with_id() => joined,
                },
            };
            let Some(joined) = joined else { break };
            if let Some(failure) = failure_of(joined, &mut names) {
                tracing::error!(role = self.owner, error = format!("{failure:#}"), "task failed");
                first_failure.get_or_insert(failure);
            }
        }
        first_failure.map_or(Ok(()), |failure| Err(failure.context(self.owner)))
    }
}

/// Also fires when the task panics, since it is then dropped while armed.
struct StopOnFailure {
    shutdown: Shutdown,
    armed: bool,
}

impl Drop for StopOnFailure {
    fn drop(&mut self) {
        if self.armed {
            self.shutdown.begin();
        }
    }
}

fn failure_of(
    joined: Result<(Id, anyhow::Result<()>), JoinError>,
    names: &mut HashMap<Id, String>,
) -> Option<anyhow::Error> {
    let mut name_of = |id| names.remove(&id).unwrap_or_default();
    match joined {
        Ok((id, result)) => {
            let name = name_of(id);
            result.with_context(|| format!("task {name}")).err()
        }
        Err(error) => {
            let name = name_of(error.id());
            Some(anyhow!("task {name}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failing_task_stops_the_others_and_is_named() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new("relay", shutdown.clone());
        let token = shutdown.token();
        tasks.spawn("waits", async move {
            token.cancelled().await;
            Ok(())
        });
        tasks.spawn("fails", async { Err(anyhow!("no route")) });
        let error = tasks.finish(Duration::from_secs(5)).await.expect_err("one failed");
        assert_eq!(format!("{error:#}"), "relay: task fails: no route");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let tasks = Tasks::new("relay", Shutdown::new());
        tasks.spawn("panics", async { panic!("boom") });
        let error = tasks.finish(Duration::from_secs(5)).await.expect_err("it panicked");
        assert!(format!("{error:#}").contains("panics"), "{error:#}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_aborted_at_the_deadline() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new("relay", shutdown.clone());
        tasks.spawn("hangs", async {
            std::future::pending::<()>().await;
            Ok(())
        });
        shutdown.begin();
        tasks.finish(Duration::from_secs(5)).await.expect("aborting is not a failure");
    }
}
