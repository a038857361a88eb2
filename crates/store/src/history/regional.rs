//! Several regions' histories read as one.
//!
//! A device's events are in the region that was its home at the time. A read asks all regions at once,
//! waits until a deadline, joins what they say by time, and names the regions that did not answer.

use super::{
    Cursor, Event, EventPage, EventQuery, History, HistoryError, InventoryVersion, VersionInfo, VersionPage, page_limit,
};
use crate::metrics::regional::DEADLINE;
use async_trait::async_trait;
use breeze_proto::id::DeviceId;
use breeze_proto::v1::InventorySection;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Reads of all regions; only a region's own collectors write to its history.
#[derive(Debug)]
pub struct RegionalHistory {
    regions: BTreeMap<String, Arc<dyn History>>,
    deadline: Duration,
}

impl RegionalHistory {
    #[must_use]
    pub fn new(regions: BTreeMap<String, Arc<dyn History>>) -> Self {
        Self { regions, deadline: DEADLINE }
    }

    /// With another deadline than that of the metrics.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What each region answered, and the names of those that did not, both in order.
    ///
    /// # Errors
    /// [`HistoryError::Invalid`] as the regions say, [`HistoryError::Unavailable`] if none answers.
    async fn ask<'a, T, F>(&'a self, call: impl Fn(&'a dyn History) -> F) -> Result<(Vec<T>, Vec<String>), HistoryError>
    where
        F: Future<Output = Result<T, HistoryError>>,
    {
        let calls = self.regions.iter().map(|(name, region)| {
            let call = call(&**region);
            async move { (name, tokio::time::timeout(self.deadline, call).await) }
        });
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        for (name, answer) in join_all(calls).await {
            match answer {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(error @ HistoryError::Invalid(_))) => return Err(error),
                Ok(Err(error @ (HistoryError::Unavailable(_) | HistoryError::Corrupt(_)))) => {
                    tracing::warn!(region = name, %error, "a region's history does not answer; its events are missing");
                    missing.push(name.clone());
                }
                Err(_) => {
                    let seconds = self.deadline.as_secs_f64();
                    tracing::warn!(region = name, seconds, "a region's history is late; its events are missing");
                    missing.push(name.clone());
                }
            }
        }
        for name in &missing {
            metrics::counter!("breeze_history_region_missing_total", "region" => name.clone()).increment(1);
        }
        if answers.is_empty() && !self.regions.is_empty() {
            return Err(HistoryError::Unavailable(format!("no region answers: {}", missing.join(", "))));
        }
        Ok((answers, missing))
    }
}

fn read_only<T>() -> Result<T, HistoryError> {
    Err(HistoryError::Invalid("a history is recorded in its region only".to_owned()))
}

#[async_trait]
impl History for RegionalHistory {
    async fn record(&self, _events: &[Event]) -> Result<(), HistoryError> {
        read_only()
    }

    async fn events(&self, query: &EventQuery) -> Result<EventPage, HistoryError> {
        let (pages, missing_regions) = self.ask(|region| region.events(query)).await?;
        let limit = page_limit(query.limit);
        let mut has_more = pages.iter().any(|page| page.next.is_some());
        let mut events: Vec<Event> = pages.into_iter().flat_map(|page| page.events).collect();
        events.sort_by_key(|event| std::cmp::Reverse((event.at_ms, event.id)));
        // One event in two regions: its batch was recorded in both.
        events.dedup_by_key(|event| (event.at_ms, event.id));
        has_more |= events.len() > limit;
        events.truncate(limit);
        let next = events.last().filter(|_| has_more).map(|event| Cursor { at_ms: event.at_ms, id: event.id });
        Ok(EventPage { events, next, missing_regions })
    }

    async fn record_versions(&self, _versions: &[InventoryVersion]) -> Result<(), HistoryError> {
        read_only()
    }

    async fn versions(
        &self,
        device: DeviceId,
        section: InventorySection,
        before_ms: u64,
        limit: usize,
    ) -> Result<VersionPage, HistoryError> {
        let (found, missing_regions) = self.ask(|region| region.versions(device, section, before_ms, limit)).await?;
        let mut versions: Vec<VersionInfo> = found.into_iter().flat_map(|page| page.versions).collect();
        versions.sort_by_key(|version| std::cmp::Reverse((version.at_ms, version.hash)));
        versions.dedup_by_key(|version| (version.at_ms, version.hash));
        versions.truncate(page_limit(limit));
        Ok(VersionPage { versions, missing_regions })
    }

    async fn version(
        &self,
        device: DeviceId,
        section: InventorySection,
        at_ms: u64,
        hash: [u8; 32],
    ) -> Result<Option<InventoryVersion>, HistoryError> {
        let (found, missing) = self.ask(|region| region.version(device, section, at_ms, hash)).await?;
        match found.into_iter().flatten().next() {
            None if !missing.is_empty() => Err(HistoryError::Unavailable(format!(
                "regions that may have it do not answer: {}",
                missing.join(", ")
            ))),
            version => Ok(version),
        }
    }
}
