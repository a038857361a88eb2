//! What regions hold for each other: entries that relays of a region stored for devices of another one.
//! Its collectors move them home, if they are told to; where none is, nobody else would notice. So the
//! control plane, which knows all regions, looks at whether those streams are taken from.

use crate::api::time::now_ms;
use breeze_bus::{Bus, Extent};
use breeze_proto::subject;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

/// Between two looks at all streams.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a stream from which nothing is taken may hold something before it is told.
pub const WAITS: Duration = Duration::from_secs(180);
/// Streams that are looked at: those of sixteen regions. What is beyond is left out, with a warning.
const MAX_STREAMS: usize = 240;
/// How long one may take to answer, and how many are asked at a time: a look ends before the next, also
/// when none answers.
const PATIENCE: Duration = Duration::from_secs(2);
const AT_A_TIME: usize = 16;

/// As last seen; who does not answer stays as it was.
#[derive(Debug, Default)]
pub struct Foreign {
    /// By region and home.
    known: Mutex<BTreeMap<(String, String), Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    first: u64,
    identity: u64,
    entries: u64,
    /// Since when nothing was taken, and when it was last looked at.
    since_ms: u64,
    looked_ms: u64,
    told: bool,
}

/// What a region holds for another and nobody takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub home: String,
    pub entries: u64,
    /// For how long nothing was taken of it, as seen from here.
    pub waited: Duration,
}

impl Known {
    const fn waited(&self) -> Duration {
        Duration::from_millis(if self.entries > 0 { self.looked_ms.saturating_sub(self.since_ms) } else { 0 })
    }
}

impl Foreign {
    /// Takes in how far a stream goes. Whoever takes from it trims it, so its beginning moves.
    pub fn handle_extent(&self, region: &str, home: &str, extent: Extent, now_ms: u64) {
        let entries = (extent.last + 1).saturating_sub(extent.first);
        let mut known = self.known.lock();
        let before = known.get(&(region.to_owned(), home.to_owned())).copied();
        let stands = before.filter(|before| {
            before.entries > 0 && entries > 0 && before.first == extent.first && before.identity == extent.identity
        });
        let since_ms = stands.map_or(now_ms, |before| before.since_ms);
        let Extent { first, identity, .. } = extent;
        let mut seen = Known { first, identity, entries, since_ms, looked_ms: now_ms, told: false };
        seen.told = seen.waited() >= WAITS;
        let was_told = before.is_some_and(|before| before.told);
        if seen.told && !was_told {
            tracing::warn!(
                region,
                home.region = home,
                entries,
                waited_s = seen.waited().as_secs(),
                "entries for another region wait and nobody takes them: does a collector of this region name the \
                 home in collector.regions, and does the home answer?"
            );
        } else if was_told && !seen.told {
            tracing::info!(region, home.region = home, entries, "what waits for another region is taken again");
        }
        known.insert((region.to_owned(), home.to_owned()), seen);
        drop(known);
        let labels = || [("region", region.to_owned()), ("home", home.to_owned())];
        metrics::gauge!("breeze_bus_foreign_waiting_entries", &labels()).set(entries as f64);
        metrics::gauge!("breeze_bus_foreign_waiting_seconds", &labels()).set(seen.waited().as_secs_f64());
    }

    /// What `region` holds for others and nobody has taken anything of for [`WAITS`].
    #[must_use]
    pub fn waiting(&self, region: &str) -> Vec<Waiting> {
        let known = self.known.lock();
        let told = known.iter().filter(|((of, _), known)| of == region && known.told);
        told.map(|((_, home), known)| Waiting { home: home.clone(), entries: known.entries, waited: known.waited() })
            .collect()
    }
}

