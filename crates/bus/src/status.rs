//! Tells a role's state on `status.<role>.<id>` every [`limits::STATUS_INTERVAL`].

use crate::{Bus, BusError};
use breeze_proto::{limits, subject, v1};
use bytes::Bytes;
use prost::Message as _;
use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

/// What a role's closure fills in each time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    pub ready: bool,
    /// Why it is not ready, or a warning for people; may be empty.
    pub message: String,
    pub gauges: Vec<v1::Gauge>,
}

/// A gauge: the metric's name without `breeze_` and unit, and the unit (`""`, `"bytes"`, `"seconds"`, `"per_second"`).
#[must_use]
pub fn gauge(name: &str, unit: &str, value: f64) -> v1::Gauge {
    v1::Gauge { name: name.to_owned(), unit: unit.to_owned(), value }
}

/// Publishes one role's state.
pub struct Reporter {
    bus: Arc<dyn Bus>,
    subject: String,
    template: v1::RoleStatus,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Reporter {
    /// For the process that starts now. `version` is the program's.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, role: &str, id: &str, region: &str, version: &str) -> Self {
        let template = v1::RoleStatus {
            role: role.to_owned(),
            id: id.to_owned(),
            region: region.to_owned(),
            version: version.to_owned(),
            started_us: now_us(),
            ..v1::RoleStatus::default()
        };
        Self { bus, subject: subject::status(role, id), template }
    }

    /// Publishes once.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn publish(&self, report: Report) -> Result<(), BusError> {
        let status = v1::RoleStatus {
            at_us: now_us(),
            ready: report.ready,
            message: report.message,
            gauges: report.gauges,
            ..self.template.clone()
        };
        self.bus.publish(&self.subject, Bytes::from(status.encode_to_vec())).await
    }

    /// Publishes at once and then every [`limits::STATUS_INTERVAL`] until `stop`; the last one says
    /// that the role is not ready. A bus that does not answer is tried again at the next turn.
    pub async fn run(self, stop: CancellationToken, mut report: impl FnMut() -> Report + Send) {
        let mut ticks = tokio::time::interval(limits::STATUS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopping = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            let mut now = report();
            if stopping {
                now.ready = false;
                "stopping".clone_into(&mut now.message);
            }
            if let Err(error) = self.publish(now).await {
                tracing::debug!(%error, "status not published");
            }
            if stopping {
                return;
            }
        }
    }
}

/// Microseconds since the Unix epoch; 0 before it.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