/// Looks until `stop`.
pub async fn watch(foreign: Arc<Foreign>, bus: Arc<dyn Bus>, regions: Vec<String>, stop: CancellationToken) {
    let mut pairs: Vec<(String, String)> = regions
        .iter()
        .flat_map(|region| regions.iter().map(move |home| (region.clone(), home.clone())))
        .filter(|(region, home)| region != home)
        .collect();
    if pairs.len() > MAX_STREAMS {
        tracing::warn!(streams = pairs.len(), limit = MAX_STREAMS, "not all streams between regions are looked at");
        pairs.truncate(MAX_STREAMS);
    }
    if pairs.is_empty() {
        return stop.cancelled().await;
    }
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = look(&foreign, &bus, &pairs) => {}
        }
    }
}

async fn look(foreign: &Foreign, bus: &Arc<dyn Bus>, pairs: &[(String, String)]) {
    futures_util::stream::iter(pairs)
        .for_each_concurrent(AT_A_TIME, async |(region, home)| {
            let stream = subject::foreign_stream(region, home);
            let error = match timeout(PATIENCE, bus.extent(&stream)).await {
                Ok(Ok(extent)) => return foreign.handle_extent(region, home, extent, now_ms()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            metrics::counter!("breeze_bus_foreign_look_errors_total", "region" => region.clone()).increment(1);
            tracing::debug!(stream, error, "cannot see what waits for another region");
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first: u64, last: u64, identity: u64) -> Extent {
        Extent { first, last, bytes: 1, identity }
    }

    #[test]
    fn what_nobody_takes_is_told_after_a_while_and_no_longer_once_it_is_taken() {
        let foreign = Foreign::default();
        let look = |extent, at_s: u64| {
            foreign.handle_extent("us", "eu", extent, at_s * 1_000);
            foreign.waiting("us")
        };
        assert!(look(extent(1, 0, 0), 0).is_empty(), "never written to");
        assert!(look(extent(1, 4, 7), 600).is_empty(), "just come");
        assert!(look(extent(1, 8, 7), 720).is_empty());
        let told = look(extent(1, 9, 7), 780);
        assert_eq!(told, [Waiting { home: "eu".into(), entries: 9, waited: Duration::from_secs(180) }]);
        assert!(foreign.waiting("eu").is_empty(), "another region's");
        assert!(look(extent(3, 9, 7), 840).is_empty(), "it shrinks");
        assert!(!look(extent(3, 9, 7), 1_020).is_empty(), "and stands again");
        assert!(look(extent(3, 9, 8), 1_080).is_empty(), "another stream of the same name");
        assert!(look(extent(10, 9, 8), 2_000).is_empty(), "nothing is left");
        assert!(look(extent(10, 10, 8), 3_000).is_empty(), "what comes later has not waited yet");
    }

    /// The way it is seen: through the bus, with all regions.
    #[tokio::test(start_paused = true)]
    async fn all_streams_between_regions_are_looked_at() {
        let memory = Arc::new(breeze_bus::MemoryBus::new());
        let bus: Arc<dyn Bus> = memory.clone();
        for _ in 0..3 {
            bus.append("foreign.us.eu", "", "entry".into()).await.expect("appends");
        }
        let (foreign, stop) = (Arc::new(Foreign::default()), CancellationToken::new());
        let regions = ["eu", "us", "asia"].map(str::to_owned).to_vec();
        let watching = tokio::spawn(watch(foreign.clone(), bus, regions, stop.clone()));
        let seen = async || {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let known = foreign.known.lock();
            let entries = known.get(&("us".to_owned(), "eu".to_owned())).map(|known| known.entries);
            (known.len(), entries)
        };
        assert_eq!(seen().await, (6, Some(3)));
        memory.set_unavailable(true);
        assert_eq!(seen().await, (6, Some(3)), "as last seen");
        memory.set_unavailable(false);
        memory.trim("foreign.us.eu", 3).await.expect("trims");
        let _half = seen().await;
        assert_eq!(seen().await, (6, Some(1)));
        stop.cancel();
        watching.await.expect("no panic");
    }
}
